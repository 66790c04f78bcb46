"""Running mean and variance of observations, and the normalisation of observations by them.

Letters: S seed, O observation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mpo.algorithm.layers import Normalizer

_LEAST_VARIANCE = 1e-4
"""Added to variances, so that nearly constant elements are not scaled up."""


class RunningMoments:
    """Mean and variance of all vectors so far, in float64 (Welford 1962, Technometrics 4)."""

    def __init__(self, size: int) -> None:
        """Starts without vectors; `size` is their length."""
        self._count = 0
        self._mean = np.zeros(size)
        self._squares = np.zeros(size)

    def add(self, x: np.ndarray) -> None:
        """Adds one vector, [size]."""
        self._count += 1
        before = x - self._mean
        self._mean += before / self._count
        self._squares += before * (x - self._mean)

    @property
    def mean(self) -> np.ndarray:
        """Mean, [size]; 0 before the first vector."""
        return self._mean

    @property
    def inverse_stddev(self) -> np.ndarray:
        """One over the standard deviation, [size]; 1 before the second vector."""
        if self._count < 2:
            return np.ones_like(self._mean)
        return 1 / np.sqrt(self._squares / self._count + _LEAST_VARIANCE)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state, for `load_state_dict`."""
        sums = torch.from_numpy(np.stack([self._mean, self._squares]))
        return {"count": self._count, "sums": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state."""
        self._count = state["count"]
        self._mean, self._squares = state["sums"].numpy().copy()


class ObservationMoments:
    """The running moments of S seeds' observations, applied to a normaliser from time to time."""

    def __init__(self, seeds: int, obs_dim: int, normalizer: Normalizer | None) -> None:
        """Starts without observations; without a normaliser, none are ever added."""
        self._normalizer = normalizer
        self._seen = [RunningMoments(obs_dim) for _ in range(seeds)]

    def add(self, obs: np.ndarray) -> None:
        """Adds one observation per seed, [S, O]."""
        if self._normalizer is not None:
            for seen, own in zip(self._seen, obs, strict=True):
                seen.add(own)

    def refresh_normalizer(self) -> None:
        """Sets the normaliser, if there is one, to the moments of all observations so far."""
        if self._normalizer is None:
            return
        found = ([seen.mean for seen in self._seen], [seen.inverse_stddev for seen in self._seen])
        for buffer, values in zip(self._buffers, found, strict=True):
            buffer.copy_(torch.from_numpy(np.stack(values)).unsqueeze(1))

    def state_dict(self, index: int) -> dict[str, Any]:
        """Returns one seed's moments and what its normaliser applies."""
        return {
            "seen": self._seen[index].state_dict(),
            "normalizer": [buffer[index : index + 1].clone() for buffer in self._buffers],
        }

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Restores one state per seed; other keys of the states are ignored."""
        for seen, state in zip(self._seen, states, strict=True):
            seen.load_state_dict(state["seen"])
        for i, buffer in enumerate(self._buffers):
            buffer.copy_(torch.cat([state["normalizer"][i] for state in states]))

    @property
    def _buffers(self) -> tuple[torch.Tensor, ...]:
        """The normaliser's shift and scale, [S, 1, O] each, if there is a normaliser."""
        return () if self._normalizer is None else (self._normalizer.shift, self._normalizer.scale)
