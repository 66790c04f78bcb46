"""Brings the runs of one study together that were trained on several machines."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mpo.study.checksums import FILES, Damaged, intact, read_evaluation, read_run
from mpo.study.config import JobFailed
from mpo.study.files import (
    EVALUATION_COST,
    EVALUATIONS,
    METRICS,
    POLICIES,
    QUESTIONS,
    RUN,
    is_evaluated,
    is_finished,
    replacing,
)
from mpo.study.schema import REFERENCE


class Merged(NamedTuple):
    """What a merge did, as run directories below `runs/`."""

    taken: list[str]
    """Runs that were copied, or whose evaluation was."""
    present: list[str]
    """Runs that the study had already, of the same spec. They were left as they were."""


def merge(sources: Sequence[Path], target: Path, *, policies: bool = True) -> Merged:
    """Copies the finished runs of other copies of a study that the study lacks.

    A run that both have is taken once: the target's stays. Nothing is copied if anything is wrong.
    After it, Snakemake makes the tables and figures again, and trains what is still missing. A
    study that has not recorded its questions takes them over, too.

    Args:
        sources: folders `results/STUDY` of other machines, or of results that are kept.
        target: the folder `results/STUDY` that gets their runs.
        policies: also copies the policies, by far the largest files, where a source has them.
            Without, only evaluated runs are copied: all that tables and figures are made of.

    Raises:
        JobFailed: two of them hold a run of the same place and another spec, or a source holds a
            damaged run; the message names all of them. Or a folder is not that of a study.
    """
    for folder in (*sources, target):
        started = (folder / "study.json").is_file() or (folder / "runs").is_dir()
        new = folder is target and folder.resolve().parent.name in ("results", REFERENCE)
        if not (started or new):
            raise JobFailed(f"nothing was merged; expected a folder results/STUDY, found {folder}")
    places: dict[str, Path] = {name: target for name in _runs(target)}
    taken, present, problems = {}, [], []
    for source in sources:
        if target.exists() and source.samefile(target):
            raise JobFailed(f"nothing was merged; {source} is the folder to merge into")
        for name in _runs(source):
            if not policies and not is_finished(source / "runs" / name):
                continue
            there = places.get(name, target) / "runs" / name
            try:
                lacking = _lacking(source / "runs" / name, there, policies)
            except (Damaged, FileNotFoundError) as error:
                problems.append(f"damaged: {error}")
                continue
            if lacking is None:
                problems.append(f"{name}: {source} and {places[name]} hold runs of unlike specs")
            elif lacking:
                taken[name] = source / "runs" / name, lacking
                places[name] = source
            else:
                present.append(name)
    if problems:
        raise JobFailed(
            "nothing was merged; delete one of each two runs, and damaged ones:\n"
            + "\n".join(problems)
        )
    for name, (folder, files) in taken.items():
        _copy(folder, target / "runs" / name, files)
    asked = [source for source in sources if (source / QUESTIONS).exists()]
    if asked and not (target / QUESTIONS).exists():
        _copy(asked[0], target, [QUESTIONS])
    return Merged(list(taken), present)


def _runs(study: Path) -> Iterator[str]:
    """The trained runs of a study: ENVIRONMENT/VARIANT/seedN/stepM."""
    for record in sorted(study.glob(f"runs/*/*/seed*/step*/{RUN}")):
        yield str(record.parent.relative_to(study / "runs"))


def _lacking(source: Path, target: Path, policies: bool) -> list[str] | None:
    """The files of a run that the target lacks; None if the two are runs of unlike specs."""
    record, spec = read_run(source)
    intact(source / METRICS, record)
    evaluated = is_evaluated(source)
    if evaluated:
        intact(source / EVALUATIONS, read_evaluation(source, record))
    policies = policies and (not evaluated or (source / POLICIES).exists())
    if policies:
        intact(source / POLICIES, record)
    found = [POLICIES] * policies + [EVALUATIONS, EVALUATION_COST] * evaluated
    if not (target / RUN).exists():
        return [METRICS, *found, RUN]
    other, planned = read_run(target)
    if planned != spec:
        return None
    # Policies and their evaluation go together: the same training elsewhere may have other bits.
    same = FILES in record and other.get(FILES) == record[FILES]
    return [name for name in found if not (target / name).exists()] if same else []


def _copy(source: Path, target: Path, files: Sequence[str]) -> None:
    """Copies files of a run with their times; the training's record is last, so a cut is no run."""
    for name in files:
        with replacing(target / name) as temporary:
            shutil.copy2(source / name, temporary)
