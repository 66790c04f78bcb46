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

_MARKED = 6  # markers per curve
_DOTS: tuple[Any, ...] = ((0, (1, 1.5)), (0, (1, 4)), (0, (3, 1.5, 1, 1.5)), (0, (1, 1, 1, 4)))
_PUBLISHED: list[dict[str, Any]] = [
    {"color": grey, "linewidth": 1.0, "linestyle": dots}
    for grey in ("0.25", "0.5", "0.7")
    for dots in _DOTS
]
"""The looks of published algorithms; more of them share a look."""


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
    lines = dict(zip(published["algorithm"].unique(), cycle(_PUBLISHED), strict=False))
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
            axes.axhline(baseline["mean"], **lines[baseline["algorithm"]], zorder=1)
            style.show(axes, baseline["mean"])
        style.count_steps(axes)
    grid.set_titles("{col_name}", size=style.title_size(study))
    grid.set_axis_labels(style.STEPS, "Return")
    references = [
        Line2D([], [], **line, label=f"{style.literal(name)}, published")
        for name, line in lines.items()
    ]
    if len(lines) > len(_PUBLISHED):
        text = f"Published: looks repeat after {len(_PUBLISHED)}"
        references.append(Line2D([], [], linestyle="", label=text))
    style.legend_below(grid.figure, [*style.arms_key(looks), *references])
    return grid.figure


def _curve(axes: Axes, curve: pd.DataFrame, look: style.Look, index: int) -> None:
    """Draws the mean and the interval of one arm; `index` staggers the markers of the arms."""
    axes.fill_between(
        curve["env_step"], curve["lo"], curve["hi"], color=look.color, alpha=0.15, lw=0
    )
    spacing = max(1, len(curve) // _MARKED)
    axes.plot(
        curve["env_step"],
        curve["mean"],
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=3.5,
        markevery=(index % spacing, spacing),
    )


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: seeds, episodes, intervals and published returns."""
    curves = read(tables, "curves")
    published = comparable(read(tables, "baselines"), study)
    episodes = style.plural(int(curves["episodes"].max()), "evaluation episode")
    seeds = f"{style.seeds_in_words(curves['n'])}, each (faint) the mean of {episodes}"
    band = (
        "; their mean (line) and its 95 % Student-t interval (band). Axes fit the single seeds, so "
        "wider bands are cut off"
    )
    return (
        "Return of the mean-action policy during training, not smoothed: "
        f"{seeds}{'' if curves['n'].max() == 1 else band}.{_in_words(published)}"
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
