"""Published returns of other algorithms, shown beside the study's own results."""

import csv
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from mpo.analysis.intervals import MINUS
from mpo.study.config import ConfigError, Count, Float, Section, explain
from mpo.study.plan import Study

Text = Annotated[str, Field(min_length=1)]


class Baseline(Section):
    """A published result: one row of `config/baselines.csv`; lo, hi and n may be empty."""

    env: Text
    algorithm: Text
    steps: Count
    """Environment steps of training."""
    mean: Float
    """Undiscounted return."""
    lo: Float | None
    """Lower bound of an interval of the mean; `source` says which interval. Needs `hi`."""
    hi: Float | None
    """Upper bound of that interval; needs `lo`."""
    n: Count | None
    """Number of training runs."""
    source: Text

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lo is self.hi is None:
            return self
        if self.lo is None or self.hi is None or not self.lo <= self.mean <= self.hi:
            received = f"{self.lo}, {self.mean}, {self.hi}"
            raise ValueError(f"expected lo <= mean <= hi, received {received}")
        return self


def read(study: Study, table: Path | None) -> pd.DataFrame:
    """Reads the baselines for a study's environments, in the order of the study, then the table.

    Args:
        study: the study.
        table: csv file with the fields of `Baseline` as columns; None for no baselines.

    Returns:
        One row per baseline, with the fields of `Baseline` as columns.

    Raises:
        ConfigError: an invalid row or column, or two rows with the same environment, algorithm and
            steps.
    """
    rows = []
    if table is not None:
        with table.open(newline="") as lines:
            rows = [{k: v or None for k, v in row.items()} for row in csv.DictReader(lines)]
    try:
        given = TypeAdapter(list[Baseline]).validate_python(rows)
    except ValidationError as error:
        raise ConfigError(f"{table}, rows numbered from 0:\n{explain(error)}") from None
    found: dict[tuple[str, str, int], Baseline] = {}
    for row in given:
        if found.setdefault((row.env, row.algorithm, row.steps), row) is not row:
            key = f"{row.env}, {row.algorithm}, {row.steps} steps"
            raise ConfigError(f"{table}: two rows for {key}")
    ours = [row for e in study.environments for row in given if row.env == e.id]
    columns = list(Baseline.model_fields)
    frame = pd.DataFrame([row.model_dump() for row in ours], columns=columns)
    return frame.astype(dict.fromkeys(("mean", "lo", "hi", "n"), float) | {"steps": int})


def in_words(baseline: Mapping[Hashable, Any]) -> str:
    """Formats a row's return, and its interval if it has one, with the digits of the table."""
    mean, lo, hi = (f"{baseline[key]:g}".replace("-", MINUS) for key in ("mean", "lo", "hi"))
    return mean if math.isnan(baseline["lo"]) else f"{mean} [{lo}, {hi}]"


def comparable(baselines: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Keeps, for each algorithm and environment, the row `nearest` to the study's budget."""
    budgets = {run.spec.env_id: run.total_steps for run in study.runs}
    parts = [nearest(baselines[baselines["env"] == env], n) for env, n in budgets.items()]
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
