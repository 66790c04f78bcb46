"""Final scores: every seed's return after training, one panel per environment, one row per arm."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mpo.analysis.tables import read, seed_returns
from mpo.report.figures import seeds, style
from mpo.study.plan import Study
from mpo.study.words import plural


def draw(study: Study, tables: Path) -> Figure:
    """Dots for the seeds; a mark for their mean and a bar for its 95 % t interval."""
    values = seed_returns(tables, "final").rename(columns={"return": "value"})
    return seeds.draw(study, values, _scores(tables), "Final return", "no finished run")


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: seeds, episodes and intervals."""
    scores = _scores(tables)
    episodes = plural(int(scores["episodes"].max()), "evaluation episode")
    return (
        "Final return of the mean-action policy at the end of training: "
        f"{style.seeds_in_words(scores['n'])}, each (dot) the mean of {episodes}"
        f"{seeds.about_mean(scores)}.{seeds.about_arrows(scores)}"
    )


def _scores(tables: Path) -> pd.DataFrame:
    """The scores of the mean-action policy, with the limits of their axes."""
    return seeds.limited(read(tables, "scores").query("policy == 'mode'"))
