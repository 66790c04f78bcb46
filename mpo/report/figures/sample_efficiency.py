"""Sample efficiency: each arm's interquartile mean against environment steps, and against time."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.study.plan import Study

_MARKED = 6  # points of a curve that carry its marker
_SHARE = "Share of the training budget"
_NOTHING = "No environment has a reference and a run of every arm."


def draw(study: Study, tables: Path) -> Figure:
    """A line an arm with its pointwise 95 % band, in two panels that differ in their x axis."""
    looks = style.looks(study)
    found = read(tables, "sample_efficiency")
    if found.empty:
        return style.nothing(_NOTHING)
    figure, (progress, time) = plt.subplots(1, 2, figsize=(7.0, 2.5), sharey=True)
    if _one_budget(found):
        _curves(progress, found, "env_step", looks)
        style.count_steps(progress)
        progress.set_xlabel(style.STEPS)
    else:
        _curves(progress, found, "share", looks)
        progress.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        progress.set_xlabel(_SHARE)
    unit, seconds = _unit(found["wall_s"].max())
    _curves(time, found.assign(time=found["wall_s"] / seconds), "time", looks)
    time.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    time.set_xlabel(f"Training time ({unit})")
    progress.set_ylabel("IQM of normalised scores")
    sns.despine(figure)
    figure.tight_layout()
    style.legend_below(figure, style.arms_key(looks))
    return figure


def caption(study: Study, tables: Path) -> str:
    """What the figure shows, with its band, its runs and its resamples."""
    found = read(tables, "sample_efficiency")
    if found.empty:
        return f"Sample efficiency: {_NOTHING[0].lower()}{_NOTHING[1:]}"
    environments = style.plural(int(found["environments"].max()), "environment")
    runs = style.plural(int(found["n"].min()), "run")
    budget = "" if _one_budget(found) else ", whose budgets differ"
    bands = (
        "; pointwise 95 % stratified bootstrap bands of "
        f"{int(found['replicates'].max())} resamples of the seeds"
    )
    few = (found["n"] / found["environments"]).min() < style.EXPLORATORY
    return (
        "Interquartile mean of the normalised scores of evaluations during training, 0 for a "
        f"random policy and 1 for the reference, over {environments}{budget} (at least {runs} an "
        f"arm{', exploratory' if few else ''}), against the training's progress and against its "
        f"mean wall-clock time{bands if found['lo'].notna().any() else ''}. The points are the "
        "snapshots of the environment that has the fewest; curves of others are interpolated "
        "linearly. A run that diverged keeps its last score, and its clock stands still."
    )


def _one_budget(found: pd.DataFrame) -> bool:
    return bool(found["env_step"].notna().all())


def _unit(seconds: float) -> tuple[str, float]:
    """The unit in which a duration is a number of few digits, and its seconds."""
    return ("s", 1.0) if seconds < 300 else ("min", 60.0) if seconds < 18_000 else ("h", 3600.0)


def _curves(axes: Axes, found: pd.DataFrame, x: str, looks: dict[str, style.Look]) -> None:
    """One panel."""
    arms = dict(list(found.groupby("arm")))
    for index, (arm, look) in enumerate(looks.items()):
        curve = arms[arm]
        along = curve[x].astype(float)
        spacing = max(1, len(curve) // _MARKED)
        axes.fill_between(along, curve["lo"], curve["hi"], color=look.color, alpha=0.15, lw=0)
        axes.plot(
            along,
            curve["estimate"],
            color=look.color,
            linestyle=look.linestyle,
            marker=look.marker,
            markersize=3.5,
            markevery=(index % spacing, spacing),
        )
    axes.set_xlim(left=0)
