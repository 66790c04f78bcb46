"""The index of one seed's replay: which transitions it holds, and which windows can be drawn.

Transitions are numbered from the seed's first one. A gap is a place where two consecutive
transitions are not consecutive environment steps: a transition between them was refused, or the
episode was dropped as the training resumed.

Letters: C capacity, B batch.
"""

from typing import Any

import numpy as np
import torch

_NONE = np.empty(0, dtype=np.int64)


class Ring:
    """A ring buffer's index: the last C transitions of one seed; number n is in slot n % C."""

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        """Creates an empty ring.

        Args:
            capacity: C.
            generator: a CPU generator; windows are drawn from it.
        """
        self._capacity = capacity
        self._generator = generator
        self._added = 0
        # The slot of the first transition of the current episode.
        self._first = 0
        self._episode_over = True
        # Numbers of the transitions that come directly after a gap, ascending.
        self._gaps: list[int] = []
        self._gap_ahead = False

    @property
    def added(self) -> int:
        """Number of transitions added so far."""
        return self._added

    @property
    def size(self) -> int:
        """Number of transitions held."""
        return min(self._added, self._capacity)

    @property
    def pointer(self) -> int:
        """The slot of the next transition."""
        return self._added % self._capacity

    def add(self, over: bool) -> int:
        """Adds a transition.

        Args:
            over: whether its episode ended with it.

        Returns:
            The slot of its episode's first transition.
        """
        if self._gap_ahead:
            self._gaps.append(self._added)
        if self._episode_over:
            self._first = self.pointer
        self._gap_ahead, self._episode_over = False, over
        self._added += 1
        return self._first

    def break_off(self) -> None:
        """Marks a gap after the newest transition."""
        self._gap_ahead = self._episode_over = True

    def newest(self, count: int) -> np.ndarray:
        """Returns the slots of the newest `count` transitions, or of all if fewer, oldest first."""
        return np.arange(self._added - min(count, self.size), self._added) % self._capacity

    def starts(self, batch_size: int, window: int) -> np.ndarray:
        """Draws windows uniformly, with replacement, among those that span no gap.

        Args:
            batch_size: B.
            window: transitions per window.

        Returns:
            The number of each window's first transition, [B].

        Raises:
            RuntimeError: there is no such window.
        """
        size = self.size
        oldest = self._added - size
        while self._gaps and self._gaps[0] <= oldest:
            self._gaps.pop(0)
        count = size - window + 1
        barred = self._barred(oldest, window, count) if self._gaps else _NONE
        count -= len(barred)
        if count <= 0:
            raise RuntimeError(
                f"no {window} consecutive transitions among {size}, with {len(self._gaps)} gaps"
            )
        drawn = torch.randint(count, (batch_size,), generator=self._generator).numpy()
        if len(barred):
            # Map n to the n-th start that is not barred.
            drawn = drawn + np.searchsorted(barred - np.arange(len(barred)), drawn, side="right")
        return oldest + drawn

    def _barred(self, oldest: int, window: int, count: int) -> np.ndarray:
        """Returns the starts, counted from the oldest transition, whose window spans a gap.

        Args:
            oldest: number of the oldest transition held.
            window: transitions per window.
            count: number of starts, gaps ignored.

        Returns:
            Starts in [0, count), ascending.
        """
        starts = np.unique(np.array(self._gaps)[:, None] - np.arange(1, window)) - oldest
        return starts[(starts >= 0) & (starts < count)]

    def state_dict(self) -> dict[str, Any]:
        """Returns the ring's state, for `load_state_dict`."""
        return {
            "added": self._added,
            "first": self._first,
            "episode_over": self._episode_over,
            "gaps": list(self._gaps),
            "gap_ahead": self._gap_ahead,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of a ring with the same capacity."""
        for name in ("added", "first", "episode_over", "gap_ahead"):
            setattr(self, f"_{name}", state[name])
        self._gaps = list(state["gaps"])
        self._generator.set_state(state["generator"])
