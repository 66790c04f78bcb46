"""The config of a study: its sections and keys, and what is refused in them before any planning."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mpo.study.cells import DEFINITION, OWN_KEYS, SETTABLE, Bundle, Environment
from mpo.study.config import (
    ConfigError,
    Evaluation,
    Execution,
    Extras,
    Int,
    Schedule,
    Section,
    Seed,
    Statistics,
    Tables,
    Verification,
    check_keys,
    shown,
)
from mpo.study.contrasts import Contrast
from mpo.study.hyperparameters import Training
from mpo.study.optimizers import ARM_KEYS
from mpo.study.others import Others
from mpo.study.tuning import Tuning

MAX_SEGMENT = 200
"""Characters of a study's, environment's or variant's name in paths. File systems allow 255 bytes,
and cluster schedulers put more into the name of a job's folder."""

REFERENCE = "reference"
"""The folder in `results/` that keeps the results that come with the project."""


class StudyConfig(Section):
    """The keys of a study's config; `Study` plans runs from them."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    """Name of the study, in letters, digits, `-` and `_`. Results are written to results/NAME/.
    `reference` is taken: results/reference/ keeps the results that come with the project."""

    environments: Annotated[tuple[Environment, ...], Field(min_length=1)]
    """Environments to train in. An entry is an id, or a mapping of `id` and the keys of `schedule`
    and `training` that differ in this environment, as in `{id: Hopper-v5, gamma: 0.995}`. An axis
    cannot be overridden, nor a key that `optimizers` sets for an optimizer in use. `kwargs` and
    `wrappers` make another environment of an id, as in `{id: Hopper-v5, kwargs:
    {terminate_when_unhealthy: false}, wrappers: [my_module:MyWrapper]}`."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """Seeds of the runs. Each is the only source of randomness of its run. Adding one trains that
    seed only."""

    axes: dict[str, list[Any]] = {}
    """Factors of the comparison: any key of `training`, with the list of values to compare. Every
    combination of values is an arm, trained in every environment with every seed. An axis wins over
    `optimizers` and `training`. `retrace` and `optimizer` are always axes: if not given here, with
    the one value of `training`."""

    schedule: Schedule
    training: Training
    optimizers: dict[str, dict[str, Any]] = {}
    """Values that apply with one optimizer only, so that each can be tuned: name of the optimizer,
    then any keys of `training` but `retrace` and `optimizer`. They win over `training`. An entry
    with another name than a built-in's also says what it is, by `class` and `settings`, as in
    `{nadam: {class: torch.optim.NAdam, settings: {betas: [0.9, 0.99]}, policy_lr: 1.0e-3}}`, or by
    `matrices` and `rest`, each with its `class`. `axes.optimizer` can then name it."""

    bundles: tuple[Bundle, ...] = ()
    """Named sets of values, compared as the values of an axis `bundle`: a name, and any keys of
    `training` but axes. They win over `optimizers` and `training`. So `[{name: base}, {name: norms,
    layer_norm: all}, {name: pink, action_noise: pink}]` measures what each change does alone, for
    tables compare every bundle with the first."""

    contrasts: tuple[Contrast, ...] = ()
    """Primary contrasts, named before the study is run: the comparisons that it was made for, as in
    `[{axis: optimizer, level: sgd, against: adam}]`. The summary reports them first, with p-values
    adjusted for their number (Holm); all other effects are exploratory. They are no part of a run's
    identity, so changing them trains nothing."""

    others: tuple[Others, ...] = ()
    """Files of other people's scores, shown and compared with the study's own, as in `[{path:
    sac.csv, algorithm: SAC, columns: {env: task, env_step: step, seed: seed, return: score},
    environments: {walker-walk: dm_control/walker-walk-v0}, source: "where it is from"}]`. They are
    no part of a run's identity, so changing them trains and evaluates nothing."""

    tuning: Tuning | None = None
    stage: Literal["reported", "tuning"] = "reported"
    """Which runs are planned: the reported ones, or the candidates of `tuning`. The pipeline sets
    it in the study of that stage."""
    rung: Annotated[Int, Field(ge=1)] = 1
    """Which rung of `tuning.halving` is planned in the stage of tuning. The pipeline sets it."""

    evaluation: Evaluation = Evaluation()
    statistics: Statistics = Statistics()
    tables: Tables = Tables()
    verification: Verification = Verification()
    extras: Extras = Extras()
    execution: Execution = Execution()
    allow_missing: bool = False
    """Whether to make the tables without the runs that failed or are damaged. They then show the
    number of runs per cell. An environment that fails with random actions has no scores then."""

    @model_validator(mode="before")
    @classmethod
    def _keys_in_their_sections(cls, data: Any) -> Any:
        """Refuses a key of another section, also a misspelled one, and says where it belongs."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        sections = {
            name: [*kind.model_fields]
            for name, kind in kinds.items()
            if isinstance(kind, type) and issubclass(kind, Section)
        }
        places = {key: f"{name}.{key}" for name, keys in sections.items() for key in keys}
        for name, own in sections.items() if isinstance(data, Mapping) else ():
            given = data.get(name)
            unknown = [key for key in given if key not in own] if isinstance(given, Mapping) else []
            for key in unknown:
                near = difflib.get_close_matches(str(key), places, n=1)
                if near and near[0] not in own:
                    raise ConfigError(
                        f"{name}: unknown key {shown(key)} with value {shown(given[key])}; did you "
                        f"mean {places[near[0]]}? In {name}, choose from {', '.join(own)}"
                    )
        return data

    @field_validator("study")
    @classmethod
    def _free_name(cls, value: str) -> str:
        refuse_long("the study's name", value)
        if value.casefold() == REFERENCE:  # one folder, where file systems ignore case
            raise ValueError(
                f"results/{REFERENCE}/ keeps the results that come with the project; choose "
                "another name"
            )
        return value

    @field_validator("environments")
    @classmethod
    def _unique_environments(cls, value: tuple[Environment, ...]) -> tuple[Environment, ...]:
        for environment in value:
            refuse_long("an environment's name", environment.slug)
        refuse_duplicates("environment", [environment.slug for environment in value])
        return value

    @field_validator("seeds")
    @classmethod
    def _unique_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        refuse_duplicates("seed", value)
        return value

    @field_validator("training")
    @classmethod
    def _no_definition(cls, value: Training) -> Training:
        if value.optimizer_definition is not None:
            raise ValueError(
                f"{DEFINITION} cannot be set here, `optimizers` says it; received "
                f"{value.optimizer_definition.model_dump()}"
            )
        return value

    @field_validator("optimizers")
    @classmethod
    def _optimizer_keys(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for arm, overrides in value.items():
            check_keys(overrides, [*ARM_KEYS, *OWN_KEYS], arm)
        return value

    @field_validator("bundles")
    @classmethod
    def _unique_bundles(cls, value: tuple[Bundle, ...]) -> tuple[Bundle, ...]:
        refuse_duplicates("bundle", [bundle.name for bundle in value])
        for index, bundle in enumerate(value):
            for other in value[:index]:
                if bundle.overrides == other.overrides:
                    raise ValueError(
                        f"expected bundles with different values, received {bundle.overrides} for "
                        f"{other.name!r} and for {bundle.name!r}"
                    )
        return value

    @field_validator("axes")
    @classmethod
    def _axis_keys(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        check_keys(value, SETTABLE)
        for name, values in value.items():
            if not values:
                raise ValueError(f"axis {name!r} has no values")
        return value


def refuse_long(what: str, segment: str) -> None:
    """Raises `ConfigError` if a part of a path is longer than `MAX_SEGMENT`."""
    if len(segment) > MAX_SEGMENT:
        raise ConfigError(
            f"{what} may have at most {MAX_SEGMENT} characters in paths, received {len(segment)}: "
            f"{segment[:60]}..."
        )


def refuse_duplicates(what: str, values: Sequence[Any]) -> None:
    """Raises `ConfigError`, which names the first value that is there twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ConfigError(f"duplicate {what} {value!r}")
