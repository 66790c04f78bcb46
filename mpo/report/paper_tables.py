"""The main tables of a study as a paper prints them, in LaTeX and in Markdown.

A function a table makes a `Table`, its cells in words, from which both forms are written. A cell
with an interval reads `estimate [lo, hi]`.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpo.analysis.baselines import comparable, in_words
from mpo.analysis.contrasts import POOLED, SUM
from mpo.analysis.intervals import EXPLORATORY, MINUS, t_interval
from mpo.analysis.tables import CONFIDENCE, read
from mpo.report.typeset import NONE, Table, latex, markdown
from mpo.study.files import TYPESET, replacing
from mpo.study.plan import Study
from mpo.study.status import FINISHED

_MISSING = "missing"
"""Stands for a cell without a finished run."""

_METRICS = {
    "iqm": "IQM",
    "mean": "Mean",
    "median": "Median",
    "optimality_gap": "Optimality gap",
}


def write(study: Study, tables: Path, outputs: Path) -> None:
    """Writes NAME.tex, to be included, and NAME.md for each name in `TYPESET`.

    A .tex file holds one table environment, or one for every page that the table takes. It needs
    the package booktabs; its label is tab:STUDY-NAME.

    Args:
        study: what was planned.
        tables: the directory of its tables.
        outputs: the directory to write into.
    """
    for name, make in zip(TYPESET, (final_scores, aggregates, effects, costs), strict=True):
        table = make(study, tables)
        forms = {"tex": latex(table, f"tab:{study.study}-{name}"), "md": markdown(table)}
        for suffix, text in forms.items():
            with replacing(outputs / f"{name}.{suffix}") as path:
                path.write_text(text)


def final_scores(study: Study, tables: Path) -> Table:
    """The final return of each arm in each environment, mean and Student's t interval.

    Below them, the published returns `nearest` to the study's budgets.
    """
    scores = read(tables, "scores").query("policy == 'mode'")
    seeds = scores.loc[scores["n"] > 0, "n"]
    cells = [_final(row, seeds.max()) for row in scores.to_dict("records")]
    frame = _wide(scores.assign(cell=cells), ["arm"], "env", "cell")
    finals = read(tables, "finals").groupby("env", sort=False)
    marked = pd.DataFrame({env: _best(rows) for env, rows in finals}).reindex_like(frame)
    differing = f", {seeds.max()} where a cell does not say" if seeds.nunique() > 1 else ""
    notes = [
        f"Return of the mean-action policy: mean over {_seeds(seeds)}{differing}, each the average "
        f"of {_counted(scores['episodes'], 'evaluation episode')}. In brackets, from two seeds on: "
        "its 95 % Student-t interval."
    ]
    if scores["diverged"].any():
        notes.append("div.: runs that diverged, counted with their last finite policy.")
    if (scores["n"] == 0).any():
        notes.append(f"{_MISSING.capitalize()}: no run has finished.")
    if len(frame) > 1 and seeds.max() > 1:
        rule = (
            "an arm whose paired difference (same seed) to every other arm in that environment has "
            "a t interval above zero, simultaneously at 95 % (Bonferroni over the other arms)"
        )
        notes.append(f"Bold: {rule}{'' if marked.any(axis=None) else '; there is none'}.")
    published = _published(comparable(read(tables, "baselines"), study), study)
    if len(published):
        notes.append("Published: of others, with sources in tables/baselines.")
        frame = pd.concat([frame, published.reindex(columns=frame.columns)]).fillna(NONE)
        marked = marked.reindex(frame.index, fill_value=False)
    caption = f"Final return after the whole budget, study {study.study}."
    return Table(frame, marked, caption, " ".join(notes))


def aggregates(study: Study, tables: Path) -> Table:
    """The aggregate scores of each arm over all environments, with bootstrap intervals.

    Nothing is marked: the intervals are each arm's own, and say nothing sure of a difference.
    """
    found, finals = read(tables, "aggregates"), read(tables, "finals")
    caption = f"Normalised final scores over all environments, study {study.study}."
    frame = pd.DataFrame(index=pd.Index(finals["arm"].unique(), name="arm"), columns=[*_METRICS])
    note = "No environment has a reference score and a finished run of every arm."
    if not found.empty:
        frame = _wide(found.assign(cell=_cells(found)), ["arm"], "metric", "cell").loc[frame.index]
        scored = finals.dropna(subset="score").groupby(["env", "arm"]).size()
        warning = ": so few seeds make these intervals too narrow"
        note = (
            "Score: 0 for a random policy, 1 for the reference. IQM: interquartile mean of the "
            "runs; median: of the environments' means; optimality gap: how far the runs fall short "
            "of 1, best when low. In brackets, from two seeds on: the 95 % stratified bootstrap "
            f"interval of {_counted(found['replicates'], 'replicate')}. Over "
            f"{_counted(found['environments'], 'environment')} and {_counted(found['n'], 'run')} "
            f"an arm, in an environment {_seeds(scored, warning)}."
        )
    frame = frame.fillna(NONE).rename(columns=_METRICS)
    return Table(frame, _nothing(frame), caption, note)


def effects(study: Study, tables: Path) -> Table:
    """What a level of each factor adds to its baseline, per environment and over all."""
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
        note = "No factor is varied, or no pair is complete."
        return Table(frame, _nothing(frame), caption, note)
    both = found.groupby(rows, sort=False)[["n", "correlation"]].first()
    frame = _wide(found, rows, "unit", "cell").reindex(columns=units, fill_value=NONE)
    frame = frame.fillna(NONE)
    frame["n"] = both["n"].astype(str)
    frame["r"] = both["correlation"].map(lambda r: NONE if math.isnan(r) else _digits(r, 2))
    sure = _wide(found, rows, "unit", "sure").reindex(columns=frame.columns).eq(True)
    single = found[found["env"] != POOLED]
    note = (
        "Mean difference between two levels of a factor at the same environment, seed and other "
        f"factors, over {_seeds(single['n'])}; in brackets, from two seeds on: its 95 % Student-t "
        "interval. Score: in units of the reference's return minus a random policy's. Pooled: "
        "environments weigh alike, Welch's t interval, n is summed. r: correlation of the two "
        "sides over seeds, near 0 where pairing gains nothing. Bold: the interval excludes zero, "
        f"each at 95 % by itself{'' if sure.any(axis=None) else '; there is none'}."
    )
    return Table(frame, sure, caption, note)


def costs(study: Study, tables: Path) -> Table:
    """What the runs of each arm in each environment took."""
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
    frame = pd.DataFrame({name: column.map(_number) for name, column in numbers.items()})
    pairs = zip(finished, planned, strict=True)
    frame.insert(0, "runs", [f"{n}" if n == of else f"{n} of {of}" for n, of in pairs])
    hours = (runs["wall_s"].sum() + runs["eval_s"].sum()) / 3600
    note = (
        "Means over the finished runs of a cell; of seeds trained in one process, each has its "
        "share of the time. Memory: the peak of any process; CPU: of the trainings, summed. Three "
        "significant digits. In all "
        f"{_number(hours)} hours of training and evaluation, one run after another."
    )
    return Table(frame, _nothing(frame), f"Costs of the runs, study {study.study}.", note)


def _final(row: Mapping[Hashable, Any], seeds: int) -> str:
    """A cell of the final scores, with what sets its runs apart from `seeds` sound ones."""
    if row["n"] == 0:
        return _MISSING
    apart = [f"n = {row['n']}"] if row["n"] != seeds else []
    apart += [f"{row['diverged']} div."] if row["diverged"] else []
    return _number(row["mean"], row["lo"], row["hi"]) + (f" ({', '.join(apart)})" if apart else "")


def _published(baselines: pd.DataFrame, study: Study) -> pd.DataFrame:
    """A row for each algorithm, a column for each environment of which there is a baseline."""
    budgets = {run.spec.env_id: run.total_steps for run in study.runs}
    cells = [
        in_words(row)
        + ("" if row["steps"] == budgets[row["env"]] else f" (after {row['steps']} steps)")
        for row in baselines.to_dict("records")
    ]
    found = baselines.assign(cell=cells, arm=baselines["algorithm"] + ", published")
    return _wide(found, ["arm"], "env", "cell")


def _best(finals: pd.DataFrame) -> pd.Series:
    """Whether each arm beats every other one in an environment, by its interval of each pair."""
    returns = finals.pivot(index="seed", columns="arm", values="return")
    best = {}
    for arm in returns:
        others = [other for other in returns if other != arm]
        confidence = 1 - (1 - CONFIDENCE) / max(1, len(others))
        pairs = [(returns[arm] - returns[other]).dropna() for other in others]
        above = (len(d) > 1 and t_interval(d, confidence).lo > 0 for d in pairs)
        best[arm] = bool(pairs) and all(above)
    return pd.Series(best)


def _wide(long: pd.DataFrame, rows: Sequence[str], column: str, value: str) -> pd.DataFrame:
    """Rows and columns in the order in which they come."""
    return long.set_index([*rows, column])[value].unstack(sort=False).rename_axis(columns=None)


def _nothing(frame: pd.DataFrame) -> pd.DataFrame:
    """Marks no cell."""
    return pd.DataFrame(False, frame.index, frame.columns)


def _cells(found: pd.DataFrame) -> list[str]:
    return [_number(*row) for row in found[["estimate", "lo", "hi"]].to_numpy()]


def _number(value: float, lo: float = math.nan, hi: float = math.nan) -> str:
    """A value and its bounds, to the decimal place of the second digit of half the interval.

    Six significant digits of the value at most; three where it has no interval.
    """
    if math.isnan(value):
        return NONE
    if math.isnan(lo):
        return _digits(value, _decimals(abs(value) / 10))
    decimals = _decimals(max((hi - lo) / 2, abs(value) / 10_000))
    return "{} [{}, {}]".format(*(_digits(x, decimals) for x in (value, lo, hi)))


def _decimals(x: float) -> int:
    """Decimal places of the second significant digit; below 0 for tens and more."""
    return 1 - int(f"{x:.1e}".partition("e")[2])


def _digits(x: float, decimals: int) -> str:
    return f"{round(x, decimals):z.{max(decimals, 0)}f}".replace("-", MINUS)


def _counted(n: pd.Series, noun: str) -> str:
    """How many, e.g. "1 seed" or "2 to 3 seeds"."""
    low, high = int(n.min()), int(n.max())
    return f"{'' if low == high else f'{low} to '}{high} {noun}{'' if high == 1 else 's'}"


def _seeds(n: pd.Series, warning: str = "") -> str:
    few = f" (exploratory{warning})" if n.min() < EXPLORATORY else ""
    return f"n = {_counted(n, 'seed')}{few}"
