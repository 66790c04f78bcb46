"""The values that an arm of a study is trained with in an environment, from all sections."""

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mpo.study.cells import BUNDLE, CORE_AXES, DEFINITION, SETTABLE, Cell, Environment
from mpo.study.config import ConfigError, Schedule, Section, explain
from mpo.study.hyperparameters import Training, training_value
from mpo.study.labels import arm_label
from mpo.study.schema import refuse_long
from mpo.study.specs import CellSpec, path_text

if TYPE_CHECKING:
    from mpo.study.plan import Study


def cell(study: "Study", environment: Environment, arm: dict[str, Any]) -> Cell:
    """Plans one environment and arm.

    A value comes from the axis, from the bundle or from tuning, of which one at most has it, else
    from the environment or the optimizer, else from `training`.
    """
    base = _base(study, environment, arm["optimizer"])
    keys = study.tuned.keys if study.tuned else ()
    named = (*CORE_AXES, BUNDLE, *(keys if study.stage == "tuning" else ()))
    shown = [name for name in arm if name in named or arm[name] != base[name]]
    variant = "_".join(f"{name}-{path_text(arm[name])}" for name in shown)
    where = f"{environment.name}/{variant}"
    refuse_long(f"the values of the axes {', '.join(shown)}", variant)
    axes = {name: value for name, value in arm.items() if name != BUNDLE}
    values = base | _bundle(study, environment, arm) | axes | _optimizer(study, arm["optimizer"])
    values |= study.tuned_settings(environment, arm)
    training = _build(Training, values, where)
    planned = schedule(study, environment)
    if planned.total_steps < training.update_after:
        raise ConfigError(
            f"{where}: total_steps must be at least update_after, received "
            f"{planned.total_steps} < {training.update_after}"
        )
    try:
        training.check_device(study.execution.device)
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
            snapshot_interval=planned.snapshot_interval,
            log_interval=planned.log_interval,
        ),
        total_steps=planned.total_steps,
    )


def schedule(study: "Study", environment: Environment) -> Schedule:
    """Returns an environment's schedule."""
    own = {k: v for k, v in environment.overrides.items() if k in Schedule.model_fields}
    values = study.schedule.model_dump() | own
    found: Schedule = _build(Schedule, values, environment.name)
    return found


def refuse_shared_paths(cells: Iterable[Cell]) -> None:
    """Checks that each cell has a directory of its own.

    Raises:
        ConfigError: two have the same, as a name of the config looks like several values in paths.
    """
    found: dict[str, Cell] = {}
    for each in cells:
        other = found.setdefault(each.cell_id, each)
        if other is not each:
            raise ConfigError(
                f"{each.cell_id}: expected arms with different paths, received {other.arm} and "
                f"{each.arm}; give the optimizer or the bundle another name"
            )


def refuse_shared_labels(study: "Study", cells: Iterable[Cell]) -> None:
    """Checks that tables and figures can tell the arms apart.

    Raises:
        ConfigError: two arms have the same name there, as numbers do that differ after 12 digits.
    """
    found: dict[str, dict[str, Any]] = {}
    for each in cells:
        name = arm_label(study, each.arm)
        if found.setdefault(name, each.arm) != each.arm:
            raise ConfigError(
                f"axes: expected arms with different names in tables, received {found[name]} and "
                f"{each.arm}, which are both called {name!r}"
            )


def refuse_set_twice(study: "Study", tuned: Iterable[str]) -> None:
    """Checks that an axis, a bundle or an environment sets no key that tuning chooses.

    Args:
        study: the study.
        tuned: the keys of `training` that a choice sets.

    Raises:
        ConfigError: one of them sets such a key.
    """
    setters: list[tuple[str, Mapping[str, Any]]] = [
        ("an axis", study.axes),
        *((f"set by bundles ({each.name})", each.overrides) for each in study.bundles),
        *((f"set by environments ({each.name})", each.overrides) for each in study.environments),
    ]
    for key, (setter, values) in itertools.product(tuned, setters):
        if key in values:
            raise ConfigError(
                f"tuning: {key} is also {setter}, received {values[key]!r}; keep one of them"
            )


def _optimizer(study: "Study", arm: str) -> dict[str, Any]:
    """Returns the training values that name an arm's optimizer and say what it is."""
    what = study.definitions.get(arm)
    if what is None or what.alias:
        return {"optimizer": what.alias if what else arm}
    return {"optimizer": arm, DEFINITION: what}


def _bundle(study: "Study", environment: Environment, arm: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the training values of an arm's bundle, if the study has bundles."""
    if not study.bundles:
        return {}
    where = f"bundles ({arm[BUNDLE]})"
    found = {each.name: each.overrides for each in study.bundles}[arm[BUNDLE]]
    for key, value in found.items():
        for place, others in (
            ("an axis", study.axis_values),
            (f"set by environments ({environment.name})", environment.overrides),
        ):
            if key in others:
                raise ConfigError(f"{where}.{key}: also {place}, received {value!r}")
    return {key: training_value(where, key, value) for key, value in found.items()}


def _base(study: "Study", environment: Environment, optimizer: str) -> dict[str, Any]:
    """Returns an environment's and an optimizer's training values, before those of the axes."""
    by_optimizer = study.optimizer_values.get(optimizer, {})
    base = {**dict(study.training), **by_optimizer}  # a dump would lack keys at their defaults
    for key, value in environment.overrides.items():
        where = f"environments ({environment.name})"
        if key in study.axis_values:
            raise ConfigError(
                f"{where}.{key}: an axis cannot be overridden, received {value!r}; "
                f"axes.{key} has the values {study.axis_values[key]}"
            )
        if key in by_optimizer:
            raise ConfigError(
                f"{where}.{key}: also set by optimizers.{optimizer}, received {value!r} and "
                f"{by_optimizer[key]!r}; keep one of them"
            )
        if key in SETTABLE:
            base[key] = training_value(where, key, value)
    return base


def _build(section: type[Section], values: dict[str, Any], where: str) -> Any:
    try:
        return section(**values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error)}") from None
