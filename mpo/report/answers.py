"""The section of a study's summary that answers: primary contrasts first, then all others."""

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mpo.analysis.contrasts import POOLED, SUM, seeds_needed
from mpo.analysis.intervals import EXPLORATORY, MINUS
from mpo.analysis.tables import read
from mpo.report import paper_tables, tuning
from mpo.report.numbers import places
from mpo.report.timing import how_timed
from mpo.report.typeset import inline, markdown
from mpo.study.plan import Study
from mpo.study.words import plural

_DETECTED = 0.1
_LEVEL = 0.05
_UNPAIRED = "no environment with a score for every arm has a seed with a complete pair"

_Row = Mapping[Hashable, Any]


def section(study: Study, tables: Path) -> list[str]:
    """Says what was found: a sentence on each pooled effect and cost, then the table of effects.

    Args:
        study: the study's plan.
        tables: the directory of its tables.
    """
    effects, references = read(tables, "effects"), read(tables, "references")
    unknown = references.loc[references["reference"].isna(), "env"].tolist()
    notes = [f"Not pooled, since they have no reference score: {', '.join(unknown)}."]
    if study.contrasts:
        parts = _named_before(study, effects, read(tables, "contrasts"))
    else:
        parts = _all_exploratory(study, effects)
    table = markdown(paper_tables.effects(study, tables)).rstrip()
    parts += [*(notes if unknown else []), table, *_elsewhere(study, tables)]
    return ["## Answers", *parts, *_costs(tables)]


def _named_before(study: Study, effects: pd.DataFrame, contrasts: pd.DataFrame) -> list[str]:
    """The primary contrasts, then the other effects: none is told twice, in either direction."""
    named = contrasts.to_dict("records")
    told = {(row["factor"], *sorted((row["level"], row["against"]))) for row in named}
    others = [
        row
        for row in effects[effects["env"] == POOLED].to_dict("records")
        if (row["factor"], *sorted((row["level"], row["against"]))) not in told
    ]
    parts = ["Primary contrasts, named in the study's config:", _list(study, named)]
    return [*parts, "Exploratory:", _list(study, others)] if others else parts


def _all_exploratory(study: Study, effects: pd.DataFrame) -> list[str]:
    if not study.varied:
        return ["No factor is varied."]
    pooled = effects[effects["env"] == POOLED].to_dict("records")
    none = f"No effect can be pooled: {_UNPAIRED}."
    text = "No contrast was named before the study, so all effects below are exploratory."
    return [text, _list(study, pooled) or none]


def _elsewhere(study: Study, tables: Path) -> list[str]:
    """The effects with sampled actions and at each level of the other factors; empty without."""
    if read(tables, "robustness").empty:
        return []
    return [markdown(paper_tables.robustness(study, tables)).rstrip()]


def _costs(tables: Path) -> list[str]:
    """Says what each level of a factor costs; empty if none is varied."""
    found = read(tables, "cost_ratios").query("env == @POOLED").to_dict("records")
    if not found:
        return []
    unit = found[0]["unit"]
    lines = "\n".join(f"- {_cost(row)}" for row in found)
    start = f"Cost: what an environment step takes in {unit}, as a ratio at equal steps."
    return [start, lines, inline(how_timed(read(tables, "runs")))]


def _cost(row: _Row) -> str:
    """A sentence on the cost of a level, as a multiple of that of another one."""
    times = f"**{row['level']} / {row['against']}**: {row['estimate']:.2f} times"
    data = f"{plural(int(row['environments']), 'environment')}, {plural(int(row['n']), 'timing')}"
    if math.isnan(row["lo"]):
        return (
            f"{times}, over {data}: no interval, since some arm was timed once only. Seeds trained "
            "in one process are one timing."
        )
    few = row["n_min"] < EXPLORATORY
    bounds = f"[{row['lo']:.2f}, {row['hi']:.2f}]"
    return f"{times} {bounds}, over {data} in all{' (exploratory)' if few else ''}."


def _list(study: Study, rows: list[dict[Hashable, Any]]) -> str:
    return "\n".join(f"- {_sentence(study, row)}" for row in rows)


def _sentence(study: Study, row: _Row) -> str:
    """A sentence on a pooled effect: size, interval, data, verdict and the seeds needed."""
    sign = ", beyond" if row["against"] == SUM else f" {MINUS}"
    name = f"**{row['level']}{sign} {row['against']}{tuning.how_tuned(study, str(row['factor']))}**"
    if not row["environments"]:
        return f"{name}: no estimate, since {_UNPAIRED}."
    n, fewest, environments = int(row["n"]), int(row["n_min"]), int(row["environments"])
    words = plural(fewest, "seed")
    seeds = f"{words} each" if n == fewest * environments else f"{words} or more each, {n} in all"
    pool = f"pooled over {plural(environments, 'environment')}, {seeds}"
    shown = places(row["lo"], row["hi"])
    start = f"{name}: {row['estimate']:+z.{shown}f}"
    if math.isnan(row["lo"]):
        return f"{start} in normalised score, {pool}: no interval, so no conclusion."
    exploratory = " (exploratory)" if fewest < EXPLORATORY else ""
    return (
        f"{start} [{row['lo']:z.{shown}f}, {row['hi']:z.{shown}f}] in normalised score"
        f"{_p_values(row)}, {pool}"
        f"{exploratory}: {_verdict(row)}.{_needed(row)}"
    )


def _p_values(row: _Row) -> str:
    if "p" not in row:
        return ""
    return f", p {_p_value(row['p'])}, Holm-adjusted p {_p_value(row['p_holm'])}"


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _verdict(row: _Row) -> str:
    """Which way an effect goes; without one that is shown, how large it may still be.

    A primary contrast is judged by its adjusted p-value, any other effect by its interval alone.
    """
    side = "lower" if row["hi"] < 0 else "higher" if row["lo"] > 0 else None
    if side and row.get("p_holm", 0) < _LEVEL:
        return side
    adjusted = " after Holm's adjustment" if side else ""
    lo, hi = (f"{row[bound]:+z.{places(row['lo'], row['hi'])}f}" for bound in ("lo", "hi"))
    return f"no effect shown{adjusted}; the interval excludes effects below {lo} and above {hi}"


def _needed(row: _Row) -> str:
    """The seeds that a usual effect would need; equal differences say nothing of their spread."""
    if not row["sd"] > 0:
        return ""
    seeds = seeds_needed(row, (_DETECTED,))[_DETECTED]
    if seeds is None:
        return ""
    return (
        f" Detecting an effect of {_DETECTED} with 80 % power would need {seeds} seeds per "
        "environment."
    )
