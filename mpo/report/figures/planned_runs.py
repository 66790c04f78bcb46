"""Planned runs: a heat map of the runs' status, one panel per environment."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.study.plan import Study
from mpo.study.status import FINISHED, STATUSES
from mpo.study.words import plural

_PALETTE = sns.color_palette("colorblind")
_LOOKS: dict[str, tuple[str, Any]] = {
    "planned": ("P", (0.93, 0.93, 0.93)),
    "running": ("R", _PALETTE[2]),
    "ok": ("\N{CHECK MARK}", (0.60, 0.82, 0.95)),
    "diverged": ("D", _PALETTE[8]),
    "failed": ("F", _PALETTE[3]),
    "timeout": ("T", (0.58, 0.40, 0.74)),
    "damaged": ("X", _PALETTE[5]),
}
"""Letter and colour of each status; the colours suit colour-blind readers."""

_CELL = 0.17  # side of a cell, in inches
_SIGN: dict[str, Any] = {"color": "0.1", "markersize": 4.5, "markeredgewidth": 0}
_NARROW, _WIDE = 3.3, 7.8  # least and largest width in inches; one wide panel may exceed it


def draw(study: Study, tables: Path) -> Figure:
    """Rows are arms, columns are seeds; letter and colour of a cell give the run's status."""
    runs = read(tables, "runs")
    arms, environments = list(style.looks(study)), style.environments(study)
    title = style.text_width(environments) * style.title_size(study) / 8
    # In inches: width of a panel, width of the arms' labels, height of the seeds' labels.
    width = max(title, _CELL * len(study.seeds)) + 0.3
    left, below = style.text_width(arms), 0.45 + style.text_width(map(str, study.seeds))
    columns = min(len(environments), max(1, int((_WIDE - left) / width)))
    rows = -(-len(environments) // columns)
    # Above the gaps of an incomplete last row, panels need labels too.
    labelled = rows if len(environments) % columns else 1
    height = rows * (_CELL * len(arms) + 0.3) + labelled * below
    size = (max(_NARROW, left + width * columns), height)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(environments):
            axes.set_visible(False)
            continue
        env = environments[place]
        cells = runs[runs["env"] == env].pivot(index="arm", columns="seed", values="status")
        _cells(axes, cells.reindex(index=arms, columns=list(study.seeds)))
        axes.set_title(env, size=style.title_size(study))
        first, last = place % columns == 0, place + columns >= len(environments)
        axes.set_xlabel("Seed" if last else "")
        axes.tick_params(length=0, labelleft=first, labelbottom=last)
    figure.tight_layout()
    style.legend_below(figure, _key(runs["status"]))
    return figure


def caption(study: Study, tables: Path) -> str:
    """Describes the figure, with the number of runs of each status."""
    status = read(tables, "runs")["status"]
    counts = status.value_counts()
    words = ", ".join(f"{counts[name]} {name}" for name in STATUSES if name in counts)
    missing = int((~status.isin(FINISHED)).sum())
    verb = "is" if missing == 1 else "are"
    rest = f" {plural(missing, 'run')} {verb} missing in the other figures." * bool(missing)
    return (
        f"Status of the {plural(len(status), 'planned run')}, each a cell: {words}. A "
        f"diverged run counts as a result and is scored by its last finite policy.{rest}"
    )


def _cells(axes: Axes, status: pd.DataFrame) -> None:
    """Draws one panel from the status of its cells, [arms, seeds]."""
    axes.pcolormesh(
        status.map(STATUSES.index),
        cmap=ListedColormap([_LOOKS[name][1] for name in STATUSES]),
        vmin=-0.5,
        vmax=len(STATUSES) - 0.5,
        edgecolors="white",
        linewidth=0.6,
    )
    for name, (sign, _) in _LOOKS.items():
        rows, columns = (status == name).to_numpy().nonzero()
        # One set of markers per status; a text per cell would take ten times as long.
        letter = rf"$\mathrm{{{sign}}}$"
        axes.plot(columns + 0.5, rows + 0.5, ls="", marker=letter, **_SIGN)
    arms, seeds = list(status.index), list(status.columns)
    shown = range(0, len(seeds), max(1, len(seeds) // 10))
    names = [str(seeds[column]) for column in shown]
    turned = 90 if max(map(len, names)) > 2 else 0
    axes.set_xticks([column + 0.5 for column in shown], names, rotation=turned)
    axes.set_yticks([row + 0.5 for row in range(len(arms))], arms)
    axes.set_ylim(len(arms), 0)  # the first arm on top
    axes.set_aspect("equal")
    sns.despine(ax=axes, left=True, bottom=True)


def _key(status: pd.Series) -> list[Line2D]:
    """Legend entries: letter, colour and number of runs of each status."""
    counts = status.value_counts()
    return [
        Line2D(
            *([], []),
            linestyle="",
            marker="s",
            markersize=9,
            color=color,
            label=f"{sign} {name}: {counts.get(name, 0)}",
        )
        for name, (sign, color) in _LOOKS.items()
    ]
