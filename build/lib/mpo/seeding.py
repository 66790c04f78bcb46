"""Every random stream of a run, derived from the run's seed alone.

Each combination of seed, stream name and episode has an independent generator
(`numpy.random.SeedSequence`). So a run's numbers depend neither on the other seeds in its stack nor
on how often another stream is used.
"""

import numpy as np
import torch

_STREAMS = ("init", "act", "sample", "noise", "reset", "renew", "pink")

FIRST_ONLINE_SEED = 2**31
"""First reset seed of the evaluations along training. Training uses reset seeds below 2**31, so
evaluation never repeats a training episode."""

FIRST_FINAL_SEED = 2**31 + 2**20
"""First reset seed of the final evaluation."""


def _sequence(seed: int, stream: str, *key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(_STREAMS.index(stream), *key))


def numpy_generator(seed: int, stream: str) -> np.random.Generator:
    """Returns the NumPy generator of a seed's stream; `stream` is one of `_STREAMS`."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, stream)))


def torch_generator(
    seed: int, stream: str, device: torch.device | str = "cpu", *key: int
) -> torch.Generator:
    """Returns the torch generator of a seed's stream on a device; keys tell several apart."""
    state = int(_sequence(seed, stream, *key).generate_state(1, np.uint64)[0])
    # `manual_seed` takes a signed 64-bit integer.
    return torch.Generator(device=device).manual_seed(state >> 1)


def value_generator(eval_seed: int) -> np.random.Generator:
    """Returns the generator of the actions sampled for a value after an evaluation episode.

    It is independent of the policy's noise in the episode, `numpy.random.default_rng(eval_seed)`.
    """
    return np.random.default_rng(np.random.SeedSequence(eval_seed, spawn_key=(0,)))


def episode_seed(seed: int, episode: int) -> int:
    """Returns the reset seed of a run's n-th training episode (from 0), below 2**31."""
    return int(_sequence(seed, "reset", episode).generate_state(1)[0]) >> 1
