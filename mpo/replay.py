"""Replay of S learners: one ring of packed rows [S, C, W] on the training device.

A transition is one row, so storing is one copy and sampling one gather. The two ends of an episode
are kept apart: `terminated` decides the bootstrap, either of them cuts a trace. A row knows the
slot of its episode's first transition.

Letters: S seed, C capacity, W row width, T window, B batch, O observation, D action dimensions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_VECTORS = ("obs", "action", "action_raw", "next_obs")
_COUNTERS = ("added", "segment", "first", "episode_over")


class Replay:
    """The last `capacity` transitions of each seed, and windows of consecutive ones."""

    def __init__(
        self, obs_dim: int, action_dim: int, capacity: int, generators: Sequence[torch.Generator]
    ) -> None:
        """Allocates on the generators' device; each seed samples from its own generator."""
        self._fields = {
            "obs": obs_dim,
            "action": action_dim,
            "action_raw": action_dim,
            "behaviour_logp": 1,
            "reward": 1,
            "next_obs": obs_dim,
            "terminated": 1,
            "truncated": 1,
        }
        self.widths = tuple(self._fields.values())
        """Elements of a packed transition's fields, in order."""
        self._generators = generators
        self._capacity = capacity
        seeds, width = len(generators), sum(self.widths)
        # The last column is the slot of the episode's first transition: exact up to 2**24 slots.
        self._rows = torch.zeros(seeds, capacity, width + 1, device=generators[0].device)
        self._first = np.zeros(seeds, dtype=np.int64)
        self._episode_over = np.ones(seeds, dtype=bool)
        self._seed_column = torch.arange(seeds, device=self._rows.device)[:, None, None]
        # A segment is a stretch of transitions that really followed each other, across episodes
        # too; only a refused transition ends one.
        self._segments = np.zeros((seeds, capacity), dtype=np.int64)
        self._segment = np.zeros(seeds, dtype=np.int64)
        self._added = np.zeros(seeds, dtype=np.int64)

    def size(self, seed_index: int = 0) -> int:
        """Transitions held for a seed."""
        return min(int(self._added[seed_index]), self._capacity)

    def pointer(self, seed_index: int = 0) -> int:
        """The slot that a seed's next transition takes."""
        return int(self._added[seed_index]) % self._capacity

    def add(self, seed_index: int, row: Tensor) -> None:
        """Stores one packed transition [W], fields in the order obs, action, ..., truncated."""
        slot = self.pointer(seed_index)
        if self._episode_over[seed_index]:
            self._first[seed_index] = slot
        self._episode_over[seed_index] = bool(row[-2:].any())
        self._rows[seed_index, slot, :-1] = row
        self._rows[seed_index, slot, -1] = float(self._first[seed_index])
        self._segments[seed_index, slot] = self._segment[seed_index]
        self._added[seed_index] += 1

    def break_segment(self, seed_index: int) -> None:
        """Says that the seed's next transition does not follow its last one."""
        self._segment[seed_index] += 1
        self._episode_over[seed_index] = True

    @property
    def added(self) -> list[int]:
        """Transitions that each seed has stored in all."""
        return self._added.tolist()

    def newest(self, seed_index: int, count: int) -> dict[str, Tensor]:
        """A seed's newest transitions, at most `count` of them, oldest first, on the CPU.

        Returns:
            Packed rows [n, W + 1] and the segment of each [n].
        """
        slots = self._newest_slots(seed_index, count)
        rows = self._rows[seed_index, torch.from_numpy(slots).to(self._rows.device)]
        return {"rows": rows.cpu(), "segments": torch.from_numpy(self._segments[seed_index, slots])}

    def state_dict(self, seed_index: int) -> dict[str, Any]:
        """All of a seed but its transitions, as if it were alone."""
        return {
            **{name: getattr(self, f"_{name}")[[seed_index]].tolist() for name in _COUNTERS},
            "generators": [self._generators[seed_index].get_state()],
        }

    def load_state_dict(
        self, seed_index: int, state: dict[str, Any], newest: Sequence[dict[str, Tensor]]
    ) -> None:
        """Takes over a seed from the replay whose `state_dict` this is.

        Args:
            seed_index: its place here.
            state: see `state_dict`.
            newest: what `newest` returned of it, piece by piece, oldest first; with at least as
                many transitions as the replay held, and one at the least.
        """
        for name in _COUNTERS:
            getattr(self, f"_{name}")[[seed_index]] = state[name]
        self._generators[seed_index].set_state(state["generators"][0])
        slots = self._newest_slots(seed_index, self._capacity)
        rows, segments = (
            torch.cat([piece[name] for piece in newest])[-len(slots) :]
            for name in ("rows", "segments")
        )
        places = torch.from_numpy(slots).to(self._rows.device)
        self._rows[seed_index, places] = rows.to(self._rows.device)
        self._segments[seed_index, slots] = segments

    def _newest_slots(self, seed_index: int, count: int) -> np.ndarray:
        """The slots of a seed's newest transitions, oldest first."""
        end = self._added[seed_index]
        return np.arange(end - min(count, self.size(seed_index)), end) % self._capacity

    def sample(self, batch_size: int, offsets: Tensor) -> dict[str, Tensor]:
        """Draws windows uniformly, with replacement, among those that span no gap.

        Args:
            batch_size: windows per seed, B.
            offsets: 0 ... T-1, [T].

        Returns:
            The fields [S, T, B]: obs, next_obs and first_obs [..., O], action and
            action_raw [..., D], the others [...]. `first_obs` is what the step's episode began
            with, or, where the ring has overwritten that, a newer observation.

        Raises:
            RuntimeError: a seed holds no window of T transitions in sequence.
        """
        window = len(offsets)
        starts = torch.stack(
            [self._starts(i, batch_size, window) for i in range(len(self._generators))]
        )  # [S, B]
        index = (starts[:, None, :] + offsets[None, :, None]) % self._capacity  # [S, T, B]
        rows = self._rows[self._seed_column, index]  # [S, T, B, W]
        *parts, first = rows.split([*self.widths, 1], dim=-1)
        fields = {
            name: part if name in _VECTORS else part.squeeze(-1)
            for name, part in zip(self._fields, parts, strict=True)
        }
        obs = self._rows[..., : self.widths[0]]
        fields["first_obs"] = obs[self._seed_column, first.squeeze(-1).long()]
        return fields

    def _starts(self, seed_index: int, batch_size: int, window: int) -> Tensor:
        """First slots of random windows of one seed, [B]."""
        size = self.size(seed_index)
        oldest = self.pointer(seed_index) if size == self._capacity else 0
        generator = self._generators[seed_index]
        device = generator.device
        count = size - window + 1
        segments = self._segments[seed_index]
        whole = segments[oldest] == segments[(oldest + size - 1) % self._capacity]
        ages: Tensor | None = None
        if count > 0 and not whole:
            first = (oldest + np.arange(count)) % self._capacity
            unbroken = segments[first] == segments[(first + window - 1) % self._capacity]
            ages = torch.from_numpy(np.flatnonzero(unbroken)).to(device)
            count = len(ages)
        if count <= 0:
            raise RuntimeError(
                f"the replay of seed {seed_index} in the stack holds no {window} transitions in "
                f"sequence ({size} transitions, {segments.max()} gaps)"
            )
        drawn = torch.randint(count, (batch_size,), generator=generator, device=device)
        return oldest + (drawn if ages is None else ages[drawn])
