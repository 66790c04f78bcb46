"""Identities: what makes two runs, or two evaluations, the same.

A `RunSpec` holds everything that shapes a training trajectory and its records, and nothing else;
its canonical JSON is the run's identity. The budget is no part of it: it is in the output path.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator

from mpo import ALGORITHM_VERSION, EVALUATION_VERSION
from mpo.study.config import (
    ConfigError,
    Count,
    Evaluation,
    Section,
    Seed,
    canonical_json,
    explain,
    refuse_other_than_json,
)
from mpo.study.hyperparameters import Training
from mpo.study.optimizers import refuse_unknown

ENVIRONMENT_ID = (
    r"^([A-Za-z0-9][A-Za-z0-9_.]*:)?([A-Za-z0-9][A-Za-z0-9_.-]*/)?[A-Za-z0-9][A-Za-z0-9_.-]*$"
)
"""[module:][namespace/]name: ids end up in paths and shell commands, so nothing else is allowed."""

_SET_HERE = ("id", "render_mode", "disable_env_checker")
"""Arguments of `gymnasium.make` that a config cannot set."""


def path_text(value: Any) -> str:
    """Returns a value as part of a path: on/off, 64x64, 0.001, adam."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return "x".join(map(path_text, value))
    if isinstance(value, Mapping):
        return ".".join(f"{key}-{path_text(part)}" for key, part in sorted(value.items()))
    return re.sub("[^A-Za-z0-9_.+-]", "-", str(value))


def _empty(value: Any) -> bool:
    return not value


def _module_and_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value, re.ASCII):
        raise ValueError("expected module:Wrapper")
    return value


Importable = Annotated[str, AfterValidator(_module_and_name)]


class Spec(Section):
    """A section whose canonical JSON is its identity."""

    @property
    def identity(self) -> str:
        """The canonical JSON: two specs are equal exactly if their identities are."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads an identity back.

        Raises:
            ConfigError: the text is not such a spec, or was written by another version of the code.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None


class EnvironmentSpec(Section):
    """An environment, made with arguments and wrapped."""

    id: str
    """Gymnasium id; also dm_control/domain-task-v0 or your_module:YourEnv-v0."""

    kwargs: dict[str, Any] = Field(default={}, exclude_if=_empty)
    """Arguments of the environment's constructor, as in `{terminate_when_unhealthy: false}`, and
    `max_episode_steps`, its time limit. They are part of the identity of a run and of its path. An
    environment with arguments or wrappers has a reference score, and published returns, only if the
    files in `tables` have rows with its name in paths."""

    wrappers: tuple[Importable, ...] = Field(default=(), exclude_if=_empty)
    """Gymnasium wrappers, as in `[my_module:MyWrapper]`, the innermost first. Each is called with
    the environment only. They are applied to what `gymnasium.make` returns, around the time limit
    and below everything of this program: they see the environment's own observations and actions,
    before observations are flattened and actions are scaled to [-1, 1]. They are part of the
    identity of a run and of its path."""

    @field_validator("id")
    @classmethod
    def _plain_id(cls, value: str) -> str:
        if not re.fullmatch(ENVIRONMENT_ID, value):
            raise ValueError(
                "expected [module:][namespace/]name made of letters, digits, '.', '_' and '-'"
            )
        return value

    @field_validator("kwargs")
    @classmethod
    def _json_kwargs(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not name.isidentifier():
                raise ValueError("expected names of arguments")
            if name in _SET_HERE:
                raise ValueError(f"{name!r} is set by the program")
        for name, part in value.items():
            refuse_other_than_json(name, part)
        return value

    @property
    def slug(self) -> str:
        """The form in paths: the id, then each argument by name, then the wrappers in order."""
        arguments = [f"{key}-{path_text(value)}" for key, value in sorted(self.kwargs.items())]
        wrappers = [name.partition(":")[2] for name in self.wrappers]
        return "_".join([re.sub("[:/]", "-", self.id), *arguments, *wrappers])

    @property
    def name(self) -> str:
        """The name in tables: the id, or the slug if there are arguments or wrappers."""
        return self.slug if self.kwargs or self.wrappers else self.id


class InEnvironment(Spec):
    """A spec that holds in one environment; arguments and wrappers count only where given."""

    env_id: str
    env_kwargs: dict[str, Any] = Field(default={}, exclude_if=_empty)
    env_wrappers: tuple[Importable, ...] = Field(default=(), exclude_if=_empty)

    @property
    def environment(self) -> EnvironmentSpec:
        """The environment."""
        return EnvironmentSpec(id=self.env_id, kwargs=self.env_kwargs, wrappers=self.env_wrappers)

    @property
    def env_name(self) -> str:
        """The environment's name in tables."""
        plain = not (self.env_kwargs or self.env_wrappers)
        return self.env_id if plain else self.environment.name


class CellSpec(InEnvironment):
    """What the runs of a cell (one environment and arm) have in common: all but the seed."""

    algorithm_version: Literal[ALGORITHM_VERSION] = ALGORITHM_VERSION  # type: ignore[valid-type]
    training: Training
    snapshot_interval: Count
    log_interval: Count

    @field_validator("training")
    @classmethod
    def _known_optimizer(cls, value: Training) -> Training:
        refuse_unknown(value.optimizer, value.optimizer_definition)
        return value

    def of_seed(self, seed: int) -> "RunSpec":
        """Returns the spec of one seed's run."""
        return RunSpec(**dict(self), seed=seed)


class RunSpec(CellSpec):
    """The identity of a run: everything that shapes its trajectory and its records."""

    seed: Seed

    @property
    def cell(self) -> CellSpec:
        """The part that runs of other seeds share."""
        return CellSpec(**{name: getattr(self, name) for name in CellSpec.model_fields})


class EvaluationSpec(Spec, Evaluation):
    """The identity of an evaluation."""

    evaluation_version: Literal[EVALUATION_VERSION] = EVALUATION_VERSION  # type: ignore[valid-type]


class RandomSpec(InEnvironment):
    """The identity of a measurement of the random policy's return in an environment."""

    evaluation_version: Literal[EVALUATION_VERSION] = EVALUATION_VERSION  # type: ignore[valid-type]
    episodes: Count
    max_episode_steps: Count | None = Field(default=None, exclude_if=lambda value: value is None)
