"""Identities: what makes two runs, or two evaluations, the same.

A `RunSpec` holds everything that shapes a training trajectory and its records, and nothing else;
its canonical JSON is the run's identity. The budget is no part of it: it is in the output path.
"""

from typing import Literal, Self

from pydantic import Field, ValidationError

from mpo import ALGORITHM_VERSION, EVALUATION_VERSION
from mpo.study.config import (
    ConfigError,
    Count,
    Evaluation,
    Section,
    Seed,
    canonical_json,
    explain,
)
from mpo.study.hyperparameters import Training


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


class CellSpec(Spec):
    """What the runs of a cell (one environment and arm) have in common: all but the seed."""

    algorithm_version: Literal[ALGORITHM_VERSION] = ALGORITHM_VERSION  # type: ignore[valid-type]
    env_id: str
    training: Training
    snapshot_interval: Count
    log_interval: Count

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


class RandomSpec(Spec):
    """The identity of a measurement of the random policy's return in an environment."""

    evaluation_version: Literal[EVALUATION_VERSION] = EVALUATION_VERSION  # type: ignore[valid-type]
    env_id: str
    episodes: Count
    max_episode_steps: Count | None = Field(default=None, exclude_if=lambda value: value is None)
