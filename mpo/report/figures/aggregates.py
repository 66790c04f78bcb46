"""Aggregate scores: IQM, mean, median and optimality gap of each arm over all environments."""

from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from mpo.analysis.aggregates import METRIC_TITLES
from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.study.plan import Study
from mpo.study.words import plural


def draw(study: Study, tables: Path) -> Figure:
    """One panel per metric, one row per arm: the estimate and its 95 % bootstrap interval."""
    looks = style.looks(study)
    found = read(tables, "aggregates")
    if found.empty:
        return style.nothing(f"Aggregate scores: {style.NO_SCORES}")
    size = (
        style.text_width(looks) + 1.6 * len(METRIC_TITLES),
        0.8 + 0.2 * max(2, len(looks)),
    )
    figure, grid = plt.subplots(1, len(METRIC_TITLES), figsize=size, sharey=True)
    for axes, (metric, title) in zip(grid, METRIC_TITLES.items(), strict=True):
        axes.set_title(title)
        arms = found[found["metric"] == metric].set_index("arm")
        for row, (arm, look) in enumerate(looks.items()):
            color, value = look.color, arms.loc[arm]
            axes.plot([value["lo"], value["hi"]], [row, row], color=color, **style.BAR)
            axes.plot(value["estimate"], row, look.marker, color=color, ms=5)
        style.few_ticks(axes.xaxis, 3)
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
        return f"Aggregate scores: {style.NO_SCORES}"
    environments = plural(int(found["environments"].max()), "environment")
    runs = style.runs_in_words(found)
    return (
        "Aggregates of the normalised final score (0: random policy, 1: reference) over "
        f"{environments} ({runs}): interquartile mean, mean, median of the "
        "environments' means, and optimality gap (how far the runs fall short of 1)."
        f"{style.resampled(found, 'Bars: 95 %')}"
    )
