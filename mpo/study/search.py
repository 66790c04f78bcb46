"""The values of tuned keys: those of a grid, and random or quasi-random ones from ranges.

Sources: Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13 (2012).
Halton, "On the efficiency of certain quasi-random sequences of points", Numerische Mathematik 2
(1960), with the random shift of Cranley and Patterson, SIAM Journal on Numerical Analysis 13
(1976).
"""

import random
from collections.abc import Mapping
from typing import Any, Literal

from mpo.study.config import ConfigError
from mpo.study.hyperparameters import training_value

Search = Literal["grid", "random", "quasi-random"]

BASES = (2, 3, 5, 7)
"""Bases of the Halton sequence, one per key; in larger ones the first points are no better spread
than random ones."""


def checked_values(key: str, values: Any) -> list[Any]:
    """Returns the values of a grid, of the schema's type.

    Args:
        key: a key of `training`.
        values: what the config says.

    Raises:
        ConfigError: it is not a list of different values that fit the key.
    """
    where = f"tuning.grids.{key}"
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError(f"{where}: expected a list of values, received {values!r}")
    found = [training_value("tuning.grids", key, value) for value in values]
    if any(value in found[:index] for index, value in enumerate(found)):
        raise ConfigError(f"{where}: expected every value once, received {values!r}")
    return found


def is_number(value: Any) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def checked_range(key: str, value: Any) -> tuple[float, float]:
    """Returns a range with ends of the schema's type.

    Args:
        key: a key of `training`.
        value: what the config says.

    Raises:
        ConfigError: it is not two positive numbers that fit the key, the lower first.
    """
    where = f"tuning.ranges.{key}"
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ConfigError(f"{where}: expected a range of two numbers, received {value!r}")
    low, high = (training_value("tuning.ranges", key, end) for end in value)
    if not (is_number(low) and is_number(high)):
        raise ConfigError(f"{where}: expected a key of numbers, received {value!r}")
    if not 0 < low < high:
        raise ConfigError(
            f"{where}: expected two positive numbers, the lower first, received {value!r}"
        )
    return low, high


def draw(
    search: Search, ranges: Mapping[str, tuple[float, float]], count: int, seed: str
) -> list[dict[str, float]]:
    """Returns candidates with log-uniform values, in three significant digits.

    Each depends on its place only: with one more, the earlier ones stay the same. A key of whole
    numbers gets whole numbers.

    Args:
        search: random, or quasi-random for values that are spread more evenly.
        ranges: the ends of each key's range; at most as many as `BASES` if quasi-random.
        count: number of candidates.
        seed: any text; equal ones give equal candidates.
    """
    columns: dict[str, list[float]] = {}
    for position, key in enumerate(sorted(ranges)):  # the order in a config has no meaning
        stream = random.Random(f"{seed} {key}")
        if search == "random":
            shares = [stream.random() for _ in range(count)]
        else:
            shares = _halton(BASES[position], count, stream.random())
        columns[key] = [_within(*ranges[key], share) for share in shares]
    return [{key: columns[key][place] for key in ranges} for place in range(count)]


def _halton(base: int, count: int, shift: float) -> list[float]:
    """The first points of the sequence, shifted around the unit interval."""
    return [(_radical_inverse(place, base) + shift) % 1 for place in range(count)]


def _radical_inverse(number: int, base: int) -> float:
    """The number's digits in this base, mirrored at the point: 6 = 110 in base 2 gives 0.011."""
    found, weight = 0.0, 1.0
    while number:
        weight /= base
        number, digit = divmod(number, base)
        found += digit * weight
    return found


def _within(low: float, high: float, share: float) -> float:
    """The value at this share of a range on a logarithmic scale."""
    value = low * (high / low) ** share
    rounded = round(value) if isinstance(low, int) else float(f"{value:.2e}")
    return min(max(rounded, low), high)
