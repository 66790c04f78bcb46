"""Brings the runs of one study together that were trained on several machines."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mpo.study.checksums import FILES, Damaged, intact, read_evaluation, read_run
from mpo.study.config import JobFailed
from mpo.study.files import EVALUATION_COST, EVALUATIONS, METRICS, POLICIES, RUN

_TRAINING, _EVALUATION = (METRICS, POLICIES, RUN), (EVALUATIONS, EVALUATION_COST)


class Merged(NamedTuple):
    """What a merge did, as run directories below `runs/`."""

    taken: list[str]
    """Runs that were copied, or whose evaluation was."""
    present: list[str]
    """Runs that the study had already, of the same spec. They were left as they were."""


def merge(sources: Sequence[Path], target: Path) -> Merged:
    """Copies the finished runs of other copies of a study that the study lacks.

    A run that both have is taken once: the target's stays. Nothing is copied if anything is wrong.
    After it, Snakemake makes the tables and figures again, and trains what is still missing.

    Args:
        sources: folders `results/STUDY` of other machines.
        target: the folder `results/STUDY` that gets their runs.

    Raises:
        JobFailed: two of them hold a run of the same place and another spec, or a source holds a
            damaged run; the message names all of them. Or a folder is not that of a study.
    """
    for folder in (*sources, target):
        started = (folder / "study.json").is_file() or (folder / "runs").is_dir()
        new = folder is target and folder.resolve().parent.name == "results"
        if not (started or new):
            raise JobFailed(f"nothing was merged; expected a folder results/STUDY, found {folder}")
    places: dict[str, Path] = {name: target for name in _runs(target)}
    taken, present, problems = {}, [], []
    for source in sources:
        if source.samefile(target):
            raise JobFailed(f"nothing was merged; {source} is the folder to merge into")
        for name in _runs(source):
            try:
                lacking = _lacking(source / "runs" / name, places.get(name, target) / "runs" / name)
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
    return Merged(list(taken), present)


def _runs(study: Path) -> Iterator[str]:
    """The trained runs of a study: ENVIRONMENT/VARIANT/seedN/stepM."""
    for record in sorted(study.glob(f"runs/*/*/seed*/step*/{RUN}")):
        yield str(record.parent.relative_to(study / "runs"))


def _lacking(source: Path, target: Path) -> list[str] | None:
    """The files of a run that the target lacks; None if the two are runs of unlike specs."""
    record, spec = read_run(source)
    for name in _TRAINING[:-1]:
        intact(source / name, record)
    evaluated = all((source / name).exists() for name in _EVALUATION)
    if evaluated:
        intact(source / EVALUATIONS, read_evaluation(source, record))
    if not (target / RUN).exists():
        return [*_TRAINING, *(_EVALUATION if evaluated else ())]
    other, planned = read_run(target)
    if planned != spec:
        return None
    # An evaluation is of certain policies: the same training elsewhere may have other bits.
    same = FILES in record and other.get(FILES) == record[FILES]
    there = all((target / name).exists() for name in _EVALUATION)
    return list(_EVALUATION) if evaluated and same and not there else []


def _copy(source: Path, target: Path, files: Sequence[str]) -> None:
    """Copies files of a run with their times; the record comes last, so that a cut is no run."""
    target.mkdir(parents=True, exist_ok=True)
    for name in files:
        temporary = target / f".{name}.tmp"
        shutil.copy2(source / name, temporary)
        os.replace(temporary, target / name)
