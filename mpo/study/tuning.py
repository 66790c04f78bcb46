"""Tuning: a stage before the reported runs that chooses the hyperparameters of each arm.

The stage is a study of its own, `NAME-tuning`, whose arms are candidates and whose seeds are never
reported. What it chooses is written to results/NAME/chosen.json, and the reported runs are trained
with that.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from mpo.study.config import (
    NULL,
    ConfigError,
    Float,
    Int,
    Positive,
    Section,
    Seed,
    canonical_json,
)
from mpo.study.halving import Halving
from mpo.study.search import Search, draw, is_number

SUFFIX = "-tuning"
"""Ends the name of the stage's study."""


class Tuning(Section):
    """A stage before the reported runs that chooses the hyperparameters of each arm."""

    axes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Axes whose arms are tuned, each combination of their values apart. Other axes of several
    values have that of `training` meanwhile, and what is chosen holds for all of their values."""

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
    """Seed of the search; `with_entries` sets it."""

    @field_validator("seeds", "environments")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...] | None, info: ValidationInfo) -> Any:
        if value is not None and len({*value}) < len(value):
            what = "seed" if info.field_name == "seeds" else "name"
            raise ValueError(f"expected every {what} once, received {list(value)}")
        return value

    @property
    def keys(self) -> tuple[str, ...]:
        """Every tuned key, sorted."""
        return tuple(sorted({key for each in self.entries for key in each} - {*self.axes}))

    def candidates_of(self, arm: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the candidates of an arm: the values of its tuned keys.

        Args:
            arm: the value of every tuned axis.
        """
        tuned = self.span(arm)
        if self.search != "grid":
            assert self.candidates is not None
            return draw(self.search, tuned, self.candidates, f"{self._seed} {key_of(arm)}")
        return combinations(tuned)

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
        entry = self.entry(arm)
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
        numbers = {key: [c[key] for c in tried if is_number(c[key])] for key in several}
        return any(
            values and candidate[key] in (min(values), max(values))
            for key, values in numbers.items()
        )

    @property
    def place(self) -> Literal["grids", "ranges"]:
        """The key that says what is tried."""
        return "grids" if self.search == "grid" else "ranges"

    @property
    def entries(self) -> tuple[dict[str, Any], ...]:
        """What is tried: the grids, or the ranges of a search."""
        return self.grids if self.search == "grid" else self.ranges

    def with_entries(self, entries: Sequence[dict[str, Any]], seed: int) -> "Tuning":
        """Returns it with other entries, and the seed that the search draws with."""
        found = self.model_copy(update={self.place: tuple(entries)})
        found._seed = seed
        return found

    def entry(self, arm: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the one entry that is for an arm.

        Raises:
            ConfigError: there is none, or more than one.
        """
        found = [
            each for each in self.entries if all(arm[a] == each[a] for a in self.axes if a in each)
        ]
        if len(found) != 1:
            one = {"grids": "one grid", "ranges": "one entry"}[self.place]
            raise ConfigError(
                f"tuning.{self.place}: expected {one} for the arm {named(arm)}, received "
                f"{len(found)}"
            )
        return found[0]


def arms(tuning: Tuning, axis_values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns every combination of the values of the tuned axes, in the order of the axes."""
    return combinations({axis: axis_values[axis] for axis in axis_values if axis in tuning.axes})


def combinations(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns every combination of values, one of each name; the last name varies fastest."""
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def key_of(arm: Mapping[str, Any]) -> str:
    """Returns a tuned arm as text, the same for equal arms."""
    return canonical_json(dict(arm))


def named(arm: Mapping[str, Any]) -> str:
    """Returns a tuned arm in words, for messages."""
    return ", ".join(f"{axis} {value}" for axis, value in arm.items())
