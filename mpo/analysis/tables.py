"""The tidy tables of a study: their units, how they are written and read back.

Tables: runs (one row per planned run), evals (per evaluation episode), train (per logging
interval), curves and scores (means over seeds with intervals, during training and at its end). Rows
follow the order of the study's plan.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mpo.provenance import commit
from mpo.study.checksums import OWN, Damaged, expected, intact, read_record, reading, sealed
from mpo.study.config import JobFailed
from mpo.study.files import TABLE_CHECKSUMS, TABLE_KINDS, replacing, write_json
from mpo.study.plan import Study

SCHEMA_VERSION = 4
"""Version of the tables; bump it whenever a column is new, or its name or meaning changes."""

CONFIDENCE = 0.95

_RETURN = "undiscounted sum of rewards"
_SCORE = "normalised score: 0 of a random policy, 1 of the reference"
_ESTIMATE = ("estimate", "lo", "hi")
_UNITS = {
    "env_step": "environment steps",
    "env_steps": "environment steps",
    "updates": "updates of the networks",
    "updates_per_s": "1/s",
    "wall_s": "s, the run's share of its process",
    "cost": "of training, as `unit` says",
    "eval_s": "s",
    "cpu_s": "s, the run's share of its process",
    "max_rss_mb": "MB, of the process",
    "stacked": "seeds trained in the process, on average",
    **dict.fromkeys(("q_bias", "q_spread", "q_return"), "discounted sum of rewards"),
    "q_states": "state-action pairs",
    "q_bootstrap": "mean weight of the critic's own value in the discounted return",
    "length": "environment steps",
    "episode_length": "environment steps",
    "n_min": "fewest in one environment",
    **dict.fromkeys(("return", "episode_return", "mean", "lo", "hi", "min", "max"), _RETURN),
    **dict.fromkeys(("random", "reference", "threshold", "area", "area_lo", "area_hi"), _RETURN),
    **dict.fromkeys(("expected", "held_out", "mean_across"), _RETURN),
    **dict.fromkeys(("median_steps", "median_lo", "median_hi"), "environment steps"),
    **dict.fromkeys(("score", "tau", "effect"), _SCORE),
    **dict.fromkeys(("improvement", "improvement_lo", "improvement_hi"), "probability"),
}
_UNITS_IN = {
    "aggregates": dict.fromkeys(_ESTIMATE, _SCORE),
    "sample_efficiency": dict.fromkeys(_ESTIMATE, _SCORE),
    "profiles": dict.fromkeys(_ESTIMATE, "share of the runs"),
    "improvements": dict.fromkeys(_ESTIMATE, "probability"),
    "effects": dict.fromkeys((*_ESTIMATE, "sd"), "as `unit` says"),
    "differences": {"difference": "as `unit` says"},
    "contrasts": dict.fromkeys((*_ESTIMATE, "sd"), _SCORE),
    "robustness": dict.fromkeys(_ESTIMATE, _SCORE),
    "power": {"sd": _SCORE, "seeds": "per environment"},
    "cost_ratios": dict.fromkeys(_ESTIMATE, "ratio of two costs"),
    "sensitivity": dict.fromkeys(("per_environment", "across", "index", "index_naive"), _SCORE),
    "unpaired": {"difference": _RETURN},
}
"""Units of a table's columns that differ from those in other tables."""

_SEALED = "has_checksum"
"""Metadata of a table whose checksum is recorded beside it; older versions recorded none."""

MADE_OF = re.compile("made of tables [0-9a-f]{64}")
"""What `made_of` returns, in a page."""

EVALUATION = ["run_id", "phase", "policy", "env_step"]
"""What tells evaluations apart."""


def seed_means(evals: pd.DataFrame) -> pd.DataFrame:
    """Averages the episodes of each run, since the unit of every statistic is a seed.

    Returns:
        One row per run_id x phase x policy x env_step, with the mean `return` and the number of
        `episodes`. Runs keep their order; within a run, rows are sorted.
    """
    order = pd.Categorical(evals["run_id"], categories=evals["run_id"].unique())
    groups = evals.assign(run_id=order).groupby(EVALUATION, observed=True)["return"]
    means = groups.agg(["mean", "count"]).reset_index()
    names = {"mean": "return", "count": "episodes"}
    return means.rename(columns=names).astype({"run_id": evals["run_id"].dtype})


def seed_returns(tables: Path, phase: str, policy: str = "mode") -> pd.DataFrame:
    """The return of each run's policy, at every step evaluated in `phase`.

    Args:
        tables: the directory of the tables.
        phase: online or final.
        policy: mode, the mean action, or sample, actions sampled from the policy.

    Returns:
        One row per run_id x env_step, with `env`, `arm` and `return`.
    """
    means = seed_means(read(tables, "evals"))
    shown = means[(means["phase"] == phase) & (means["policy"] == policy)]
    return shown.merge(read(tables, "runs")[["run_id", "env", "arm"]], on="run_id")


def units(name: str, columns: Iterable[str]) -> dict[str, str]:
    """The units of a table's columns, for those that have one."""
    known = _UNITS | _UNITS_IN.get(name, {})
    return {column: known[column] for column in columns if column in known}


def write(tables: Mapping[str, pd.DataFrame], directory: Path) -> None:
    """Writes each table as NAME.parquet (zstd) and NAME.csv.

    The parquet metadata record the schema version, the units and the commit that made the table.
    A hidden record beside the tables has the checksum of each file.
    """
    origin = commit()
    for name, frame in tables.items():
        table = pa.Table.from_pandas(frame, preserve_index=False)
        metadata = {"schema_version": str(SCHEMA_VERSION), "commit": origin, _SEALED: "yes"}
        metadata["units"] = json.dumps(units(name, frame.columns))
        described = table.replace_schema_metadata({**table.schema.metadata, **metadata})
        with replacing(directory / f"{name}.parquet") as path:
            pq.write_table(described, path, compression="zstd")
        # Arrow is fast, and writes each float in the shortest form that reads back exactly.
        with replacing(directory / f"{name}.csv") as path:
            pa.csv.write_csv(table, path)
    written = [directory / f"{name}.{kind}" for name in tables for kind in TABLE_KINDS]
    write_json(directory / TABLE_CHECKSUMS, sealed(_checksums(directory), written))


def read(directory: Path, name: str) -> pd.DataFrame:
    """Reads a table that `write` wrote.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it cannot be read, is not the one that was written, or has another schema version.
    """
    checksums = _checksums(directory)
    path = intact(directory / f"{name}.parquet", checksums)
    with reading(path):
        table = pq.ParquetFile(path).read()
        sealed_table = _SEALED.encode() in (table.schema.metadata or {})
        if sealed_table and (OWN not in checksums or expected(path, checksums) is None):
            raise Damaged(path, f"its checksum is missing in {TABLE_CHECKSUMS} beside it")
        version = (table.schema.metadata or {}).get(b"schema_version", b"none").decode()
        if version != str(SCHEMA_VERSION):
            text = f"expected schema_version {SCHEMA_VERSION}, received {version}"
            raise Damaged(path, text)
        return table.to_pandas()


def made_of(directory: Path) -> str:
    """Returns what a page says of the tables that it is made of: the checksum of their record."""
    return f"made of tables {_checksums(directory).get(OWN, 'of an older version')}"


def refuse_other_runs(study: Study, directory: Path) -> None:
    """Checks that the tables are those of a study.

    Raises:
        JobFailed: their runs are not the runs that the study plans.
        Damaged: see `read`.
    """
    found, planned = [*read(directory, "runs")["run_id"]], [run.run_id for run in study.runs]
    if found != planned:
        other = sorted({*found} ^ {*planned}) or found
        raise JobFailed(
            f"the tables in {directory} are not those of the plan, which differs in "
            f"{', '.join(other[:3])}{', ...' if len(other) > 3 else ''}; `mpo collect` makes them"
        )


def _checksums(directory: Path) -> dict[str, Any]:
    """The checksums of the tables; empty if an older version wrote them."""
    try:
        return read_record(directory / TABLE_CHECKSUMS)
    except FileNotFoundError:
        return {}
