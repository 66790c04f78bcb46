"""The schema: what a study's config may say, and the identity of a run.

A `RunSpec` holds all that shapes a training trajectory and its records, and nothing else; its
canonical JSON is the run's identity. The budget is no part of it and stands in the output path.

Neither torch nor gymnasium is imported here: every Snakemake job parses the study again.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from mpo import ALGORITHM_VERSION, EVALUATION_VERSION

OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop", "lion"]
CriticName = Literal["scalar", "categorical"]
BehaviourName = Literal["online", "target"]


class ConfigError(ValueError):
    """A config that cannot be used; the message names each key, its value and the choices."""


class JobFailed(RuntimeError):
    """Work that cannot go on, for a reason outside the program; the message says all of it."""


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
Count = Annotated[Int, Field(ge=1)]
Positive = Annotated[Float, Field(gt=0)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]
Seed = Annotated[Int, Field(ge=0, lt=2**32)]


def check_keys(given: Mapping[Any, Any], allowed: Iterable[str]) -> None:
    """Refuses an unknown key; the ConfigError suggests the nearest and lists the choices."""
    choices = list(allowed)
    for key, value in given.items():
        if key not in choices:
            near = difflib.get_close_matches(str(key), choices, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"unknown key {key!r} with value {value!r}; {hint}choose from {', '.join(choices)}"
            )


def explain(error: ValidationError) -> str:
    """One line a problem: the key's path, what is wrong with it, and the value received."""
    lines = []
    problems = error.errors()
    for item in problems:
        # A sequence that lost a bad item is then said to be too short as well: say the first only.
        inner = [p for p in problems if p["loc"][: len(item["loc"])] == item["loc"]]
        if item["type"] == "too_short" and len(inner) > 1:
            continue
        key = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        # A whole section is no value to show; its own message quotes what matters.
        shown = (
            ""
            if isinstance(item["input"], Mapping | BaseModel)
            else f", received {item['input']!r}"
        )
        lines.append(f"{key}: {message}{shown}" if key else message + shown)
    return "\n".join(lines)


def canonical_json(value: Any) -> str:
    """One string for equal values: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Section(BaseModel):
    """A part of the config: immutable, unknown keys and non-finite numbers refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            check_keys(data, cls.model_fields)
        return data


class Hyperparameters(Section):
    """What `MPOTrainer` takes beside environment, seed and device, with its defaults."""

    policy_layer_sizes: Widths
    critic_layer_sizes: Widths
    replay_size: Annotated[Count, Field(le=2**24)]
    gamma: Fraction = 0.99
    target_networks_update_period: Count = 100
    policy_lr: Positive = 3e-4
    q_lr: Positive = 3e-4
    kl_epsilon: Positive = 0.1
    mstep_kl_epsilon: Positive = 0.1
    temperature_init: Positive = 1.0
    temperature_lr: Positive = 3e-4
    lambda_init: Positive = 1.0
    lambda_lr: Positive = 3e-4
    epsilon_penalty: Positive = 1e-3
    max_grad_norm: Positive = 1.0
    action_samples: Annotated[Int, Field(ge=2)] = 20
    retrace: bool = False
    retrace_steps: Count = 2
    retrace_mc_actions: Count = 8
    retrace_lambda: Fraction = 0.95
    optimizer: OptimizerName = "adam"
    sgd_momentum: Annotated[Float, Field(ge=0, lt=1)] = 0.9
    init_log_alpha_mean: Annotated[Float, Field(ge=-18)] = 10.0
    init_log_alpha_stddev: Annotated[Float, Field(ge=-18)] = 1000.0
    mstep_kl_epsilon_stddev: Positive | None = None
    action_penalty: bool = True
    n_step: Count = 1
    updates_per_step: Positive = 1.0
    dual_optimizer: OptimizerName = "adam"
    policy_init_scale: Positive = 0.5
    behaviour_policy: BehaviourName = "online"
    target_polyak: Annotated[Float, Field(gt=0, le=1)] | None = None
    per_dimension_kl: bool = True
    normalize_observations: bool = False
    critic: CriticName = "scalar"
    critic_atoms: Annotated[Int, Field(ge=2)] = 51
    critic_min: Float = -150.0
    critic_max: Float = 150.0

    @property
    def window(self) -> int:
        """Consecutive transitions that one sample of the replay spans."""
        return self.retrace_steps if self.retrace else self.n_step

    @model_validator(mode="after")
    def _retrace_needs_a_window(self) -> "Hyperparameters":
        if self.retrace and self.retrace_steps < 2:
            raise ValueError(
                f"retrace_steps must be at least 2 with retrace on, received {self.retrace_steps}"
            )
        return self

    @model_validator(mode="after")
    def _atoms_span_a_range(self) -> "Hyperparameters":
        if self.critic_min >= self.critic_max:
            raise ValueError(
                f"critic_min must be below critic_max, received {self.critic_min} and "
                f"{self.critic_max}"
            )
        return self


class Training(Hyperparameters):
    """All that shapes a trajectory: the hyperparameters, and when and on what an update runs."""

    update_after: Count
    batch_size: Count
    m_steps: Count = 1

    @model_validator(mode="after")
    def _fits_the_replay(self) -> "Training":
        if self.batch_size > self.replay_size:
            raise ValueError(
                f"batch_size must not exceed replay_size, received {self.batch_size} > "
                f"{self.replay_size}"
            )
        if self.window > min(self.update_after, self.replay_size):
            name = "retrace_steps" if self.retrace else "n_step"
            raise ValueError(
                f"{name} must not exceed update_after or replay_size, received {self.window} with "
                f"update_after {self.update_after} and replay_size {self.replay_size}"
            )
        return self


_TRAINING_VALUE: dict[str, TypeAdapter[Any]] = {
    key: TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
    for key, field in Training.model_fields.items()
}


def training_value(where: str, key: str, value: Any) -> Any:
    """One training key's value, converted and checked as in `Training`.

    Raises:
        ConfigError: the value does not fit the key.
    """
    try:
        return _TRAINING_VALUE[key].validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{where}.{key}: {explain(error)}") from None


class Schedule(Section):
    """How long a run is and what it leaves behind, in environment steps."""

    total_steps: Count
    snapshot_interval: Count
    log_interval: Count

    @model_validator(mode="after")
    def _on_the_grid(self) -> "Schedule":
        if self.total_steps % self.snapshot_interval:
            raise ValueError(
                f"snapshot_interval must divide total_steps, received {self.snapshot_interval} and "
                f"{self.total_steps}"
            )
        if self.snapshot_interval % self.log_interval:
            raise ValueError(
                f"log_interval must divide snapshot_interval, received {self.log_interval} and "
                f"{self.snapshot_interval}"
            )
        return self


class Evaluation(Section):
    """How policy snapshots are evaluated; a run's episodes are averaged: a seed is one unit."""

    online_episodes: Annotated[Count, Field(le=1000)] = 10
    final_episodes: Annotated[Count, Field(le=1000)] = 100


class Statistics(Section):
    """How a study's statistics are computed."""

    seed: Seed = 0
    replicates: Count = 50_000
    random_episodes: Annotated[Count, Field(le=10_000)] = 200
    threshold: Positive = 0.9


class Verification(Section):
    """What the target `verify` trains again."""

    runs: Count = 3
    steps: Count = 2000


class Extras(Section):
    """What a study makes beside its tables, figures and page."""

    videos: bool = False
    tensorboard: bool = False


class Execution(Section):
    """Where runs execute; no part of their identity, recorded with each result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    cuda_graphs: bool = True
    compile_on_cpu: bool = False
    threads: Count = 1
    seeds_per_job: Count = 1
    runs_per_gpu: Count = 1
    checkpoint_interval_s: Positive = 60.0
    environment_timeout_s: Positive = 300.0
    keep_resume_state: bool = True

    @model_validator(mode="after")
    def _compiled_seeds_are_alone(self) -> "Execution":
        if self.compile_on_cpu and self.device != "cuda" and self.seeds_per_job > 1:
            raise ValueError(f"compile_on_cpu needs seeds_per_job 1, received {self.seeds_per_job}")
        return self


class Spec(Section):
    """Something whose canonical JSON is its identity."""

    @property
    def identity(self) -> str:
        """One string, equal exactly where the specs are equal."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads an identity back.

        Raises:
            ConfigError: the text is no such spec, or one of another version of this code.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None


class CellSpec(Spec):
    """Everything that shapes the trajectories of a cell's runs and their records, but the seed."""

    algorithm_version: Literal[ALGORITHM_VERSION] = ALGORITHM_VERSION  # type: ignore[valid-type]
    env_id: str
    training: Training
    snapshot_interval: Count
    log_interval: Count

    def of_seed(self, seed: int) -> "RunSpec":
        """The run of a seed."""
        return RunSpec(**dict(self), seed=seed)


class RunSpec(CellSpec):
    """The identity of a run: everything that shapes its trajectory and its records."""

    seed: Seed

    @property
    def cell(self) -> CellSpec:
        """What it shares with the runs of other seeds."""
        return CellSpec(**{name: getattr(self, name) for name in CellSpec.model_fields})


class EvaluationSpec(Spec, Evaluation):
    """The identity of an evaluation."""

    evaluation_version: Literal[EVALUATION_VERSION] = EVALUATION_VERSION  # type: ignore[valid-type]


class RandomSpec(Spec):
    """The identity of a measurement of the random policy's return."""

    evaluation_version: Literal[EVALUATION_VERSION] = EVALUATION_VERSION  # type: ignore[valid-type]
    env_id: str
    episodes: Count
