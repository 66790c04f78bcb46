"""Final scores: every seed's return after training, one panel an environment, one row an arm."""

from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mpo.figures import style
from mpo.study import Study
from mpo.tables import read

_MEAN: dict[str, Any] = {"markersize": 5.5, "markeredgecolor": "0.1", "markeredgewidth": 0.8}
_BAR: dict[str, Any] = {"linewidth": 5, "alpha": 0.3, "solid_capstyle": "butt"}
_DOT = 3.5  # the diameter of a seed, in points


def draw(study: Study, tables: Path) -> Figure:
    """Dots for the seeds; a mark and a bar for their mean and its 95 % t interval."""
    looks = style.looks(study)
    environments = style.environments(study)
    columns = style.columns(len(environments))
    height = 0.7 + 0.2 * len(looks)
    width = (style.text_width(looks) + 2.0 * columns) / columns
    grid = sns.catplot(
        data=style.seed_returns(tables, "final"),
        kind="strip",
        x="return",
        y="arm",
        order=list(looks),
        hue="arm",
        hue_order=list(looks),
        palette={arm: look.color for arm, look in looks.items()},
        jitter=False,  # a random jitter would make equal figures differ
        size=_DOT,
        alpha=0.7,
        legend=False,
        col="env",
        col_order=environments,
        col_wrap=columns,
        height=height,
        aspect=width / height,
        sharex=False,
    )
    scores = read(tables, "scores").query("policy == 'mode'")
    for env, axes in grid.axes_dict.items():
        _intervals(axes, scores[scores["env"] == env].set_index("arm"), looks)
    grid.set_titles("{col_name}")
    grid.set_axis_labels("Final return", "")
    grid.tight_layout()
    style.legend_below(grid.figure, _key(scores))
    return grid.figure


def caption(study: Study, tables: Path) -> str:
    """What the figure shows, with its interval, its seeds and its episodes."""
    scores = read(tables, "scores")
    n, episodes = int(scores["n"].max()), int(scores["episodes"].max())
    bar = "" if n == 1 else " and its 95 % Student-t interval (bars)"
    return (
        "Final return of the mean-action policy after the whole budget: "
        f"{style.seeds_in_words(n)}, each (dots) the average of "
        f"{style.plural(episodes, 'evaluation episode')}; their mean (outlined marks){bar}."
    )


def _intervals(axes: Axes, cell: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    """Means and intervals of one environment, on an axis that keeps its seeds apart."""
    left, right = _limits(cell)
    for row, (arm, look) in enumerate(looks.items()):
        score = cell.loc[arm]
        axes.plot([score["lo"], score["hi"]], [row, row], color=look.color, **_BAR, zorder=1)
        axes.plot(score["mean"], row, look.marker, color=look.color, **_MEAN, zorder=3)
        for beyond, edge, arrow in (
            (score["lo"] < left, left, "<"),
            (score["hi"] > right, right, ">"),
        ):
            if beyond:
                axes.plot(edge, row, arrow, color=look.color, markersize=5, clip_on=False, zorder=4)
    axes.set_xlim(left, right)
    axes.set_ylim(len(looks) - 0.5, -0.5)  # the first arm on top
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(axis="y", linewidth=0.4)


def _limits(cell: pd.DataFrame) -> tuple[float, float]:
    """The seeds, and of the intervals what lies within half of the seeds' range of them.

    The interval of two or three seeds can be ten times as wide as their range.
    """
    low, high = cell["min"].min(), cell["max"].max()
    span = high - low or max(abs(high), 1.0)
    left = max(min(low, cell["lo"].min()), low - span / 2)
    right = min(max(high, cell["hi"].max()), high + span / 2)
    return left - 0.05 * span, right + 0.05 * span


def _key(scores: pd.DataFrame) -> list[Line2D]:
    """What the marks mean; the rows name the arms."""
    interval = ", 95 % interval (bar)" if scores["n"].max() > 1 else ""
    return [
        Line2D([], [], color="0.5", linestyle="", marker="o", markersize=_DOT, label="One seed"),
        Line2D([], [], color="0.5", linestyle="", marker="o", **_MEAN, label=f"Mean{interval}"),
    ]
