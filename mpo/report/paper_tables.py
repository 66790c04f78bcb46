"""The main tables of a study for a paper, in LaTeX and Markdown.

Each table has a function that returns a `Table` of text cells; both formats are written from it. A
cell with an interval reads `estimate [lo, hi]`.
"""

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpo.analysis.aggregates import METRIC_TITLES
from mpo.analysis.baselines import comparable, in_words
from mpo.analysis.contrasts import POOLED, SUM
from mpo.analysis.intervals import EXPLORATORY, MINUS, t_interval
from mpo.analysis.tables import CONFIDENCE, made_of, read
from mpo.report import others
from mpo.report.numbers import digits, number, wide
from mpo.report.typeset import NONE, Table, latex, markdown
from mpo.study.files import TYPESET, write_text
from mpo.study.plan import Study
from mpo.study.status import FINISHED

_MISSING = "missing"
"""Text of a cell without a finished run."""


def write(study: Study, tables: Path, outputs: Path) -> None:
    """Writes NAME.tex, to be included in a paper, and NAME.md for each name in `TYPESET`.

    A .tex file contains one table environment, or one per page if the table is longer. It needs the
    package booktabs. Its label is tab:STUDY-NAME.

    Args:
        study: the study's plan.
        tables: the directory of its tables.
        outputs: the directory to write to.
    """
    origin = made_of(tables)
    for name, make in zip(TYPESET, (final_scores, aggregates, effects, costs), strict=True):
        table = make(study, tables)
        forms = {
            "tex": f"{latex(table, f'tab:{study.study}-{name}')}% {origin}\n",
            "md": f"{markdown(table)}\n<!-- {origin} -->\n",
        }
        for suffix, text in forms.items():
            write_text(outputs / f"{name}.{suffix}", text)


def final_scores(study: Study, tables: Path) -> Table:
    """The final return of each arm in each environment: mean and Student-t interval.

    Rows with published returns and of other people's runs follow, those `nearest` to the study's
    budgets.
    """
    scores = read(tables, "scores").query("policy == 'mode'")
    seeds = scores.loc[scores["n"] > 0, "n"]
    cells = [_final(row, seeds.max()) for row in scores.to_dict("records")]
    frame = wide(scores.assign(cell=cells), ["arm"], "env", "cell")
    finals = read(tables, "finals").groupby("env", sort=False)
    marked = pd.DataFrame({env: _best(rows) for env, rows in finals}).reindex_like(frame)
    differing = f", {seeds.max()} unless stated in the cell" if seeds.nunique() > 1 else ""
    notes = [
        f"Return of the mean-action policy: mean over {_seeds(seeds)}{differing}, each the average "
        f"of {_counted(scores['episodes'], 'evaluation episode')}. Brackets: 95 % Student-t "
        "interval, given two or more seeds."
    ]
    if scores["diverged"].any():
        notes.append("div.: diverged runs, counted with their last finite policy.")
    if (scores["n"] == 0).any():
        notes.append(f"{_MISSING.capitalize()}: no run has finished.")
    if len(frame) > 1 and seeds.max() > 1:
        rule = (
            "an arm that beats every other arm in that environment: the t intervals of its paired "
            "differences (same seed) are all above zero, simultaneously at 95 % (Bonferroni over "
            "the other arms)"
        )
        notes.append(f"Bold: {rule}{'' if marked.any(axis=None) else '; there is none'}.")
    published = comparable(read(tables, "baselines"), study)
    published["result"] = [in_words(row) for row in published.to_dict("records")]
    of_others = others.near_the_budget(study, tables)
    if len(published):
        notes.append("Published: results of other authors; sources are in tables/baselines.")
    if len(of_others):
        notes.append(
            "Others: runs of other people, from the files that the config names; sources are in "
            "tables/others."
        )
    for found, whose in ((published, "published"), (of_others, "others")):
        if len(found):
            rows = _beside(found, study, whose).reindex(columns=frame.columns)
            frame = pd.concat([frame, rows]).fillna(NONE)
    marked = marked.reindex(frame.index, fill_value=False)
    caption = f"Final return after the whole budget, study {study.study}."
    return Table(frame, marked, caption, " ".join(notes))


def aggregates(study: Study, tables: Path) -> Table:
    """The aggregate scores of each arm over all environments, with bootstrap intervals.

    No cell is bold: the intervals are of single arms, which cannot establish a difference.
    """
    found, finals = read(tables, "aggregates"), read(tables, "finals")
    caption = f"Normalised final scores over environments, study {study.study}."
    frame = pd.DataFrame(
        index=pd.Index(finals["arm"].unique(), name="arm"), columns=[*METRIC_TITLES]
    )
    note = "No environment has a reference score and a finished run of every arm."
    if not found.empty:
        frame = wide(found.assign(cell=_cells(found)), ["arm"], "metric", "cell").loc[frame.index]
        scored = finals.dropna(subset="score").groupby(["env", "arm"]).size()
        shared = scored.groupby("env").transform("size") == len(frame)  # a run of every arm
        warning = ": with so few seeds these intervals are too narrow"
        note = (
            "Score: 0 for a random policy, 1 for the reference. IQM: interquartile mean of the "
            "runs. Median: over the environments' means. Optimality gap: how far the runs fall "
            "short of 1; lower is better. Brackets: 95 % stratified bootstrap interval of "
            f"{_counted(found['replicates'], 'replicate')}, given two or more seeds. Over "
            f"{_counted(found['environments'], 'environment')} and {_counted(found['n'], 'run')} "
            f"per arm; {_seeds(scored[shared], warning)} per environment."
        )
    frame = frame.fillna(NONE).rename(columns=METRIC_TITLES)
    return Table(frame, _nothing(frame), caption, note)


def effects(study: Study, tables: Path) -> Table:
    """The effect of each factor level over its baseline, per environment and pooled."""
    found = read(tables, "effects")
    sign = np.where(found["against"] == SUM, ", beyond ", f" {MINUS} ")
    found = found.assign(
        effect=found["level"] + sign + found["against"],
        environment=found["env"],
        cell=_cells(found),
        sure=(found["lo"] > 0) | (found["hi"] < 0),
    )
    rows, units = ["effect", "environment"], ["return", "score"]
    caption = f"Effects of the factors on the final return, study {study.study}."
    if found.empty:
        frame = pd.DataFrame(columns=[*rows, *units, "n", "r"], dtype=str).set_index(rows)
        note = "No pair of runs is complete." if study.varied else "No factor is varied."
        return Table(frame, _nothing(frame), caption, note)
    both = found.groupby(rows, sort=False)[["n", "correlation"]].first()
    frame = wide(found, rows, "unit", "cell").reindex(columns=units, fill_value=NONE)
    frame = frame.fillna(NONE)
    frame["n"] = both["n"].astype(str)
    frame["r"] = both["correlation"].map(lambda r: NONE if math.isnan(r) else digits(r, 2))
    sure = wide(found, rows, "unit", "sure").reindex(columns=frame.columns).eq(True)
    single = found[found["env"] != POOLED]
    note = (
        "Mean difference between two levels of a factor, with the same environment, seed and "
        f"other factors, over {_seeds(single['n'])}. Brackets: 95 % Student-t interval, given two "
        "or more seeds. Score: in units of the reference's return minus a random policy's. Pooled: "
        "equal weight for every environment, Welch's t interval; n is the sum. r: correlation of "
        "the two sides over seeds; near 0, pairing gains nothing. Bold: the 95 % interval excludes "
        "zero, without correction for multiple tests"
        f"{'' if sure.any(axis=None) else '; there is none'}."
    )
    return Table(frame, sure, caption, note)


def robustness(study: Study, tables: Path) -> Table:
    """The effects with sampled actions and at each level of the other factors, as scores."""
    found = read(tables, "robustness")
    caption = f"The same effects elsewhere, study {study.study}."
    effect = found["level"] + f" {MINUS} " + found["against"]
    found = found.assign(effect=effect, cell=_cells(found))
    frame = wide(found, ["effect", "where"], "env", "cell").fillna(NONE)
    note = (
        "Differences of the normalised final score as above, but with actions sampled from the "
        "policy instead of its mean, or at one level of another factor instead of averaged over "
        "its levels. Brackets: 95 % Student-t interval, given two or more seeds. All of these are "
        "exploratory."
    )
    return Table(frame, _nothing(frame), caption, note)


def costs(study: Study, tables: Path) -> Table:
    """The time and memory that runs took, for each environment and arm."""
    runs = read(tables, "runs").rename(columns={"env": "environment"})
    runs["finished"] = runs["status"].isin(FINISHED)
    groups = runs.groupby(["environment", "arm"], sort=False)
    planned, finished = groups.size(), groups["finished"].sum()
    numbers = {
        "training, s": groups["wall_s"].mean(),
        "updates/s": groups["updates_per_s"].mean(),
        "evaluation, s": groups["eval_s"].mean(),
        "memory, MB": groups["max_rss_mb"].max(),
        "CPU, h": groups["cpu_s"].sum(min_count=1) / 3600,
    }
    frame = pd.DataFrame({name: column.map(number) for name, column in numbers.items()})
    pairs = zip(finished, planned, strict=True)
    frame.insert(0, "runs", [f"{n}" if n == of else f"{n} of {of}" for n, of in pairs])
    hours = (runs["wall_s"].sum() + runs["eval_s"].sum()) / 3600
    note = (
        "Means over the finished runs; seeds trained in one process share its time equally. Times "
        "are wall-clock, and longer where other work ran on the machine. Memory: largest peak of "
        "any process. CPU: sum over the trainings. Three significant "
        f"digits. In all {number(hours)} hours of training and evaluation, if run one by one."
    )
    return Table(frame, _nothing(frame), f"Costs of the runs, study {study.study}.", note)


def _final(row: Mapping[Hashable, Any], seeds: int) -> str:
    """A cell of the final scores; notes if it has not `seeds` runs, or if runs diverged."""
    if row["n"] == 0:
        return _MISSING
    apart = [f"n = {row['n']}"] if row["n"] != seeds else []
    apart += [f"{row['diverged']} div."] if row["diverged"] else []
    return number(row["mean"], row["lo"], row["hi"]) + (f" ({', '.join(apart)})" if apart else "")


def _beside(found: pd.DataFrame, study: Study, whose: str) -> pd.DataFrame:
    """One row per algorithm of other authors, one column per environment with a result."""
    budgets = study.budgets
    cells = [
        row["result"]
        + ("" if row["steps"] == budgets[row["env"]] else f" (after {row['steps']} steps)")
        for row in found.to_dict("records")
    ]
    named = found.assign(cell=cells, arm=found["algorithm"] + f", {whose}")
    return wide(named, ["arm"], "env", "cell")


def _best(finals: pd.DataFrame) -> pd.Series:
    """Whether each arm beats all others in an environment, by simultaneous paired t intervals."""
    returns = finals.pivot(index="seed", columns="arm", values="return")
    best = {}
    for arm in returns:
        others = [other for other in returns if other != arm]
        confidence = 1 - (1 - CONFIDENCE) / max(1, len(others))
        pairs = [(returns[arm] - returns[other]).dropna() for other in others]
        above = (len(d) > 1 and t_interval(d, confidence).lo > 0 for d in pairs)
        best[arm] = bool(pairs) and all(above)
    return pd.Series(best)


def _nothing(frame: pd.DataFrame) -> pd.DataFrame:
    """A mask that marks no cell."""
    return pd.DataFrame(False, frame.index, frame.columns)


def _cells(found: pd.DataFrame) -> list[str]:
    return [number(*row) for row in found[["estimate", "lo", "hi"]].to_numpy()]


def _counted(n: pd.Series, noun: str) -> str:
    """A count or range of counts with its noun, e.g. "1 seed" or "2 to 3 seeds"."""
    low, high = int(n.min()), int(n.max())
    return f"{'' if low == high else f'{low} to '}{high} {noun}{'' if high == 1 else 's'}"


def _seeds(n: pd.Series, warning: str = "") -> str:
    few = f" (exploratory{warning})" if n.min() < EXPLORATORY else ""
    return f"n = {_counted(n, 'seed')}{few}"
