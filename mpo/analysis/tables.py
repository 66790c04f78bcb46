"""Collects the runs of a study into tidy tables (`collect`), writes them and reads them back.

Tables: runs (one row per planned run), evals (per evaluation episode), train (per logging
interval), curves and scores (means over seeds with intervals, during training and at its end). Rows
follow the order of the study's plan.
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

from mpo.analysis.intervals import Interval, t_interval
from mpo.provenance import commit
from mpo.study.config import canonical_json
from mpo.study.files import EVALUATION_COST, EVALUATIONS, METRICS, RUN, TABLED, replacing
from mpo.study.plan import CORE_AXES, Run, Study
from mpo.study.status import run_status

SCHEMA_VERSION = 3
"""Version of the tables; bump it whenever a column's name or meaning changes."""

CONFIDENCE = 0.95

UNITS = {
    "env_step": "environment steps",
    "env_steps": "environment steps",
    "updates": "updates of the networks",
    "updates_per_s": "1/s",
    "wall_s": "s, the run's share of its process",
    "eval_s": "s",
    "cpu_s": "s, the run's share of its process",
    "max_rss_mb": "MB, of the process",
    "stacked": "seeds trained in the process, on average",
    "length": "environment steps",
    "episode_length": "environment steps",
    "return": "undiscounted sum of rewards",
    "episode_return": "undiscounted sum of rewards",
    **dict.fromkeys(("mean", "lo", "hi", "min", "max"), "undiscounted sum of rewards"),
}

_COUNTS = ("env_steps", "updates", "episodes")
_CLOCKS = ("wall_s", "cpu_s")
_COSTS = ("wall_s", "eval_s", "cpu_s", "max_rss_mb", "stacked")
_PROVENANCE = (
    *("git_sha", "git_dirty", "algorithm_version"),
    *("device", "device_name", "threads", "host", "cpu", "blas", "python"),
)
_PACKAGES = ("torch", "gymnasium", "mujoco", "dm_control", "numpy")
_EVALUATION = ["run_id", "phase", "policy", "env_step"]


class MissingRuns(RuntimeError):
    """A planned run lacks files that the tables need."""


def collect(study: Study, root: Path) -> dict[str, pd.DataFrame]:
    """Reads the directories of all planned runs below `root`.

    A diverged run counts with its last finite policy. A missing run has a row in `runs` only. Rows
    of `curves` and `scores` give their number of runs, which may be 0.

    Args:
        study: the study's plan.
        root: the directory that contains `results/`.

    Returns:
        The tables runs, evals, train, curves (online evaluations of the mean action) and scores
        (final evaluations, mean and sampled action), by name.

    Raises:
        MissingRuns: planned runs are missing and the study does not allow it, or all are missing.
        ValueError: a run was trained with another spec than planned, its evaluations are not those
            planned, or a return is not finite.
    """
    present = [run for run in study.runs if not _lacking(run, root)]
    if not (study.allow_missing and present):
        _refuse_missing(study, root)
    runs = pd.DataFrame([_run_row(study, run, root, run in present) for run in study.runs])
    evals, train = (_stack(present, root, name) for name in (EVALUATIONS, METRICS))
    # Seeds trained in one process share its clocks, so each gets an equal share of the time.
    shares = 1 / runs.set_index("run_id")["stacked"]
    clocks = [name for name in _CLOCKS if name in train]
    train[clocks] = train[clocks].mul(train["run_id"].map(shares), axis=0)
    means = seed_means(evals)
    plan = _plan(study)
    _refuse_unplanned(plan[plan["run_id"].isin([run.run_id for run in present])], means)
    estimates = _estimates(study, runs, plan, means)
    online = (estimates["phase"] == "online") & (estimates["policy"] == "mode")
    final = estimates["phase"] == "final"
    return {
        "runs": runs,
        "evals": evals,
        "train": train,
        "curves": estimates[online]
        .drop(columns=["phase", "policy", "min", "max"])
        .reset_index(drop=True),
        "scores": estimates[final].drop(columns="phase").reset_index(drop=True),
    }


def seed_means(evals: pd.DataFrame) -> pd.DataFrame:
    """Averages the episodes of each run, since the unit of every statistic is a seed.

    Returns:
        One row per run_id x phase x policy x env_step, with the mean `return` and the number of
        `episodes`. Runs keep their order; within a run, rows are sorted.
    """
    order = pd.Categorical(evals["run_id"], categories=evals["run_id"].unique())
    groups = evals.assign(run_id=order).groupby(_EVALUATION, observed=True)["return"]
    means = groups.agg(["mean", "count"]).reset_index()
    names = {"mean": "return", "count": "episodes"}
    return means.rename(columns=names).astype({"run_id": evals["run_id"].dtype})


def seed_returns(tables: Path, phase: str) -> pd.DataFrame:
    """The return of each run's mean-action policy, at every step evaluated in `phase`.

    Returns:
        One row per run_id x env_step, with `env`, `arm` and `return`.
    """
    means = seed_means(read(tables, "evals"))
    shown = means[(means["phase"] == phase) & (means["policy"] == "mode")]
    return shown.merge(read(tables, "runs")[["run_id", "env", "arm"]], on="run_id")


def arm_label(study: Study, arm: Mapping[str, Any]) -> str:
    """Names an arm by the axes that the study varies, e.g. "Retrace on, adam, gamma 0.95".

    The arm of a single-arm study is named by the core axes.
    """
    varied = [name for name, values in study.axis_values.items() if len(values) > 1]
    return ", ".join(words(name, arm[name]) for name in varied or CORE_AXES)


def write(tables: Mapping[str, pd.DataFrame], directory: Path) -> None:
    """Writes each table as NAME.parquet (zstd) and NAME.csv.

    The parquet metadata record the schema version, the units and the commit that made the table.
    """
    origin = commit()
    for name, frame in tables.items():
        table = pa.Table.from_pandas(frame, preserve_index=False)
        units = {column: UNITS[column] for column in frame.columns if column in UNITS}
        metadata = {"schema_version": str(SCHEMA_VERSION), "commit": origin}
        metadata["units"] = json.dumps(units)
        described = table.replace_schema_metadata({**table.schema.metadata, **metadata})
        with replacing(directory / f"{name}.parquet") as path:
            pq.write_table(described, path, compression="zstd")
        # Arrow is fast, and writes each float in the shortest form that reads back exactly.
        with replacing(directory / f"{name}.csv") as path:
            pa.csv.write_csv(table, path)


def read(directory: Path, name: str) -> pd.DataFrame:
    """Reads a table that `write` wrote.

    Raises:
        ValueError: the table has another schema version.
    """
    table = pq.ParquetFile(directory / f"{name}.parquet").read()
    version = (table.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ValueError(
            f"{directory / name}.parquet: expected schema_version {SCHEMA_VERSION}, "
            f"received {version}"
        )
    return table.to_pandas()


def words(name: str, value: Any) -> str:
    """Formats an axis value for labels, e.g. "Retrace on", "gamma 0.95"."""
    if name == "optimizer":
        return str(value)
    if isinstance(value, bool):
        text = "on" if value else "off"
    else:
        text = f"{value:.12g}" if isinstance(value, float) else str(flat(value)).lower()
    return f"{'Retrace' if name == 'retrace' else name.replace('_', ' ')} {text}"


def flat(value: Any) -> Any:
    """Converts an axis value for a table cell: a tuple becomes text such as 64x64."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


def _refuse(error: type[Exception], what: str, problems: Sequence[str]) -> None:
    """Raises `error` if there are problems; lists the first ten and counts the rest."""
    if problems:
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise error("\n  ".join([f"{len(problems)} {what}:", *problems[:10], *more]))


def _lacking(run: Run, root: Path) -> list[str]:
    return [name for name in TABLED if not (root / run.directory / name).is_file()]


def _refuse_missing(study: Study, root: Path) -> None:
    problems = []
    for run in study.runs:
        if lacking := _lacking(run, root):
            problems.append(f"{run.run_id} ({run_status(run, root).status}): {', '.join(lacking)}")
    hint = "planned runs lack files (set `allow_missing: true` to make tables without them)"
    _refuse(MissingRuns, hint, problems)


def _plan(study: Study) -> pd.DataFrame:
    """All planned evaluations: run_id, phase, policy, env_step and number of episodes."""
    parts = []
    for run in study.runs:
        steps = range(0, run.total_steps + 1, run.spec.snapshot_interval)
        rows = [("online", "mode", step, study.evaluation.online_episodes) for step in steps]
        final = run.total_steps, study.evaluation.final_episodes
        rows += [("final", policy, *final) for policy in ("mode", "sample")]
        part = pd.DataFrame(rows, columns=[*_EVALUATION[1:], "episodes"])
        parts.append(part.assign(run_id=run.run_id))
    return pd.concat(parts, ignore_index=True)


def _refuse_unplanned(plan: pd.DataFrame, means: pd.DataFrame) -> None:
    """Refuses evaluations that differ from the plan, so that all runs have equal weight.

    Raises:
        ValueError: an unplanned or missing evaluation, another number of episodes, or a non-finite
            return.
    """
    both = plan.merge(means, on=_EVALUATION, how="outer", suffixes=("", "_found"))
    bad = (both["episodes"] != both["episodes_found"]) | ~np.isfinite(both["return"])
    _refuse(
        ValueError,
        "evaluations differ from the plan, or have a non-finite return",
        [
            f"{r.run_id}: {r.phase}, {r.policy}, step {r.env_step}: planned {r.episodes:g} "
            f"episodes, found {r.episodes_found:g} with mean return {r['return']:g}"
            for r in both[bad].fillna({"episodes": 0, "episodes_found": 0}).to_records()
        ],
    )


def _run_row(study: Study, run: Run, root: Path, present: bool) -> dict[str, Any]:
    row = {
        "run_id": run.run_id,
        "env": run.spec.env_id,
        "seed": run.spec.seed,
        "arm": arm_label(study, run.arm),
        **{name: flat(value) for name, value in run.arm.items()},
    }
    if not present:
        found = run_status(run, root)
        return row | {"status": found.status, "error": found.error}
    directory = root / run.directory
    record = json.loads((directory / RUN).read_text())
    if canonical_json(record["spec"]) != run.spec.identity:
        raise ValueError(f"{run.run_id}: its results have another spec than the study plans")
    evaluation = json.loads((directory / EVALUATION_COST).read_text())
    provenance = record["provenance"]
    clocks = {name: record[name] / record["stacked"] for name in _CLOCKS}
    costs = record | evaluation | clocks
    return row | {
        "status": record["status"],
        "error": record["error"],
        **{name: record[name] for name in _COUNTS},
        "updates_per_s": record["updates"] / clocks["wall_s"],
        **{name: costs[name] for name in _COSTS},
        **{name: provenance[name] for name in _PROVENANCE},
        # Older runs did not record this.
        "compiled": provenance.get("compiled"),
        **{name: provenance["packages"].get(name) for name in _PACKAGES},
        "started": provenance["started"],
        "finished": provenance["finished"],
        "resumed": len(provenance["resumed"]),
    }


def _stack(runs: Sequence[Run], root: Path, name: str) -> pd.DataFrame:
    """Concatenates one file of every run; columns that a run lacks are empty in its rows."""
    parts = []
    for run in runs:
        part = pq.ParquetFile(root / run.directory / name).read().replace_schema_metadata()
        parts.append(part.add_column(0, "run_id", pa.repeat(run.run_id, part.num_rows)))
    return pa.concat_tables(parts, promote_options="permissive").to_pandas()


def _estimates(
    study: Study, runs: pd.DataFrame, plan: pd.DataFrame, means: pd.DataFrame
) -> pd.DataFrame:
    """The mean over seeds and its interval, for each phase x env x arm x policy x env_step."""
    # Runs are planned in the order env, arm, seed: every block of `size` runs is one cell.
    size = len(study.seeds)
    cells = runs[["env", "arm", *study.axis_values]].iloc[::size].reset_index(drop=True)
    number = pd.Series(np.arange(len(runs)) // size, index=runs["run_id"])
    cells["diverged"] = (runs["status"] == "diverged").groupby(number.to_numpy()).sum()
    found = plan.merge(means.drop(columns="episodes"), on=_EVALUATION, how="left")
    found["cell"] = found["run_id"].map(number)
    groups = found.groupby(["phase", "cell", "policy", "env_step"])
    intervals = [_interval(values.dropna()) for _, values in groups["return"]]
    estimates = groups["episodes"].first().reset_index().join(pd.DataFrame(intervals))
    estimates = estimates.assign(method="student-t", confidence=CONFIDENCE)
    for name in ("min", "max"):
        estimates[name] = groups["return"].agg(name).to_numpy()
    return cells.join(estimates.set_index("cell")).reset_index(drop=True)


def _interval(values: pd.Series) -> Interval:
    return t_interval(values, CONFIDENCE) if len(values) else Interval(0, *[np.nan] * 3)
