"""The schema of a study's config: how every section is checked, and its plain sections.

`training` is in `hyperparameters.py`, the study as a whole in `plan.py`. The string below a key is
its description, from which docs/config_reference.py makes the reference and the JSON schema.

Neither torch nor gymnasium is imported here: every Snakemake job parses the study again.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)


class ConfigError(ValueError):
    """The config cannot be used; the message names each key, the value received and the choices."""


class JobFailed(RuntimeError):
    """A job cannot go on, for a reason outside the program; the message says everything needed."""


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _in_float32(value: float) -> float:
    low, high = _FLOAT32
    if value and not low <= abs(value) <= high:
        raise ValueError(f"expected a number of a size from {low} to {high}")
    return value


def _null(value: Any) -> Any:
    # Inside of `--config training={...}` Snakemake leaves every value a string.
    return None if value in ("null", "~", "None") else value


NULL = BeforeValidator(_null)
"""For keys that may be null: also takes it as a string."""

MAX_SEED, MAX_EPISODES, MAX_THREADS, MAX_SECONDS = 2**32 - 1, 1000, 1024, 10_000_000

MAX_COUNT = 10**15
"""Far above any real count, and exact in every number format that a count passes through."""

_FLOAT32 = 1.2e-38, 3.4e38
"""Sizes of the numbers that float32 holds with all its digits."""

_LARGEST = 1e300
"""Largest number among arguments: all larger ones are mistakes, or not finite."""

_LONGEST_NAME = 255
"""Bytes of a file's name, on common file systems."""

_MOST_VALUES = 200
"""Most values in one argument; they would not fit into a path."""

Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
Count = Annotated[Int, Field(ge=1, le=MAX_COUNT)]
Real = Annotated[Float, AfterValidator(_in_float32)]
Positive = Annotated[Real, Field(gt=0)]
Seconds = Annotated[Float, Field(gt=0, le=MAX_SECONDS)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]
Seed = Annotated[Int, Field(ge=0, le=MAX_SEED)]


def check_keys(given: Mapping[Any, Any], allowed: Iterable[str], where: str = "") -> None:
    """Refuses unknown keys.

    Args:
        given: keys with their values.
        allowed: the keys that there are.
        where: the place in the config, for the message.

    Raises:
        ConfigError: a key is unknown; the message suggests the nearest one and lists the choices.
    """
    choices, start = list(allowed), f"{where}: " if where else ""
    for key, value in given.items():
        if key not in choices:
            raise ConfigError(
                f"{start}unknown key {shown(key)} with value {shown(value)}; "
                f"{nearest(str(key), choices)}choose from {', '.join(choices)}"
            )


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns a question for messages, whether the nearest choice was meant; empty if none is."""
    near = difflib.get_close_matches(name, choices, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def explain(error: ValidationError) -> str:
    """Returns one line per problem: the key's path, what is wrong, and the value received."""
    lines = []
    problems = error.errors()
    for item in problems:
        # With a bad item, pydantic also reports its sequence as too short: keep the bad item only.
        inner = [p for p in problems if p["loc"][: len(item["loc"])] == item["loc"]]
        if item["type"] == "too_short" and len(inner) > 1:
            continue
        key = ".".join(str(part) for part in item["loc"])
        message = _in_yaml(item["type"], item["msg"].removeprefix("Value error, "), item["input"])
        # A whole section is too long to show; its own message quotes the values that matter.
        whole = isinstance(item["input"], Mapping | BaseModel)
        received = "" if whole else f", received {shown(item['input'])}"
        lines.append(f"{key}: {message}{received}" if key else message + received)
    return "\n".join(lines)


def _in_yaml(kind: str, message: str, value: Any) -> str:
    """Returns pydantic's message in the words of YAML, which has lists and mappings."""
    if kind in ("tuple_type", "list_type"):
        return "expected a list"
    if kind in ("dict_type", "model_type"):
        return "expected a mapping"
    if kind == "int_parsing":
        try:
            number = float(value)
        except ValueError:
            return message
        if number.is_integer() and abs(number) <= MAX_COUNT:
            return f"expected a whole number, written out as {number:.0f}"  # YAML: 1e6 is text
    return message


def shown(value: Any) -> str:
    """Returns a value for messages, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:60]}... ({len(text)} characters)"


def canonical_json(value: Any) -> str:
    """Returns the same JSON string for equal values: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


JSON_TYPES = (dict, list, str, int, float, type(None))
"""What a value that can be written as JSON is made of."""


def nested(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields a value and all that is in it, each with the keys that lead there."""
    waiting = [(place, value)]
    while waiting:
        where, part = waiting.pop()
        yield where, part
        if isinstance(part, dict | list):
            items = part.items() if isinstance(part, dict) else enumerate(part)
            waiting += [(f"{where}.{key}" if where else str(key), inner) for key, inner in items]


def refuse_other_than_json(place: str, value: Any) -> None:
    """Checks that a value from a config can be written as JSON, and has a size for a path.

    Args:
        place: where in the config it is, for messages.
        value: any value.

    Raises:
        ValueError: it contains something else, too many values, or a number that is not finite.
    """
    for count, (where, part) in enumerate(nested(place, value), 1):
        if count > _MOST_VALUES:  # YAML's aliases can make a mapping part of itself
            raise ValueError(f"{place}: expected at most {_MOST_VALUES} values, received more")
        if isinstance(part, dict) and not all(isinstance(key, str) for key in part):
            raise ValueError(f"{where}: expected text as keys, received {[*part]}")
        if not isinstance(part, JSON_TYPES):
            wanted = "text, numbers, true, false, null, lists or mappings"
            raise ValueError(f"{where}: expected {wanted}, received {part!r}")
        if isinstance(part, int | float) and not abs(part) <= _LARGEST:
            raise ValueError(f"{where}: expected a number up to {_LARGEST:g}, received {part}")


class Section(BaseModel):
    """A part of the config: immutable; refuses unknown keys and numbers that are not finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            check_keys(data, cls.model_fields)
        return data


class Schedule(Section):
    """The length of a run and what it records on the way, in environment steps."""

    total_steps: Count
    """Environment steps per seed. A longer budget is a new result beside the shorter one and trains
    only the difference."""

    snapshot_interval: Count
    """Environment steps between policy snapshots, the first at step 0. Each one is evaluated. Must
    divide `total_steps`."""

    log_interval: Count
    """Environment steps between rows of training metrics. Must divide `snapshot_interval`."""

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
    """How policy snapshots are evaluated. A run's episodes are averaged: a seed is one unit."""

    online_episodes: Annotated[Count, Field(le=MAX_EPISODES)] = 10
    """Episodes per snapshot, with the policy's mean action."""

    final_episodes: Annotated[Count, Field(le=MAX_EPISODES)] = 100
    """Episodes of the last snapshot with the mean action, and as many with sampled actions. They
    start from other reset seeds than the `online_episodes`."""

    max_episode_steps: Annotated[Count | None, NULL] = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Environment steps after which an episode of the evaluation, or of the random policy, is cut
    off. Needed only for environments whose episodes never end; a time limit that an environment
    has ends its training episodes, too. If not set, an episode that has not ended after as many
    steps as the whole training has, and after at least 10,000, fails the run, unless Gymnasium
    knows a time limit of the environment."""


class Statistics(Section):
    """How intervals and scores are computed."""

    seed: Seed = 0
    """Seed of the bootstrap, and of the candidates that a search in `tuning.ranges` draws."""

    replicates: Annotated[Count, Field(le=10_000_000)] = 50_000
    """Bootstrap resamples for the interval of an aggregate."""

    random_episodes: Annotated[Count, Field(le=10_000)] = 200
    """Episodes per environment that measure the random policy's return, which is a score of 0."""

    threshold: Positive = 0.9
    """Normalized score whose first crossing counts as sample efficiency, in environment steps."""


def _short_names(path: str) -> str:
    if any(len(name.encode()) > _LONGEST_NAME for name in path.split("/")):
        raise ValueError(f"expected names of at most {_LONGEST_NAME} bytes in the path")
    return path


FilePath = Annotated[str, Field(pattern=r"^[^{}\x00-\x1f]+$"), AfterValidator(_short_names)]
"""A file's path. Snakemake would take braces for a wildcard."""


class Tables(Section):
    """CSV files that users edit; every row is checked before any job starts."""

    references: FilePath = "config/references.csv"
    """The return that is a score of 1 in each environment, with its source. The default is the
    pipeline's own file, if the working directory has none of this name."""

    baselines: FilePath = "config/baselines.csv"
    """Published returns to compare with, each with its source. The default is found like
    that of `references`."""


class Verification(Section):
    """What `snakemake verify` trains again to compare it bit for bit."""

    runs: Count = 3
    """Number of runs, spread evenly over the study."""

    steps: Count = 2000
    """Environment steps per run."""


class Extras(Section):
    """What a study makes besides its tables, figures and page."""

    videos: bool = False
    """Whether to film the first seed of each environment and arm."""

    tensorboard: bool = False
    """Whether to write every run's metrics and evaluations as TensorBoard event files."""


class Execution(Section):
    """How runs execute. It is no part of a run's identity, so changing it reruns nothing."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks and replay buffer are. `auto`: a GPU if there is one, else the CPU."""

    cuda_graphs: bool = True
    """Whether acting, sampling and learning are each launched as one CUDA graph. GPU only."""

    compile_on_cpu: Literal["auto", True, False] = "auto"
    """Whether acting and learning are compiled with torch.compile on a CPU. `auto`: where it saves
    more time than it takes, decided by sizes and budget when a cell's first run starts; later runs
    of the cell follow. Without a C++ compiler the log says so and the plain code runs. On a GPU
    they are compiled anyway, if Triton is available."""

    threads: Annotated[Count, Field(le=MAX_THREADS)] = 1
    """CPU threads per job that trains or evaluates. With several, it also steps the environments of
    stacked seeds, and those of an evaluation, in as many processes where that saves time. No number
    changes."""

    seeds_per_job: Count = 1
    """Seeds of the same environment and arm that one process trains together."""

    runs_per_gpu: Count = 1
    """Training processes that share a GPU at a time."""

    checkpoint_interval_s: Seconds = 60.0
    """Seconds between checkpoints: a crash loses at most this much work."""

    environment_timeout_s: Seconds = 300.0
    """Seconds that one call of an environment may take. After that it counts as hung, and the job
    ends."""

    keep_resume_state: bool = True
    """Whether a finished run keeps the state from which a longer budget goes on."""
