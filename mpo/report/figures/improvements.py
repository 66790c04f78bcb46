"""Probability of improvement: how often a run of an arm beats a run of the study's first arm."""

from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.study.plan import Study


def draw(study: Study, tables: Path) -> Figure:
    """One row per arm: the probability and its 95 % bootstrap interval."""
    looks = style.looks(study)
    first, *arms = looks
    found = read(tables, "improvements")
    if found.empty:
        return style.nothing("There are no two arms with scores in the same environments.")
    size = (style.text_width(looks) + 3.0, 0.9 + 0.22 * max(2, len(arms)))
    figure, axes = plt.subplots(figsize=size)
    over = found[found["over"] == first].set_index("arm")
    axes.axvline(0.5, color="0.6", linewidth=0.8, zorder=0)
    for row, arm in enumerate(arms):
        look, value = looks[arm], over.loc[arm]
        axes.plot([value["lo"], value["hi"]], [row, row], color=look.color, **style.BAR)
        axes.plot(value["estimate"], row, look.marker, color=look.color, ms=5)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"P(better than {first})")
    sns.despine(figure)
    return figure


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: probabilities, runs and intervals."""
    found = read(tables, "improvements")
    if found.empty:
        nothing = "there are no two arms with scores in the same environments."
        return f"Probability of improvement: {nothing}"
    first = list(style.looks(study))[0]
    runs = style.runs_in_words(found)
    return (
        f"Probability that a run of an arm scores above a run of {first} in the same environment, "
        f"averaged over environments ({runs}). A difference counts whatever its "
        f"size, also at a ceiling.{style.resampled(found, 'Bars: 95 %')} All pairs of arms are in "
        "tables/improvements."
    )
