"""What `python -m mpo status` prints, and the page about runs in trouble."""

import re
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from tabulate import tabulate

from mpo.study import remaining_text
from mpo.study.plan import Study
from mpo.study.status import STATUSES, UNFINISHED, RunStatus, statuses
from mpo.study.words import plural

_TROUBLED = ("diverged", *UNFINISHED, "damaged")

_LOG_LINES = 20
"""Number of log lines that `failures` shows per run."""


def overview(study: Study, root: Path, stages: Iterable[Study] = ()) -> str:
    """Returns the study's status as text.

    One table counts the statuses in each cell. Two more list the running runs with their progress,
    and the diverged, failed, timed-out and damaged runs with the reason. What is left, and what it
    will cost, is said at the end.

    Args:
        study: the study.
        root: the directory that contains `results/`.
        stages: the studies that tune its arms, if they are tuned; what is left there counts, too.
    """
    found = statuses(study, root)
    if study.has_stand_ins:
        many = f"{len(found)} runs"
        return f"{many} of study {study.study}, of candidates that {study.chosen_in} will choose."
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
    before = [(stage, statuses(stage, root)) for stage in stages]
    rest = remaining_text.of_status([*before, (study, found)], root)
    return "\n\n".join([*parts, *filter(None, [rest])])


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
    return f"{plural(len(found), 'run')} of study {study.study}: {words}."


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
