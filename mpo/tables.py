"""From the directories of a study's runs to tidy tables: `collect`, then `write`; `read` one back.

Tables: runs (one row a planned run), evals (an evaluation episode), train (a logging interval),
curves and scores (an interval of the mean over seeds). Rows follow the order of the study's plan.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mpo.config import canonical_json
from mpo.files import EVALUATION_COST, EVALUATIONS, METRICS, RUN, replacing
from mpo.stats import t_interval
from mpo.study import CORE_AXES, Run, Study

SCHEMA_VERSION = 1
"""Of the written tables: bump it with any change to a column's name or meaning."""

CONFIDENCE = 0.95

RUN_FILES = (RUN, METRICS, EVALUATIONS, EVALUATION_COST)
"""Of each run."""

UNITS = {
    "env_step": "environment steps",
    "env_steps": "environment steps",
    "updates": "updates of the networks",
    "updates_per_s": "1/s",
    "wall_s": "s",
    "eval_s": "s",
    "cpu_s": "s",
    "max_rss_mb": "MB",
    "length": "environment steps",
    "episode_length": "environment steps",
    "return": "undiscounted sum of rewards",
    "episode_return": "undiscounted sum of rewards",
    **dict.fromkeys(("mean", "lo", "hi", "min", "max"), "undiscounted sum of rewards"),
}

_COUNTS = ("env_steps", "updates", "episodes", "refused_transitions")
_COSTS = ("wall_s", "eval_s", "cpu_s", "max_rss_mb")
_PROVENANCE = (
    *("git_sha", "git_dirty", "algorithm_version"),
    *("device", "device_name", "threads", "host", "cpu", "python"),
)
_PACKAGES = ("torch", "gymnasium", "mujoco", "numpy")


class MissingRuns(RuntimeError):
    """A planned run has not left all its files."""


def collect(study: Study, root: Path) -> dict[str, pd.DataFrame]:
    """Reads every planned run's directory below `root`.

    Returns:
        The tables runs, evals, train, curves (online evaluations of the mode policy) and scores
        (final evaluations of either policy), by name.

    Raises:
        MissingRuns: a file of a planned run is missing.
        ValueError: a run has another spec than its plan, evaluations that differ from the other
            runs' in the same environment, or a return that is not finite.
    """
    _refuse_missing(study, root)
    runs = pd.DataFrame([_run_row(study, run, root) for run in study.runs])
    evals = _stack(study, root, EVALUATIONS)
    means = seed_means(evals)
    _refuse_uneven(study, runs, means)
    estimates = _estimates(study, runs, means)
    online = (estimates["phase"] == "online") & (estimates["policy"] == "mode")
    final = estimates["phase"] == "final"
    return {
        "runs": runs,
        "evals": evals,
        "train": _stack(study, root, METRICS),
        "curves": estimates[online]
        .drop(columns=["phase", "policy", "min", "max"])
        .reset_index(drop=True),
        "scores": estimates[final].drop(columns="phase").reset_index(drop=True),
    }


def seed_means(evals: pd.DataFrame) -> pd.DataFrame:
    """Averages the episodes of each run: the unit of every statistic is a seed.

    Returns:
        One row per run_id x phase x policy x env_step, with the mean `return` and the number of
        `episodes`; runs keep their order, the rest is sorted.
    """
    keys = ["run_id", "phase", "policy", "env_step"]
    order = pd.Categorical(evals["run_id"], categories=evals["run_id"].unique())
    groups = evals.assign(run_id=order).groupby(keys, observed=True)["return"]
    means = groups.agg(["mean", "count"]).reset_index()
    names = {"mean": "return", "count": "episodes"}
    return means.rename(columns=names).astype({"run_id": evals["run_id"].dtype})


def arm_label(study: Study, arm: Mapping[str, Any]) -> str:
    """An arm in words, e.g. "Retrace on, adam, gamma 0.95": its axes of more than one value.

    A study of a single arm is named by its core axes.
    """
    varied = [name for name, values in study.axis_values.items() if len(values) > 1]
    return ", ".join(_words(name, arm[name]) for name in varied or CORE_AXES)


def write(tables: Mapping[str, pd.DataFrame], directory: Path) -> None:
    """Writes each table as NAME.parquet (zstd; schema version and units in it) and NAME.csv."""
    for name, frame in tables.items():
        table = pa.Table.from_pandas(frame, preserve_index=False)
        units = {column: UNITS[column] for column in frame.columns if column in UNITS}
        metadata = {"schema_version": str(SCHEMA_VERSION), "units": json.dumps(units)}
        described = table.replace_schema_metadata({**table.schema.metadata, **metadata})
        with replacing(directory / f"{name}.parquet") as path:
            pq.write_table(described, path, compression="zstd")
        # By arrow, for it writes millions of floats a second, each in its shortest exact form.
        with replacing(directory / f"{name}.csv") as path:
            pa.csv.write_csv(table, path)


def read(directory: Path, name: str) -> pd.DataFrame:
    """Reads a table that `write` has written.

    Raises:
        ValueError: the table is of another schema version.
    """
    table = pq.ParquetFile(directory / f"{name}.parquet").read()
    version = (table.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ValueError(
            f"{directory / name}.parquet: this code reads schema_version {SCHEMA_VERSION}, "
            f"received {version}"
        )
    return table.to_pandas()


def _words(name: str, value: Any) -> str:
    """An axis value in words."""
    if name == "optimizer":
        return str(value)
    if isinstance(value, bool):
        text = "on" if value else "off"
    else:
        text = f"{value:.12g}" if isinstance(value, float) else str(flat(value)).lower()
    return f"{'Retrace' if name == 'retrace' else name.replace('_', ' ')} {text}"


def flat(value: Any) -> Any:
    """An axis value as a table can hold it: a tuple as text such as 64x64."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


def _refuse(error: type[Exception], what: str, problems: Sequence[str]) -> None:
    """Raises `error` where there are problems: names the first ten and counts the others."""
    if problems:
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise error("\n  ".join([f"{len(problems)} {what}:", *problems[:10], *more]))


def _refuse_missing(study: Study, root: Path) -> None:
    problems = []
    for run in study.runs:
        lacks = [name for name in RUN_FILES if not (root / run.directory / name).is_file()]
        if lacks:
            problems.append(f"{run.run_id}: {', '.join(lacks)}")
    _refuse(MissingRuns, "planned runs lack files", problems)


def _refuse_uneven(study: Study, runs: pd.DataFrame, means: pd.DataFrame) -> None:
    """Every run of an environment counts alike: the same steps, and the planned episodes."""
    planned = means["phase"].map(
        {"online": study.evaluation.online_episodes, "final": study.evaluation.final_episodes}
    )
    rows = means[(means["episodes"] != planned) | ~np.isfinite(means["return"])]
    _refuse(
        ValueError,
        "evaluations without the planned number of episodes, each of a finite return",
        [f"{r.run_id}: {r.phase}, {r.policy}, step {r.env_step}" for r in rows.itertuples()],
    )
    env = means["run_id"].map(runs.set_index("run_id")["env"])
    keys = ["env", "phase", "policy", "env_step"]
    counts = means.assign(env=env).groupby(keys).size().rename("n").reset_index()
    counts["planned"] = counts["env"].map(runs["env"].value_counts())
    rows = counts[counts["n"] != counts["planned"]]
    _refuse(
        ValueError,
        "evaluations that some runs of an environment lack",
        [
            f"{r.env}: {r.phase}, {r.policy}, step {r.env_step} in {r.n} of {r.planned} runs"
            for r in rows.itertuples()
        ],
    )


def _run_row(study: Study, run: Run, root: Path) -> dict[str, Any]:
    directory = root / run.directory
    record = json.loads((directory / RUN).read_text())
    if canonical_json(record["spec"]) != run.spec.identity:
        raise ValueError(f"{run.run_id}: its results are of another spec than the study plans")
    evaluation = json.loads((directory / EVALUATION_COST).read_text())
    provenance = record["provenance"]
    costs = record | evaluation
    return {
        "run_id": run.run_id,
        "env": run.spec.env_id,
        "seed": run.spec.seed,
        "arm": arm_label(study, run.arm),
        **{name: flat(value) for name, value in run.arm.items()},
        "status": record["status"],
        **{name: record[name] for name in _COUNTS},
        "updates_per_s": record["updates"] / record["wall_s"],
        **{name: costs[name] for name in _COSTS},
        **{name: provenance[name] for name in _PROVENANCE},
        **{name: provenance["packages"].get(name) for name in _PACKAGES},
        "started": provenance["started"],
        "finished": provenance["finished"],
    }


def _stack(study: Study, root: Path, name: str) -> pd.DataFrame:
    """One file of every run, below one another; a column that a run lacks is empty there."""
    parts = []
    for run in study.runs:
        part = pq.ParquetFile(root / run.directory / name).read().replace_schema_metadata()
        parts.append(part.add_column(0, "run_id", pa.repeat(run.run_id, part.num_rows)))
    return pa.concat_tables(parts, promote_options="permissive").to_pandas()


def _estimates(study: Study, runs: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """An interval of the mean over seeds per phase x env x arm x policy x env_step."""
    size = len(study.seeds)  # runs are planned by env, arm, seed: each block of this many is a cell
    cells = runs[["env", "arm", *study.axis_values]].iloc[::size].reset_index(drop=True)
    cell = means["run_id"].map(dict(zip(runs["run_id"], np.arange(len(runs)) // size, strict=True)))
    groups = means.assign(cell=cell).groupby(["phase", "cell", "policy", "env_step"])
    scores = groups["return"]
    intervals = [t_interval(values, CONFIDENCE) for _, values in scores]
    estimates = groups["episodes"].first().reset_index().join(pd.DataFrame(intervals))
    estimates = estimates.assign(method="student-t", confidence=CONFIDENCE)
    estimates["min"], estimates["max"] = scores.min().to_numpy(), scores.max().to_numpy()
    return cells.join(estimates.set_index("cell")).reset_index(drop=True)
