"""The status of each run of a study, read from its files, during and after the workflow.

A run is planned, running, ok, diverged (also a result), failed, or timeout (the scheduler stopped
it, or its environment hung). Jobs may run on other machines that share the file system.
"""

import json
import socket
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from tabulate import tabulate

from mpo.study.files import RUN, RUN_FILES
from mpo.study.plan import Run, Study

STATUSES = ("planned", "running", "ok", "diverged", "failed", "timeout")

FINISHED = ("ok", "diverged")
"""Statuses of runs with results."""

UNFINISHED = ("failed", "timeout")
"""Statuses of runs that ended without results. They are tried again, unless the study allows
missing runs."""

_SILENCE_S = 120.0
"""Seconds without a heartbeat after which a job counts as dead; network file systems may show a
new heartbeat late."""

_LOG_LINES = 20
"""Number of log lines that `failures` shows per run."""


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


def run_status(run: Run, root: Path) -> RunStatus:
    """Returns a run's status; `root` is the directory that contains `results/`."""
    record = _read(root / run.directory / RUN)
    if record is not None and all((root / run.directory / name).exists() for name in RUN_FILES):
        return RunStatus(run, record["status"], record.get("error"))
    said = _read(root / run.status_file)
    if said is None or said["identity"] != run.spec.identity:
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
    facts = {name: said[name] for name in ("phase", "count", "total", "per_s")}
    return RunStatus(run, status, error, age_s=age, **facts)


def given_up(run: Run, root: Path) -> bool:
    """Returns whether a run has ended without results and is not running again."""
    return run_status(run, root).status in UNFINISHED


def overview(study: Study, root: Path) -> str:
    """Returns the study's status as text.

    One table counts the statuses in each cell. Two more list the running runs with their progress,
    and the diverged, failed and timed-out runs with the reason.
    """
    statuses = [run_status(run, root) for run in study.runs]
    parts = [_headline(study, statuses), _cells(statuses)]
    running = [s for s in statuses if s.status == "running"]
    if running:
        rows = [
            {
                "running": s.run.run_id,
                "phase": s.phase,
                "done": f"{s.count}/{s.total}",
                "1/s": f"{s.per_s:.1f}",
                "ETA": _eta(s),
                "heartbeat": f"{s.age_s:.0f} s ago",
            }
            for s in running
        ]
        parts.append(tabulate(rows, headers="keys"))
    troubled = [s for s in statuses if s.status in ("diverged", *UNFINISHED)]
    if troubled:
        rows = [
            {"in trouble": s.run.run_id, "status": s.status, "why": _last_line(s.error)}
            for s in troubled
        ]
        parts.append(tabulate(rows, headers="keys"))
    return "\n\n".join(parts)


def failures(study: Study, root: Path) -> str:
    """Returns a Markdown page on the diverged, failed and timed-out runs.

    Each is shown with its error and the last lines of its log.
    """
    statuses = [run_status(run, root) for run in study.runs]
    parts = [f"# Failures of study `{study.study}`", _headline(study, statuses)]
    if any(s.status in UNFINISHED for s in statuses):
        parts.append(
            "The same `snakemake` command retries failed runs from their last checkpoint. Set "
            "`allow_missing: true` in the config, or pass `--config allow_missing=true`, to build "
            "the tables without them."
        )
    for s in statuses:
        if s.status not in ("diverged", *UNFINISHED):
            continue
        parts += [f"## {s.run.run_id}: {s.status}", f"{s.error}"]
        log = s.run.log(s.phase or "train")
        if (root / log).exists():
            lines = (root / log).read_text(errors="replace").splitlines()[-_LOG_LINES:]
            parts += [f"Last lines of `{log}`:", "\n".join(["```", *lines, "```"])]
    return "\n\n".join(parts) + "\n"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def _alive(said: dict[str, Any], age_s: float) -> bool:
    if age_s > _SILENCE_S:
        return False
    if said["host"] != socket.gethostname():
        return True
    try:
        return psutil.Process(said["pid"]).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _headline(study: Study, statuses: list[RunStatus]) -> str:
    counts = Counter(s.status for s in statuses)
    words = ", ".join(f"{counts[name]} {name}" for name in STATUSES if counts[name])
    runs = "1 run" if len(statuses) == 1 else f"{len(statuses)} runs"
    return f"{runs} of study {study.study}: {words}."


def _cells(statuses: list[RunStatus]) -> str:
    cells: dict[tuple[str, str], Counter[str]] = {}
    for s in statuses:
        cells.setdefault((s.run.spec.env_id, s.run.variant), Counter())[s.status] += 1
    rows = [
        {"environment": env, "variant": variant, **{n: counts[n] or "" for n in STATUSES}}
        for (env, variant), counts in cells.items()
    ]
    return tabulate(rows, headers="keys")


def _eta(s: RunStatus) -> str:
    if s.per_s <= 0:
        return ""
    return str(timedelta(seconds=round((s.total - s.count) / s.per_s)))


def _last_line(error: str | None) -> str:
    return error.splitlines()[-1] if error else ""
