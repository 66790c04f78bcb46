"""A study: `config.yaml` -> `Study` -> the runs that it plans, each with its spec and its place.

Neither torch nor gymnasium is imported here: every Snakemake job parses the study again.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from mpo.study.config import (
    CellSpec,
    ConfigError,
    Evaluation,
    Execution,
    Extras,
    OptimizerName,
    RunSpec,
    Schedule,
    Section,
    Seed,
    Statistics,
    Training,
    Verification,
    check_keys,
    explain,
    training_value,
)
from mpo.study.paths import Place

CORE_AXES = ("retrace", "optimizer")
"""Always part of a variant's name; a further axis only where its value differs from the base."""

_ENV_ID = re.compile(r"([A-Za-z0-9][\w.]*:)?([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


class Environment(Section):
    """An environment id, and what differs from `training` and `schedule` in it."""

    id: str
    overrides: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"id": data}
        if isinstance(data, Mapping):
            check_keys(data, ["id", *Schedule.model_fields, *Training.model_fields])
            overrides = {key: value for key, value in data.items() if key != "id"}
            return {**({"id": data["id"]} if "id" in data else {}), "overrides": overrides}
        return data

    @field_validator("id")
    @classmethod
    def _plain_id(cls, value: str) -> str:
        if not _ENV_ID.fullmatch(value):
            raise ValueError("an id is [module:][namespace/]name in letters, digits, '.', '_', '-'")
        return value

    @property
    def slug(self) -> str:
        """The id as one path segment."""
        return re.sub("[:/]", "-", self.id)


@dataclass(frozen=True)
class Cell:
    """One environment and one arm: runs that differ in their seeds alone.

    `arm` holds the value of every axis, in the axes' order; `total_steps` counts environment steps.
    """

    env_slug: str
    variant: str
    arm: dict[str, Any]
    spec: CellSpec
    total_steps: int

    @property
    def cell_id(self) -> str:
        """`environment/variant`: unique in the study, and of each of its runs."""
        return f"{self.env_slug}/{self.variant}"


@dataclass(frozen=True, kw_only=True)
class Run(Place):
    """One planned run: its place in the study, its arm and its spec."""

    arm: dict[str, Any]
    spec: RunSpec


class Study(Section):
    """A whole study: environments x axes x seeds, and how each run trains and is evaluated."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    environments: Annotated[tuple[Environment, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    axes: dict[str, list[Any]] = {}
    schedule: Schedule
    training: Training
    optimizers: dict[OptimizerName, dict[str, Any]] = {}
    evaluation: Evaluation = Evaluation()
    statistics: Statistics = Statistics()
    verification: Verification = Verification()
    extras: Extras = Extras()
    execution: Execution = Execution()
    allow_missing: bool = False

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> "Study":
        """Reads a study from a parsed YAML or JSON mapping.

        Raises:
            ConfigError: the study cannot be planned; one line a problem.
        """
        try:
            study = cls.model_validate(config)
            _ = study.runs
        except ValidationError as error:
            raise ConfigError(explain(error)) from None
        return study

    @field_validator("environments")
    @classmethod
    def _unique_environments(cls, value: tuple[Environment, ...]) -> tuple[Environment, ...]:
        _refuse_duplicates("environment", [environment.slug for environment in value])
        return value

    @field_validator("seeds")
    @classmethod
    def _unique_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        _refuse_duplicates("seed", value)
        return value

    @field_validator("optimizers")
    @classmethod
    def _optimizer_keys(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for overrides in value.values():
            check_keys(overrides, [key for key in Training.model_fields if key not in CORE_AXES])
        return value

    @field_validator("axes")
    @classmethod
    def _axis_keys(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        check_keys(value, Training.model_fields)
        for name, values in value.items():
            if not values:
                raise ValueError(f"axis {name!r} has no values")
        return value

    @cached_property
    def axis_values(self) -> dict[str, list[Any]]:
        """Every axis, the core ones first, with its values in the schema's types.

        The others are sorted: paths hold them, and the order of a config's keys means nothing.
        """
        raw = {name: [getattr(self.training, name)] for name in CORE_AXES}
        raw |= dict(sorted(self.axes.items()))
        values = {}
        for name, items in raw.items():
            values[name] = [training_value("axes", name, item) for item in items]
            _refuse_duplicates(f"value of axes.{name}", values[name])
        return values

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every planned run, in the order environment, axis values, seed."""
        return tuple(
            Run(
                study=self.study,
                env_slug=cell.env_slug,
                variant=cell.variant,
                seed=seed,
                total_steps=cell.total_steps,
                arm=cell.arm,
                spec=cell.spec.of_seed(seed),
            )
            for cell in self.cells
            for seed in self.seeds
        )

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every environment with every arm, in the order environment, axis values."""
        arms = [
            dict(zip(self.axis_values, values, strict=True))
            for values in itertools.product(*self.axis_values.values())
        ]
        return tuple(itertools.starmap(self._cell, itertools.product(self.environments, arms)))

    def _cell(self, environment: Environment, arm: dict[str, Any]) -> Cell:
        """One environment and arm.

        A value is the axis's, else the environment's or the optimizer's, else that of `training`.
        """
        base = self._base(environment, arm["optimizer"])
        shown = [name for name in arm if name in CORE_AXES or arm[name] != base[name]]
        variant = "_".join(f"{name}-{_slug(arm[name])}" for name in shown)
        where = f"{environment.id}/{variant}"
        training = _build(Training, base | arm, where)
        timing = {k: v for k, v in environment.overrides.items() if k in Schedule.model_fields}
        schedule = _build(Schedule, self.schedule.model_dump() | timing, where)
        if schedule.total_steps < training.update_after:
            raise ConfigError(
                f"{where}: total_steps must be at least update_after, received "
                f"{schedule.total_steps} < {training.update_after}"
            )
        return Cell(
            env_slug=environment.slug,
            variant=variant,
            arm=arm,
            spec=CellSpec(
                env_id=environment.id,
                training=training,
                snapshot_interval=schedule.snapshot_interval,
                log_interval=schedule.log_interval,
            ),
            total_steps=schedule.total_steps,
        )

    def _base(self, environment: Environment, optimizer: OptimizerName) -> dict[str, Any]:
        """The training values of an environment and an optimizer, before the axes'."""
        base = self.training.model_dump()
        by_optimizer = self.optimizers.get(optimizer, {})
        for key, value in by_optimizer.items():
            base[key] = training_value(f"optimizers.{optimizer}", key, value)
        for key, value in environment.overrides.items():
            where = f"environments ({environment.id})"
            if key in self.axis_values:
                raise ConfigError(
                    f"{where}.{key}: it is an axis of the study, received {value!r}; "
                    f"its values are axes.{key}: {self.axis_values[key]}"
                )
            if key in by_optimizer:
                raise ConfigError(
                    f"{where}.{key}: optimizers.{optimizer} sets it too, received {value!r} and "
                    f"{by_optimizer[key]!r}; keep one"
                )
            if key in Training.model_fields:
                base[key] = training_value(where, key, value)
        return base


def _build(section: type[Section], values: dict[str, Any], where: str) -> Any:
    try:
        return section(**values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error)}") from None


def _refuse_duplicates(what: str, values: Sequence[Any]) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ConfigError(f"duplicate {what} {value!r}")


def _slug(value: Any) -> str:
    """An axis value as part of a path: on/off, 64x64, 0.001, adam."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
