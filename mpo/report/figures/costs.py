"""Costs: the time and the memory that a run takes, one panel a cost, one row an environment."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.study.plan import Study

_COSTS = {
    "wall_s": "Training (s a run)",
    "updates_per_s": "Updates per second",
    "eval_s": "Evaluation (s a run)",
    "max_rss_mb": "Peak memory (MB)",
}
"""Columns of `runs`."""

_PITCH = 0.075  # between two arms, in inches
_LOG = 20  # the ratio of the largest to the smallest value from which an axis is logarithmic
_SEED: dict[str, Any] = {"marker": "o", "markersize": 2.2, "markeredgewidth": 0, "alpha": 0.6}
_MEAN: dict[str, Any] = {"fillstyle": "none", "markersize": 4.2, "markeredgewidth": 1.0}


def draw(study: Study, tables: Path) -> Figure:
    """In each environment's row a line an arm: dots for the seeds, a mark for their mean."""
    looks, environments = style.looks(study), style.environments(study)
    runs = read(tables, "runs").dropna(subset="wall_s")
    height = max(0.25, _PITCH * (len(looks) + 1.5))  # of a row, in inches
    size = (style.text_width(environments) + 1.6 * len(_COSTS), 0.6 + height * len(environments))
    figure, grid = plt.subplots(1, len(_COSTS), figsize=size, sharey=True)
    offsets = [_PITCH / height * (index - (len(looks) - 1) / 2) for index in range(len(looks))]
    for axes, (cost, title) in zip(grid, _COSTS.items(), strict=True):
        for (arm, look), offset in zip(looks.items(), offsets, strict=True):
            _arm(axes, runs[runs["arm"] == arm], cost, look, environments, offset)
        _scale(axes, runs[cost])
        axes.set_xlabel(title)
        for boundary in range(1, len(environments)):
            axes.axhline(boundary - 0.5, color="0.85", linewidth=0.5, zorder=0)
        axes.tick_params(axis="y", length=0)
    for row, env in enumerate(environments):
        if env not in set(runs["env"]):
            place = {"transform": grid[0].get_yaxis_transform(), "ha": "center", "va": "center"}
            grid[0].text(0.5, row, "no finished run", **place)
    grid[0].set_yticks(range(len(environments)), environments)
    grid[0].set_ylim(len(environments) - 0.5, -0.5)  # the first environment on top
    sns.despine(figure)
    figure.tight_layout()
    style.legend_below(figure, style.arms_key(looks, lines=False))
    return figure


def caption(study: Study, tables: Path) -> str:
    """What the figure shows, with its seeds."""
    runs = read(tables, "runs")
    n = runs["wall_s"].notna().groupby([runs["env"], runs["arm"]]).sum()
    mean = "" if n.max() == 1 else "; their mean (outlined mark)"
    return (
        "What a run took: seconds of training by the clock, its share where seeds were trained in "
        "one process; updates of the networks in each; seconds of evaluation; and the most memory "
        "that the process held: "
        f"{style.seeds_in_words(n)}, each a dot{mean}. An axis is logarithmic where values differ "
        f"by a factor of {_LOG} or more. Runs that share a machine slow each other down."
    )


def _arm(
    axes: Axes,
    runs: pd.DataFrame,
    cost: str,
    look: style.Look,
    environments: list[str],
    offset: float,
) -> None:
    """The seeds and the means of one arm in every environment."""
    rows = pd.Series(range(len(environments)), index=environments) + offset
    means = runs.groupby("env")[cost].mean()
    axes.plot(runs[cost], runs["env"].map(rows), ls="", color=look.color, **_SEED)
    axes.plot(means, rows[means.index], ls="", color=look.color, marker=look.marker, **_MEAN)


def _scale(axes: Axes, values: pd.Series) -> None:
    """The x axis: from 0, or logarithmic where that would crowd the small values."""
    low, high = values.min(), values.max()
    if 0 < low * _LOG <= high:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        style.log_ticks(axes.xaxis, low, high)
    else:
        axes.set_xlim(0, 1.05 * high or 1.0)
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
