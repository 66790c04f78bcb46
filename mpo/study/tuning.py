"""Tuning: a stage before the reported runs that chooses the hyperparameters of each arm.

The stage is a study of its own, `NAME-tuning`, whose arms are candidates and whose seeds are never
reported. What it chooses is written to results/NAME/chosen.json, and the reported runs are trained
with that.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mpo.study.checksums import OWN, Damaged, read_record, reading
from mpo.study.config import (
    ConfigError,
    Float,
    Positive,
    Section,
    Seed,
    canonical_json,
    check_keys,
)
from mpo.study.hyperparameters import Training, training_value

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

    grids: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    """The candidates, as in `[{optimizer: adam, q_lr: [3.0e-4, 1.0e-3, 3.0e-3]}, {optimizer: sgd,
    q_lr: [1.0e-3, 1.0e-2, 1.0e-1]}]`: axes with the value that a grid is for, and keys of
    `training` with the values to try. Of several keys, every combination is a candidate. Each arm
    needs exactly one grid. A fair comparison gives all arms as many candidates, at the same
    ratios."""

    followers: dict[str, Annotated[dict[str, Positive], Field(min_length=1, max_length=1)]] = {}
    """Keys of `training` that keep a fixed ratio to a tuned key: `{policy_lr: {q_lr: 0.5}}` has the
    policy learn at half the critic's rate."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1000, 1001, 1002)
    """Seeds of the candidates. None may be a reported seed."""

    budget: Annotated[Float, Field(gt=0, le=1)] = 0.5
    """Share of the reported runs' environment steps that candidates are trained for, rounded down
    to a multiple of `snapshot_interval`."""

    criterion: Literal["area", "final"] = "area"
    """What makes a candidate better: the area under its learning curve, or its final return; the
    mean over seeds. A candidate with a seed that diverged ranks behind all others."""

    choose: Literal["environment", "across"] = "environment"
    """Whether each environment has a choice of its own, or one candidate is chosen for all: the one
    with the best mean score over the environments that have a reference."""

    @field_validator("seeds")
    @classmethod
    def _unique_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len({*value}) < len(value):
            raise ValueError(f"expected every seed once, received {list(value)}")
        return value

    @property
    def keys(self) -> tuple[str, ...]:
        """Every tuned key, in the order of the grids."""
        found = (key for grid in self.grids for key in grid if key not in self.axes)
        return tuple(dict.fromkeys(found))

    def candidates(self, arm: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the candidates of an arm: the values of its tuned keys.

        Args:
            arm: the value of every tuned axis.
        """
        grid = self._grid(arm)
        tuned = {key: values for key, values in grid.items() if key not in self.axes}
        return [
            dict(zip(tuned, values, strict=True)) for values in itertools.product(*tuned.values())
        ]

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
        """Whether a tuned number is the least or the greatest of its grid, which has several."""
        grid = self._grid(arm)
        numbers = {
            key: [value for value in grid[key] if _is_number(value)]
            for key in candidate
            if len(grid[key]) > 1
        }
        return any(
            values and candidate[key] in (min(values), max(values))
            for key, values in numbers.items()
        )

    def _grid(self, arm: Mapping[str, Any]) -> dict[str, Any]:
        found = [
            grid for grid in self.grids if all(arm[a] == grid[a] for a in self.axes if a in grid)
        ]
        if len(found) != 1:
            named = ", ".join(f"{axis} {value}" for axis, value in arm.items())
            raise ConfigError(
                f"tuning.grids: expected one grid for the arm {named}, received {len(found)}"
            )
        return found[0]

    def checked(
        self, axis_values: Mapping[str, Sequence[Any]], reported: Sequence[int]
    ) -> "Tuning":
        """Returns it with values of the schema's types, if it fits the study.

        Args:
            axis_values: the study's axes with their values.
            reported: the study's seeds.

        Raises:
            ConfigError: a key, an axis or a seed that cannot be tuned.
        """
        for axis in self.axes:
            if axis not in axis_values:
                raise ConfigError(
                    f"tuning.axes: expected some of {', '.join(axis_values)}, received {axis!r}"
                )
        if both := [seed for seed in self.seeds if seed in reported]:
            raise ConfigError(
                f"tuning.seeds: a seed is either tuned on or reported, received {both} in both"
            )
        grids = tuple(self._checked(grid, axis_values) for grid in self.grids)
        found = self.model_copy(update={"grids": grids})
        check_keys(self.followers, [key for key in TUNABLE if key not in found.keys])
        for followed in self.followers.values():
            check_keys(followed, found.keys)
        for arm in arms(found, axis_values):
            for candidate in found.candidates(arm):
                for key, value in found.settings(candidate).items():
                    training_value("tuning", key, value)
        return found

    def _checked(
        self, grid: Mapping[str, Any], axis_values: Mapping[str, Sequence[Any]]
    ) -> dict[str, Any]:
        own = [key for key in TUNABLE if key not in axis_values]
        check_keys(grid, [*self.axes, *own])
        found: dict[str, Any] = {}
        for key, values in grid.items():
            where = f"tuning.grids.{key}"
            if key in self.axes:
                if values not in axis_values[key]:
                    raise ConfigError(
                        f"{where}: expected one of {list(axis_values[key])}, received {values!r}"
                    )
                found[key] = values
            elif not isinstance(values, list | tuple) or not values:
                raise ConfigError(f"{where}: expected a list of values, received {values!r}")
            else:
                found[key] = [training_value("tuning.grids", key, value) for value in values]
                if any(value in found[key][:index] for index, value in enumerate(found[key])):
                    raise ConfigError(f"{where}: expected every value once, received {values!r}")
        if not any(key not in self.axes for key in found):
            raise ConfigError(f"tuning.grids: expected a key to tune, received {dict(grid)}")
        return found


def arms(tuning: Tuning, axis_values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns every combination of the values of the tuned axes, in the order of the axes."""
    names = [axis for axis in axis_values if axis in tuning.axes]
    combinations = itertools.product(*(axis_values[axis] for axis in names))
    return [dict(zip(names, combination, strict=True)) for combination in combinations]


def key_of(arm: Mapping[str, Any]) -> str:
    """Returns a tuned arm as text, the same for equal arms."""
    return canonical_json(dict(arm))


Choice = Mapping[tuple[str, str], Mapping[str, Any]]
"""The values of `training` that were chosen, by an environment's name in paths and `key_of` its
tuned arm."""


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
    with reading(path):
        return {(row["env"], key_of(row["arm"])): row["settings"] for row in record["chosen"]}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
