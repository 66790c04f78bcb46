"""Sensitivity: what tuning found for each candidate, a panel per environment, a line per arm."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.report.numbers import grouped
from mpo.study.arm_values import schedule
from mpo.study.plan import Study
from mpo.study.search import is_number
from mpo.study.tuning import Tuning, arms

_BAD = "no value: all runs diverged or are missing"


def draw(study: Study, tables: Path) -> Figure:
    """Means over the tuning seeds with 95 % t intervals; the chosen candidate has a ring."""
    from matplotlib import pyplot

    tuning, candidates = _tuning(study), read(tables, "candidates")
    names = style.environments(study)
    columns = style.columns(len(names))
    rows = -(-len(names) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(2.6 * columns + 0.4, 2.3 * rows), squeeze=False
    )
    looks = style.looks_of(candidates["arm"].unique())
    key = _only_number(study, tuning)
    for axes, env in zip(grid.flat, names, strict=False):
        axes.set_title(env, fontsize=style.title_size(study))
        _panel(axes, candidates[candidates["env"] == env], looks, key)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(_unit(tuning))
    figure.tight_layout()
    style.legend_below(figure, style.arms_key(looks))
    return figure


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: candidates, criterion, seeds, intervals and the choice."""
    tuning, choices = _tuning(study), read(tables, "choices")
    edges = choices.loc[choices["on_edge"], ["arm", "env"]].itertuples(index=False)
    said = ", ".join(f"{arm} in {env}" for arm, env in edges)
    end = "its grid" if tuning.search == "grid" else "the values tried"
    across = tuning.choose == "across"
    if tuning.halving:
        rung = " (the first rung of successive halving)"
        ring = "the candidates that went on" + (", the same in all environments" if across else "")
    else:
        rung = ""
        ring = "what the reported runs are trained with" + (
            ", one candidate for all environments" if across else ""
        )
        ring += f". It is the end of {end} for {said}" if said else ""
    seeds = style.seeds_in_words(pd.Series([len(tuning.seeds)]))
    bars = ", with its 95 % t interval" if len(tuning.seeds) > 1 else ""
    return (
        f"What tuning found: {_unit(tuning).lower()} of each candidate after {_steps(study)} "
        f"environment steps{rung}, the mean over the seeds for tuning{bars}; {seeds}. A ring marks "
        f"{ring}. Candidates with a diverged run are crossed out and cannot be chosen while "
        "another can; axes fit the others."
    )


def _steps(study: Study) -> str:
    """The steps of a candidate, from the least to the greatest of the environments."""
    steps = [schedule(study, environment).total_steps for environment in study.environments]
    ends = dict.fromkeys((min(steps), max(steps)))
    return " to ".join(map(grouped, ends))


def _tuning(study: Study) -> Tuning:
    assert study.tuned is not None
    return study.tuned


def _unit(tuning: Tuning) -> str:
    return "Final return" if tuning.criterion == "final" else "Mean return while learning"


def _only_number(study: Study, tuning: Tuning) -> str | None:
    """The tuned key, if it is the only one and all of its values are positive numbers."""
    tried = (c for arm in arms(tuning, study.axis_values) for c in tuning.candidates_of(arm))
    values = [value for candidate in tried for value in candidate.values()]
    numbers = all(is_number(value) and value > 0 for value in values)
    return tuning.keys[0] if len(tuning.keys) == 1 and numbers else None


def _panel(
    axes: Axes, candidates: pd.DataFrame, looks: dict[str, style.Look], key: str | None
) -> None:
    """Draws one environment's arms over the tuned number, or over the candidates' names."""
    for arm, own in candidates.groupby("arm", sort=False):
        look = looks[str(arm)]
        own = own.sort_values(key) if key else own  # a line joins neighbours
        place = own[key].to_numpy(float) if key else np.arange(len(own))
        line: dict[str, Any] = {"color": look.color, "linestyle": look.linestyle}
        axes.plot(place, own["mean"], marker=look.marker, markersize=3.5, **line)
        axes.vlines(place, own["lo"], own["hi"], color=look.color, linewidth=1)
        ring = own["chosen"].to_numpy(bool)
        hollow: dict[str, Any] = {"markerfacecolor": "none", "color": look.color, "linestyle": ""}
        axes.plot(place[ring], own["mean"][ring], marker="o", markersize=9, **hollow)
        bad = own["diverged"].to_numpy() > 0
        axes.plot(place[bad], own["mean"][bad], marker="x", markersize=7, color="0.2", linestyle="")
    _fit_good_ones(axes, candidates)
    if not np.isfinite(candidates["mean"]).any():
        style.mark_empty(axes, _BAD)
    elif key:
        axes.set_xscale("log")
        axes.set_xlabel(key)
    else:
        first = candidates[candidates["arm"] == candidates["arm"].iloc[0]]
        names = first["candidate"] if candidates["arm"].nunique() == 1 else range(1, len(first) + 1)
        axes.set_xticks(range(len(first)), [str(name) for name in names])
        axes.set_xlabel("Candidate")


def _fit_good_ones(axes: Axes, candidates: pd.DataFrame) -> None:
    """Fits the axis to the candidates without a diverged run, if there are any."""
    good = candidates.loc[candidates["diverged"] == 0, ["mean", "lo", "hi"]].to_numpy(float)
    if np.isfinite(good).any():
        low, high = float(np.nanmin(good)), float(np.nanmax(good))
        margin = 0.06 * (high - low or 1.0)
        axes.set_ylim(low - margin, high + margin)
