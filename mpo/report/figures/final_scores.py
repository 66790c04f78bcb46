"""Final scores: every seed's return after training, one panel per environment, one row per arm."""

from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mpo.analysis.tables import read, seed_returns
from mpo.report.figures import style
from mpo.study.plan import Study

_DOT = 3.5  # diameter of a seed's dot, in points
_MEAN: dict[str, Any] = {"fillstyle": "none", "markersize": 6, "markeredgewidth": 1.3}


def draw(study: Study, tables: Path) -> Figure:
    """Dots for the seeds; a mark for their mean and a bar for its 95 % t interval."""
    looks = style.looks(study)
    environments = style.environments(study)
    columns = style.columns(len(environments))
    height = 0.8 + 0.2 * max(2, len(looks))
    width = (style.text_width(looks) + 2.1 * columns) / columns
    grid = sns.catplot(
        data=seed_returns(tables, "final"),
        kind="strip",
        x="return",
        y="arm",
        order=list(looks),
        hue="arm",
        hue_order=list(looks),
        palette={arm: look.color for arm, look in looks.items()},
        jitter=False,  # random jitter would make equal figures differ
        size=_DOT,
        alpha=0.8,
        legend=False,
        col="env",
        col_order=environments,
        col_wrap=columns,
        height=height,
        aspect=width / height,
        sharex=False,
    )
    scores = _scores(tables)
    for env, axes in grid.axes_dict.items():
        _intervals(axes, scores[scores["env"] == env].set_index("arm"), looks)
    grid.set_titles("{col_name}", size=style.title_size(study))
    grid.set_axis_labels("Final return", "")
    grid.tight_layout()
    style.legend_below(grid.figure, _key(scores))
    return grid.figure


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: seeds, episodes and intervals."""
    scores = _scores(tables)
    episodes = style.plural(int(scores["episodes"].max()), "evaluation episode")
    mean = (
        ""
        if scores["n"].max() == 1
        else "; their mean (outlined mark) and its 95 % Student-t interval (bar)"
    )
    arrow = " An arrow marks an interval that continues beyond the axis." if _cut(scores) else ""
    return (
        "Final return of the mean-action policy at the end of training: "
        f"{style.seeds_in_words(scores['n'])}, each (dot) the mean of {episodes}{mean}.{arrow}"
    )


def _scores(tables: Path) -> pd.DataFrame:
    """The scores of the mean-action policy, with the `left` and `right` limit of their axis.

    An axis covers the environment's seeds and intervals, but extends at most half the seeds' range
    beyond the seeds: the interval of two or three seeds can be ten times as wide as their range.
    """
    scores = read(tables, "scores").query("policy == 'mode'")
    ends = scores.groupby("env").agg({"min": "min", "max": "max", "lo": "min", "hi": "max"})
    span = ends["max"] - ends["min"]
    span = span.where(span > 0, ends["max"].abs().clip(lower=1.0))
    left = ends[["min", "lo"]].min(axis=1).clip(lower=ends["min"] - span / 2)
    right = ends[["max", "hi"]].max(axis=1).clip(upper=ends["max"] + span / 2)
    limits = pd.DataFrame({"left": left - 0.05 * span, "right": right + 0.05 * span})
    return scores.join(limits, on="env")


def _cut(scores: pd.DataFrame) -> bool:
    """Whether any interval continues beyond its axis."""
    return bool(((scores["lo"] < scores["left"]) | (scores["hi"] > scores["right"])).any())


def _intervals(axes: Axes, cell: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    """Draws the means and intervals of one environment."""
    left, right = float(cell["left"].iloc[0]), float(cell["right"].iloc[0])
    for row, (arm, look) in enumerate(looks.items()):
        score, color = cell.loc[arm], look.color
        ends: tuple[Any, Any] = score["lo"], score["hi"]
        style.interval(axes, row, ends, (left, right), color)
        axes.plot(score["mean"], row, look.marker, color=color, **_MEAN, zorder=3)
    axes.set_ylim(len(looks) - 0.5, -0.5)  # the first arm on top
    if cell["n"].any():
        axes.set_xlim(left, right)
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
    else:
        style.mark_empty(axes)
    axes.grid(axis="y", linewidth=0.4)
    place = axes.get_subplotspec()
    first = place is not None and place.is_first_col()
    axes.tick_params(axis="y", length=0, pad=6, labelleft=first)


def _key(scores: pd.DataFrame) -> list[Line2D]:
    """Legend entries of the marks; arms need none, since the rows name them."""
    grey: dict[str, Any] = {"color": "0.4", "linestyle": ""}
    mean = "Mean" if scores["n"].max() == 1 else "Mean, 95 % interval (bar)"
    key = [
        Line2D([], [], **grey, marker="o", markersize=_DOT, label="One seed"),
        Line2D([], [], **grey, marker="o", **_MEAN, label=mean),
    ]
    if _cut(scores):
        key.append(Line2D([], [], **grey, marker=">", markersize=5, label="Beyond the axis"))
    return key
