"""Quantities of the updates during training: one row per environment, one column per quantity."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.study.plan import Study
from mpo.study.status import FINISHED


class Quantity(NamedTuple):
    """How a column of the table `train` is drawn."""

    title: str
    """What stands above its panels."""
    log: bool = False
    """Whether its axis is logarithmic."""
    bound: bool = False
    """Whether it is relative to a bound, so that 1 is the bound."""


_BANDS = 4  # with more arms, bands cannot be told apart and are not drawn
_BOUND: dict[str, Any] = {"color": "0.4", "linestyle": (0, (3, 2)), "linewidth": 0.8}
NOTHING = "no network has been updated."
"""Said where there is nothing to draw."""


def draw(study: Study, tables: Path, of: Mapping[str, Quantity], name: str) -> Figure:
    """One line per arm, the mean over its seeds; with few arms, a band shows their range.

    Args:
        study: the study's plan.
        tables: the directory of its tables.
        of: the quantities by their columns in `train`; those that no run has are left out.
        name: of the figure, where there is nothing to draw.
    """
    looks, environments = style.looks(study), style.environments(study)
    train = _train(tables, of)
    quantities = {k: v for k, v in of.items() if train[k].notna().any()}
    if not quantities:
        return style.nothing(f"{name}: {NOTHING}")
    curves = dict(list(_over_seeds(train, [*quantities]).groupby(["env", "arm"])))
    calm = dict(list(_calm(train).groupby("env")))
    size = (1.5 * len(quantities), 1.2 * len(environments))
    figure, grid = plt.subplots(len(environments), len(quantities), figsize=size, squeeze=False)
    for env, row in zip(environments, grid, strict=True):
        here = {arm: curves[env, arm].droplevel([0, 1]) for arm in looks if (env, arm) in curves}
        for axes, (name, quantity) in zip(row, quantities.items(), strict=True):
            if here:
                lines = {arm: pd.DataFrame(curve[name]).dropna() for arm, curve in here.items()}
                _panel(axes, lines, looks, quantity)
                _limits(axes, calm[env][name], quantity)
            else:
                style.mark_empty(axes)
                axes.set_yticks([])
        row[0].set_title(env, loc="left", weight="bold", x=-0.25)
    for axes, quantity in zip(grid[0], quantities.values(), strict=True):
        axes.annotate(
            *(quantity.title, (0.5, 1)),
            xytext=(0, 22),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
        )
    for axes in grid[-1]:
        axes.set_xlabel(style.STEPS)
    sns.despine(figure)
    # A fixed layout, because a tight layout of so many panels takes seconds.
    figure.subplots_adjust(0, 0.5 / size[1], 1, 1, wspace=0.45, hspace=0.75)
    bounds = [Line2D([], [], **_BOUND, label="Bound")] * any(q.bound for q in quantities.values())
    style.legend_below(figure, [*style.arms_key(looks, markers=False), *bounds])
    return figure


def seeds_and_bands(
    study: Study, tables: Path, of: Mapping[str, Quantity]
) -> tuple[str, set[str]] | None:
    """Returns the caption's words on seeds, means and bands, and the columns that some run has.

    None if no run has any.
    """
    train = _train(tables, of)
    found = {name for name in of if train[name].notna().any()}
    if not found:
        return None
    runs = read(tables, "runs")
    n = runs["status"].isin(FINISHED).groupby([runs["env"], runs["arm"]]).sum()
    several = n.max() > 1
    band = " and their range (band)" if several and len(style.looks(study)) <= _BANDS else ""
    return f"{style.seeds_in_words(n)}{f'; their mean (line){band}' if several else ''}.", found


def _train(tables: Path, of: Mapping[str, Quantity]) -> pd.DataFrame:
    """The finite quantities of each logging interval, with the run's env, arm and status."""
    names = ["run_id", "env_step", *of]
    train = read(tables, "train").reindex(columns=names).replace([np.inf, -np.inf], np.nan)
    return train.merge(read(tables, "runs")[["run_id", "env", "arm", "status"]], on="run_id")


def _over_seeds(train: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Mean, min and max of each quantity over seeds, one row per env x arm x env_step."""
    groups = train.groupby(["env", "arm", "env_step"])[names]
    return groups.agg(["mean", "min", "max"])


def _calm(train: pd.DataFrame) -> pd.DataFrame:
    """The rows that set the axis limits: of runs that did not diverge.

    In an environment where every run diverged, all rows.
    """
    ok = train["status"] == "ok"
    return train[ok | ~train["env"].isin(train.loc[ok, "env"].unique())]


def _panel(
    axes: Axes, lines: dict[str, pd.DataFrame], looks: dict[str, style.Look], quantity: Quantity
) -> None:
    """Draws one quantity in one environment, for the arms that have it."""
    for arm, line in lines.items():
        if line.empty:
            continue
        color, dash = looks[arm].color, looks[arm].linestyle
        if len(looks) <= _BANDS:
            axes.fill_between(line.index, line["min"], line["max"], color=color, alpha=0.15, lw=0)
        axes.plot(line.index, line["mean"], color=color, linestyle=dash, linewidth=1.0)
    if quantity.bound:
        axes.axhline(1, **_BOUND)
    style.count_steps(axes, ticks=2)


def _limits(axes: Axes, values: pd.Series, quantity: Quantity) -> None:
    """Fits the y axis to `values`, which leave out diverged runs: their last values are extreme."""
    shown = values[values > 0] if quantity.log else values.dropna()
    low, high = shown.min(), shown.max()
    if shown.empty:
        axes.set_yticks([])
    elif quantity.log:
        low, high = (min(low, 1), max(high, 1)) if quantity.bound else (low, high)
        # Wide enough to show two of the ticks 1, 2, 5, 10, ...
        margin = max((high / low) ** 0.05, (5 * low / high) ** 0.5)
        axes.set_yscale("log")
        axes.set_ylim(low / margin, high * margin)
        style.log_ticks(axes.yaxis, low, high)
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        style.few_ticks(axes.yaxis, 3)
