"""Which transitions a learner's replay holds, which of them follow each other, and windows of them.

Transitions have numbers, counted from the learner's first one; C is the capacity.
"""

from typing import Any

import numpy as np
import torch

_NONE = np.empty(0, dtype=np.int64)


class Ring:
    """The last C transitions of one learner: the n-th has slot n % C."""

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        """Empty; windows are drawn from the generator, on the CPU."""
        self._capacity = capacity
        self._generator = generator
        self._added = 0
        # Slot of the first transition of the newest one's episode.
        self._first = 0
        self._episode_over = True
        # Numbers of the transitions that did not follow the one before.
        self._gaps: list[int] = []
        self._gap_ahead = False

    @property
    def size(self) -> int:
        """Transitions held."""
        return min(self._added, self._capacity)

    @property
    def pointer(self) -> int:
        """The slot that the next transition takes."""
        return self._added % self._capacity

    def add(self, over: bool) -> int:
        """Counts a transition, the last of its episode or not; returns the slot of the first."""
        if self._gap_ahead:
            self._gaps.append(self._added)
        if self._episode_over:
            self._first = self.pointer
        self._gap_ahead, self._episode_over = False, over
        self._added += 1
        return self._first

    def break_off(self) -> None:
        """Says that the next transition does not follow the newest one."""
        self._gap_ahead = self._episode_over = True

    def newest(self, count: int) -> np.ndarray:
        """The slots of the newest transitions, at most `count` of them, oldest first."""
        return np.arange(self._added - min(count, self.size), self._added) % self._capacity

    def starts(self, batch_size: int, window: int) -> np.ndarray:
        """Numbers of the first transitions of random windows that span no gap, [B].

        Raises:
            RuntimeError: there are no such windows.
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
                f"no {window} transitions in sequence ({size} transitions, {len(self._gaps)} gaps)"
            )
        drawn = torch.randint(count, (batch_size,), generator=self._generator).numpy()
        if len(barred):
            # The n-th that is not barred.
            drawn = drawn + np.searchsorted(barred - np.arange(len(barred)), drawn, side="right")
        return oldest + drawn

    def _barred(self, oldest: int, window: int, count: int) -> np.ndarray:
        """Which of the oldest `count` transitions begin a window that spans a gap, ascending."""
        starts = np.unique(np.array(self._gaps)[:, None] - np.arange(1, window)) - oldest
        return starts[(starts >= 0) & (starts < count)]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from."""
        return {
            "added": self._added,
            "first": self._first,
            "episode_over": self._episode_over,
            "gaps": list(self._gaps),
            "gap_ahead": self._gap_ahead,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes the ring whose `state_dict` this is."""
        for name in ("added", "first", "episode_over", "gap_ahead"):
            setattr(self, f"_{name}", state[name])
        self._gaps = list(state["gaps"])
        self._generator.set_state(state["generator"])
