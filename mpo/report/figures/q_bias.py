"""Bias of Q: each critic's mean error after training, a panel per environment, a row per arm."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mpo.analysis.intervals import t_interval
from mpo.analysis.tables import read
from mpo.report.figures import seeds, style
from mpo.study.plan import Study

_LABEL = "Bias of Q (discounted return)"
_NOTHING = "no run has been evaluated together with its critic."


def draw(study: Study, tables: Path) -> Figure:
    """Dots for the seeds; a mark for their mean and a bar for its 95 % t interval; a line at 0."""
    values = _values(tables)
    if values.empty:
        return style.nothing(f"Bias of Q: {_NOTHING}")
    figure = seeds.draw(study, values, _biases(study, values), _LABEL, "no critic")
    for axes in figure.axes:
        axes.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    return figure


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: what is compared, seeds and intervals."""
    values = _values(tables)
    if values.empty:
        return f"Bias of Q: {_NOTHING}"
    biases = _biases(study, values)
    weights = values.groupby("env", sort=False)["q_bootstrap"].mean()
    said = ", ".join(f"{100 * weight:.0f} % in {env}" for env, weight in weights.items())
    return (
        "Bias of the critic at the end of training, the mean of Q(s, a) minus the discounted "
        "return, in the final evaluation's episodes with sampled actions; right of the line at 0 "
        f"the critic overestimates. {style.seeds_in_words(biases['n'])}, each a dot"
        f"{seeds.about_mean(biases)}.{seeds.about_arrows(biases)} Beyond a time limit, returns go "
        f"on with the critic's own value, which hides bias; its weight is on average {said}."
    )


def _values(tables: Path) -> pd.DataFrame:
    """The `value` of each run that has one, with env, arm and `q_bootstrap`."""
    columns = ["env", "arm", "q_bias", "q_bootstrap"]
    runs = read(tables, "runs").reindex(columns=columns).dropna(subset="q_bias")
    return runs.rename(columns={"q_bias": "value"})


def _biases(study: Study, values: pd.DataFrame) -> pd.DataFrame:
    """The mean bias of each env x arm, its interval, and the limits of its axis, which show 0."""
    rows = []
    for env in style.environments(study):
        for arm in style.looks(study):
            own = values.loc[(values["env"] == env) & (values["arm"] == arm), "value"]
            n, mean, lo, hi = t_interval(own) if len(own) else (0, *[np.nan] * 3)
            ends = min([0.0, *own]), max([0.0, *own])
            rows.append((env, arm, n, mean, lo, hi, *ends))
    columns = ["env", "arm", "n", "mean", "lo", "hi", "min", "max"]
    return seeds.limited(pd.DataFrame(rows, columns=columns))
