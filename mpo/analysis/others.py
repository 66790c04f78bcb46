"""Other people's scores beside the study's own: the tables others and unpaired.

`others` has their means over seeds at each step. `unpaired` compares every arm with each of their
algorithms. The runs are of other implementations and share no seed with the study's.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mpo.analysis.aggregates import probability_of_improvement
from mpo.analysis.intervals import Interval, t_interval, t_interval_of, welch_interval
from mpo.analysis.tables import CONFIDENCE, seed_returns
from mpo.study.config import ConfigError
from mpo.study.other_scores import Row, of_csv, refuse_missing_columns, refuse_shared, rows_of
from mpo.study.others import Others
from mpo.study.plan import Study

_KEY = ("algorithm", "env", "env_step")

_OTHERS = (*_KEY, "mean", "lo", "hi", "n", "source", "notes")
_UNPAIRED = (
    *("env", "arm", "algorithm", "env_step", "difference", "lo", "hi", "method", "n", "n_other"),
    *("improvement", "improvement_lo", "improvement_hi", "replicates"),
)
_NUMBERS = ("mean", "difference", "lo", "hi", "improvement", "improvement_lo", "improvement_hi")


class _Point(NamedTuple):
    """The scores of an algorithm in an environment after some steps."""

    interval: Interval
    seeds: Sequence[float]
    """Return of each seed; empty if only their mean is known."""


def compute(study: Study, tables: Path) -> dict[str, pd.DataFrame]:
    """Computes both tables, by name; they are empty if the study names no file.

    Args:
        study: the study's plan; its `statistics` set the seed and the replicates of the bootstrap.
        tables: the directory of the tables of its runs.

    Raises:
        ConfigError: see `mpo.study.other_scores.rows_of`.
        Damaged: see `tables.read`.
    """
    names = [environment.name for environment in study.environments]
    files = [(others, _read(others, names)) for others in study.others]
    refuse_shared(files)
    points: dict[tuple[str, str, int], _Point] = {}
    described = []
    for others, rows in files:
        order = sorted(
            rows, key=lambda row: (row["algorithm"], names.index(row["env"]), row["env_step"])
        )
        for key, group in groupby(order, key=lambda row: tuple(row[name] for name in _KEY)):
            points[key] = point = _point([*group])
            row = dict(zip(_KEY, key, strict=True)) | point.interval._asdict()
            described.append(row | {"source": others.source, "notes": others.notes})
    return {
        "others": _frame(described, _OTHERS),
        "unpaired": _frame(_comparisons(study, tables, points), _UNPAIRED),
    }


def _frame(
    rows: Sequence[Mapping[str, Any]] | Iterator[dict[str, Any]], columns: Sequence[str]
) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=list(columns))
    return frame.astype({name: float for name in _NUMBERS if name in columns})


def _read(others: Others, environments: Sequence[str]) -> list[Row]:
    """Reads a file.

    Raises:
        ConfigError: see `mpo.study.other_scores.rows_of`, or the file cannot be read.
    """
    if others.path.endswith(".csv"):
        return of_csv(others, environments)
    try:
        file = pq.ParquetFile(others.path)
        refuse_missing_columns(others, file.schema_arrow.names)
        rows = file.read(columns=[*others.columns.values()]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{others.path} cannot be read: {reason}") from None
    table = ((f"{others.path}, row {index}", row) for index, row in enumerate(rows, 1))
    return rows_of(others, table, environments)


def _point(rows: Sequence[Row]) -> _Point:
    """Summarises the rows of one point: those of its seeds, or one with their mean."""
    first = rows[0]
    if "return" in first:
        seeds = [row["return"] for row in rows]
        return _Point(t_interval(seeds, CONFIDENCE), seeds)
    n, mean = int(first["n"]), first["mean"]
    if "sd" in first:
        return _Point(t_interval_of(n, mean, first["sd"], CONFIDENCE), ())
    half = first.get("half_width", np.nan)
    return _Point(Interval(n, mean, first.get("lo", mean - half), first.get("hi", mean + half)), ())


def _comparisons(
    study: Study, tables: Path, points: Mapping[tuple[str, str, int], _Point]
) -> Iterator[dict[str, Any]]:
    """Each arm against each algorithm, after the most steps that both have been evaluated at."""
    if not points:
        return
    rng = np.random.default_rng(study.statistics.seed)
    ours = _returns(tables)
    algorithms = list(dict.fromkeys((env, algorithm) for algorithm, env, _ in points))
    for (env, arm), runs in ours.groupby(["env", "arm"], sort=False):
        steps = set(runs["env_step"]) - {0}
        for _, algorithm in (pair for pair in algorithms if pair[0] == env):
            common = [step for step in steps if (algorithm, env, step) in points]
            if common:
                step = max(common)
                own = runs.loc[runs["env_step"] == step, "return"].to_numpy()
                row = {"env": env, "arm": arm, "algorithm": algorithm, "env_step": step}
                yield row | _compared(study, own, points[algorithm, str(env), step], rng)


def _returns(tables: Path) -> pd.DataFrame:
    """The return of each run at every step; at the last one that of the final evaluation."""
    found = pd.concat([seed_returns(tables, phase) for phase in ("online", "final")])
    return found.drop_duplicates(["run_id", "env_step"], keep="last")


def _compared(
    study: Study, own: np.ndarray, other: _Point, rng: np.random.Generator
) -> dict[str, Any]:
    difference = welch_interval(t_interval(own, CONFIDENCE), other.interval, CONFIDENCE)
    row = {
        "difference": difference.mean,
        "lo": difference.lo,
        "hi": difference.hi,
        "method": "welch-t",
        "n": len(own),
        "n_other": other.interval.n,
    }
    if not len(other.seeds):
        return row
    replicates = study.statistics.replicates
    found = probability_of_improvement([own], [other.seeds], rng, replicates)
    row |= {"improvement": found.estimate, "replicates": replicates}
    return row | {"improvement_lo": found.lo, "improvement_hi": found.hi}
