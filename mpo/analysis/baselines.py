"""Published returns of other algorithms, shown beside the study's own results."""

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mpo.analysis.intervals import MINUS
from mpo.study import user_tables
from mpo.study.plan import Study
from mpo.study.user_tables import Baseline


def read(study: Study, table: Path | None) -> pd.DataFrame:
    """Reads the baselines for a study's environments, in the order of the study, then the table.

    Args:
        study: the study.
        table: csv file with the fields of `Baseline` as columns; None for no baselines.

    Returns:
        One row per baseline, with the fields of `Baseline` as columns.

    Raises:
        ConfigError: see `user_tables.baselines`.
    """
    given = [] if table is None else user_tables.baselines(table)
    ours = [row for e in study.environments for row in given if row.env == e.name]
    columns = list(Baseline.model_fields)
    frame = pd.DataFrame([row.model_dump() for row in ours], columns=columns)
    return frame.astype(dict.fromkeys(("mean", "lo", "hi", "n"), float) | {"steps": int})


def in_words(baseline: Mapping[Hashable, Any]) -> str:
    """Formats a row's return, and its interval if it has one, with the digits of the table."""
    mean, lo, hi = (f"{baseline[key]:g}".replace("-", MINUS) for key in ("mean", "lo", "hi"))
    return mean if math.isnan(baseline["lo"]) else f"{mean} [{lo}, {hi}]"


def comparable(baselines: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Keeps, for each algorithm and environment, the row `nearest` to the study's budget."""
    parts = [nearest(baselines[baselines["env"] == env], n) for env, n in study.budgets.items()]
    return pd.concat(parts, ignore_index=True)


def nearest(baselines: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Keeps, for each algorithm and environment, the row to compare with `budget` training steps.

    This is the row with the most steps within the budget. If all rows exceed the budget, it is the
    row with the fewest steps.
    """
    beyond = baselines["steps"] > budget
    distance = (baselines["steps"] - budget).abs()
    ranked = baselines.assign(beyond=beyond, distance=distance).sort_values(["beyond", "distance"])
    return baselines.loc[ranked.drop_duplicates(["env", "algorithm"]).index.sort_values()]
