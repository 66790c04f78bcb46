"""Costs: the time and memory of a run, one panel per cost, one row per environment."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.study.plan import Study

_COSTS = {
    "wall_s": "Training (s per run)",
    "updates_per_s": "Updates per second",
    "eval_s": "Evaluation (s per run)",
    "max_rss_mb": "Peak memory (MB)",
}
"""Columns of `runs`, with their labels."""

_PITCH = 0.075  # distance of two arms, in inches
_LOG = 20  # an axis is logarithmic if its largest value is at least this multiple of its smallest
_SEED: dict[str, Any] = {"marker": "o", "markersize": 2.2, "markeredgewidth": 0, "alpha": 0.6}
_MEAN: dict[str, Any] = {"fillstyle": "none", "markersize": 4.2, "markeredgewidth": 1.0}


def draw(study: Study, tables: Path) -> Figure:
    """One line per arm in each environment's row: dots for the seeds, a mark for their mean."""
    looks, environments = style.looks(study), style.environments(study)
    runs = read(tables, "runs").dropna(subset="wall_s")
    height = max(0.25, _PITCH * (len(looks) + 1.5))  # height of a row, in inches
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
    """Describes the figure: costs and seeds."""
    runs = read(tables, "runs")
    n = runs["wall_s"].notna().groupby([runs["env"], runs["arm"]]).sum()
    mean = "" if n.max() == 1 else "; their mean (outlined mark)"
    return (
        "Cost of a run: wall-clock time of training (seeds trained in one process share it "
        "equally), network updates per second of it, wall-clock time of evaluation, and peak "
        f"memory of the process; {style.seeds_in_words(n)}, each a dot{mean}. Dots of seeds that "
        "were trained in one process coincide. An axis is "
        f"logarithmic if values differ by a factor of {_LOG} or more. Runs on the same machine "
        "slow each other down."
    )


def _arm(
    axes: Axes,
    runs: pd.DataFrame,
    cost: str,
    look: style.Look,
    environments: list[str],
    offset: float,
) -> None:
    """Draws the seeds and means of one arm in all environments, shifted by `offset` rows."""
    rows = pd.Series(range(len(environments)), index=environments) + offset
    means = runs.groupby("env")[cost].mean()
    axes.plot(runs[cost], runs["env"].map(rows), ls="", color=look.color, **_SEED)
    axes.plot(means, rows[means.index], ls="", color=look.color, marker=look.marker, **_MEAN)


def _scale(axes: Axes, values: pd.Series) -> None:
    """Scales the x axis: from 0, or logarithmic if values span a wide range."""
    low, high = values.min(), values.max()
    if 0 < low * _LOG <= high:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        style.log_ticks(axes.xaxis, low, high)
    else:
        axes.set_xlim(0, 1.05 * high or 1.0)
        style.few_ticks(axes.xaxis, 3)
