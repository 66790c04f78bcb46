"""What the section `tuning` must be to fit its study; every message has the key and the value."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from mpo.study.cells import OWN_KEYS, axis_value
from mpo.study.config import ConfigError, check_keys
from mpo.study.hyperparameters import training_value
from mpo.study.search import BASES, checked_range, checked_values, is_number
from mpo.study.tuning import Tuning, arms, named


def checked(
    tuning: Tuning,
    environments: Sequence[str],
    axis_values: Mapping[str, Sequence[Any]],
    reported: Sequence[int],
    seed: int,
) -> Tuning:
    """Returns the section with values of the schema's types, if it fits the study.

    Args:
        tuning: the section as it is read.
        environments: the names of the study's environments.
        axis_values: the study's axes with their values.
        reported: the study's seeds.
        seed: of the search.

    Raises:
        ConfigError: a key, an axis, an environment or a seed that cannot be tuned, or a search
            that lacks a key or has one of another search.
    """
    _refuse_other_search(tuning)
    _refuse_other_environments(tuning, environments)
    for axis in tuning.axes:
        if axis not in axis_values:
            raise ConfigError(
                f"tuning.axes: expected some of {', '.join(axis_values)}, received {axis!r}"
            )
    if both := [each for each in tuning.seeds if each in reported]:
        raise ConfigError(
            f"tuning.seeds: a seed is either tuned on or reported, received {both} in both"
        )
    entries = [_checked_entry(tuning, entry, axis_values) for entry in tuning.entries]
    found = tuning.with_entries(entries, seed)
    check_keys(
        found.followers, [key for key in OWN_KEYS if key not in found.keys], "tuning.followers"
    )
    _refuse_followers_of_no_number(found)
    for arm in arms(found, axis_values):
        _check_candidates(found, arm)
    return found


def _refuse_other_search(tuning: Tuning) -> None:
    """Refuses keys that belong to another kind of search, and the lack of its own."""
    choices = "choose search from grid, random, quasi-random"
    other = "ranges" if tuning.search == "grid" else "grids"
    if given := getattr(tuning, other):
        raise ConfigError(
            f"tuning.{other}: expected none with search {tuning.search!r}, received "
            f"{[*given]}; {choices}"
        )
    if not tuning.entries:
        raise ConfigError(
            f"tuning.{tuning.place}: expected an entry for each arm with search "
            f"{tuning.search!r}, received none; {choices}"
        )
    if (tuning.candidates is None) != (tuning.search == "grid"):
        wanted = "none" if tuning.search == "grid" else "a number of at least 2"
        raise ConfigError(
            f"tuning.candidates: expected {wanted} with search {tuning.search!r}, received "
            f"{tuning.candidates}; {choices}"
        )


def _refuse_other_environments(tuning: Tuning, names: Sequence[str]) -> None:
    """Refuses environments that the study lacks, and a choice that not all would have."""
    given = tuning.environments or names
    if unknown := [name for name in given if name not in names]:
        raise ConfigError(
            f"tuning.environments: expected some of {', '.join(names)}, received {unknown[0]!r}"
        )
    if len(given) < len(names) and tuning.choose == "environment":
        raise ConfigError(
            "tuning.choose: expected 'across', since tuning.environments leaves out "
            f"{', '.join(name for name in names if name not in given)}, received 'environment'"
        )


def _checked_entry(
    tuning: Tuning, entry: Mapping[str, Any], axis_values: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Returns a grid, or the ranges of an arm, with values of the schema's types."""
    check_keys(entry, dict.fromkeys([*tuning.axes, *OWN_KEYS]), f"tuning.{tuning.place}")
    found: dict[str, Any] = {}
    for key, values in entry.items():
        if key in tuning.axes:
            where = f"tuning.{tuning.place}.{key}"
            found[key] = axis_value(where, key, values, axis_values[key])
        else:
            check = checked_values if tuning.search == "grid" else checked_range
            found[key] = check(key, values)
    tuned = [key for key in found if key not in tuning.axes]
    if not tuned:
        raise ConfigError(f"tuning.{tuning.place}: expected a key to tune, received {dict(entry)}")
    if tuning.search == "quasi-random" and len(tuned) > len(BASES):
        raise ConfigError(
            f"tuning.ranges: expected at most {len(BASES)} keys with search 'quasi-random', "
            f"received {', '.join(tuned)}"
        )
    return dict(sorted(found.items()))  # paths contain them, see `Study.axis_values`


def _refuse_followers_of_no_number(tuning: Tuning) -> None:
    tried: dict[str, list[Any]] = {key: [] for key in tuning.keys}
    for key, entry in itertools.product(tried, tuning.entries):
        tried[key] += entry.get(key, ())
    numbers = [key for key, values in tried.items() if all(map(is_number, values))]
    for name, followed in tuning.followers.items():
        check_keys(followed, tried, f"tuning.followers.{name}")
        for key in followed:
            if key not in numbers:
                raise ConfigError(
                    f"tuning.followers.{name}: expected a tuned key of numbers "
                    f"({', '.join(numbers) or 'there is none'}), received {key!r} with the "
                    f"values {tried[key]}"
                )


def _check_candidates(tuning: Tuning, arm: Mapping[str, Any]) -> None:
    """Checks that an arm's candidates can be trained, are different and are enough for halving."""
    candidates = tuning.candidates_of(arm)
    for candidate in candidates:
        for key, value in tuning.settings(candidate).items():
            training_value("tuning", key, value)
    if any(each in candidates[:place] for place, each in enumerate(candidates)):
        raise ConfigError(
            f"tuning.ranges: expected ranges with {tuning.candidates} different candidates "
            f"for the arm {named(arm)}, received {tuning.entry(arm)}"
        )
    if tuning.halving and tuning.left(arm, tuning.rungs) < 2:
        raise ConfigError(
            "tuning.halving: expected at least "
            f"{2 * tuning.halving.factor ** (tuning.rungs - 1)} candidates for the arm "
            f"{named(arm)}, so that two are left to choose from in the last of "
            f"{tuning.rungs} rungs, received {len(candidates)}"
        )
