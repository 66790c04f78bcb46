"""Tuning: a stage before the reported runs that chooses the hyperparameters of each arm.

The stage is a study of its own, `NAME-tuning`, whose arms are candidates and whose seeds are never
reported. What it chooses is written to results/NAME/chosen.json, and the reported runs are trained
with that.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from mpo.study.cells import axis_value
from mpo.study.checksums import OWN, Damaged, read_record, reading
from mpo.study.config import (
    NULL,
    ConfigError,
    Float,
    Int,
    Positive,
    Section,
    Seed,
    canonical_json,
    check_keys,
)
from mpo.study.halving import Halving
from mpo.study.hyperparameters import Training, training_value
from mpo.study.search import BASES, Search, checked_range, checked_values, draw

SUFFIX = "-tuning"
"""Ends the name of the stage's study."""

TUNABLE = tuple(
    key
    for key in Training.model_fields
    if key not in ("retrace", "optimizer", "optimizer_definition")
)
"""The keys of `training` that can be tuned."""


class Tuning(Section):
    """A stage before the reported runs that chooses the hyperparameters of each arm."""

    axes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Axes whose arms are tuned, each combination of their values apart. Other axes have the value
    of `training` meanwhile, and what is chosen holds for all of their values."""

    search: Search = "grid"
    """Where candidates come from: `grids` that list their values, or points of `ranges`, either
    `random` or `quasi-random`, which spreads them more evenly (a shifted Halton sequence)."""

    grids: tuple[dict[str, Any], ...] = ()
    """The candidates of a grid search, as in `[{optimizer: adam, q_lr: [3.0e-4, 1.0e-3, 3.0e-3]},
    {optimizer: sgd, q_lr: [1.0e-3, 1.0e-2, 1.0e-1]}]`: axes with the value that a grid is for, and
    keys of `training` with the values to try. Of several keys, every combination is a candidate.
    Each arm needs exactly one grid. A fair comparison gives all arms as many candidates, at the
    same ratios."""

    candidates: Annotated[Annotated[Int, Field(ge=2, le=1000)] | None, NULL] = None
    """Number of candidates per arm of a search in `ranges`. One more trains that one only."""

    ranges: tuple[dict[str, Any], ...] = ()
    """Where a random or quasi-random search looks, as in `[{optimizer: adam, q_lr: [1.0e-4,
    1.0e-2]}, {optimizer: sgd, q_lr: [1.0e-3, 1.0e-1]}]`: like `grids`, with the ends of a range
    instead of values. Candidates are uniform on a logarithmic scale, in three significant digits,
    or whole where the key takes whole numbers. They depend on `statistics.seed` and on the arm. A
    quasi-random search takes up to four keys. A fair comparison gives all arms ranges whose ends
    have the same ratio."""

    followers: dict[str, Annotated[dict[str, Positive], Field(min_length=1, max_length=1)]] = {}
    """Keys of `training` that keep a fixed ratio to a tuned key of numbers: `{policy_lr: {q_lr:
    0.5}}` has the policy learn at half the critic's rate. Neither a tuned key nor a follower may be
    an axis, or be set by a bundle or an environment."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1000, 1001, 1002)
    """Seeds of the candidates. None may be a reported seed."""

    budget: Annotated[Float, Field(gt=0, le=1)] = 0.5
    """Share of the reported runs' environment steps that candidates are trained for, rounded down
    to a multiple of `snapshot_interval`."""

    halving: Annotated[Halving | None, NULL] = None
    """Successive halving, as in `{factor: 3, rungs: 2}`: all candidates are trained for a third of
    `budget`, and the best third of each arm's for all of it. The longer training resumes the
    shorter one. Without it, all candidates are trained for all of `budget`."""

    criterion: Literal["area", "final"] = "area"
    """What makes a candidate better: the area under its learning curve, or its final return; the
    mean over seeds. A candidate with a seed that diverged ranks behind all others."""

    choose: Literal["environment", "across"] = "environment"
    """Whether each environment has a choice of its own, or one candidate is chosen for all: the one
    with the best mean score over the environments that have a reference."""

    environments: Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, NULL] = None
    """Names of the environments in which candidates are trained; without it, all. Fewer need
    `choose: across`: the candidate that is chosen there is then trained in all environments."""

    _seed: int = PrivateAttr(0)
    """Seed of the search; `checked` sets it."""

    @field_validator("seeds")
    @classmethod
    def _unique_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len({*value}) < len(value):
            raise ValueError(f"expected every seed once, received {list(value)}")
        return value

    @property
    def keys(self) -> tuple[str, ...]:
        """Every tuned key, sorted."""
        return tuple(sorted({key for each in self._entries for key in each} - {*self.axes}))

    def candidates_of(self, arm: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the candidates of an arm: the values of its tuned keys.

        Args:
            arm: the value of every tuned axis.
        """
        tuned = self.span(arm)
        if self.search != "grid":
            assert self.candidates is not None
            return draw(self.search, tuned, self.candidates, f"{self._seed} {key_of(arm)}")
        return [
            dict(zip(tuned, values, strict=True)) for values in itertools.product(*tuned.values())
        ]

    @property
    def rungs(self) -> int:
        """Number of budgets at which candidates are compared."""
        return self.halving.rungs if self.halving else 1

    def left(self, arm: Mapping[str, Any], rung: int) -> int:
        """Returns how many of an arm's candidates are in a rung; after the last one it is 1."""
        count = len(self.candidates_of(arm))
        if rung > self.rungs:
            return 1
        return self.halving.left(count, rung) if self.halving else count

    def span(self, arm: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what is tried for an arm: the values of each tuned key, or the ends of its range.

        Args:
            arm: the value of every tuned axis.
        """
        entry = self._entry(arm)
        return {key: values for key, values in entry.items() if key not in self.axes}

    def settings(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a candidate's values of `training`: tuned keys and their followers."""
        following = {
            name: candidate[key] * ratio
            for name, followed in self.followers.items()
            for key, ratio in followed.items()
            if key in candidate
        }
        return {**candidate, **following}

    def is_on_edge(self, arm: Mapping[str, Any], candidate: Mapping[str, Any]) -> bool:
        """Whether a tuned number is the least or the greatest that was tried, of several."""
        tried = self.candidates_of(arm)
        several = (key for key in candidate if any(c[key] != candidate[key] for c in tried))
        numbers = {key: [c[key] for c in tried if _is_number(c[key])] for key in several}
        return any(
            values and candidate[key] in (min(values), max(values))
            for key, values in numbers.items()
        )

    @property
    def _place(self) -> Literal["grids", "ranges"]:
        """The key that says what is tried."""
        return "grids" if self.search == "grid" else "ranges"

    @property
    def _entries(self) -> tuple[dict[str, Any], ...]:
        return self.grids if self.search == "grid" else self.ranges

    def _entry(self, arm: Mapping[str, Any]) -> dict[str, Any]:
        found = [
            each for each in self._entries if all(arm[a] == each[a] for a in self.axes if a in each)
        ]
        if len(found) != 1:
            one = {"grids": "one grid", "ranges": "one entry"}[self._place]
            raise ConfigError(
                f"tuning.{self._place}: expected {one} for the arm {_named(arm)}, received "
                f"{len(found)}"
            )
        return found[0]

    def checked(
        self,
        environments: Sequence[str],
        axis_values: Mapping[str, Sequence[Any]],
        reported: Sequence[int],
        seed: int,
    ) -> "Tuning":
        """Returns it with values of the schema's types, if it fits the study.

        Args:
            environments: the names of the study's environments.
            axis_values: the study's axes with their values.
            reported: the study's seeds.
            seed: of the search.

        Raises:
            ConfigError: a key, an axis, an environment or a seed that cannot be tuned, or a search
                that lacks a key or has one of another search.
        """
        self._refuse_other_search()
        self._refuse_other_environments(environments)
        for axis in self.axes:
            if axis not in axis_values:
                raise ConfigError(
                    f"tuning.axes: expected some of {', '.join(axis_values)}, received {axis!r}"
                )
        if both := [seed for seed in self.seeds if seed in reported]:
            raise ConfigError(
                f"tuning.seeds: a seed is either tuned on or reported, received {both} in both"
            )
        entries = tuple(self._checked(entry, axis_values) for entry in self._entries)
        found = self.model_copy(update={self._place: entries})
        found._seed = seed
        check_keys(self.followers, [key for key in TUNABLE if key not in found.keys])
        found._refuse_followers_of_no_number()
        for arm in arms(found, axis_values):
            candidates = found.candidates_of(arm)
            for candidate in candidates:
                for key, value in found.settings(candidate).items():
                    training_value("tuning", key, value)
            if any(each in candidates[:place] for place, each in enumerate(candidates)):
                raise ConfigError(
                    f"tuning.ranges: expected ranges with {self.candidates} different candidates "
                    f"for the arm {_named(arm)}, received {found._entry(arm)}"
                )
            if found.halving and found.left(arm, found.rungs) < 2:
                raise ConfigError(
                    "tuning.halving: expected at least "
                    f"{2 * found.halving.factor ** (found.rungs - 1)} candidates for the arm "
                    f"{_named(arm)}, so that two are left to choose from in the last of "
                    f"{found.rungs} rungs, received {len(candidates)}"
                )
        return found

    def _refuse_followers_of_no_number(self) -> None:
        tried: dict[str, list[Any]] = {key: [] for key in self.keys}
        for key, entry in itertools.product(tried, self._entries):
            tried[key] += entry.get(key, ())
        numbers = [key for key, values in tried.items() if all(map(_is_number, values))]
        for name, followed in self.followers.items():
            check_keys(followed, tried)
            for key in followed:
                if key not in numbers:
                    raise ConfigError(
                        f"tuning.followers.{name}: expected a tuned key of numbers "
                        f"({', '.join(numbers) or 'there is none'}), received {key!r} with the "
                        f"values {tried[key]}"
                    )

    def _refuse_other_environments(self, names: Sequence[str]) -> None:
        """Refuses environments that the study lacks, and a choice that not all would have."""
        given = self.environments or names
        if unknown := [name for name in given if name not in names]:
            raise ConfigError(
                f"tuning.environments: expected some of {', '.join(names)}, received {unknown[0]!r}"
            )
        if len({*given}) < len(given):
            raise ConfigError(f"tuning.environments: expected every name once, received {[*given]}")
        if len(given) < len(names) and self.choose == "environment":
            raise ConfigError(
                "tuning.choose: expected 'across', since tuning.environments leaves out "
                f"{', '.join(name for name in names if name not in given)}, received 'environment'"
            )

    def _refuse_other_search(self) -> None:
        """Refuses keys that belong to another kind of search, and the lack of its own."""
        choices = "choose search from grid, random, quasi-random"
        other = "ranges" if self.search == "grid" else "grids"
        if given := getattr(self, other):
            raise ConfigError(
                f"tuning.{other}: expected none with search {self.search!r}, received "
                f"{[*given]}; {choices}"
            )
        if not self._entries:
            raise ConfigError(
                f"tuning.{self._place}: expected an entry for each arm with search "
                f"{self.search!r}, received none; {choices}"
            )
        if (self.candidates is None) != (self.search == "grid"):
            wanted = "none" if self.search == "grid" else "a number of at least 2"
            raise ConfigError(
                f"tuning.candidates: expected {wanted} with search {self.search!r}, received "
                f"{self.candidates}; {choices}"
            )

    def _checked(
        self, entry: Mapping[str, Any], axis_values: Mapping[str, Sequence[Any]]
    ) -> dict[str, Any]:
        check_keys(entry, dict.fromkeys([*self.axes, *TUNABLE]))
        found: dict[str, Any] = {}
        for key, values in entry.items():
            if key in self.axes:
                where = f"tuning.{self._place}.{key}"
                found[key] = axis_value(where, key, values, axis_values[key])
            else:
                check = checked_values if self.search == "grid" else checked_range
                found[key] = check(key, values)
        tuned = [key for key in found if key not in self.axes]
        if not tuned:
            raise ConfigError(
                f"tuning.{self._place}: expected a key to tune, received {dict(entry)}"
            )
        if self.search == "quasi-random" and len(tuned) > len(BASES):
            raise ConfigError(
                f"tuning.ranges: expected at most {len(BASES)} keys with search 'quasi-random', "
                f"received {', '.join(tuned)}"
            )
        return dict(sorted(found.items()))  # paths contain them, see `Study.axis_values`


def arms(tuning: Tuning, axis_values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns every combination of the values of the tuned axes, in the order of the axes."""
    names = [axis for axis in axis_values if axis in tuning.axes]
    combinations = itertools.product(*(axis_values[axis] for axis in names))
    return [dict(zip(names, combination, strict=True)) for combination in combinations]


def key_of(arm: Mapping[str, Any]) -> str:
    """Returns a tuned arm as text, the same for equal arms."""
    return canonical_json(dict(arm))


Choice = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""The values of `training` that were chosen, by an environment's name in paths and `key_of` its
tuned arm: one for the reported runs, several for a rung of halving."""


def read_choice(path: Path) -> Choice | None:
    """Reads what was chosen; None if nothing was.

    Raises:
        Damaged: the file cannot be read, or is not the one that its job wrote.
    """
    try:
        record = read_record(path)
    except FileNotFoundError:
        return None
    if OWN not in record:
        raise Damaged(path, "it has no checksum")
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    with reading(path):
        for row in record["chosen"]:
            found.setdefault((row["env"], key_of(row["arm"])), []).append(row["settings"])
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _named(arm: Mapping[str, Any]) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in arm.items())
