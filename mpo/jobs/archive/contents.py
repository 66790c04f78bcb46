"""What an archive holds, once all of it is there and is what its jobs wrote."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from mpo.analysis.runs import DamagedRun, read_run
from mpo.analysis.tables import MADE_OF, made_of, read
from mpo.report.figures import FIGURES
from mpo.study import questions
from mpo.study.cells import Run
from mpo.study.checksums import intact, read_record, reading
from mpo.study.config import JobFailed
from mpo.study.files import (
    ANSWERS,
    CHOICE,
    PAGES,
    POLICIES,
    QUESTIONS,
    RUN,
    RUN_FILES,
    TABLE_CHECKSUMS,
    TABLE_KINDS,
    TABLES,
    TYPESET,
)
from mpo.study.plan import Study
from mpo.study.status import FINISHED, UNFINISHED, RunStatus, run_status

logger = logging.getLogger(__name__)

_OPTIONAL = (
    *(QUESTIONS, "failures.md", "verification.md", "pages/films.html"),
    f"tables/{TABLE_CHECKSUMS}",
)
"""Files that not every study has."""


class Finished(NamedTuple):
    """A run with results."""

    run: Run
    record: dict[str, Any]
    """Its run.json."""

    @property
    def folder(self) -> str:
        """The run's directory, as a path in that of the study."""
        return self.run.directory.relative_to(Path("results", self.run.study)).as_posix()


class Contents(NamedTuple):
    """A study that can be archived."""

    study: Study
    folder: Path
    """The study's folder, `results/STUDY`."""
    files: list[str]
    """Paths in that folder, sorted."""
    runs: list[Finished]
    missing: list[RunStatus]
    """Runs that failed, where the study allows them to be missing."""
    commits: dict[str, list[str]]
    """The commits that made the tables, each with its tables' names."""
    tuned_in: str | None
    """The study that chose the settings of the runs, which is not packed; None without tuning."""


def contents(study: Study, root: Path) -> Contents:
    """Finds the files of a finished study, and checks all that have checksums.

    Args:
        study: the study's plan.
        root: the directory that contains `results/`.

    Raises:
        JobFailed: a run is unfinished or damaged, a file of the study is missing, the choice of
            tuning too, the tables were made of other runs, or a page of other tables. A
            failed run may be missing if the study allows it.
        Damaged: a table, a random return, the choice of tuning or the recorded questions cannot be
            read, or are not what was written.
    """
    folder = root / "results" / study.study
    if not study.is_settled:  # else all runs would seem to be of another plan
        raise JobFailed(
            f"nothing was packed: {folder / CHOICE} is missing or lacks an arm. The same "
            "`snakemake` command makes it"
        )
    tuned_in = study.chosen_in
    runs, missing = _runs(study, root)
    names = {*_of_study(runs), *(name for name in _OPTIONAL if (folder / name).is_file())}
    names |= {CHOICE} if tuned_in else set()
    if lacking := sorted(name for name in names if not (folder / name).is_file()):
        raise JobFailed(
            f"nothing was packed: {folder} lacks files. The same `snakemake` command makes "
            "them:\n  " + "\n  ".join(lacking)
        )
    for name in names:
        if name.startswith("random/") or name == CHOICE:
            read_record(folder / name)
    questions.read(folder / QUESTIONS)
    commits = _commits(folder / "tables")
    _refuse_other_runs(folder / "tables", runs)
    _refuse_other_tables(folder, names)
    names |= {
        f"{finished.folder}/{name}"
        for finished in runs
        for name in RUN_FILES
        if name != POLICIES or (folder / finished.folder / name).is_file()  # kept runs lack them
    }
    return Contents(study, folder, sorted(names), runs, missing, commits, tuned_in)


def _runs(study: Study, root: Path) -> tuple[list[Finished], list[RunStatus]]:
    """The finished runs, all of their files checked, and the runs that may be missing."""
    found: list[Finished] = []
    missing: list[RunStatus] = []
    problems: list[str] = []
    unchecked = 0
    for run in study.runs:
        status = run_status(run, root)
        if status.status in UNFINISHED and study.allow_missing:
            missing.append(status)
        elif status.status in FINISHED:
            try:
                unchecked += not read_run(run, root).checked
                found.append(Finished(run, read_record(root / run.directory / RUN)))
            except DamagedRun as error:
                problems.append(f"{run.run_id} (damaged): {error}")
        else:
            problems.append(f"{run.run_id} ({status.status}): {status.error or 'not finished'}")
    if not problems and not found:
        raise JobFailed(f"nothing was packed: no run of study {study.study} has finished")
    if problems:
        raise JobFailed(
            f"nothing was packed: {len(problems)} of {len(study.runs)} runs are unfinished or "
            "damaged. The same `snakemake` command makes what is missing; with `allow_missing: "
            "true` runs that failed are left out:\n  " + "\n  ".join(problems)
        )
    if unchecked:
        text = "%d of %d runs have no checksums of their own: they were packed unchecked"
        logger.warning(text, unchecked, len(found))
    return found, missing


def _of_study(runs: Iterable[Finished]) -> Iterator[str]:
    """The files that the workflow makes of these runs."""
    yield from ("study.json", "summary.md")
    yield from {f"random/{finished.run.env_slug}.json" for finished in runs}
    kinds = {
        "tables": ((*TABLES, *ANSWERS), TABLE_KINDS),
        "figures": (FIGURES, ("png", "pdf", "svg", "rst")),
        "typeset": (TYPESET, ("tex", "md")),
        "pages": ((*PAGES, "summary", "config"), ("html",)),
    }
    for folder, (names, endings) in kinds.items():
        yield from (f"{folder}/{name}.{ending}" for name in names for ending in endings)


def _refuse_other_tables(folder: Path, names: Iterable[str]) -> None:
    """Refuses pages that were made of other tables than are there."""
    wanted, other = {made_of(folder / "tables")}, []
    for name in sorted(names):
        if name == "summary.md" or name.startswith(("typeset/", "pages/summary")):
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            if not {*MADE_OF.findall(text)} <= wanted:  # pages of an older version do not tell
                other.append(name)
    if other:
        raise JobFailed(
            f"nothing was packed: files in {folder} were not made of the tables that are there. "
            "The same `snakemake` command makes them again:\n  " + "\n  ".join(other)
        )


def _commits(tables: Path) -> dict[str, list[str]]:
    """Checks the tables; returns the commits that made them, each with its tables."""
    record: Mapping[str, Any] = {}
    if (tables / TABLE_CHECKSUMS).is_file():  # older versions wrote none
        record = read_record(tables / TABLE_CHECKSUMS)
    found: dict[str, list[str]] = {}
    for name in (*TABLES, *ANSWERS):
        path, _ = (intact(tables / f"{name}.{kind}", record) for kind in TABLE_KINDS)
        with reading(path):
            commit = (pq.read_schema(path).metadata or {}).get(b"commit", b"unknown").decode()
        found.setdefault(commit, []).append(name)
    return found


def _refuse_other_runs(tables: Path, runs: Iterable[Finished]) -> None:
    """Refuses tables of other runs than there are now, told apart by the time they finished."""
    there = {run.run_id: record["provenance"]["finished"] for run, record in runs}
    rows = read(tables, "runs")
    with reading(tables / "runs.parquet"):
        rows = rows[rows["status"].isin(FINISHED)]
        shown: dict[str, str] = dict(zip(rows["run_id"], rows["finished"], strict=True))
    if unlike := sorted(name for name in there | shown if there.get(name) != shown.get(name)):
        raise JobFailed(
            f"nothing was packed: the tables in {tables} were not made of the runs that are there. "
            "The same `snakemake` command makes them again. Unlike are:\n  " + "\n  ".join(unlike)
        )
