"""Performance profiles: the fraction of an arm's runs that score above a threshold."""

from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from mpo.analysis.tables import read
from mpo.report.figures import style
from mpo.study.plan import Study


def draw(study: Study, tables: Path) -> Figure:
    """One line per arm, with a pointwise 95 % band."""
    looks = style.looks(study)
    found = read(tables, "profiles")
    if found.empty:
        return style.nothing(f"Performance profiles: {style.NO_SCORES}")
    figure, axes = plt.subplots(figsize=(4.2, 2.6))
    for arm, look in looks.items():
        line = found[found["arm"] == arm]
        axes.fill_between(line["tau"], line["lo"], line["hi"], color=look.color, alpha=0.15, lw=0)
        axes.plot(line["tau"], line["estimate"], color=look.color, linestyle=look.linestyle)
    axes.set_xlim(found["tau"].min(), found["tau"].max())
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Normalised score \N{GREEK SMALL LETTER TAU}")
    axes.set_ylabel("Fraction of runs above \N{GREEK SMALL LETTER TAU}")
    sns.despine(figure)
    figure.tight_layout()
    style.legend_below(figure, style.arms_key(looks, markers=False))
    return figure


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: profiles, runs and bands."""
    found = read(tables, "profiles")
    if found.empty:
        return f"Performance profiles: {style.NO_SCORES}"
    runs = style.runs_in_words(found)
    return (
        "Performance profiles: the fraction of runs whose normalised final score is above a "
        f"threshold, with equal weight for every environment ({runs})."
        f"{style.resampled(found, 'Bands: pointwise 95 %')}"
    )
