"""Sample efficiency: each arm's interquartile mean against environment steps and against cost."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.report.timing import how_timed, in_unit
from mpo.study.plan import Study
from mpo.study.words import plural

_SHARE = "Fraction of the training budget"


def draw(study: Study, tables: Path) -> Figure:
    """One line per arm with a pointwise 95 % band, against progress and against cost."""
    looks = style.looks(study)
    found = read(tables, "sample_efficiency")
    if found.empty:
        return style.nothing(f"Sample efficiency: {style.NO_SCORES}")
    figure, (progress, spent) = plt.subplots(1, 2, figsize=(7.0, 2.5), sharey=True)
    if _one_budget(found):
        _curves(progress, found, "env_step", looks)
        style.count_steps(progress)
        progress.set_xlabel(style.STEPS)
    else:
        _curves(progress, found, "share", looks)
        progress.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        progress.set_xlabel(_SHARE)
    label, length = in_unit(found["unit"].iloc[0], found["cost"].max())
    _curves(spent, found.assign(cost=found["cost"] / length), "cost", looks)
    style.few_ticks(spent.xaxis, 5)
    spent.set_xlabel(f"{label[0].upper()}{label[1:]} of training")
    progress.set_ylabel("IQM of normalised scores")
    sns.despine(figure)
    figure.tight_layout()
    style.legend_below(figure, style.arms_key(looks))
    return figure


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: scores, runs, axes and bands."""
    found = read(tables, "sample_efficiency")
    if found.empty:
        return f"Sample efficiency: {style.NO_SCORES}"
    environments = plural(int(found["environments"].max()), "environment")
    runs = style.runs_in_words(found)
    budget = "" if _one_budget(found) else ", whose budgets differ"
    return (
        "Interquartile mean (IQM) of the normalised score during training (0: random policy, 1: "
        f"reference) over {environments}{budget} ({runs}), against training progress and against "
        "what the training of a seed has cost by then, on average."
        f"{style.resampled(found, 'Bands: pointwise 95 %')} The points are the "
        "snapshots of the environment with the fewest; curves of other environments are "
        "interpolated linearly. The episodes are not those of the final scores. A diverged run "
        "keeps its last score, and its clock stops. "
        f"{how_timed(read(tables, 'runs'))}"
    )


def _one_budget(found: pd.DataFrame) -> bool:
    return bool(found["env_step"].notna().all())


def _curves(axes: Axes, found: pd.DataFrame, x: str, looks: dict[str, style.Look]) -> None:
    """Draws one panel, with column `x` on its x axis."""
    arms = dict(list(found.groupby("arm")))
    for index, (arm, look) in enumerate(looks.items()):
        curve = arms[arm]
        along = curve[x].astype(float)
        axes.fill_between(along, curve["lo"], curve["hi"], color=look.color, alpha=0.15, lw=0)
        style.curve(axes, along, curve["estimate"], look, index)
    axes.set_xlim(left=0)
