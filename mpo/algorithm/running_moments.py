"""Mean and spread of a stream of vectors."""

from typing import Any

import numpy as np
import torch

_LEAST_VARIANCE = 1e-4
"""Added: what hardly varies is not blown up."""


class RunningMoments:
    """Of all vectors so far, in double precision (Welford 1962, Technometrics 4)."""

    def __init__(self, size: int) -> None:
        """Of none yet."""
        self._count = 0
        self._mean = np.zeros(size)
        self._squares = np.zeros(size)

    def add(self, x: np.ndarray) -> None:
        """Takes one vector, [size]."""
        self._count += 1
        before = x - self._mean
        self._mean += before / self._count
        self._squares += before * (x - self._mean)

    @property
    def mean(self) -> np.ndarray:
        """[size]; 0 before the first vector."""
        return self._mean

    @property
    def inverse_stddev(self) -> np.ndarray:
        """[size]; 1 before the second vector."""
        if self._count < 2:
            return np.ones_like(self._mean)
        return 1 / np.sqrt(self._squares / self._count + _LEAST_VARIANCE)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from."""
        sums = torch.from_numpy(np.stack([self._mean, self._squares]))
        return {"count": self._count, "sums": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes the moments whose `state_dict` this is."""
        self._count = state["count"]
        self._mean, self._squares = state["sums"].numpy().copy()
