"""Packs: seeds of a cell that are trained together in one process (`seeds_per_job` above 1)."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mpo.study.cells import Run
from mpo.study.checksums import Damaged, read_object
from mpo.study.files import RUN, is_trained
from mpo.study.plan import Study
from mpo.study.status import given_up


class Pack(NamedTuple):
    """Seeds that are trained together, up to the same budget."""

    seeds: tuple[int, ...]
    total_steps: int
    """Environment steps per seed."""


def packs(study: Study, runs: Iterable[Run], root: Path) -> dict[Pack, list[str]]:
    """Groups the untrained runs of each cell into packs.

    Seeds are grouped by their position in the study's list, so appending a seed changes no existing
    group. Trained runs are left out. Failed runs of a group form a pack of their own, so that the
    results of the others do not wait for them.

    Args:
        study: its `execution.seeds_per_job` is the size of a group.
        runs: the requested runs.
        root: the directory that contains `results/`.

    Returns:
        For each pack of at least two seeds, the cells in which it is to be trained.
    """
    size = study.execution.seeds_per_job
    if size == 1:
        return {}
    groups: dict[tuple[str, int, int, bool], list[int]] = defaultdict(list)
    position = {seed: i for i, seed in enumerate(study.seeds)}
    for run in runs:
        if not _trained(run, root):
            chunk = position[run.seed] // size
            groups[run.cell_id, run.total_steps, chunk, given_up(run, root)].append(run.seed)
    found: dict[Pack, list[str]] = defaultdict(list)
    for (cell, steps, *_), seeds in groups.items():
        if len(seeds) > 1:
            found[Pack(tuple(seeds), steps)].append(cell)
    return dict(found)


def _trained(run: Run, root: Path) -> bool:
    """Returns whether the training's files exist and were made from the planned spec.

    A record that cannot be read stays as it is: `collect` names it and says what to delete.
    """
    directory = root / run.directory
    if not is_trained(directory):
        return False
    try:
        return read_object(directory / RUN).get("spec") == run.spec.model_dump(mode="json")
    except Damaged:
        return True
