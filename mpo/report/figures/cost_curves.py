"""Return against the cost of training, one panel per environment."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.report.timing import how_timed, in_unit
from mpo.study.plan import Study


def draw(study: Study, tables: Path) -> Figure:
    """One line per arm, the mean over its seeds, with a 95 % t interval as a band."""
    looks, environments = style.looks(study), style.environments(study)
    curves = read(tables, "cost_curves")
    panels = dict(list(curves.groupby("env")))
    wide = style.columns(len(environments))
    rows = -(-len(environments) // wide)
    size = (4.2, 2.8) if len(environments) == 1 else (2.4 * wide, 1.9 * rows)
    figure, grid = plt.subplots(rows, wide, figsize=size, squeeze=False)
    for axes in grid.flat[len(environments) :]:
        axes.remove()
    for env, axes in zip(environments, grid.flat, strict=False):
        axes.set_title(env, size=style.title_size(study))
        if env in panels:
            _panel(axes, panels[env], looks)
        else:
            style.mark_empty(axes)
            axes.set_yticks([])
    for axes in grid[:, 0]:
        axes.set_ylabel("Return")
    sns.despine(figure)
    figure.tight_layout()
    style.legend_below(figure, style.arms_key(looks))
    return figure


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: seeds, intervals, where curves end, and how cost was measured."""
    curves, runs = read(tables, "cost_curves"), read(tables, "runs")
    n = curves.groupby(["env", "arm"])["n"].first()
    cells = pd.MultiIndex.from_frame(runs[["env", "arm"]].drop_duplicates())
    n = n.reindex(cells, fill_value=0)
    mean = "" if n.max() == 1 else "; their mean (line) and its 95 % Student-t interval (band)"
    return (
        "Return of the mean-action policy during training against what training has cost per seed: "
        f"{style.seeds_in_words(n)}{mean}. Each seed is interpolated linearly between its "
        "snapshots, on its own clock. A curve ends where the cheapest seed of the arm reaches its "
        "budget, when others are still on the way, so its end is not the final return. Axes fit "
        "the means, so wider bands are cut off; a diverged run keeps its last return. "
        f"{how_timed(runs)}"
    )


def _panel(axes: Axes, curves: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    """Draws the arms in one environment. The means set the limits: bands of few seeds are wide."""
    label, length = in_unit(curves["unit"].iloc[0], curves["cost"].max())
    found = dict(list(curves.groupby("arm")))
    arms = {arm: found[arm] for arm in looks if arm in found}
    for index, (arm, curve) in enumerate(arms.items()):
        style.curve(axes, curve["cost"] / length, curve["mean"], looks[arm], index)
    limits = axes.get_ylim()
    for arm, curve in arms.items():
        band = curve["cost"] / length, curve["lo"], curve["hi"]
        axes.fill_between(*band, color=looks[arm].color, alpha=0.15, lw=0)
    axes.set_ylim(limits)
    axes.set_xlim(left=0)
    style.few_ticks(axes.xaxis, 4)
    axes.set_xlabel(f"{label[0].upper()}{label[1:]}")
