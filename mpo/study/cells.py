"""What a study is planned from and made of: environments, bundles, cells and runs."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from mpo.study.config import ConfigError, Schedule, Section, check_keys
from mpo.study.hyperparameters import Training, training_value
from mpo.study.optimizers import ARM
from mpo.study.paths import Place
from mpo.study.specs import CellSpec, EnvironmentSpec, RunSpec

CORE_AXES = ("retrace", "optimizer")
"""Axes that every study has; always named in a variant, other axes only off their base value."""

DEFINITION = "optimizer_definition"
"""The key of `training` that a config cannot set: `optimizers` says what an arm's optimizer is."""

SETTABLE = tuple(key for key in Training.model_fields if key != DEFINITION)
"""The keys of `training` that a config can set."""

OWN_KEYS = tuple(key for key in SETTABLE if key not in CORE_AXES)
"""Those that can be tuned, and that an optimizer, a bundle or an environment can set for itself."""

BUNDLE = "bundle"
"""The axis of the bundles, if a study has any."""


def axis_value(where: str, axis: str, given: Any, values: Sequence[Any]) -> Any:
    """Converts a value that a config names of an axis, and checks that the axis has it.

    Args:
        where: the place in the config, for the error message.
        axis: a key of `training`, or `bundle`.
        given: what the config says.
        values: the axis's values, of the schema's types.

    Raises:
        ConfigError: it is none of them.
    """
    with suppress(ConfigError):  # what does not fit the key is none of its values
        value = given if axis == BUNDLE else training_value(where, axis, given)
        if value in values:
            return value
    raise ConfigError(f"{where}: expected one of {list(values)}, received {given!r}")


class Environment(EnvironmentSpec):
    """An environment, and the keys of `schedule` and `training` that it overrides."""

    overrides: dict[str, Any] = {}
    """Keys of `schedule` and `training` with their values in this environment. In the config they
    are written beside the id."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"id": data}
        if isinstance(data, Mapping):
            own = [*EnvironmentSpec.model_fields]
            check_keys(data, [*own, *Schedule.model_fields, *SETTABLE])
            overrides = {key: value for key, value in data.items() if key not in own}
            return {key: data[key] for key in own if key in data} | {"overrides": overrides}
        return data


class Bundle(Section):
    """A named set of values of `training`."""

    name: Annotated[str, Field(pattern=ARM)]
    """Its name in paths, tables and figures."""

    overrides: dict[str, Any] = {}
    """Keys of `training` with their values. In the config they are written beside the name."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        check_keys(data, ["name", *OWN_KEYS])
        overrides = {key: value for key, value in data.items() if key != "name"}
        return {key: data[key] for key in ("name",) if key in data} | {"overrides": overrides}


@dataclass(frozen=True)
class Cell:
    """One environment and one arm: its runs differ in their seeds only."""

    env_slug: str
    variant: str
    """The arm as one path segment."""
    arm: dict[str, Any]
    """The value of every axis, in the order of the axes."""
    spec: CellSpec
    total_steps: int
    """Environment steps per seed."""

    @property
    def cell_id(self) -> str:
        """`environment/variant`: unique in the study."""
        return f"{self.env_slug}/{self.variant}"


@dataclass(frozen=True, kw_only=True)
class Run(Place):
    """One planned run: its place on disk, its arm and its spec."""

    arm: dict[str, Any]
    spec: RunSpec
