"""One value per seed, with means and intervals: a panel per environment, a row per arm.

Used by the figures `final_scores` and `q_bias`.
"""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mpo.report.figures import style
from mpo.study.plan import Study

_DOT = 3.5  # diameter of a seed's dot, in points
_MEAN: dict[str, Any] = {"fillstyle": "none", "markersize": 6, "markeredgewidth": 1.3}


def draw(
    study: Study, values: pd.DataFrame, estimates: pd.DataFrame, label: str, empty: str
) -> Figure:
    """Dots for the seeds; a mark for their mean and a bar for its interval.

    Args:
        study: the study's plan.
        values: one row per seed: env, arm and `value`.
        estimates: one row per env x arm: n, mean, lo and hi, and `left` and `right` of `limited`.
        label: of the x axes.
        empty: what a panel without any seed says.
    """
    looks = style.looks(study)
    environments = style.environments(study)
    columns = style.columns(len(environments))
    height = 0.8 + 0.2 * max(2, len(looks))
    width = (style.text_width(looks) + 2.1 * columns) / columns
    grid = sns.catplot(
        data=values,
        kind="strip",
        x="value",
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
    for env, axes in grid.axes_dict.items():
        _intervals(axes, estimates[estimates["env"] == env].set_index("arm"), looks, empty)
    grid.set_titles("{col_name}", size=style.title_size(study))
    grid.set_axis_labels(label, "")
    grid.tight_layout()
    style.legend_below(grid.figure, _key(estimates))
    return grid.figure


def limited(estimates: pd.DataFrame) -> pd.DataFrame:
    """Adds `left` and `right`, the limits of each environment's axis.

    An axis covers the environment's seeds and intervals, but extends at most half the seeds' range
    beyond the seeds: the interval of two or three seeds can be ten times as wide as their range.

    Args:
        estimates: one row per env x arm: lo and hi, and `min` and `max` of the seeds.
    """
    ends = estimates.groupby("env").agg({"min": "min", "max": "max", "lo": "min", "hi": "max"})
    span = ends["max"] - ends["min"]
    span = span.where(span > 0, ends["max"].abs().clip(lower=1.0))
    left = ends[["min", "lo"]].min(axis=1).clip(lower=ends["min"] - span / 2)
    right = ends[["max", "hi"]].max(axis=1).clip(upper=ends["max"] + span / 2)
    limits = pd.DataFrame({"left": left - 0.05 * span, "right": right + 0.05 * span})
    return estimates.join(limits, on="env")


def about_mean(estimates: pd.DataFrame) -> str:
    """The part of a caption about means and intervals; empty if every cell has one seed."""
    if estimates["n"].max() <= 1:
        return ""
    return "; their mean (outlined mark) and its 95 % Student-t interval (bar)"


def about_arrows(estimates: pd.DataFrame) -> str:
    """The sentence of a caption about arrows; empty if there are none."""
    return " An arrow marks an interval that continues beyond the axis." if _cut(estimates) else ""


def _cut(estimates: pd.DataFrame) -> bool:
    """Whether any interval continues beyond its axis."""
    below, above = estimates["lo"] < estimates["left"], estimates["hi"] > estimates["right"]
    return bool((below | above).any())


def _intervals(axes: Axes, cell: pd.DataFrame, looks: dict[str, style.Look], empty: str) -> None:
    """Draws the means and intervals of one environment."""
    left, right = float(cell["left"].iloc[0]), float(cell["right"].iloc[0])
    for row, (arm, look) in enumerate(looks.items()):
        estimate, color = cell.loc[arm], look.color
        ends: tuple[Any, Any] = estimate["lo"], estimate["hi"]
        style.interval(axes, row, ends, (left, right), color)
        axes.plot(estimate["mean"], row, look.marker, color=color, **_MEAN, zorder=3)
    axes.set_ylim(len(looks) - 0.5, -0.5)  # the first arm on top
    if cell["n"].any():
        axes.set_xlim(left, right)
        style.few_ticks(axes.xaxis, 3)
    else:
        style.mark_empty(axes, empty)
    axes.grid(axis="y", linewidth=0.4)
    place = axes.get_subplotspec()
    first = place is not None and place.is_first_col()
    axes.tick_params(axis="y", length=0, pad=6, labelleft=first)


def _key(estimates: pd.DataFrame) -> list[Line2D]:
    """Legend entries of the marks; arms need none, since the rows name them."""
    grey: dict[str, Any] = {"color": "0.4", "linestyle": ""}
    mean = "Mean" if estimates["n"].max() == 1 else "Mean, 95 % interval (bar)"
    key = [
        Line2D([], [], **grey, marker="o", markersize=_DOT, label="One seed"),
        Line2D([], [], **grey, marker="o", **_MEAN, label=mean),
    ]
    if _cut(estimates):
        key.append(Line2D([], [], **grey, marker=">", markersize=5, label="Beyond the axis"))
    return key
