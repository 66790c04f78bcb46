"""What `python -m mpo status` prints, and the page about runs in trouble."""

import math
import os
import re
from collections import Counter
from datetime import timedelta
from pathlib import Path

from tabulate import tabulate

from mpo.study.plan import Study
from mpo.study.remaining import costs, estimate, work_left
from mpo.study.status import STATUSES, UNFINISHED, RunStatus, statuses

_TROUBLED = ("diverged", *UNFINISHED, "damaged")

_LOG_LINES = 20
"""Number of log lines that `failures` shows per run."""


def overview(study: Study, root: Path, stage: Study | None = None) -> str:
    """Returns the study's status as text.

    One table counts the statuses in each cell. Two more list the running runs with their progress,
    and the diverged, failed, timed-out and damaged runs with the reason. What is left, and what it
    will cost, is said at the end.

    Args:
        study: the study.
        root: the directory that contains `results/`.
        stage: the study that tunes its arms, if they are tuned; what is left there counts, too.
    """
    found = statuses(study, root)
    parts = [_headline(study, found), _cells(found)]
    running = [s for s in found if s.status == "running"]
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
    troubled = [s for s in found if s.status in _TROUBLED]
    if troubled:
        rows = [
            {"in trouble": s.run.run_id, "status": s.status, "why": _last_line(s.error)}
            for s in troubled
        ]
        parts.append(tabulate(rows, headers="keys"))
    stages = [(stage, statuses(stage, root))] if stage else []
    return "\n\n".join([*parts, *_left([*stages, (study, found)], root)])


def failures(study: Study, root: Path) -> str:
    """Returns a Markdown page on the diverged, failed, timed-out and damaged runs.

    Each is shown with its error and the last lines of its log.
    """
    found = statuses(study, root)
    parts = [f"# Failures of study `{study.study}`", _headline(study, found)]
    if any(s.status in UNFINISHED for s in found):
        parts.append(
            "The same `snakemake` command retries failed runs from their last checkpoint. Set "
            "`allow_missing: true` in the config, or pass `--config allow_missing=true`, to build "
            "the tables without them."
        )
    for s in found:
        if s.status not in _TROUBLED:
            continue
        parts += [f"## {s.run.run_id}: {s.status}", _fenced(str(s.error).splitlines())]
        log = s.run.log(s.phase or "train")
        if lines := _end_of(root / log):
            parts += [f"Last lines of `{log}`:", _fenced(lines)]
    return "\n\n".join(parts) + "\n"


def _fenced(lines: list[str]) -> str:
    """Lines as a block of code, whatever backticks they hold."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence, *lines, fence])


def _end_of(log: Path) -> list[str]:
    """The last lines of a log; none if it cannot be read."""
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        return []


def _headline(study: Study, found: list[RunStatus]) -> str:
    counts = Counter(s.status for s in found)
    words = ", ".join(f"{counts[name]} {name}" for name in STATUSES if counts[name])
    return f"{_count(len(found), 'run')} of study {study.study}: {words}."


def _cells(found: list[RunStatus]) -> str:
    cells: dict[tuple[str, str], Counter[str]] = {}
    for s in found:
        cells.setdefault((s.run.spec.env_name, s.run.variant), Counter())[s.status] += 1
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


def _left(stages: list[tuple[Study, list[RunStatus]]], root: Path) -> list[str]:
    """Says what is left of a study and what it will cost; empty if nothing is.

    Args:
        stages: the stage of tuning, if there is one, and the study, with the status of each run.
        root: the directory that contains `results/`.
    """
    parts = [work_left(study, found, root) for study, found in stages]
    if not any(parts):
        return []
    known = [cost for study, found in stages for cost in costs(study, found, root)]
    cores = _cores()
    rest = estimate(parts, known, cores)
    tuning = f", with the tuning in {stages[0][0].study}" if len(stages) > 1 and parts[0] else ""
    counts = f"{_count(rest.trainings, 'training')} and {_count(rest.evaluations, 'evaluation')}"
    left, of_evaluations = f"Left{tuning}: {counts}", rest.evaluation_s
    if math.isnan(rest.training_s) or (not rest.trainings and math.isnan(of_evaluations)):
        when = "a training has begun to learn" if rest.trainings else "a run has been evaluated"
        return [f"{left}. What they will cost is not known yet; it will be once {when}."]
    core_s = rest.training_s + (0.0 if math.isnan(of_evaluations) else of_evaluations)
    text = f"{left}, about {_time(core_s, 'core-')}"
    if math.isnan(of_evaluations):
        text += " without the evaluations, of which none is done yet"
    text += f". With {_count(cores, 'core')} of this machine that is {_time(rest.span_s)}"
    if not math.isnan(rest.bytes):
        text += f", and {_size(rest.bytes)} of disk"
    finished = sum(cost.finished for cost in known)
    done = f"{_count(finished, 'finished training')} and {len(known) - finished} in progress"
    return [f"{text}. Estimated from {done}."]


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _time(seconds: float, unit: str = "") -> str:
    hours = seconds / 3600
    return f"{_number(hours)} {unit}hours" if hours >= 1 else f"{_number(60 * hours)} {unit}minutes"


def _size(count: float) -> str:
    scale, unit = (1e9, "GB") if count >= 1e9 else (1e6, "MB") if count >= 1e6 else (1e3, "kB")
    return f"{_number(count / scale)} {unit}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
