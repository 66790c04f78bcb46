"""The replay buffer: memory of a million transitions, and the time to sample a batch."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.findings import Finding
from benchmarks.sizes import SIZES
from benchmarks.update import medians
from mpo.replay.replay import Replay

CAPACITY = 1_000_000
EPISODE = 1000
BATCH = 256
GOALS = {"GB": 1.6, "us": 100.0}


def measure(capacity: int = CAPACITY, rounds: int = 50) -> Iterator[Finding]:
    """Measures Humanoid, which has long rows, and HalfCheetah, which has short ones."""
    for name in ("HalfCheetah", "Humanoid"):
        yield from of_size(name, capacity, rounds)


def of_size(name: str, capacity: int, rounds: int) -> list[Finding]:
    """Measures memory and sampling; the reference gathers as many numbers, and nothing else."""
    size = SIZES[name]
    replay = filled(size.obs, size.action, capacity)
    offsets = torch.arange(1)
    # Sampling also reads the first observations of the windows' episodes.
    flat = torch.randn(capacity, sum(replay.widths) + size.obs)

    def gather() -> torch.Tensor:
        return flat.index_select(0, torch.randint(capacity, (BATCH,)))

    sample, bare = (
        1e6 * seconds
        for seconds in medians([lambda: replay.sample(BATCH, offsets), gather], rounds)
    )
    part, drawing = "replay", f"{name}, {BATCH} of {capacity} transitions"
    memory = f"{name}, memory of {capacity} transitions"
    twice = 4e-9 * capacity * sum(replay.widths)
    gigabytes = replay.nbytes / 1e9
    found = [
        Finding(part, drawing, sample, "a bare gathering of as many numbers", bare, "us"),
        Finding(part, drawing, sample, f"{GOALS['us']:g} us", GOALS["us"], "us", at_most=1),
        Finding(part, memory, gigabytes, "each observation stored twice", twice, "GB"),
    ]
    if capacity == CAPACITY:
        goal = f"{GOALS['GB']} GB"
        found.append(Finding(part, memory, gigabytes, goal, GOALS["GB"], "GB", at_most=1))
    return found


def filled(obs_dim: int, action_dim: int, capacity: int) -> Replay:
    """Makes a full replay of synthetic episodes."""
    replay = Replay(obs_dim, action_dim, capacity, [torch.Generator().manual_seed(0)])
    rng = np.random.default_rng(0)
    width = sum(replay.widths)
    for _ in range(0, capacity, EPISODE):
        packed = rng.standard_normal((EPISODE, width), dtype=np.float32)
        packed[1:, :obs_dim] = packed[:-1, -obs_dim:]
        packed[:, -obs_dim - 2 : -obs_dim] = 0
        packed[-1, -obs_dim - 1] = 1
        for row in torch.from_numpy(packed):
            replay.add(0, row)
    return replay
