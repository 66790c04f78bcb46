"""Which runs of a cell share a process, where a study packs its seeds."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mpo.study.files import METRICS, POLICIES, RUN
from mpo.study.plan import Run, Study
from mpo.study.status import given_up


class Pack(NamedTuple):
    """Seeds that are trained together, to a budget."""

    seeds: tuple[int, ...]
    total_steps: int


def packs(study: Study, runs: Iterable[Run], root: Path) -> dict[Pack, list[str]]:
    """The packs that are to be trained now.

    Seeds keep their company by their position in the study, so that one more seed moves nobody. In
    each such group, trained runs stay out of it. Those that have failed make a pack of their own:
    their neighbours' results shall not wait for them.

    Args:
        study: says how many seeds share a process.
        runs: those that are wanted.
        root: where `results/` is.

    Returns:
        Each pack, of two seeds or more, and the cells in which it is to be trained.
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
    """Whether the run's training has left its files, and they are of the spec that is planned."""
    directory = root / run.directory
    if not all((directory / name).exists() for name in (METRICS, POLICIES, RUN)):
        return False
    record = json.loads((directory / RUN).read_text())
    return record["spec"] == run.spec.model_dump(mode="json")
