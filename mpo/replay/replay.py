"""Replay of S learners: a ring of packed transitions each, on the training device.

Each observation is stored once, see `mpo.replay.storage`. The index stays on the host, and windows
are drawn there: the device is told what to read, and the host never waits for it. The two ends of
an episode are kept apart: `terminated` decides the bootstrap, either of them cuts a trace.

Letters: S seed, C capacity, T window, B batch, O observation, D action dimensions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpo.replay.index import Ring
from mpo.replay.storage import Rows


class Replay:
    """The last `capacity` transitions of each seed, and windows of consecutive ones."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        capacity: int,
        generators: Sequence[torch.Generator],
        device: torch.device | str = "cpu",
        staged: bool | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        """Allocates.

        Args:
            obs_dim: O.
            action_dim: D.
            capacity: C.
            generators: each seed samples from its own, on the CPU.
            device: of transitions and samples.
            staged: whether transitions wait on the host for the next sampling; None: unless the
                device is the CPU.
            cuda_graphs: whether a sampling is a graph, where the device is a GPU.
        """
        self.widths = (obs_dim, action_dim, action_dim, 1, 1, 1, 1, obs_dim)
        """Elements of the fields of a packed transition: obs, action, action_raw, behaviour_logp,
        reward, terminated, truncated, next_obs."""
        self._split = [obs_dim, action_dim, action_dim, 4, obs_dim]
        self._capacity = capacity
        self._rings = [Ring(capacity, generator) for generator in generators]
        device, rows = torch.device(device), len(generators) * capacity
        self._begin = capacity * np.arange(len(generators))[:, None, None]
        staged = device.type != "cpu" if staged is None else staged
        self._rows = Rows(rows, sum(self.widths) - obs_dim, obs_dim, device, staged, cuda_graphs)
        # Of the transition in a row: the slot of its episode's first one, and the place of its
        # successor where that is kept apart, -1 where it is what the next row begins with.
        self._first = np.zeros(rows, dtype=np.int32)
        self._place = np.full(rows, -1, dtype=np.int32)
        self._successors = [b""] * len(generators)

    @property
    def nbytes(self) -> int:
        """Of all transitions, on the device and on the host."""
        return self._rows.nbytes + self._first.nbytes + self._place.nbytes

    def size(self, seed_index: int = 0) -> int:
        """Transitions held for a seed."""
        return self._rings[seed_index].size

    def pointer(self, seed_index: int = 0) -> int:
        """The slot that a seed's next transition takes."""
        return self._rings[seed_index].pointer

    def add(self, seed_index: int, transition: Tensor) -> None:
        """Stores one packed transition, float32 on the CPU; see `widths`."""
        packed, obs_dim = transition.numpy(), self.widths[0]
        slot = self.pointer(seed_index)
        row = seed_index * self._capacity + slot
        if self._place[row] >= 0:
            self._rows.free_place(int(self._place[row]))
        # The newest transition's successor is kept apart until another one begins with it; to the
        # bit, for what is sampled is what was given. After the last slot comes another ring.
        if slot > 0 and packed[:obs_dim].tobytes() == self._successors[seed_index]:
            place, self._place[row - 1] = int(self._place[row - 1]), -1
        else:
            place = self._rows.take_place()
        self._place[row] = place
        self._successors[seed_index] = packed[-obs_dim:].tobytes()
        over = bool(packed[-obs_dim - 2 : -obs_dim].any())
        self._first[row] = self._rings[seed_index].add(over)
        self._rows.write(row, place, packed)

    def break_segment(self, seed_index: int) -> None:
        """Says that the seed's next transition does not follow its last one."""
        self._rings[seed_index].break_off()

    def newest(self, seed_index: int, count: int) -> dict[str, Tensor]:
        """A seed's newest transitions, at most `count` of them, oldest first, on the CPU.

        Returns:
            `rows`, packed but for the successor [n, W]; `first`, the slots of their episodes' first
            ones [n]; `apart`, whether the successor is kept apart [n], as the last one's is; and
            `successors`, those [m, O].
        """
        rows = self._newest_rows(seed_index, count)
        places = self._place[rows]
        apart = places >= 0
        packed, successors = self._rows.dump(rows, places[apart])
        return {
            "rows": packed,
            "first": torch.from_numpy(self._first[rows]),
            "apart": torch.from_numpy(apart),
            "successors": successors,
        }

    def state_dict(self, seed_index: int) -> dict[str, Any]:
        """All of a seed but its transitions, as if it were alone."""
        return self._rings[seed_index].state_dict()

    def load_state_dict(
        self, seed_index: int, state: dict[str, Any], newest: Sequence[dict[str, Tensor]]
    ) -> None:
        """Takes over a seed from the replay whose `state_dict` this is.

        Args:
            seed_index: its place here, where nothing has been added.
            state: see `state_dict`.
            newest: what `newest` returned of it, piece by piece, oldest first; with at least as
                many transitions as the replay held, and one at the least.
        """
        self._rings[seed_index].load_state_dict(state)
        rows = self._newest_rows(seed_index, self._capacity)
        joined = {name: torch.cat([piece[name] for piece in newest]) for name in newest[0]}
        packed, first, apart = (joined[name][-len(rows) :] for name in ("rows", "first", "apart"))
        successors = joined["successors"][-int(apart.sum()) :]
        places = np.array([self._rows.take_place() for _ in successors])
        self._rows.restore(rows, places, packed, successors)
        self._first[rows] = first
        self._place[rows[apart.numpy()]] = places
        self._successors[seed_index] = successors[-1].numpy().tobytes()

    def _newest_rows(self, seed_index: int, count: int) -> np.ndarray:
        """The rows of a seed's newest transitions, oldest first."""
        return seed_index * self._capacity + self._rings[seed_index].newest(count)

    def sample(self, batch_size: int, offsets: Tensor) -> dict[str, Tensor]:
        """Draws windows uniformly, with replacement, among those that span no gap.

        Args:
            batch_size: windows per seed, B.
            offsets: 0 ... T-1, on the CPU, [T].

        Returns:
            The fields [S, T, B]: obs, next_obs and first_obs [..., O], action and
            action_raw [..., D], the others [...]. `first_obs` is what the step's episode began
            with, or, where the ring has overwritten that, a newer observation. On a GPU the next
            sampling overwrites them.

        Raises:
            RuntimeError: a seed holds no window of T transitions in sequence.
        """
        starts = np.concatenate(
            [self._starts(i, batch_size, len(offsets)) for i in range(len(self._rings))]
        )
        starts = starts.reshape(-1, 1, batch_size)
        rows = (starts + offsets.numpy()[:, None]) % self._capacity + self._begin  # [S, T, B]
        first = self._first.take(rows) + self._begin
        packed, first_obs = self._rows.read(rows, self._place.take(rows), first)
        obs, action, action_raw, numbers, next_obs = packed.split_with_sizes(self._split, -1)
        behaviour_logp, reward, terminated, truncated = numbers.unbind(-1)
        return {
            "obs": obs,
            "action": action,
            "action_raw": action_raw,
            "behaviour_logp": behaviour_logp,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "next_obs": next_obs,
            "first_obs": first_obs,
        }

    def _starts(self, seed_index: int, batch_size: int, window: int) -> np.ndarray:
        """Numbers of the first transitions of random windows of one seed, [B]."""
        try:
            return self._rings[seed_index].starts(batch_size, window)
        except RuntimeError as error:
            raise RuntimeError(
                f"the replay of seed {seed_index} in the stack holds {error}"
            ) from None
