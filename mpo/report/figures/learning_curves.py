"""Learning curves: return against environment steps, one panel per environment."""

from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mpo.analysis.baselines import comparable
from mpo.analysis.tables import read, seed_returns
from mpo.report.figures import style
from mpo.study.plan import Study
from mpo.study.words import plural

_DOTS: tuple[Any, ...] = ((0, (1, 1.5)), (0, (1, 4)), (0, (3, 1.5, 1, 1.5)), (0, (1, 1, 1, 4)))
_GREYS: list[dict[str, Any]] = [
    {"color": grey, "linewidth": 1.0, "linestyle": dots}
    for grey in ("0.25", "0.5", "0.7")
    for dots in _DOTS
]
"""The looks of other people's algorithms; more of them share a look."""


def draw(study: Study, tables: Path) -> Figure:
    """Means over seeds with their 95 % t intervals as bands; single seeds are faint."""
    looks = style.looks(study)
    environments = style.environments(study)
    alone = len(environments) == 1
    grid = sns.relplot(
        data=seed_returns(tables, "online"),
        kind="line",
        x="env_step",
        y="return",
        hue="arm",
        palette={arm: look.color for arm, look in looks.items()},
        units="run_id",
        estimator=None,
        linewidth=0.6,
        alpha=0.3,
        legend=False,
        col="env",
        col_order=environments,
        col_wrap=style.columns(len(environments)),
        height=2.8 if alone else 1.9,
        aspect=1.5 if alone else 1.25,
        facet_kws={"sharex": False, "sharey": False},
    )
    table = read(tables, "curves")
    curves = dict(list(table.groupby(["env", "arm"])))
    published = comparable(read(tables, "baselines"), study)
    others = _within(study, read(tables, "others"))
    lines = _lines(published, others)
    for env, axes in grid.axes_dict.items():
        if not table.loc[table["env"] == env, "n"].any():
            style.mark_empty(axes)
            axes.set_yticks([])
            continue
        # The seeds set the limits: a wide band of few seeds would flatten the curves.
        limits = axes.get_ylim()
        for index, (arm, look) in enumerate(looks.items()):
            _curve(axes, curves[env, arm], look, index)
        axes.set_ylim(limits)
        for baseline in published[published["env"] == env].to_dict("records"):
            line = lines[f"{baseline['algorithm']}, published"]
            axes.axhline(baseline["mean"], **line, zorder=1)
            style.show(axes, baseline["mean"])
        for name, curve in others[others["env"] == env].groupby("algorithm", sort=False):
            _other(axes, curve, lines[f"{name}, others"])
        style.count_steps(axes)
    grid.set_titles("{col_name}", size=style.title_size(study))
    grid.set_axis_labels(style.STEPS, "Return")
    references = [Line2D([], [], **line, label=style.literal(name)) for name, line in lines.items()]
    if len(lines) > len(_GREYS):
        text = f"Dotted: looks repeat after {len(_GREYS)}"
        references.append(Line2D([], [], linestyle="", label=text))
    style.legend_below(grid.figure, [*style.arms_key(looks), *references])
    return grid.figure


def _curve(axes: Axes, curve: pd.DataFrame, look: style.Look, index: int) -> None:
    """Draws the mean and the interval of one arm; `index` staggers the markers of the arms."""
    axes.fill_between(
        curve["env_step"], curve["lo"], curve["hi"], color=look.color, alpha=0.15, lw=0
    )
    style.curve(axes, curve["env_step"], curve["mean"], look, index)


def _within(study: Study, others: pd.DataFrame) -> pd.DataFrame:
    """The points of other people's curves up to the study's budgets."""
    return others[others["env_step"] <= others["env"].map(study.budgets)]


def _lines(published: pd.DataFrame, others: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The look of each of other people's algorithms, by its label."""
    labels = [f"{name}, others" for name in others["algorithm"].unique()]
    labels += [f"{name}, published" for name in published["algorithm"].unique()]
    return dict(zip(labels, cycle(_GREYS), strict=False))


def _other(axes: Axes, curve: pd.DataFrame, line: dict[str, Any]) -> None:
    """Draws the mean and the interval of other people's runs; the axis makes room for the mean."""
    limits = axes.get_ylim()
    steps, color = curve["env_step"], line["color"]
    axes.fill_between(steps, curve["lo"], curve["hi"], color=color, alpha=0.1, lw=0, zorder=1)
    # With a marker, since a file may have a single point.
    axes.plot(steps, curve["mean"], **line, marker=".", markersize=3, zorder=1)
    axes.set_ylim(limits)
    for value in (curve["mean"].min(), curve["mean"].max()):
        style.show(axes, value)


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: seeds, episodes, intervals and other people's results."""
    curves = read(tables, "curves")
    published = comparable(read(tables, "baselines"), study)
    episodes = plural(int(curves["episodes"].max()), "evaluation episode")
    seeds = f"{style.seeds_in_words(curves['n'])}, each (faint) the mean of {episodes}"
    band = (
        "; their mean (line) and its 95 % Student-t interval (band). Axes fit the single seeds, so "
        "wider bands are cut off"
    )
    return (
        "Return of the mean-action policy during training, not smoothed: "
        f"{seeds}{'' if curves['n'].max() == 1 else band}. The episodes are not those of the final "
        f"scores, so the last points differ from these.{_in_words(published)}"
        f"{_others_in_words(_within(study, read(tables, 'others')))}"
    )


def _in_words(published: pd.DataFrame) -> str:
    """A sentence that lists the published returns and their training steps."""
    if published.empty:
        return ""
    steps = published.groupby("algorithm", sort=False)["steps"].agg(["min", "max"])
    words = [
        f"{name} after {low}{'' if low == high else f' to {high}'} steps"
        for name, low, high in steps.itertuples()
    ]
    return f" Dotted: published returns of {', '.join(words)} (tables/baselines)."


def _others_in_words(others: pd.DataFrame) -> str:
    """A sentence that lists other people's runs, their seeds and their source."""
    if others.empty:
        return ""
    found = others.groupby("algorithm", sort=False)["n"]
    words = [f"{name}, {style.seeds_in_words(n)}" for name, n in found]
    return (
        " Dotted with bands: means of other people's runs and their 95 % intervals "
        f"(tables/others): {'; '.join(words)}."
    )
