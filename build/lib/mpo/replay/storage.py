"""The replay's storage on the device: written one row at a time, read many rows at a time.

A packed transition [W + O] begins with obs and ends with next_obs, which usually is the obs of the
transition after it. So a row stores only the first W elements, and reading W + O elements from the
start of a row takes next_obs from the following row. Where next_obs differs from that (at the end
of an episode, at the newest transition), it is stored separately, in a numbered place, and copied
in when the row is read. The code calls a next_obs a successor.

Letters: N rows, W row width, O observation.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mpo.compute.cuda_graphs import Graphed, Tensors

_STAGED = 1024
"""Most rows that are buffered on the host."""
_APART = 64
"""Initial number of places for separate successors."""
_EXCHANGES = 4
"""Most CUDA graphs that are kept, one for each combination of sizes; training mostly needs one."""
_NONE = np.zeros(0, dtype=np.int64)


class Rows:
    """N rows of transitions, and the separately stored successors of some."""

    def __init__(
        self,
        rows: int,
        width: int,
        obs_dim: int,
        device: torch.device,
        staged: bool,
        cuda_graphs: bool,
    ) -> None:
        """Allocates the memory.

        Args:
            rows: N.
            width: W.
            obs_dim: O.
            device: the device of the rows.
            staged: whether writes are buffered on the host and copied to the device together, with
                the next read. Otherwise they are done at once, which only works on the CPU.
            cuda_graphs: whether writes and reads on a GPU are captured in a CUDA graph.
        """
        self._device = device
        self._width = width
        shape = (rows + 1, width)  # one extra row, because reading the last row runs past its end
        if device.type == "cpu":
            # NumPy asks the system for huge pages, which makes random reads faster.
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
            # For each row or place to be written: the index of its newest content in the buffer.
            self._to_rows: dict[int, int] = {}
            self._to_places: dict[int, int] = {}
            self._waiting = 0
            self._graphs = cuda_graphs and device.type == "cuda"
            self._exchanges: dict[tuple[int, int, int], Callable[[Tensors], Tensors]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that the transitions take on the device."""
        return self._rows.nbytes + self._apart.nbytes

    def take_place(self) -> int:
        """Reserves a place for a separate successor, and allocates more if all are taken."""
        if not self._free:
            count = len(self._apart)
            # Grow by a quarter rather than double: device memory is scarce.
            more = self._apart.new_zeros(count // 4, self._apart.shape[1])
            self._apart = torch.cat([self._apart, more])
            if self._staged:
                # A captured graph would still use the old tensor.
                self._exchanges.clear()
            self._free += range(count, count + count // 4)
        return self._free.pop()

    def free_place(self, place: int) -> None:
        """Releases a place."""
        self._free.append(place)

    def write(self, row: int, place: int, packed: np.ndarray) -> None:
        """Writes a packed transition [W + O] to a row, and its successor to a place."""
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
        self, rows: np.ndarray, places: np.ndarray, obs_rows: np.ndarray, numbers: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reads transitions, and observations of other transitions.

        Args:
            rows: rows of the transitions, [...].
            places: places of their separate successors, -1 for those without, [...].
            obs_rows: rows of the observations, [...].
            numbers: a number for each transition, which is sent along, int64 [...].

        Returns:
            Copies of the packed transitions [..., W + O] and observations [..., O], and the numbers
            as float32 [...]. With CUDA graphs the next read overwrites them.
        """
        read = self._exchange if self._staged else self._read
        packed, obs, sent = read(rows.ravel(), places.ravel(), obs_rows.ravel(), numbers.ravel())
        shape = rows.shape
        return packed.view(*shape, -1), obs.view(*shape, -1), sent.view(shape)

    def _read(
        self, rows: np.ndarray, places: np.ndarray, obs_rows: np.ndarray, numbers: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Implements `read` without staging, on the CPU; the indices are flat."""
        (apart,) = (places >= 0).nonzero()
        packed = self._packed.index_select(0, torch.from_numpy(rows))
        if len(apart):
            successors = self._apart.index_select(0, torch.from_numpy(places[apart]))
            packed[:, self._width :].index_copy_(0, torch.from_numpy(apart), successors)
        obs = self._obs.index_select(0, torch.from_numpy(obs_rows))
        return packed, obs, torch.from_numpy(numbers.astype(np.float32))

    def _exchange(
        self, rows: np.ndarray, places: np.ndarray, obs_rows: np.ndarray, numbers: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Implements `read` with staging: writes the buffered rows, then reads; flat indices.

        Indices and contents are sent in one asynchronous copy.
        """
        to = (self._to_rows, self._to_places)
        targets = [np.fromiter(part, np.int64, len(part)) for part in to]
        newest = [np.fromiter(part.values(), np.int64, len(part)) for part in to]
        transitions = self._buffer[newest[0], : self._width]
        successors = self._buffer[newest[1], self._width :]
        for part in to:
            part.clear()
        self._waiting = 0
        indices = [rows, places, obs_rows, numbers, *targets]
        sizes = (len(rows), len(transitions), len(successors))
        if sizes not in self._exchanges:
            if len(self._exchanges) == _EXCHANGES:
                self._exchanges.clear()
            function = partial(self._write_and_read, self._apart, sizes)
            graph = Graphed(function, self._device) if self._graphs else function
            self._exchanges[sizes] = graph
        sent = _joined(indices, [transitions, successors], self._device.type == "cuda")
        found = self._exchanges[sizes]({"sent": sent})
        return found["packed"], found["obs"], found["numbers"]

    def _flush(self) -> None:
        """Writes the buffered rows, and reads nothing."""
        self._exchange(_NONE, _NONE, _NONE, _NONE)

    def _write_and_read(
        self, kept: Tensor, sizes: tuple[int, int, int], inputs: Tensors
    ) -> Tensors:
        """Unpacks what `_exchange` sent, on the device; writes the rows, then reads.

        Args:
            kept: the separate successors, which `take_place` may replace by a larger tensor.
            sizes: numbers of transitions to read, of rows to write, and of successors to write.
            inputs: `sent`, the bytes of indices and contents; see `_joined`.

        Returns:
            `packed`, transitions [n, W + O], `obs`, observations [n, O], and `numbers`, [n].
        """
        count, written, apart = sizes
        obs_dim = kept.shape[1]
        ends = [8 * (4 * count + written + apart), 4 * (written * self._width + apart * obs_dim)]
        sent = inputs["sent"].to(self._device, non_blocking=True)
        indices, contents = sent.split(ends)
        parts = indices.view(torch.int64).split([count, count, count, count, written, apart])
        rows, places, obs_rows, numbers, to_rows, to_places = parts
        transitions, successors = contents.view(torch.float32).split(
            [written * self._width, apart * obs_dim]
        )
        self._rows.index_copy_(0, to_rows, transitions.view(written, self._width))
        kept.index_copy_(0, to_places, successors.view(apart, obs_dim))
        packed = self._packed.index_select(0, rows)
        following = packed[:, self._width :]
        # A successor is looked up for every row, needed or not: a graph needs fixed shapes.
        others = kept.index_select(0, places.clamp(min=0))
        following.copy_(torch.where((places >= 0).unsqueeze(1), others, following))
        obs = self._obs.index_select(0, obs_rows)
        return {"packed": packed, "obs": obs, "numbers": numbers.float()}

    def dump(self, rows: np.ndarray, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns the contents of rows [n, W] and of places [m, O], on the CPU."""
        if self._staged and self._waiting:
            self._flush()
        at, where = self._on_device(rows, places)
        return self._rows.index_select(0, at).cpu(), self._apart.index_select(0, where).cpu()

    def restore(
        self, rows: np.ndarray, places: np.ndarray, contents: Tensor, successors: Tensor
    ) -> None:
        """Writes contents from `dump` to the given rows and places."""
        at, where = self._on_device(rows, places)
        self._rows.index_copy_(0, at, contents.to(self._device))
        self._apart.index_copy_(0, where, successors.to(self._device))

    def _on_device(self, *indices: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(index).to(self._device) for index in indices]


def _joined(indices: Sequence[np.ndarray], contents: Sequence[np.ndarray], pinned: bool) -> Tensor:
    """Concatenates the bytes of int64 indices and float32 contents, to be sent in one copy.

    Always allocates, because the device may still be reading the previous buffer. `pinned` memory
    is copied to a GPU asynchronously.
    """
    ends = 8 * sum(x.size for x in indices), 4 * sum(x.size for x in contents)
    joined = torch.empty(sum(ends), dtype=torch.uint8, pin_memory=pinned)
    place = joined.numpy()
    np.concatenate(indices, out=place[: ends[0]].view(np.int64))
    np.concatenate([x.ravel() for x in contents], out=place[ends[0] :].view(np.float32))
    return joined
