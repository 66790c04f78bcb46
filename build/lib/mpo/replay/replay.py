"""The replay of S stacked seeds: one ring buffer of transitions per seed, on the training device.

Transitions are packed into rows, and each observation is stored about once; see
`mpo.replay.storage`. The index is kept on the host, which draws the windows and tells the device
what to read, so the host never waits for the device. Termination and truncation are stored
separately: only termination stops the bootstrap, but both cut a trace.

Letters: S seed, C capacity, T window, B batch, O observation, D action dimensions, W row width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpo.replay.index import Ring
from mpo.replay.storage import Rows


class Replay:
    """Holds the last C transitions of each seed, and samples windows of consecutive ones."""

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
        """Allocates the memory of all seeds.

        Args:
            obs_dim: O.
            action_dim: D.
            capacity: C, transitions per seed.
            generators: one CPU generator per seed, for drawing windows.
            device: the device of transitions and samples.
            staged: whether new transitions are buffered on the host and copied to the device with
                the next sample; None: only if the device is not the CPU.
            cuda_graphs: whether sampling on a GPU is captured in a CUDA graph.
        """
        self.widths = (obs_dim, action_dim, action_dim, 1, 1, 1, 1, obs_dim)
        """Widths of the fields of a packed transition: obs, action, action_raw, behaviour_logp,
        reward, terminated, truncated, next_obs."""
        self._split = [obs_dim, action_dim, action_dim, 4, obs_dim]
        self._capacity = capacity
        self._rings = [Ring(capacity, generator) for generator in generators]
        device, rows = torch.device(device), len(generators) * capacity
        self._begin = capacity * np.arange(len(generators))[:, None, None]
        staged = device.type != "cpu" if staged is None else staged
        self._rows = Rows(rows, sum(self.widths) - obs_dim, obs_dim, device, staged, cuda_graphs)
        # For each row: the slot of its episode's first transition.
        self._first = np.zeros(rows, dtype=np.int32)
        # For each row: where its next_obs is stored separately, or -1 if the next row's obs is it.
        self._place = np.full(rows, -1, dtype=np.int32)
        # The bytes of the newest next_obs of each seed.
        self._successors = [b""] * len(generators)

    @property
    def nbytes(self) -> int:
        """Bytes that the transitions and their index take, on the device and the host."""
        return self._rows.nbytes + self._first.nbytes + self._place.nbytes

    def size(self, seed_index: int = 0) -> int:
        """Returns the number of transitions held for a seed."""
        return self._rings[seed_index].size

    def pointer(self, seed_index: int = 0) -> int:
        """Returns the slot of a seed's next transition."""
        return self._rings[seed_index].pointer

    def add(self, seed_index: int, transition: Tensor) -> None:
        """Stores one transition.

        Args:
            seed_index: the seed's position in the stack.
            transition: its fields, packed in the order of `widths`, float32 on the CPU, [W + O].
        """
        packed, obs_dim = transition.numpy(), self.widths[0]
        slot = self.pointer(seed_index)
        row = seed_index * self._capacity + slot
        if self._place[row] >= 0:
            self._rows.free_place(int(self._place[row]))
        # The newest next_obs is stored separately until a transition begins with the same
        # observation. They are compared as bytes, so that samples return exactly what was stored
        # (0.0 equals -0.0). The row before slot 0 belongs to another seed's ring.
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
        """Marks a gap: the seed's next transition does not follow its newest one."""
        self._rings[seed_index].break_off()

    def newest(self, seed_index: int, count: int) -> dict[str, Tensor]:
        """Returns a seed's newest `count` transitions, or all if fewer, for the journal.

        Returns:
            CPU tensors of n transitions, oldest first. `rows`: all fields but next_obs, [n, W].
            `first`: the slot of the episode's first transition, [n]. `apart`: whether next_obs is
            stored separately, [n]; always true for the newest one. `successors`: those next_obs,
            [m, O].
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
        """Returns a seed's state without its transitions, which `newest` returns.

        It does not depend on the other seeds in the stack.
        """
        return self._rings[seed_index].state_dict()

    def load_state_dict(
        self, seed_index: int, state: dict[str, Any], newest: Sequence[dict[str, Tensor]]
    ) -> None:
        """Restores a seed into an empty ring.

        Args:
            seed_index: the seed's position in this stack.
            state: from `state_dict`.
            newest: pieces from `newest`, oldest first. Together they cover at least the transitions
                that the saved replay held, and at least one.
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
        """Returns the rows of a seed's newest `count` transitions, oldest first."""
        return seed_index * self._capacity + self._rings[seed_index].newest(count)

    def sample(self, batch_size: int, offsets: Tensor) -> dict[str, Tensor]:
        """Draws windows uniformly, with replacement, among those that span no gap.

        Args:
            batch_size: B, windows per seed.
            offsets: 0 ... T-1, on the CPU, [T].

        Returns:
            Fields with leading axes [S, T, B]: obs, next_obs and first_obs [..., O], action and
            action_raw [..., D], behaviour_logp, reward, terminated, truncated and age [...].
            `first_obs` is the first observation of the step's episode, or a newer observation if
            the ring has overwritten that one. `age` counts the transitions stored since, with this
            one. On a GPU the next sample overwrites these tensors.

        Raises:
            RuntimeError: a seed holds no T consecutive transitions.
        """
        starts = np.concatenate(
            [self._starts(i, batch_size, len(offsets)) for i in range(len(self._rings))]
        )
        numbers = starts.reshape(-1, 1, batch_size) + offsets.numpy()[:, None]  # [S, T, B]
        rows = numbers % self._capacity + self._begin
        first = self._first.take(rows) + self._begin
        ages = np.array([ring.added for ring in self._rings])[:, None, None] - numbers
        packed, first_obs, age = self._rows.read(rows, self._place.take(rows), first, ages)
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
            "age": age,
        }

    def _starts(self, seed_index: int, batch_size: int, window: int) -> np.ndarray:
        """Draws one seed's windows; see `Ring.starts`."""
        try:
            return self._rings[seed_index].starts(batch_size, window)
        except RuntimeError as error:
            raise RuntimeError(
                f"the replay of seed {seed_index} in the stack holds {error}"
            ) from None
