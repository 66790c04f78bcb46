"""Rows on a device that the host writes one at a time and the device reads many at a time.

A packed transition [W + O] begins with its observation and ends with its successor, which mostly is
what the next transition begins with. So a row holds the first W elements alone, and what is read at
a row runs on into the next one; other successors are kept apart and put in when they are read.

Letters: N rows, W row width, O observation.
"""

import numpy as np
import torch
from torch import Tensor

_STAGED = 1024
"""Rows that wait on the host at most."""
_APART = 64
"""Places for successors to begin with."""


class Rows:
    """Transitions in N rows, and places for the successors of some."""

    def __init__(
        self, rows: int, width: int, obs_dim: int, device: torch.device, staged: bool
    ) -> None:
        """Allocates.

        Args:
            rows: N.
            width: W.
            obs_dim: O.
            device: of the rows.
            staged: writings wait on the host for the next reading and go over together; otherwise
                they are done at once, which takes the CPU.
        """
        self._device = device
        self._width = width
        shape = (rows + 1, width)  # one more, for the last to run on into
        if device.type == "cpu":
            # Numpy asks the system for huge pages, with which reading here and there is faster.
            self._rows = torch.from_numpy(np.zeros(shape, np.float32))
        else:
            self._rows = torch.zeros(shape, device=device)
        self._packed = self._rows.as_strided((rows, width + obs_dim), (width, 1))
        self._obs = self._rows[:, :obs_dim]
        self._apart = torch.zeros(_APART, obs_dim, device=device)
        self._free = list(range(_APART))
        self._staged = staged
        self._clear()

    def _clear(self) -> None:
        if self._staged:
            pinned = self._device.type == "cuda"
            # A new one: the device may still be reading the one before.
            self._buffer = torch.empty(_STAGED, self._packed.shape[1], pin_memory=pinned)
            # Row or place to the newest in the buffer that goes there.
            self._to_rows: dict[int, int] = {}
            self._to_places: dict[int, int] = {}
            self._waiting = 0

    @property
    def nbytes(self) -> int:
        """Of what is held on the device."""
        return self._rows.nbytes + self._apart.nbytes

    def take_place(self) -> int:
        """A place for a successor that is kept apart."""
        if not self._free:
            count = len(self._apart)
            # A quarter more, not twice as many: the unused ones count in a memory that is full.
            more = self._apart.new_zeros(count // 4, self._apart.shape[1])
            self._apart = torch.cat([self._apart, more])
            self._free += range(count, count + count // 4)
        return self._free.pop()

    def free_place(self, place: int) -> None:
        """Gives a place back."""
        self._free.append(place)

    def write(self, row: int, place: int, packed: np.ndarray) -> None:
        """Writes a transition [W + O] to a row, its successor to a place."""
        if not self._staged:
            self._rows.numpy()[row] = packed[: self._width]
            self._apart.numpy()[place] = packed[self._width :]
            return
        if self._waiting == _STAGED:
            self.flush()
        self._buffer.numpy()[self._waiting] = packed
        self._to_rows[row] = self._to_places[place] = self._waiting
        self._waiting += 1

    def flush(self) -> None:
        """Sends what waits on the host to the device, in two copies."""
        if not (self._staged and self._waiting):
            return
        targets = (self._to_rows, self._to_places)
        moves = [np.fromiter(part, np.int64) for to in targets for part in (to, to.values())]
        rows, from_rows, places, from_places = self._send(moves)
        buffer = self._buffer[: self._waiting].to(self._device, non_blocking=True)
        transitions, successors = buffer[:, : self._width], buffer[:, self._width :]
        self._rows.index_copy_(0, rows, transitions.index_select(0, from_rows))
        self._apart.index_copy_(0, places, successors.index_select(0, from_places))
        self._clear()

    def _send(self, indices: list[np.ndarray]) -> list[Tensor]:
        """Indices on the device, in one copy that the host does not wait for."""
        if self._device.type == "cpu":
            return [torch.from_numpy(index) for index in indices]
        joined = torch.from_numpy(np.concatenate(indices, dtype=np.int64))
        if self._device.type == "cuda":
            joined = joined.pin_memory()
        sent = joined.to(self._device, non_blocking=True)
        return list(sent.split([index.size for index in indices]))

    def read(
        self, rows: np.ndarray, places: np.ndarray, obs_rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Copies of transitions, and of observations alone.

        Args:
            rows: of the transitions, [...].
            places: of their successors that are kept apart, -1 for the others, [...].
            obs_rows: of the observations, [...].

        Returns:
            Packed transitions [..., W + O] and observations [..., O].
        """
        self.flush()
        flat = places.ravel()
        (apart,) = (flat >= 0).nonzero()
        at, which, where, obs_at = self._send([rows.ravel(), apart, flat[apart], obs_rows.ravel()])
        packed = self._packed.index_select(0, at)
        if len(apart):
            successors = self._apart.index_select(0, where)
            packed[:, self._width :].index_copy_(0, which, successors)
        obs = self._obs.index_select(0, obs_at)
        return packed.view(*rows.shape, -1), obs.view(*obs_rows.shape, -1)

    def dump(self, rows: np.ndarray, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Rows [n, W] and successors kept apart [m, O], on the CPU."""
        self.flush()
        at, where = self._send([rows, places])
        return self._rows.index_select(0, at).cpu(), self._apart.index_select(0, where).cpu()

    def restore(
        self, rows: np.ndarray, places: np.ndarray, contents: Tensor, successors: Tensor
    ) -> None:
        """Writes what `dump` has returned, to these rows and places."""
        at, where = self._send([rows, places])
        self._rows.index_copy_(0, at, contents.to(self._device))
        self._apart.index_copy_(0, where, successors.to(self._device))
