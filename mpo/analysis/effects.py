"""Paired effects of a study's factors; pure functions of numbers.

Scores come as one array [n_e, L_1, L_2, ...] per environment: one row per seed, then one axis per
factor, as long as the factor has levels; NaN where a run is missing. Level 0 is the baseline. All
arms of a row share the seed, so that their differences are paired.

A seed is one unit: its differences are averaged over the other factors first, and only seeds give
intervals their width.

Source: Patterson et al., "Empirical Design in Reinforcement Learning", arXiv 2304.01315.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import nctdtr, stdtrit  # noncentral t: CDF at (df, ncp, t); t: its quantile

from mpo.analysis.intervals import Interval, pooled_t_interval, t_interval

MAX_SEEDS = 1000
"""The most seeds that `power_table` tries."""


class EnvironmentEffect(NamedTuple):
    """A paired effect in one environment, in the unit of the scores."""

    interval: Interval
    """Mean difference over seeds and its 95 % Student-t interval."""
    pairs: int
    """Complete pairs behind it: at most the seeds times the combinations of other levels."""
    sd: float
    """Standard deviation of the seeds' differences; NaN for one seed."""
    correlation: float
    """Pearson correlation over seeds of the two sides; near 0, pairing gains nothing."""
    differences: np.ndarray
    """One a seed, [n]."""


class Effect(NamedTuple):
    """A paired effect over environments, in the unit of the scores."""

    pooled: Interval
    """Mean over environments, equally weighted, and its 95 % Student-t interval."""
    sd: float
    """Standard deviation of the seeds' differences within an environment, over all of them."""
    correlation: float
    """Correlation of the two sides within an environment, over all of them."""
    environments: tuple[EnvironmentEffect, ...]


def main_effect(scores: Sequence[ArrayLike], factor: int, level: int) -> Effect:
    """What `level` of a factor adds to its baseline, other factors averaged.

        d[seed, others] = x[level, seed, others] - x[baseline, seed, others]

    A pair with a missing side is dropped, a seed without any pair too.

    Args:
        scores: one array [n_e, levels of factor 0, levels of factor 1, ...] per environment.
        factor: index of the factor.
        level: 1 or more.

    Raises:
        ValueError: no such factor or level, arrays of other axes, an infinite score, or an
            environment without a complete pair.
    """
    cells = _cells(scores)
    _check_level(cells, factor, level)
    axis = factor + 1
    return _paired([(x.take(0, axis), x.take(level, axis)) for x in cells])


def interaction(
    scores: Sequence[ArrayLike], factors: tuple[int, int], levels: tuple[int, int]
) -> Effect:
    """How the effect of the first factor's level changes with the level of the second.

        d[seed, others] at the second factor's level - the same d at the second factor's baseline

    with d as in `main_effect`. It takes all four cells of a seed; the two sides of its correlation
    are the two d.

    Args:
        scores: as for `main_effect`.
        factors: indices of two different factors; exchanging them leaves the effect the same.
        levels: the level of each, 1 or more.

    Raises:
        ValueError: as `main_effect`, or twice the same factor.
    """
    cells = _cells(scores)
    if factors[0] == factors[1]:
        raise ValueError(f"an interaction takes two different factors, received {factors}")
    for factor, level in zip(factors, levels, strict=True):
        _check_level(cells, factor, level)
    # The two factors in front: x[first, second, seed, others].
    fronted = [np.moveaxis(x, (factors[0] + 1, factors[1] + 1), (0, 1)) for x in cells]
    i, j = levels
    return _paired([(x[i, 0] - x[0, 0], x[i, j] - x[0, j]) for x in fronted])


def power_table(
    sd: float, deltas: Sequence[float] = (0.05, 0.1, 0.2), environments: int = 1
) -> dict[float, int | None]:
    """The fewest seeds with which a paired t-test detects an effect with 80 % power.

    The test is two-sided at 5 %, of the mean over E environments of equal spread. Its power at n
    seeds in each is P(T > t(.975, f)) for T noncentral t with f = E (n - 1) degrees of freedom and
    noncentrality delta sqrt(E n) / sd. A rejection on the wrong side is not counted: at 80 % power
    it has a probability below 1e-6.

    Args:
        sd: standard deviation of the seeds' differences within an environment, as seen; 0 leaves
            two seeds, the fewest of a test.
        deltas: effects, in the unit of the scores, above 0.
        environments: E.

    Returns:
        Seeds, in each environment, of each effect; None where `MAX_SEEDS` are not enough.

    Raises:
        ValueError: a negative or infinite sd, an effect not above 0, or no environment.

    Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences" (1988), chapter 2.
    """
    if not (np.isfinite(sd) and sd >= 0):
        raise ValueError(f"expected a standard deviation of 0 or more, received {sd}")
    if not all(delta > 0 for delta in deltas):
        raise ValueError(f"expected effects above 0, received {list(deltas)}")
    if environments < 1:
        raise ValueError(f"expected one environment or more, received {environments}")
    return {delta: _seeds(delta / sd, environments) if sd else 2 for delta in deltas}


def _seeds(ratio: float, environments: int) -> int | None:
    """The fewest seeds for an effect of `ratio` standard deviations."""
    for n in range(2, MAX_SEEDS + 1):
        freedom, noncentrality = environments * (n - 1), ratio * np.sqrt(environments * n)
        if 1 - nctdtr(freedom, noncentrality, stdtrit(freedom, 0.975)) >= 0.8:
            return n
    return None


def _paired(sides: Sequence[tuple[np.ndarray, np.ndarray]]) -> Effect:
    """The effect of the second side over the first, each [n_e, ...] per environment."""
    seeds, environments = [], []
    for e, (first, second) in enumerate(sides):
        complete = ~np.isnan(second - first).reshape(len(first), -1)
        if not complete.any():
            raise ValueError(f"environment {e}: no complete pair in cells of shape {first.shape}")
        a, b = _seed_means(first, complete), _seed_means(second, complete)
        interval, spread = t_interval(b - a), _spread([(a, b)])
        environments.append(EnvironmentEffect(interval, int(complete.sum()), *spread, b - a))
        seeds.append((a, b))
    pooled = pooled_t_interval([e.differences for e in environments])
    return Effect(pooled, *_spread(seeds), tuple(environments))


def _seed_means(side: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """The mean of each seed over its complete pairs, [seeds that have one]."""
    total = np.where(complete, side.reshape(complete.shape), 0).sum(1)
    has = complete.any(1)
    return total[has] / complete.sum(1)[has]


def _spread(seeds: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Standard deviation of b - a and correlation of a and b, within environments, over all.

    NaN where no environment has two seeds, and the correlation where a side is constant.
    """
    a = np.concatenate([_centred(first) for first, _ in seeds])
    b = np.concatenate([_centred(second) for _, second in seeds])
    freedom = a.size - len(seeds)
    sd = np.sqrt(np.sum((b - a) ** 2) / freedom) if freedom else np.nan
    norm = np.sqrt(np.sum(a**2) * np.sum(b**2))
    return float(sd), float(np.sum(a * b) / norm) if norm else np.nan


def _centred(x: np.ndarray) -> np.ndarray:
    # The mean of equal values may differ from them in the last bit; that is no spread.
    return x - x.mean() if np.ptp(x) else np.zeros_like(x)


def _check_level(cells: list[np.ndarray], factor: int, level: int) -> None:
    shape = cells[0].shape[1:]
    if not 0 <= factor < len(shape):
        raise ValueError(f"expected a factor below {len(shape)}, received {factor}")
    if not 1 <= level < shape[factor]:
        raise ValueError(f"factor {factor}: expected a level 1..{shape[factor] - 1}, got {level}")


def _cells(scores: Sequence[ArrayLike]) -> list[np.ndarray]:
    cells = [np.asarray(x, dtype=np.float64) for x in scores]
    if not cells:
        raise ValueError("expected one array of cells per environment, received no environment")
    for e, x in enumerate(cells):
        if x.ndim < 2 or not x.size or x.shape[1:] != cells[0].shape[1:]:
            shapes = f"{x.shape}, environment 0 {cells[0].shape}"
            raise ValueError(f"environment {e}: expected [seeds, levels, ...], received {shapes}")
        if np.isinf(x).any():
            raise ValueError(
                f"environment {e}: expected finite scores or NaN, received {x.tolist()}"
            )
    return cells
