"""Collects the runs of a study into tables, in the order of the study's plan."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mpo.analysis.intervals import Interval, t_interval
from mpo.analysis.runs import CLOCKS, DamagedRun, RunFiles, read_run
from mpo.analysis.tables import CONFIDENCE, EVALUATION, seed_means
from mpo.study.cells import Run
from mpo.study.checksums import Damaged
from mpo.study.config import JobFailed
from mpo.study.files import EVALUATIONS, TABLED
from mpo.study.labels import arm_label, flat
from mpo.study.plan import Study
from mpo.study.status import run_status

logger = logging.getLogger(__name__)

_EMPTY = pd.DataFrame({"run_id": "", "phase": "", "policy": "", "env_step": 0, "return": 0.0}, [])


class MissingRuns(JobFailed):
    """A planned run lacks files that the tables need."""


class DamagedRuns(JobFailed):
    """Files of planned runs cannot be used; the message names all of them."""

    def __init__(self, study: Study, errors: Mapping[str, str]) -> None:
        """Takes what is wrong with each run, by run id."""
        order = [run.run_id for run in study.runs if run.run_id in errors]
        self.errors = {run_id: errors[run_id] for run_id in order}
        hint = "cannot be used (`allow_missing: true` makes the tables without them)"
        count = f"the files of {len(errors)} of {len(study.runs)} runs {hint}:"
        lines = [f"{run_id}: {text}" for run_id, text in self.errors.items()]
        super().__init__("\n  ".join([count, *lines]))


def collect(study: Study, root: Path) -> dict[str, pd.DataFrame]:
    """Reads the directories of all planned runs below `root`.

    A diverged run counts with its last finite policy. A missing run has a row in `runs` only, and
    so has a damaged one, if the study allows missing runs. Rows of `curves` and `scores` give their
    number of runs, which may be 0.

    Args:
        study: the study's plan.
        root: the directory that contains `results/`.

    Returns:
        The tables runs, evals, train, curves (online evaluations of the mean action) and scores
        (final evaluations, mean and sampled action), by name.

    Raises:
        MissingRuns: planned runs are missing and the study does not allow it, or all are missing.
        DamagedRuns: the study does not allow missing runs, or no other is left, and a file of a run
            cannot be read or is not the one that its job wrote; or the run was trained with another
            spec than planned, its evaluations are not those planned, or a return is not finite.
    """
    plan = _plan(study)
    found, errors = _read_runs(study, root)
    evals, means = _planned_evaluations(study, root, plan, found, errors)
    if errors and not (study.allow_missing and found):
        raise DamagedRuns(study, errors)
    if not (study.allow_missing and found):
        _refuse_missing(study, root)
    for run_id, text in errors.items():
        logger.warning("%s is left out: %s", run_id, text)
    if older := sum(not files.checked for files in found.values()):
        text = "%d of %d runs have no checksums: their files were read unchecked"
        logger.info(text, older, len(found))
    if older := sum(files.facts["environment_version"] is None for files in found.values()):
        text = "%d of %d runs do not record their environment, so changes of it go unnoticed"
        logger.info(text, older, len(found))
    runs = pd.DataFrame([_run_row(study, run, root, found, errors) for run in study.runs])
    train = _stack({run_id: files.train for run_id, files in found.items()})
    # Seeds trained in one process share its clocks, so each gets an equal share of the time.
    shares = 1 / runs.set_index("run_id")["stacked"]
    clocks = [name for name in CLOCKS if name in train]
    train[clocks] = train[clocks].mul(train["run_id"].map(shares), axis=0)
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


def _read_runs(study: Study, root: Path) -> tuple[dict[str, RunFiles], dict[str, str]]:
    """Reads all runs that are there: their files, and what is wrong with others, by run id."""
    found, errors = {}, {}
    for run in study.runs:
        if not _lacking(run, root):
            try:
                found[run.run_id] = read_run(run, root)
            except DamagedRun as error:
                errors[run.run_id] = str(error)
    return found, errors


def _planned_evaluations(
    study: Study,
    root: Path,
    plan: pd.DataFrame,
    found: dict[str, RunFiles],
    errors: dict[str, str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All evaluation episodes and their `seed_means`, of runs that were evaluated as planned.

    Other runs go from `found` to `errors`.
    """
    evals = _stack({run_id: files.evals for run_id, files in found.items()})
    means = seed_means(evals)
    unplanned = _unplanned(plan[plan["run_id"].isin(list(found))], means)
    if not unplanned:
        return evals, means
    for run in study.runs:
        if run.run_id in unplanned:
            path = root / run.directory / EVALUATIONS
            errors[run.run_id] = str(Damaged(path, unplanned[run.run_id]))
            del found[run.run_id]
    return _planned_evaluations(study, root, plan, found, errors)


def _lacking(run: Run, root: Path) -> list[str]:
    directory = root / run.directory
    return [name for name in TABLED if not os.path.lexists(directory / name)]


def _refuse_missing(study: Study, root: Path) -> None:
    """Raises `MissingRuns` if there are any; lists the first ten and counts the rest."""
    problems = []
    for run in study.runs:
        if lacking := _lacking(run, root):
            problems.append(f"{run.run_id} ({run_status(run, root).status}): {', '.join(lacking)}")
    if problems:
        hint = "planned runs lack files (set `allow_missing: true` to make tables without them)"
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise MissingRuns("\n  ".join([f"{len(problems)} {hint}:", *problems[:10], *more]))


def _plan(study: Study) -> pd.DataFrame:
    """All planned evaluations: run_id, phase, policy, env_step and number of episodes."""
    parts = []
    for run in study.runs:
        steps = range(0, run.total_steps + 1, run.spec.snapshot_interval)
        rows = [("online", "mode", step, study.evaluation.online_episodes) for step in steps]
        final = run.total_steps, study.evaluation.final_episodes
        rows += [("final", policy, *final) for policy in ("mode", "sample")]
        part = pd.DataFrame(rows, columns=[*EVALUATION[1:], "episodes"])
        parts.append(part.assign(run_id=run.run_id))
    return pd.concat(parts, ignore_index=True)


def _unplanned(plan: pd.DataFrame, means: pd.DataFrame) -> dict[str, str]:
    """Evaluations that differ from the plan, so that runs would not have equal weight, by run id.

    These are unplanned or missing evaluations, other numbers of episodes, and non-finite returns.
    """
    both = plan.merge(means, on=EVALUATION, how="outer", suffixes=("", "_found"))
    bad = (both["episodes"] != both["episodes_found"]) | ~np.isfinite(both["return"])
    rows = both[bad].fillna({"episodes": 0, "episodes_found": 0})
    found = {}
    for run_id, own in rows.groupby("run_id", sort=False):
        first = own.iloc[0]
        more = f", and {len(own) - 1} more" if len(own) > 1 else ""
        found[str(run_id)] = (
            "its evaluations differ from the plan, or have a non-finite return: "
            f"{first['phase']}, {first['policy']}, step {first['env_step']}: planned "
            f"{first['episodes']:g} episodes, found {first['episodes_found']:g} with mean return "
            f"{first['return']:g}{more}"
        )
    return found


def _run_row(
    study: Study,
    run: Run,
    root: Path,
    found: Mapping[str, RunFiles],
    errors: Mapping[str, str],
) -> dict[str, Any]:
    row = {
        "run_id": run.run_id,
        "env": run.spec.env_name,
        "seed": run.spec.seed,
        "arm": arm_label(study, run.arm),
        **{name: flat(value) for name, value in run.arm.items()},
    }
    if run.run_id in errors:
        return row | {"status": "damaged", "error": errors[run.run_id]}
    if run.run_id in found:
        return row | found[run.run_id].facts
    status = run_status(run, root)
    return row | {"status": status.status, "error": status.error}


def _stack(parts: Mapping[str, pa.Table]) -> pd.DataFrame:
    """Concatenates a table of each run; columns that a run lacks are empty in its rows."""
    if not parts:
        return _EMPTY.copy()
    named = [
        part.add_column(0, "run_id", pa.repeat(run_id, part.num_rows))
        for run_id, part in parts.items()
    ]
    return pa.concat_tables(named, promote_options="permissive").to_pandas()


def _estimates(
    study: Study, runs: pd.DataFrame, plan: pd.DataFrame, means: pd.DataFrame
) -> pd.DataFrame:
    """The mean over seeds and its interval, for each phase x env x arm x policy x env_step."""
    # Runs are planned in the order env, arm, seed: every block of `size` runs is one cell.
    size = len(study.seeds)
    cells = runs[["env", "arm", *study.axis_values]].iloc[::size].reset_index(drop=True)
    number = pd.Series(np.arange(len(runs)) // size, index=runs["run_id"])
    cells["diverged"] = (runs["status"] == "diverged").groupby(number.to_numpy()).sum()
    found = plan.merge(means.drop(columns="episodes"), on=EVALUATION, how="left")
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
