"""The shared style of all figures: each arm has one look, and legends never cover data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    EngFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)

from mpo.analysis.intervals import EXPLORATORY
from mpo.study.cells import CORE_AXES
from mpo.study.labels import arm_label
from mpo.study.plan import Study
from mpo.study.words import plural

matplotlib.use("Agg")  # draws to files, without a display

STEPS = "Environment steps"

RC: Any = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper", rc={"font.size": 8, "axes.titlesize": 9}),
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.handlelength": 3,
    "lines.linewidth": 1.4,
    # matplotlib ships this font, so figures look the same on every machine.
    "font.family": ["DejaVu Sans"],
    "pdf.fonttype": 42,
    "svg.hashsalt": "mpo",
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
}

BAR: dict[str, Any] = {"linewidth": 6, "alpha": 0.3, "solid_capstyle": "butt"}
"""Line style of an interval."""

_COLOURS = sns.color_palette("colorblind")
_DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MARKED = 6  # markers per curve


class Look(NamedTuple):
    """How an arm is drawn."""

    color: tuple[float, float, float]
    linestyle: Any
    marker: str


def looks(study: Study) -> dict[str, Look]:
    """The look of every arm by its label, in the study's order.

    If the study varies Retrace, alone or together with up to four optimizers, Retrace sets the
    colour and the optimizer sets dashes and marker. Otherwise each arm has its own colour, dashes
    and marker. Up to 40 arms differ in colour or dashes; `arms_key` says where looks repeat.
    """
    values = study.axis_values
    by_factor = "retrace" in study.varied and study.varied.keys() <= set(CORE_AXES)
    by_factor = by_factor and len(values["optimizer"]) <= len(_DASHES)
    arms = {arm_label(study, run.arm): run.arm for run in study.runs}
    if not by_factor:
        return looks_of(arms)
    places = {
        label: [values[name].index(arm[name]) for name in CORE_AXES] for label, arm in arms.items()
    }
    return {
        label: Look(tuple(_COLOURS[hue % len(_COLOURS)]), _DASHES[dash], _MARKERS[dash])
        for label, (hue, dash) in places.items()
    }


def looks_of(labels: Iterable[str]) -> dict[str, Look]:
    """The looks of arms that are known by their labels only, each in its own colour."""
    period = math.lcm(len(_COLOURS), len(_DASHES))
    return {
        label: Look(
            tuple(_COLOURS[n % len(_COLOURS)]),
            _DASHES[(n + n // period) % len(_DASHES)],
            _MARKERS[n % len(_MARKERS)],
        )
        for n, label in enumerate(labels)
    }


def environments(study: Study) -> list[str]:
    """The environments' names, in the study's order."""
    return [environment.name for environment in study.environments]


def columns(panels: int) -> int:
    """The number of panels per row: at most three, to stay readable on a page."""
    return 2 if panels == 4 else min(panels, 3)


def title_size(study: Study) -> float:
    """Font size of the titles in points: 9, or less so that the longest id fits its panel."""
    return min(9.0, 9.0 * 28 / max(map(len, environments(study))))


def text_width(texts: Iterable[str]) -> float:
    """Approximate width of the longest text, in inches at 8 pt."""
    return 0.06 * max(map(len, texts))


def curve(axes: Axes, x: pd.Series, y: pd.Series, look: Look, index: int) -> None:
    """Draws the line of one arm; `index` staggers the markers of the arms."""
    spacing = max(1, len(x) // _MARKED)
    axes.plot(
        x,
        y,
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=3.5,
        markevery=(index % spacing, spacing),
    )


def mark_empty(axes: Axes, reason: str = "no finished run") -> None:
    """Writes into a panel why it is empty."""
    axes.set_xticks([])
    axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes)


def interval(
    axes: Axes, row: int, ends: tuple[float, float], limits: tuple[float, float], color: Any
) -> None:
    """Draws a row's interval as a bar, with an arrow if it exceeds the limits of the x axis."""
    axes.plot(ends, [row, row], color=color, **BAR, zorder=1)
    arrow: dict[str, Any] = {"color": color, "markersize": 5, "clip_on": False, "zorder": 4}
    if ends[0] < limits[0]:
        axes.plot(limits[0], row, "<", **arrow)
    if ends[1] > limits[1]:
        axes.plot(limits[1], row, ">", **arrow)


def show(axes: Axes, value: float) -> None:
    """Widens the y axis if needed, so that a value is not at its edge."""
    low, high = axes.get_ylim()
    margin = 0.05 * (high - low)
    axes.set_ylim(min(low, value - margin), max(high, value + margin))


NO_SCORES = "no environment has a reference score and a run of every arm."
"""Why there are no scores to draw."""


def nothing(text: str) -> Figure:
    """Makes a figure with only a text, which says why there is nothing to show."""
    figure = Figure(figsize=(4.0, 0.6))
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def count_steps(axes: Axes, ticks: int = 4) -> None:
    """Formats the x axis for environment steps: from 0, with at most `ticks` round intervals."""
    axes.set_xlim(left=0)
    few_ticks(axes.xaxis, ticks)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def few_ticks(axis: Axis, most: int) -> None:
    """Places ticks at round numbers, with at most as many intervals."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Labels a logarithmic axis with a few plain numbers.

    Ticks are at 1, 2, 5, 10, ...; if the range spans a factor of 30 or more, at powers of ten.
    """
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,), numticks=4))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def arms_key(looks: Mapping[str, Look], lines: bool = True, markers: bool = True) -> list[Line2D]:
    """Legend entries of the arms for `legend_below`, with line, marker or both.

    If some are drawn alike, a last entry says after how many arms.
    """
    key = [
        Line2D(
            *([], []),
            color=look.color,
            linestyle=look.linestyle if lines else "",
            marker=look.marker if markers else "",
            markersize=3.5,
            label=arm,
        )
        for arm, look in looks.items()
    ]
    seen = set()
    for count, look in enumerate(looks.values()):
        drawn = look.color, lines and look.linestyle, markers and look.marker
        if drawn in seen:
            key.append(Line2D([], [], linestyle="", label=f"Looks repeat after {count} arms"))
            break
        seen.add(drawn)
    return key


def legend_below(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Adds one legend below all panels, with as many columns as fit the figure's width."""
    entry = 0.65 + text_width(str(handle.get_label()) for handle in handles)
    figure.legend(
        handles=list(handles),
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=max(1, min(len(handles), int(figure.get_figwidth() / entry))),
        frameon=False,
    )


def seeds_in_words(n: pd.Series) -> str:
    """Describes the number of seeds per cell, and whether it is exploratory."""
    low, high = int(n.min()), int(n.max())
    if high == 1:
        return "one seed (exploratory, no interval)"
    count = f"{high}" if low == high else f"{low} to {high}"
    return f"n = {count} seeds{' (exploratory)' if low < EXPLORATORY else ''}"


def runs_in_words(found: pd.DataFrame) -> str:
    """Describes the least number of runs of an arm, and whether its seeds are too few.

    Args:
        found: rows of a table over environments, with the number `n` of runs, and `n_min` of them
            in the environment with the fewest.
    """
    runs = plural(int(found["n"].min()), "run")
    few = found["n_min"].min() < EXPLORATORY
    return f"at least {runs} per arm{', exploratory' if few else ''}"


def resampled(found: pd.DataFrame, what: str) -> str:
    """A sentence on the bootstrap bounds that a figure shows; empty if there are none.

    Args:
        found: rows with `lo` and `replicates`.
        what: what shows them, e.g. "Bars: 95 %".
    """
    if found["lo"].isna().all():
        return ""
    count = int(found["replicates"].max())
    return f" {what} stratified bootstrap intervals, {count} resamples of the seeds."


def literal(text: str) -> str:
    """Text from a file as matplotlib draws it, with no part read as a formula."""
    return text.replace("$", r"\$")
