"""Published returns of other algorithms, for learning curves to be read against."""

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
    """One published number; a row of `config/baselines.csv`, where lo, hi and n may be empty."""

    env: Text
    algorithm: Text
    steps: Count
    """Environment steps it was trained for."""
    mean: Float
    """Undiscounted return."""
    lo: Float | None
    """Of an interval of the mean, both or none; whose and how wide, `source` says."""
    hi: Float | None
    n: Count | None
    """Training runs behind it."""
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
    """The baselines of a study's environments, in the order of the study and of the table.

    Args:
        study: names the environments.
        table: csv with the fields of `Baseline` as columns; without one there are no baselines.

    Returns:
        A row a baseline, with the fields of `Baseline` as columns.

    Raises:
        ConfigError: a row or a column that is no `Baseline`, or two rows of one environment,
            algorithm and steps.
    """
    rows = []
    if table is not None:
        with table.open(newline="") as lines:
            rows = [{k: v or None for k, v in row.items()} for row in csv.DictReader(lines)]
    try:
        given = TypeAdapter(list[Baseline]).validate_python(rows)
    except ValidationError as error:
        raise ConfigError(f"{table}, by number of row from 0:\n{explain(error)}") from None
    found: dict[tuple[str, str, int], Baseline] = {}
    for row in given:
        if found.setdefault((row.env, row.algorithm, row.steps), row) is not row:
            raise ConfigError(f"{table}: {row.env}, {row.algorithm}, {row.steps} steps, twice")
    ours = [row for e in study.environments for row in given if row.env == e.id]
    columns = list(Baseline.model_fields)
    frame = pd.DataFrame([row.model_dump() for row in ours], columns=columns)
    return frame.astype(dict.fromkeys(("mean", "lo", "hi", "n"), float) | {"steps": int})


def in_words(baseline: Mapping[Hashable, Any]) -> str:
    """The return of a row, with its interval where it has one, to the digits it was given in."""
    mean, lo, hi = (f"{baseline[key]:g}".replace("-", MINUS) for key in ("mean", "lo", "hi"))
    return mean if math.isnan(baseline["lo"]) else f"{mean} [{lo}, {hi}]"


def comparable(baselines: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Of each of a study's environments and algorithm, the row `nearest` to the budget there."""
    budgets = {run.spec.env_id: run.total_steps for run in study.runs}
    parts = [nearest(baselines[baselines["env"] == env], n) for env, n in budgets.items()]
    return pd.concat(parts, ignore_index=True)


def nearest(baselines: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Of each environment and algorithm, the row to compare with a training of `budget` steps.

    The one of most steps within the budget; where all took more, the one of fewest.
    """
    beyond = baselines["steps"] > budget
    distance = (baselines["steps"] - budget).abs()
    ranked = baselines.assign(beyond=beyond, distance=distance).sort_values(["beyond", "distance"])
    return baselines.loc[ranked.drop_duplicates(["env", "algorithm"]).index.sort_values()]
