"""An evaluation of a run, compared with its groups of episodes one after another, and its physics.

The snapshots are those of the default study in number, with random weights. Both ways are timed in
turns. Making the environments is part of both.
"""

import time
from statistics import median

import torch

from benchmarks.findings import Finding
from benchmarks.sizes import SIZES, Size, hyperparameters
from benchmarks.study import physics_seconds
from mpo.algorithm.policies import GaussianPolicy
from mpo.environments.rollouts import MAX_PARALLEL
from mpo.jobs.snapshots import Group, play_groups
from mpo.seeding import FIRST_ONLINE_SEED
from mpo.study.hyperparameters import Training
from mpo.study.specs import RunSpec

CASES = {"Pendulum": 19, "InvertedDoublePendulum": 21, "Reacher": 16}
"""Groups of ten episodes in an evaluation of the default study, by size."""


def measure(rounds: int = 5) -> list[Finding]:
    """Medians of both ways, per environment."""
    found = []
    for name, count in CASES.items():
        size = SIZES[name]
        spec, groups = run_spec(size), make_groups(size, count)
        together, apart = (
            median(column)
            for column in zip(*(once(spec, groups) for _ in range(rounds)), strict=True)
        )
        played = play_groups(spec, groups, None, 0, lambda group, played: None)
        physics = physics_seconds(size.env_id) * sum(int(each.lengths.sum()) for each in played)
        case = f"{name}, {count} groups of {MAX_PARALLEL} episodes"
        found.append(Finding("evaluation", case, together, "one group after another", apart, "s"))
        found.append(Finding("evaluation", case, together, "physics alone", physics, "s"))
    return found


def run_spec(size: Size) -> RunSpec:
    """The spec of a run of this size."""
    settings = hyperparameters(size, 0).model_dump()
    training = Training(**settings, update_after=1, batch_size=size.batch)
    return RunSpec(
        env_id=size.env_id, seed=0, training=training, snapshot_interval=1, log_interval=1
    )


def make_groups(size: Size, count: int) -> list[Group]:
    """Groups of snapshots with random weights."""
    seeds = [FIRST_ONLINE_SEED + i for i in range(MAX_PARALLEL)]
    return [
        Group(step, "online", "mode", policy(size, step).state_dict(), 0, seeds)
        for step in range(count)
    ]


def policy(size: Size, seed: int) -> GaussianPolicy:
    """A policy with random weights."""
    generator = torch.Generator().manual_seed(seed)
    return GaussianPolicy(size.obs, size.action, size.widths, 1.0, [generator])


def once(spec: RunSpec, groups: list[Group]) -> tuple[float, float]:
    """Seconds of the groups side by side, and one after another."""
    start = time.perf_counter()
    play_groups(spec, groups, None, 0, lambda group, played: None)
    middle = time.perf_counter()
    for group in groups:
        play_groups(spec, [group], None, 0, lambda group, played: None)
    return middle - start, time.perf_counter() - middle
