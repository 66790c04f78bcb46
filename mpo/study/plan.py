"""A study: reads the config and plans the runs, each with its spec and its place on disk.

Neither torch nor gymnasium is imported here: every Snakemake job parses the study again.
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator

from mpo.study.cells import (
    BUNDLE,
    CORE_AXES,
    DEFINITION,
    OWN_KEYS,
    SETTABLE,
    Bundle,
    Cell,
    Environment,
    Run,
)
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
    explain,
)
from mpo.study.contrasts import Comparison, Contrast, comparisons
from mpo.study.hyperparameters import Training, training_value
from mpo.study.optimizers import ARM_KEYS, BUILT_IN, Definition, choices, definition
from mpo.study.others import Others
from mpo.study.specs import CellSpec, EvaluationSpec, RandomSpec, path_text
from mpo.study.tuning import SUFFIX, Choice, Tuning, arms, key_of

MAX_SEGMENT = 200
"""Characters of a study's, environment's or variant's name in paths. File systems allow 255 bytes,
and cluster schedulers put more into the name of a job's folder."""

REFERENCE = "reference"
"""The folder in `results/` that keeps the results that come with the project."""


class Study(Section):
    """A study: environments x axes x seeds, and how each run is trained, evaluated and analysed.

    The description of a section is its class's docstring.
    """

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

    _choice: Choice | None = PrivateAttr(None)

    @classmethod
    def parse(cls, config: Mapping[str, Any], choice: Choice | None = None) -> "Study":
        """Reads a study from a parsed YAML or JSON mapping.

        Args:
            config: the mapping.
            choice: what tuning has chosen, if it has. Without it, tuned arms are planned with one
                of their candidates: their paths are right, their specs are not; see `is_settled`.
                A later rung of halving is planned with candidates of the right number.

        Raises:
            ConfigError: the study cannot be planned; the message has one line per problem.
        """
        try:
            study = cls.model_validate(config)
            study._choice = choice
            _ = study.runs, study.primary
        except ValidationError as error:
            raise ConfigError(explain(error)) from None
        return study

    @field_validator("study")
    @classmethod
    def _free_name(cls, value: str) -> str:
        _refuse_long("the study's name", value)
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
            _refuse_long("an environment's name", environment.slug)
        _refuse_duplicates("environment", [environment.slug for environment in value])
        return value

    @field_validator("seeds")
    @classmethod
    def _unique_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        _refuse_duplicates("seed", value)
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
        for overrides in value.values():
            check_keys({k: v for k, v in overrides.items() if k not in ARM_KEYS}, OWN_KEYS)
        return value

    @field_validator("bundles")
    @classmethod
    def _unique_bundles(cls, value: tuple[Bundle, ...]) -> tuple[Bundle, ...]:
        _refuse_duplicates("bundle", [bundle.name for bundle in value])
        return value

    @field_validator("axes")
    @classmethod
    def _axis_keys(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        check_keys(value, SETTABLE)
        for name, values in value.items():
            if not values:
                raise ValueError(f"axis {name!r} has no values")
        return value

    @cached_property
    def axis_values(self) -> dict[str, list[Any]]:
        """Every axis with its values, converted to the types of the schema.

        Core axes come first. The others are sorted, because paths contain them and the order of
        keys in a config has no meaning. In the stage of tuning, the tuned keys are the last axes;
        not every combination with them is an arm.
        """
        if self.stage != "tuning" or self.tuned is None:
            return self._axis_values
        tried = [c for arm in self._tuned_arms for c in self.tuned.candidates_of(arm)]
        candidates = {
            key: list(dict.fromkeys(c[key] for c in tried if key in c)) for key in self.tuned.keys
        }
        return self._axis_values | candidates

    @cached_property
    def _axis_values(self) -> dict[str, list[Any]]:
        """The values of the axes themselves."""
        self._refuse_unknown_optimizers("training", [self.training.optimizer])
        self._refuse_unknown_optimizers("axes", self.axes.get("optimizer", []))
        raw = {name: [getattr(self.training, name)] for name in CORE_AXES}
        raw |= dict(sorted(self.axes.items()))
        values = {}
        for name, items in raw.items():
            values[name] = [training_value("axes", name, item) for item in items]
            _refuse_duplicates(f"value of axes.{name}", values[name])
        return values | ({BUNDLE: [each.name for each in self.bundles]} if self.bundles else {})

    @cached_property
    def primary(self) -> tuple[Comparison, ...]:
        """The comparisons that `contrasts` names, with values of the schema's types."""
        return comparisons(self.contrasts, self._axis_values)

    @cached_property
    def tuned(self) -> Tuning | None:
        """How the arms are tuned, checked and converted to the types of the schema."""
        if self.tuning is None:
            return None
        if self.tuning.halving and not self.execution.keep_resume_state:
            raise ConfigError(
                "execution.keep_resume_state: expected true with tuning.halving, whose longer "
                "trainings resume the shorter ones, received false"
            )
        reported = () if self.stage == "tuning" else self.seeds
        return self.tuning.checked(self._axis_values, reported, self.statistics.seed)

    @property
    def chosen_in(self) -> str | None:
        """The study that chooses what is trained in this one; None if nothing is chosen for it."""
        if self.tuned is None or (self.stage == "tuning" and self.rung == 1):
            return None
        if self.stage == "reported":
            return self.study + SUFFIX
        base = self.study.removesuffix(_rung_suffix(self.rung, self.tuned))
        return base + _rung_suffix(self.rung - 1, self.tuned)

    @property
    def is_settled(self) -> bool:
        """Whether the specs of all runs are known: nothing waits for a choice of tuning."""
        if self.chosen_in is None:
            return True
        places = itertools.product(self.environments, self._tuned_arms)
        if self.stage == "tuning":
            return all(self._survivors(*place) for place in places)
        wanted = {(environment.slug, key_of(arm)) for environment, arm in places}
        return self._choice is not None and wanted <= {*self._choice}

    @property
    def has_stand_ins(self) -> bool:
        """Whether its candidates only stand in for those that the rung before will choose."""
        return self.stage == "tuning" and not self.is_settled

    @property
    def _tuned_arms(self) -> list[dict[str, Any]]:
        return arms(self.tuned, self._axis_values) if self.tuned else []

    def tuning_stages(self, config: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the configs of the studies that tune this one's arms, one for each rung.

        Args:
            config: this study's config.
        """
        if self.tuned is None or self.stage == "tuning":
            return []
        return [self._tuning_stage(config, rung) for rung in range(1, self.tuned.rungs + 1)]

    def _tuning_stage(self, config: Mapping[str, Any], rung: int) -> dict[str, Any]:
        assert self.tuned is not None
        environments = []
        for environment, given in zip(self.environments, config["environments"], strict=True):
            own = given if isinstance(given, Mapping) else {"id": given}
            environments.append({**own, "total_steps": self.tuning_steps(environment)[rung - 1]})
        name = self.study + SUFFIX + _rung_suffix(rung, self.tuned)
        found = {**config, "study": name, "stage": "tuning"}
        found |= {"rung": rung} if self.tuned.halving else {}
        found |= {"environments": environments, "seeds": list(self.tuned.seeds)}
        given = config.get("axes", {})
        found["axes"] = {axis: given[axis] for axis in self.tuned.axes if axis in given}
        if BUNDLE not in self.tuned.axes:
            found.pop("bundles", None)
        for key in ("contrasts", "others"):  # of reported runs
            found.pop(key, None)
        return found

    def tuning_steps(self, environment: Environment) -> list[int]:
        """Returns the environment steps of a candidate at the end of each rung.

        Raises:
            ConfigError: two rungs have the same, for want of snapshots.
        """
        assert self.tuned is not None
        schedule = self._schedule(environment)
        last = int(schedule.total_steps * self.tuned.budget) // schedule.snapshot_interval
        counts = self.tuned.halving.steps(last) if self.tuned.halving else [last]
        steps = [max(1, count) * schedule.snapshot_interval for count in counts]
        if len({*steps}) < len(steps):
            raise ConfigError(
                f"tuning.halving: expected rungs of different lengths, in multiples of "
                f"snapshot_interval ({schedule.snapshot_interval}), received {steps} steps in "
                f"{environment.name}"
            )
        return steps

    def resumed_at(self, run: Run) -> int:
        """Returns the environment step that the rung before has trained a run to, 0 without one."""
        if self.stage == "reported" or self.rung == 1 or not (self.tuned and self.tuned.halving):
            return 0
        interval = run.spec.snapshot_interval
        return run.total_steps // interval // self.tuned.halving.factor * interval

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """What the optimizers of the study's arms are, of those that are no built-ins."""
        found = {
            arm: definition(f"optimizers.{arm}", arm, overrides)
            for arm, overrides in self.optimizers.items()
        }
        used = self.axis_values["optimizer"]
        return {arm: what for arm, what in found.items() if what is not None and arm in used}

    def _refuse_unknown_optimizers(self, place: str, names: Sequence[Any]) -> None:
        own = [arm for arm in self.optimizers if arm not in BUILT_IN]
        for name in names:
            if name not in (*BUILT_IN, *own):
                raise ConfigError(
                    f"{place}.optimizer: expected {choices(*own)}, received {name!r}; `optimizers` "
                    "can define more"
                )

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
        names, values = [*self._axis_values], self._axis_values.values()
        arms = [dict(zip(names, each, strict=True)) for each in itertools.product(*values)]
        return tuple(
            self._cell(environment, arm | candidate)
            for environment, arm in itertools.product(self.environments, arms)
            for candidate in (self.candidates(environment, arm) if self.stage == "tuning" else [{}])
        )

    def candidates(self, environment: Environment, arm: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the candidates that are planned in the stage of tuning.

        Args:
            environment: where they are trained.
            arm: the value of every axis, or of every tuned one.
        """
        if self.tuned is None:
            return [{}]
        own = {axis: arm[axis] for axis in self.tuned.axes}
        count = self.tuned.left(own, self.rung)
        return self._survivors(environment, own) or self.tuned.candidates_of(own)[:count]

    def _survivors(self, environment: Environment, arm: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the candidates that the rung before has chosen; none if it did not."""
        assert self.tuned is not None
        chosen = (self._choice or {}).get((environment.slug, key_of(arm)), ())
        names = {key_of(settings) for settings in chosen}
        tried = self.tuned.candidates_of(arm)
        found = [each for each in tried if key_of(self.tuned.settings(each)) in names]
        return found if len(found) == self.tuned.left(arm, self.rung) else []

    def _tuned_settings(self, environment: Environment, arm: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the training values of a candidate, or those that were chosen for an arm."""
        if self.tuned is None:
            return {}
        if self.stage == "tuning":
            return self.tuned.settings({key: arm[key] for key in self.tuned.keys if key in arm})
        own = {axis: arm[axis] for axis in self.tuned.axes}
        chosen = (self._choice or {}).get((environment.slug, key_of(own)))
        if chosen is None:
            candidates = self.tuned.candidates_of(own)
            chosen = [self.tuned.settings(candidates[len(candidates) // 2])]
        (found, *_) = chosen
        for key in found:
            if key in environment.overrides:
                raise ConfigError(
                    f"tuning: {key} is also set by environments ({environment.name}), received "
                    f"{environment.overrides[key]!r}"
                )
        return {key: training_value("chosen", key, value) for key, value in found.items()}

    @property
    def evaluation_spec(self) -> EvaluationSpec:
        """The identity of every evaluation of the study."""
        return EvaluationSpec(**self.evaluation.model_dump())

    def random_spec(self, environment: Environment) -> RandomSpec:
        """Returns the identity of the random policy's measurement in an environment."""
        return RandomSpec(
            env_id=environment.id,
            env_kwargs=environment.kwargs,
            env_wrappers=environment.wrappers,
            episodes=self.statistics.random_episodes,
            max_episode_steps=self.evaluation.max_episode_steps,
        )

    def _cell(self, environment: Environment, arm: dict[str, Any]) -> Cell:
        """Plans one environment and arm.

        A value comes from the axis, else from the bundle, else from the environment or the
        optimizer, else from `training`.
        """
        base = self._base(environment, arm["optimizer"])
        keys = self.tuned.keys if self.tuned else ()
        named = (*CORE_AXES, BUNDLE, *(keys if self.stage == "tuning" else ()))
        shown = [name for name in arm if name in named or arm[name] != base[name]]
        variant = "_".join(f"{name}-{path_text(arm[name])}" for name in shown)
        where = f"{environment.name}/{variant}"
        _refuse_long(f"the values of the axes {', '.join(shown)}", variant)
        axes = {name: value for name, value in arm.items() if name != BUNDLE}
        values = base | self._bundle(environment, arm) | axes | self._optimizer(arm["optimizer"])
        values |= self._tuned_settings(environment, arm)
        training = _build(Training, values, where)
        schedule = self._schedule(environment)
        if schedule.total_steps < training.update_after:
            raise ConfigError(
                f"{where}: total_steps must be at least update_after, received "
                f"{schedule.total_steps} < {training.update_after}"
            )
        try:
            training.check_device(self.execution.device)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        return Cell(
            env_slug=environment.slug,
            variant=variant,
            arm=arm,
            spec=CellSpec(
                env_id=environment.id,
                env_kwargs=environment.kwargs,
                env_wrappers=environment.wrappers,
                training=training,
                snapshot_interval=schedule.snapshot_interval,
                log_interval=schedule.log_interval,
            ),
            total_steps=schedule.total_steps,
        )

    def _schedule(self, environment: Environment) -> Schedule:
        """Returns an environment's schedule."""
        own = {k: v for k, v in environment.overrides.items() if k in Schedule.model_fields}
        values = self.schedule.model_dump() | own
        found: Schedule = _build(Schedule, values, environment.name)
        return found

    def _optimizer(self, arm: str) -> dict[str, Any]:
        """Returns the training values that name an arm's optimizer and say what it is."""
        what = self.definitions.get(arm)
        if what is None or what.alias:
            return {"optimizer": what.alias if what else arm}
        return {"optimizer": arm, DEFINITION: what}

    def _bundle(self, environment: Environment, arm: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the training values of an arm's bundle, if the study has bundles."""
        if not self.bundles:
            return {}
        where = f"bundles ({arm[BUNDLE]})"
        found = {each.name: each.overrides for each in self.bundles}[arm[BUNDLE]]
        for key, value in found.items():
            for place, others in (
                ("an axis", self.axis_values),
                (f"set by environments ({environment.name})", environment.overrides),
            ):
                if key in others:
                    raise ConfigError(f"{where}.{key}: also {place}, received {value!r}")
        return {key: training_value(where, key, value) for key, value in found.items()}

    def _base(self, environment: Environment, optimizer: str) -> dict[str, Any]:
        """Returns an environment's and an optimizer's training values, before those of the axes."""
        base = dict(self.training)  # a dump would lack keys at their defaults
        given = self.optimizers.get(optimizer, {})
        by_optimizer = {key: value for key, value in given.items() if key not in ARM_KEYS}
        for key, value in by_optimizer.items():
            base[key] = training_value(f"optimizers.{optimizer}", key, value)
        for key, value in environment.overrides.items():
            where = f"environments ({environment.name})"
            if key in self.axis_values:
                raise ConfigError(
                    f"{where}.{key}: an axis cannot be overridden, received {value!r}; "
                    f"axes.{key} has the values {self.axis_values[key]}"
                )
            if key in by_optimizer:
                raise ConfigError(
                    f"{where}.{key}: also set by optimizers.{optimizer}, received {value!r} and "
                    f"{by_optimizer[key]!r}; keep one of them"
                )
            if key in SETTABLE:
                base[key] = training_value(where, key, value)
        return base


def _rung_suffix(rung: int, tuning: Tuning) -> str:
    """What a rung's study is called behind the stage's name; the last rung has that name."""
    return "" if rung == tuning.rungs else f"-rung{rung}"


def _build(section: type[Section], values: dict[str, Any], where: str) -> Any:
    try:
        return section(**values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error)}") from None


def _refuse_long(what: str, segment: str) -> None:
    if len(segment) > MAX_SEGMENT:
        raise ConfigError(
            f"{what} may have at most {MAX_SEGMENT} characters in paths, received {len(segment)}: "
            f"{segment[:60]}..."
        )


def _refuse_duplicates(what: str, values: Sequence[Any]) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ConfigError(f"duplicate {what} {value!r}")
