"""Factor effects: forest plots of each factor level against its baseline, one panel per level."""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mpo.analysis.contrasts import POOLED, SUM
from mpo.analysis.intervals import MINUS
from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.study.plan import Study

_GREY = "0.35"
_TITLE = 26  # characters of a panel's title that fit into its width


def draw(study: Study, tables: Path) -> Figure:
    """Effects on the normalised score: one row per environment, then pooled; dots are seeds."""
    found = _scores(tables, "effects")
    if found.empty:
        return style.nothing(f"{_nothing(study)}.")
    panels = list(found.groupby(["factor", "level", "against"], sort=False))
    rows = [env for env in style.environments(study) if env in set(found["env"])] + [POOLED]
    columns = style.columns(len(panels))
    lines = -(-len(panels) // columns)
    size = (style.text_width(rows) + 2.1 * columns, lines * (0.8 + 0.22 * len(rows)))
    figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False)
    for axes, (names, effects) in zip(grid.flat, panels, strict=False):
        _forest(axes, effects, _of(_scores(tables, "differences"), *names[:2]), rows)
        axes.set_title(_title(*map(str, names[1:])))
        axes.set_xlabel("Difference in score")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def _nothing(study: Study) -> str:
    return "No pair of runs has a score" if study.varied else "No factor is varied"


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: effects, intervals and seeds."""
    found = _scores(tables, "effects")
    if found.empty:
        return f"Factor effects: {_nothing(study).lower()}."
    single = found[found["env"] != POOLED]
    return (
        "Final score of a factor level minus that of its baseline, with the same environment, seed "
        "and other factors, in units of the reference's return minus a random policy's. Per "
        "environment: mean (mark) and 95 % Student-t interval (bar); "
        f"{style.seeds_in_words(single['n'])}, each a dot. Pooled: equal weight for every "
        "environment, with Welch's t interval. Axes cover the single seeds and the pooled "
        "interval; an arrow marks a bar that continues beyond the axis."
    )


def _scores(tables: Path, name: str) -> pd.DataFrame:
    table = read(tables, name)
    return table[table["unit"] == "score"]


def _of(differences: pd.DataFrame, factor: Any, level: Any) -> pd.DataFrame:
    return differences[(differences["factor"] == factor) & (differences["level"] == level)]


def _title(level: str, against: str) -> str:
    sign = "beyond" if against == SUM else MINUS
    return "\n".join(textwrap.fill(line, _TITLE) for line in (level, f"{sign} {against}"))


def _forest(axes: Axes, found: pd.DataFrame, seeds: pd.DataFrame, rows: list[str]) -> None:
    """Draws one panel."""
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.axhline(len(rows) - 1.5, color="0.8", linewidth=0.6, zorder=0)
    places = [rows.index(env) for env in seeds["env"]]
    axes.plot(seeds["difference"], places, "o", color=_GREY, alpha=0.6, markersize=3, mew=0)
    pooled = found.loc[found["env"] == POOLED, ["estimate", "lo", "hi"]].to_numpy().ravel()
    shown = [0.0, *seeds["difference"], *pooled[~np.isnan(pooled)]]
    low, high = min(shown), max(shown)
    margin = 0.08 * (high - low or 1.0)
    limits = low - margin, high + margin
    for effect in found.to_dict("records"):
        row, whole = rows.index(effect["env"]), effect["env"] == POOLED
        style.interval(axes, row, (effect["lo"], effect["hi"]), limits, _GREY)
        mark = "D" if whole else "o"
        axes.plot(
            effect["estimate"], row, mark, color=_GREY, fillstyle="none", ms=6, mew=1.3, zorder=3
        )
    axes.set_xlim(limits)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(axis="y", length=0, pad=6)  # leaves space for an arrow
    style.few_ticks(axes.xaxis, 4)
