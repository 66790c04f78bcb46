"""The status of each run of a study, read from its files, during and after the workflow.

A run is planned, running, ok, diverged (also a result), failed, timeout (the scheduler stopped it,
or its environment hung), or damaged (a file cannot be read, or is not the one that its job wrote).
Jobs may run on other machines that share the file system.
"""

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from mpo.study.cells import Run
from mpo.study.checksums import (
    Damaged,
    check_size,
    read_evaluation,
    read_object,
    read_record,
    reading,
)
from mpo.study.files import (
    DAMAGE,
    EVALUATIONS,
    METRICS,
    POLICIES,
    RUN,
    RUN_FILES,
    is_finished,
    write_json,
)
from mpo.study.plan import Study

STATUSES = ("planned", "running", "ok", "diverged", "failed", "timeout", "damaged")

FINISHED = ("ok", "diverged")
"""Statuses of runs with results."""

UNFINISHED = ("failed", "timeout")
"""Statuses of runs that ended without results. They are tried again, unless the study allows
missing runs."""

_SILENCE_S = 120.0
"""Seconds without a heartbeat after which a job counts as dead; network file systems may show a
new heartbeat late."""


@dataclass(frozen=True)
class RunStatus:
    """The status of one run."""

    run: Run
    status: str
    """One of `STATUSES`."""
    error: str | None = None
    """What went wrong, in one or a few lines."""
    phase: str | None = None
    """The job that reported last: train or evaluate."""
    count: int = 0
    """Progress: environment steps in training, episodes in evaluation."""
    total: int = 0
    """The value of `count` at the end."""
    per_s: float = 0.0
    """Progress per second."""
    age_s: float | None = None
    """Seconds since the last heartbeat."""
    process: tuple[str, int] | None = None
    """Host and process id of that job; seeds that are trained together share it."""


def run_status(run: Run, root: Path) -> RunStatus:
    """Returns a run's status; `root` is the directory that contains `results/`.

    It reads the records of a finished run and the sizes of its files, but not the files.
    """
    try:
        return _finished(run, root) or _reported(run, root)
    except (Damaged, OSError) as error:
        return RunStatus(run, "damaged", str(error))


def statuses(study: Study, root: Path) -> list[RunStatus]:
    """Returns the status of each run, in the order of the plan.

    `root` is the directory that contains `results/`. `collect` may have found more damage than
    `run_status` sees.
    """
    noted = noted_damage(study, root)
    found = [run_status(run, root) for run in study.runs]
    return [
        replace(s, status="damaged", error=noted[s.run.run_id])
        if s.status in FINISHED and s.run.run_id in noted
        else s
        for s in found
    ]


def given_up(run: Run, root: Path) -> bool:
    """Returns whether a run has ended without results and is not running again."""
    if is_finished(root / run.directory):
        return False
    return run_status(run, root).status in UNFINISHED


def write_damage(study: Study, root: Path, errors: Mapping[str, str]) -> None:
    """Notes the runs whose files `collect` could not use, which `run_status` may not see.

    Args:
        study: the study.
        root: the directory that contains `results/`.
        errors: what is wrong, by run id; empty to delete the note.
    """
    path = root / _note(study)
    if errors:
        write_json(path, errors)
    else:
        path.unlink(missing_ok=True)


def noted_damage(study: Study, root: Path) -> dict[str, str]:
    """Returns what `write_damage` noted, by run id, of runs whose files are still the same."""
    note = root / _note(study)
    try:
        errors, noted = read_object(note), note.stat().st_mtime_ns
    except (Damaged, OSError):
        return {}
    return {
        run.run_id: str(errors[run.run_id])
        for run in study.runs
        if run.run_id in errors and _last_change(root / run.directory) <= noted
    }


def _note(study: Study) -> Path:
    return Path("results", study.study, DAMAGE)


def _last_change(directory: Path) -> int:
    """When a file of a run was last written, in nanoseconds; lost files do not count."""
    paths = [directory / name for name in RUN_FILES]
    return max((path.stat().st_mtime_ns for path in paths if path.exists()), default=0)


def _finished(run: Run, root: Path) -> RunStatus | None:
    """The status of a run with results; None if it has none."""
    directory = root / run.directory
    if not (directory / RUN).exists():
        return None
    record = read_record(directory / RUN)
    if not is_finished(directory):
        return None
    check_size(directory / METRICS, record)
    if (directory / POLICIES).exists():
        check_size(directory / POLICIES, record)
    check_size(directory / EVALUATIONS, read_evaluation(directory, record))
    if record.get("status") not in FINISHED:
        raise Damaged(directory / RUN, "it is not the record of a training")
    return RunStatus(run, record["status"], record.get("error"))


def _reported(run: Run, root: Path) -> RunStatus:
    """The status of a run without results, as its jobs reported it."""
    path = root / run.status_file
    with reading(path):
        try:
            said = read_object(path)
        except FileNotFoundError:
            return RunStatus(run, "planned")
        if said["identity"] != run.spec.identity:
            return RunStatus(run, "planned")
        age = time.time() - said["heartbeat"]
        status, error = said["status"], said["error"]
        if status == "running" and not _alive(said, age):
            status = "failed"
            error = (
                f"the job on {said['host']} ended without reporting an error, last heartbeat "
                f"{age:.0f} s ago; it may have been killed"
            )
        if status == "ok":
            status = "planned"  # trained but not yet evaluated
        return RunStatus(
            run,
            STATUSES[STATUSES.index(status)],  # an unknown one: the file is damaged
            None if error is None else str(error),
            phase=str(said["phase"]),
            count=int(said["count"]),
            total=int(said["total"]),
            per_s=float(said["per_s"]),
            age_s=age,
            process=(str(said["host"]), int(said["pid"])),
        )


def _alive(said: dict[str, Any], age_s: float) -> bool:
    if age_s > _SILENCE_S:
        return False
    if said["host"] != socket.gethostname():
        return True
    try:
        return psutil.Process(said["pid"]).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
