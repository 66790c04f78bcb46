"""A study: reads the config and plans the runs, each with its spec and its place on disk.

Neither torch nor gymnasium is imported here: every Snakemake job parses the study again.
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import PrivateAttr, ValidationError

from mpo.study import arm_values
from mpo.study.cells import BUNDLE, CORE_AXES, Cell, Environment, Run
from mpo.study.choice import Choice
from mpo.study.config import ConfigError, explain
from mpo.study.contrasts import Comparison, comparisons
from mpo.study.hyperparameters import training_value
from mpo.study.optimizers import ARM_KEYS, BUILT_IN, Definition, choices, definition
from mpo.study.schema import StudyConfig, refuse_duplicates
from mpo.study.specs import EvaluationSpec, RandomSpec
from mpo.study.tuning import SUFFIX, Tuning, arms, combinations, key_of
from mpo.study.tuning_checks import checked


class Study(StudyConfig):
    """A study: environments x axes x seeds, and how each run is trained, evaluated and analysed.

    The description of a section is its class's docstring.
    """

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
            refuse_duplicates(f"value of axes.{name}", values[name])
        return values | ({BUNDLE: [each.name for each in self.bundles]} if self.bundles else {})

    @cached_property
    def varied(self) -> dict[str, list[Any]]:
        """The axes with more than one value."""
        return {name: values for name, values in self.axis_values.items() if len(values) > 1}

    @cached_property
    def budgets(self) -> dict[str, int]:
        """The environment steps of a run in each environment, by its name."""
        return {run.spec.env_name: run.total_steps for run in self.runs}

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
        names = [environment.name for environment in self.environments]
        found = checked(self.tuning, names, self._axis_values, reported, self.statistics.seed)
        arm_values.refuse_set_twice(self, (*found.keys, *found.followers))
        return found

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
        return all(self._survivors(*place) for place in places)

    @property
    def has_stand_ins(self) -> bool:
        """Whether its candidates only stand in for those that the rung before will choose."""
        return self.stage == "tuning" and not self.is_settled

    @property
    def tuned_environments(self) -> tuple[Environment, ...]:
        """The environments in which candidates are trained."""
        names = self.tuned.environments if self.tuned else ()
        return tuple(e for e in self.environments if names is None or e.name in names)

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
            if environment not in self.tuned_environments:
                continue
            own = given if isinstance(given, Mapping) else {"id": given}
            environments.append({**own, "total_steps": self.tuning_steps(environment)[rung - 1]})
        name = self.study + SUFFIX + _rung_suffix(rung, self.tuned)
        found = {**config, "study": name, "stage": "tuning"}
        found |= {"rung": rung} if self.tuned.halving else {}
        found |= {"environments": environments, "seeds": list(self.tuned.seeds)}
        given = config.get("axes", {})
        # An axis of one value has it in every reported run, so candidates have it too.
        found["axes"] = {
            axis: values
            for axis, values in given.items()
            if axis in self.tuned.axes or len(values) == 1
        }
        if BUNDLE not in self.tuned.axes and len(self.bundles) > 1:
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
        schedule = arm_values.schedule(self, environment)
        snapshots = schedule.total_steps / schedule.snapshot_interval * self.tuned.budget
        last = int(round(snapshots, 9))  # 100 * 0.29 is just below 29 in binary
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
    def optimizer_values(self) -> dict[str, dict[str, Any]]:
        """What `optimizers` sets of `training`, of the types of the schema; also of unused ones."""
        return {
            arm: {
                key: training_value(f"optimizers.{arm}", key, value)
                for key, value in overrides.items()
                if key not in ARM_KEYS
            }
            for arm, overrides in self.optimizers.items()
        }

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
        places = itertools.product(self.environments, combinations(self._axis_values))
        found = tuple(
            arm_values.cell(self, environment, arm | candidate)
            for environment, arm in places
            for candidate in (self.candidates(environment, arm) if self.stage == "tuning" else [{}])
        )
        arm_values.refuse_shared_paths(found)
        arm_values.refuse_shared_labels(self, found)
        return found

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
        """Returns the candidates that were chosen for this study, the reported one or a later rung.

        Empty if there is no choice, or it is an earlier one, of values that are no candidates now.
        """
        assert self.tuned is not None
        tuned_in = self.tuned_environments
        place = environment if environment in tuned_in else tuned_in[0]  # all have one choice then
        chosen = (self._choice or {}).get((place.slug, key_of(arm)), ())
        names = {key_of(settings) for settings in chosen}
        tried = self.tuned.candidates_of(arm) if names else []
        found = [each for each in tried if key_of(self.tuned.settings(each)) in names]
        rung = self.rung if self.stage == "tuning" else self.tuned.rungs + 1
        return found if len(found) == self.tuned.left(arm, rung) else []

    def tuned_settings(self, environment: Environment, arm: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the training values of a candidate, or those that were chosen for an arm."""
        if self.tuned is None:
            return {}
        if self.stage == "tuning":
            return self.tuned.settings({key: arm[key] for key in self.tuned.keys if key in arm})
        own = {axis: arm[axis] for axis in self.tuned.axes}
        candidates = self.tuned.candidates_of(own)
        (found,) = self._survivors(environment, own) or [candidates[len(candidates) // 2]]
        values = self.tuned.settings(found)
        return {key: training_value("tuning", key, value) for key, value in values.items()}

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


def _rung_suffix(rung: int, tuning: Tuning) -> str:
    """What a rung's study is called behind the stage's name; the last rung has that name."""
    return "" if rung == tuning.rungs else f"-rung{rung}"
