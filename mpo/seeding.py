"""Every random stream of a run, derived from its seed alone.

Streams of unlike names, seeds or episodes are independent (`numpy.random.SeedSequence`), so neither
a neighbour in the stack nor the number of draws from one stream shifts another.
"""

import numpy as np
import torch

_STREAMS = ("init", "act", "sample", "noise", "reset")

FIRST_ONLINE_SEED = 2**31
"""Evaluation reset seeds start here and training's end below it: the two never meet."""

FIRST_FINAL_SEED = 2**31 + 2**20


def _sequence(seed: int, stream: str, *key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(_STREAMS.index(stream), *key))


def numpy_generator(seed: int, stream: str) -> np.random.Generator:
    """The host-side generator of a seed's stream."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, stream)))


def torch_generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of a seed's stream on a device."""
    state = int(_sequence(seed, stream).generate_state(1, np.uint64)[0])
    # Generators take a signed 64-bit integer.
    return torch.Generator(device=device).manual_seed(state >> 1)


def episode_seed(seed: int, episode: int) -> int:
    """The reset seed of a run's n-th training episode, below 2**31."""
    return int(_sequence(seed, "reset", episode).generate_state(1)[0]) >> 1
