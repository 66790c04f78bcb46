"""A step of ten stacked seeds' environments, in one process and in several, over that of one."""

import time
from statistics import median

import numpy as np
import psutil

from benchmarks.findings import Finding
from benchmarks.sizes import SIZES
from mpo.environments.parallel import ParallelStreams
from mpo.environments.workers import workers
from mpo.training.signals import STOPPING

SEEDS = 10
GOALS = {2: 5.5, 8: 2.5}
"""Steps of one HalfCheetah that one of ten may take, by the number of processes."""


def measure(rounds: int = 20, steps: int = 100) -> list[Finding]:
    """Medians over rounds, in each of which all ways take their turn."""
    found = []
    cores = len(psutil.Process().cpu_affinity())
    processes = [count for count in (1, 2, 4, 8) if count <= cores]
    for name in ("HalfCheetah", "Pendulum"):
        env = SIZES[name].env_id
        with workers(processes[-1] - 1, STOPPING) as started:
            ways = [ParallelStreams(env, [0], ())]
            ways += [ParallelStreams(env, range(SEEDS), started[: n - 1]) for n in processes]
            for way in ways:
                way.begin()
            rows = [[_step_us(way, steps) for way in ways] for _ in range(rounds)]
        one, *ten = map(median, zip(*rows, strict=True))
        for count, value in zip(processes, ten, strict=True):
            case = f"{SEEDS} {name}s, {count} process{'es' * (count > 1)}"
            goal = GOALS.get(count) if name == "HalfCheetah" else None
            found.append(Finding("environments", case, value, "one", one, "us", goal))
    return found


def _step_us(streams: ParallelStreams, steps: int) -> float:
    """Median time of a step with random actions."""
    shape = steps, len(streams.obs), *streams.here.envs[0].action_space.shape
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    taken = []
    for row in actions:
        start = time.perf_counter()
        streams.step(row)
        taken.append(time.perf_counter() - start)
    return 1e6 * median(taken)
