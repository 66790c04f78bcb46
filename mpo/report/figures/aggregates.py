"""Aggregate scores: IQM, mean, median and optimality gap of each arm over all environments."""

from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.study.plan import Study

_TITLES = {
    "iqm": "IQM",
    "mean": "Mean",
    "median": "Median",
    "optimality_gap": "Optimality gap",
}


def draw(study: Study, tables: Path) -> Figure:
    """One panel per metric, one row per arm: the estimate and its 95 % bootstrap interval."""
    looks = style.looks(study)
    found = read(tables, "aggregates")
    if found.empty:
        return style.nothing("No environment has a reference score and a run of every arm.")
    size = (style.text_width(looks) + 1.6 * len(_TITLES), 0.8 + 0.2 * max(2, len(looks)))
    figure, grid = plt.subplots(1, len(_TITLES), figsize=size, sharey=True)
    for axes, (metric, title) in zip(grid, _TITLES.items(), strict=True):
        axes.set_title(title)
        arms = found[found["metric"] == metric].set_index("arm")
        for row, (arm, look) in enumerate(looks.items()):
            color, value = look.color, arms.loc[arm]
            axes.plot([value["lo"], value["hi"]], [row, row], color=color, **style.BAR)
            axes.plot(value["estimate"], row, look.marker, color=color, ms=5)
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
        axes.set_xlabel("Score")
        axes.grid(axis="y", linewidth=0.4)
        axes.tick_params(axis="y", length=0)
    grid[0].set_yticks(range(len(looks)), list(looks))
    grid[0].set_ylim(len(looks) - 0.5, -0.5)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: metrics, environments, runs and intervals."""
    found = read(tables, "aggregates")
    if found.empty:
        return "Aggregate scores: no environment has a reference score and a run of every arm."
    environments = style.plural(int(found["environments"].max()), "environment")
    runs = style.runs_in_words(found, found["environments"])
    return (
        "Aggregates of the normalised final score (0: random policy, 1: reference) over "
        f"{environments} ({runs}): interquartile mean, mean, median of the "
        "environments' means, and optimality gap (how far the runs fall short of 1)."
        f"{style.resampled(found, 'Bars: 95 %')}"
    )
