"""Trains planned runs: the seeds of one cell that share a process.

A seed's files and resume state do not depend on its stack, so runs may be packed differently each
time.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from mpo.environments.guard import EnvironmentFailed
from mpo.environments.workers import Worker
from mpo.jobs.heartbeat import Heartbeat
from mpo.study.config import JobFailed
from mpo.study.paths import Place
from mpo.study.specs import CellSpec
from mpo.training import loop
from mpo.training.checkpoint import peek
from mpo.training.stack import Stack

logger = logging.getLogger(__name__)


def train(
    spec: CellSpec,
    places: Sequence[Place],
    device: torch.device,
    beat: Heartbeat,
    cuda_graphs: bool = True,
    compile_on_cpu: bool = False,
    workers: Sequence[Worker] = (),
    **options: Any,
) -> None:
    """Trains runs of one cell and budget, each resumed from its own directory.

    Args:
        spec: the spec that the runs share.
        places: the directories of each run.
        device: device to train on.
        beat: gets the progress and the end of each run.
        cuda_graphs: see `MPOTrainer`.
        compile_on_cpu: see `MPOTrainer`.
        workers: processes that step some of the environments.
        options: checkpoint_interval_s and keep_resume_state, see `MPOTrainer.train`.

    Raises:
        JobFailed: the environment of a run failed; all other runs are finished first.
    """
    failed: dict[Place, EnvironmentFailed] = {}
    make = partial(
        Stack,
        spec.environment,
        spec.training,
        device=device,
        cuda_graphs=cuda_graphs,
        compile_on_cpu=compile_on_cpu,
        workers=workers,
    )
    for together in _stacks(spec, places):
        failed |= _train_stack(spec, together, make, beat, options)
    if failed and len(places) == 1:
        raise failed[places[0]]
    if failed:
        reasons = [f"{place.run_id}: {error}" for place, error in failed.items()]
        raise JobFailed("\n".join([f"{len(failed)} of {len(places)} runs failed", *reasons]))


def _stacks(spec: CellSpec, places: Sequence[Place]) -> list[list[Place]]:
    """Groups the runs to train together.

    Runs that reached their budget or diverged are kept apart, by step: in a stack with the others,
    they would have to be trained along.
    """
    stacks: dict[int | None, list[Place]] = defaultdict(list)
    for place in places:
        state = peek(place.resume_directory(spec.identity)) if len(places) > 1 else None
        step = state["trainer"]["env_steps"] if state else 0
        over = step >= place.total_steps or (state and state["recorder"]["diverged"])
        stacks[step if over else None].append(place)
    return list(stacks.values())


def _train_stack(
    spec: CellSpec,
    places: Sequence[Place],
    make: Callable[[list[int]], Stack],
    beat: Heartbeat,
    options: dict[str, Any],
) -> dict[Place, EnvironmentFailed]:
    """Trains runs together, or each alone after an environment failed; returns the failures."""
    stack = make([place.seed for place in places])
    stack.name = places[0].cell_id
    files = [place.status_file for place in places]
    beat.watch(files, lambda: stack.env_steps)
    try:
        loop.train(
            stack,
            spec,
            places[0].total_steps,
            [place.directory for place in places],
            [place.resume_directory(spec.identity) for place in places],
            **options,
        )
    except EnvironmentFailed as error:
        if len(places) == 1:
            beat.end(files[0], error)
            return {places[0]: error}
        logger.warning("%s; each seed continues alone from its last checkpoint", error)
        alone = [_train_stack(spec, [place], make, beat, options) for place in places]
        return {place: failure for found in alone for place, failure in found.items()}
    for file in files:
        beat.end(file)
    return {}
