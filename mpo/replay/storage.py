"""Rows on a device that the host writes one at a time and the device reads many at a time.

A packed transition [W + O] begins with its observation and ends with its successor, which mostly is
what the next transition begins with. So a row holds the first W elements alone, and what is read at
a row runs on into the next one; other successors are kept apart and put in when they are read.

Letters: N rows, W row width, O observation.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mpo.compute.cuda_graphs import Graphed, Tensors

_STAGED = 1024
"""Rows that wait on the host at most."""
_APART = 64
"""Places for successors to begin with."""
_EXCHANGES = 4
"""Of unlike sizes, kept as graphs at a time; a training mostly has one."""
_NONE = np.zeros(0, dtype=np.int64)


class Rows:
    """Transitions in N rows, and places for the successors of some."""

    def __init__(
        self,
        rows: int,
        width: int,
        obs_dim: int,
        device: torch.device,
        staged: bool,
        cuda_graphs: bool,
    ) -> None:
        """Allocates.

        Args:
            rows: N.
            width: W.
            obs_dim: O.
            device: of the rows.
            staged: writings wait on the host for the next reading and go over together; otherwise
                they are done at once, which takes the CPU.
            cuda_graphs: whether they and the reading are a graph, where the device is a GPU.
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
        if staged:
            self._buffer = np.empty((_STAGED, width + obs_dim), np.float32)
            # Row or place to the newest in the buffer that goes there.
            self._to_rows: dict[int, int] = {}
            self._to_places: dict[int, int] = {}
            self._waiting = 0
            self._graphs = cuda_graphs and device.type == "cuda"
            self._exchanges: dict[tuple[int, int, int], Callable[[Tensors], Tensors]] = {}

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
            if self._staged:
                # A graph would go on with the old ones.
                self._exchanges.clear()
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
            self._flush()
        self._buffer[self._waiting] = packed
        self._to_rows[row] = self._to_places[place] = self._waiting
        self._waiting += 1

    def read(
        self, rows: np.ndarray, places: np.ndarray, obs_rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Copies of transitions, and of observations alone.

        Args:
            rows: of the transitions, [...].
            places: of their successors that are kept apart, -1 for the others, [...].
            obs_rows: of the observations, [...].

        Returns:
            Packed transitions [..., W + O] and observations [..., O]; by CUDA graphs, the next
            reading overwrites them.
        """
        read = self._exchange if self._staged else self._read
        packed, obs = read(rows.ravel(), places.ravel(), obs_rows.ravel())
        return packed.view(*rows.shape, -1), obs.view(*obs_rows.shape, -1)

    def _read(
        self, rows: np.ndarray, places: np.ndarray, obs_rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """On the CPU, where nothing waits; see `read`."""
        (apart,) = (places >= 0).nonzero()
        packed = self._packed.index_select(0, torch.from_numpy(rows))
        if len(apart):
            successors = self._apart.index_select(0, torch.from_numpy(places[apart]))
            packed[:, self._width :].index_copy_(0, torch.from_numpy(apart), successors)
        return packed, self._obs.index_select(0, torch.from_numpy(obs_rows))

    def _exchange(
        self, rows: np.ndarray, places: np.ndarray, obs_rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Sends what waits on the host, then reads, in one copy that nobody waits for."""
        to = (self._to_rows, self._to_places)
        targets = [np.fromiter(part, np.int64, len(part)) for part in to]
        newest = [np.fromiter(part.values(), np.int64, len(part)) for part in to]
        transitions = self._buffer[newest[0], : self._width]
        successors = self._buffer[newest[1], self._width :]
        for part in to:
            part.clear()
        self._waiting = 0
        indices = [rows, places, obs_rows, *targets]
        sizes = (len(rows), len(transitions), len(successors))
        if sizes not in self._exchanges:
            if len(self._exchanges) == _EXCHANGES:
                self._exchanges.clear()
            function = partial(self._write_and_read, self._apart, sizes)
            graph = Graphed(function, self._device) if self._graphs else function
            self._exchanges[sizes] = graph
        sent = _joined(indices, [transitions, successors], self._device.type == "cuda")
        found = self._exchanges[sizes]({"sent": sent})
        return found["packed"], found["obs"]

    def _flush(self) -> None:
        """Sends what waits on the host, and reads nothing."""
        self._exchange(_NONE, _NONE, _NONE)

    def _write_and_read(
        self, kept: Tensor, sizes: tuple[int, int, int], inputs: Tensors
    ) -> Tensors:
        """On the device: the successors kept apart, and of `sent`, see `_exchange`, the sizes."""
        count, written, apart = sizes
        obs_dim = kept.shape[1]
        ends = [8 * (3 * count + written + apart), 4 * (written * self._width + apart * obs_dim)]
        sent = inputs["sent"].to(self._device, non_blocking=True)
        indices, contents = sent.split(ends)
        numbers = indices.view(torch.int64).split([count, count, count, written, apart])
        rows, places, obs_rows, to_rows, to_places = numbers
        transitions, successors = contents.view(torch.float32).split(
            [written * self._width, apart * obs_dim]
        )
        self._rows.index_copy_(0, to_rows, transitions.view(written, self._width))
        kept.index_copy_(0, to_places, successors.view(apart, obs_dim))
        packed = self._packed.index_select(0, rows)
        following = packed[:, self._width :]
        # All are looked up, for shapes that do not change: a graph needs that.
        others = kept.index_select(0, places.clamp(min=0))
        following.copy_(torch.where((places >= 0).unsqueeze(1), others, following))
        return {"packed": packed, "obs": self._obs.index_select(0, obs_rows)}

    def dump(self, rows: np.ndarray, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Rows [n, W] and successors kept apart [m, O], on the CPU."""
        if self._staged and self._waiting:
            self._flush()
        at, where = self._on_device(rows, places)
        return self._rows.index_select(0, at).cpu(), self._apart.index_select(0, where).cpu()

    def restore(
        self, rows: np.ndarray, places: np.ndarray, contents: Tensor, successors: Tensor
    ) -> None:
        """Writes what `dump` has returned, to these rows and places."""
        at, where = self._on_device(rows, places)
        self._rows.index_copy_(0, at, contents.to(self._device))
        self._apart.index_copy_(0, where, successors.to(self._device))

    def _on_device(self, *indices: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(index).to(self._device) for index in indices]


def _joined(indices: Sequence[np.ndarray], contents: Sequence[np.ndarray], pinned: bool) -> Tensor:
    """The bytes of indices, 8 each, and of float32 numbers; pinned for a device to read itself.

    Each time another memory: a device may not be done with the last.
    """
    ends = 8 * sum(x.size for x in indices), 4 * sum(x.size for x in contents)
    joined = torch.empty(sum(ends), dtype=torch.uint8, pin_memory=pinned)
    place = joined.numpy()
    np.concatenate(indices, out=place[: ends[0]].view(np.int64))
    np.concatenate([x.ravel() for x in contents], out=place[ends[0] :].view(np.float32))
    return joined
