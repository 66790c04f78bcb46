"""What a study trains: its runs, and the settings that they were trained with."""

from collections.abc import Hashable, Iterable

from mpo.study.cells import Run
from mpo.study.hyperparameters import Training
from mpo.study.labels import arm_label, text
from mpo.study.plan import Study

_ALWAYS = ("policy_lr", "q_lr")
"""Settings that are told even where they are the default."""


def section(study: Study) -> str:
    """Lists the environments, the values of the axes, the seeds and the settings."""
    axes = [
        f"- {name}: {', '.join(text(value) for value in values)}"
        for name, values in study.axis_values.items()
    ]
    environments = ", ".join(f"{env} ({steps})" for env, steps in study.budgets.items())
    return "\n".join(
        [
            f"{len(study.runs)} runs: every combination of",
            "",
            f"- environment (budget in environment steps): {environments}",
            *axes,
            f"- seed: {', '.join(map(str, study.seeds))}",
            "",
            *_settings(study),
        ]
    )


def _settings(study: Study) -> list[str]:
    """The settings of `training` that are not the default, first those that all runs share."""
    first = study.seeds[0]
    cells = [run for run in study.runs if run.seed == first]
    shared, others = [], []
    for name, field in Training.model_fields.items():
        values = [_value(run, name) for run in cells]
        if name in study.axis_values or (name not in _ALWAYS and {*values} == {field.default}):
            continue
        if len({*values}) == 1:
            shared.append(f"{name} {text(values[0])}")
        else:
            others.append(f"- {name}: {_by_place(study, cells, values)}")
    start = "Settings that are not the default, in all runs: "
    lines = [f"{start}{', '.join(shared)}."] if shared else []
    return [*lines, "", "In others:", "", *others] if others else lines


def _value(run: Run, name: str) -> Hashable:
    value = getattr(run.spec.training, name)
    return value if isinstance(value, Hashable) else str(value)


def _by_place(study: Study, cells: list[Run], values: list[Hashable]) -> str:
    """Says where each value is: in environments, in arms, or in single cells of both."""
    names = [
        [run.spec.env_name for run in cells],
        [arm_label(study, run.arm) for run in cells],
        [f"{run.spec.env_name} with {arm_label(study, run.arm)}" for run in cells],
    ]
    places = next(each for each in names if _one_each(each, values))
    return "; ".join(
        f"{text(value)} ({', '.join(_where(places, values, value))})"
        for value in dict.fromkeys(values)
    )


def _one_each(places: list[str], values: list[Hashable]) -> bool:
    """Whether a place has one value everywhere."""
    return len({*zip(places, values, strict=True)}) == len({*places})


def _where(places: list[str], values: list[Hashable], value: Hashable) -> Iterable[str]:
    pairs = zip(places, values, strict=True)
    return dict.fromkeys(place for place, other in pairs if other == value)
