"""Other people's scores beside the study's own, in the table of final scores and the summary."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mpo.analysis.baselines import comparable
from mpo.analysis.intervals import EXPLORATORY
from mpo.analysis.tables import read
from mpo.report.numbers import number
from mpo.report.typeset import NONE, inline
from mpo.study.plan import Study


def near_the_budget(study: Study, tables: Path) -> pd.DataFrame:
    """Their scores to compare with final scores, see `baselines.nearest`.

    Returns:
        One row per algorithm and environment, with the columns of the table others, the steps as
        `steps` and the `result`: mean, interval and n in words.
    """
    found = comparable(read(tables, "others").rename(columns={"env_step": "steps"}), study)
    cells = [
        f"{number(row['mean'], row['lo'], row['hi'])} (n = {row['n']})"
        for row in found.to_dict("records")
    ]
    return found.assign(result=cells)


def section(study: Study, tables: Path) -> list[str]:
    """The section that compares every arm with other people's runs; empty without any.

    Args:
        study: the study's plan.
        tables: the directory of its tables.
    """
    others, unpaired = read(tables, "others"), read(tables, "unpaired")
    if others.empty:
        return []
    files = others[["algorithm", "source", "notes"]].drop_duplicates().fillna("")
    parts = [
        "## Beside other people's runs",
        "**Unpaired, and from other implementations.** No seed is shared, and evaluation, action "
        "repeat or the version of the environment may differ: a difference need not be one of the "
        "algorithms. These comparisons are exploratory, and no part of the effects above.",
        "\n".join(
            f"- {inline(row.algorithm)}: {inline(row.source)}"
            + (f"; {inline(row.notes)}" if row.notes else "")
            for row in files.itertuples()
        ),
    ]
    compared = set(unpaired[["env", "algorithm"]].itertuples(index=False, name=None))
    pairs = others[["env", "algorithm"]].drop_duplicates().itertuples(index=False, name=None)
    alone = [
        f"{algorithm} in {env}" for env, algorithm in pairs if (env, algorithm) not in compared
    ]
    if alone:
        names = ", ".join(map(inline, alone))
        parts.append(f"Not compared, for want of a step that both were evaluated at: {names}.")
    return [*parts, *_comparisons(study, unpaired)]


def _comparisons(study: Study, unpaired: pd.DataFrame) -> list[str]:
    if unpaired.empty:
        return []
    rows = [_in_words(row) for row in unpaired.to_dict("records")]
    table = pd.DataFrame(rows).map(inline).to_markdown(index=False, disable_numparse=True)
    note = (
        "After the most steps that both were evaluated at. Difference: mean return of the arm "
        "minus that of the other runs, with Welch's 95 % t interval. P(higher): the probability "
        "that a run of the arm scores above one of the others, with a 95 % bootstrap interval of "
        f"{study.statistics.replicates} replicates; unknown without their single seeds. No "
        "interval is corrected for the number of comparisons."
    )
    return [table, note]


def _in_words(row: Mapping[Hashable, Any]) -> dict[str, str]:
    few = " (exploratory)" if min(row["n"], row["n_other"]) < EXPLORATORY else ""
    return {
        "environment": row["env"],
        "arm": row["arm"],
        "other runs": row["algorithm"],
        "steps": f"{row['env_step']}",
        "difference": number(row["difference"], row["lo"], row["hi"]),
        "P(higher)": _probability(row),
        "runs": f"{row['n']} and {row['n_other']}{few}",
    }


def _probability(row: Mapping[Hashable, Any]) -> str:
    estimate, lo, hi = (row[f"improvement{end}"] for end in ("", "_lo", "_hi"))
    if pd.isna(estimate):
        return NONE
    return f"{estimate:.2f}" + ("" if pd.isna(lo) else f" [{lo:.2f}, {hi:.2f}]")
