"""CUDA graphs: hundreds of small kernels, replayed with a single launch.

`tensordict.nn.CudaGraphModule` does not fit for three reasons: it waits for the GPU at every call,
copies its outputs, and supports only the default random generator.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

_WARM_UP = 3
"""Calls before the capture, in which libraries choose kernels and optimizers create their state."""


def capture(
    function: Callable[[], Tensors], generators: Sequence[torch.Generator]
) -> tuple[Callable[[], None], Tensors]:
    """Records the kernels of a function in a CUDA graph, without running them.

    Args:
        function: reads tensors at fixed addresses, and does not depend on their values on the host.
        generators: the generators it draws from; each replay continues their sequences.

    Returns:
        A function that replays the graph, and the output tensors, which each replay overwrites.
    """
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        outputs = function()
    return graph.replay, outputs


class _Parts(NamedTuple):
    """Tensors as views of the storages they share, so that each storage is copied only once."""

    wholes: list[Tensor]
    """The storages, as one-dimensional tensors."""
    layout: dict[str, tuple[int, int, torch.Size, tuple[int, ...], int]]
    """For each name: index of its storage, length of that storage, shape, strides and offset."""

    @classmethod
    def of(cls, tensors: Tensors) -> "_Parts":
        """Finds the storages of some tensors; all must be small enough to be copied whole."""
        layout, numbers, wholes = {}, dict[int, int](), list[Tensor]()
        for name, x in tensors.items():
            storage = x.untyped_storage()
            number = numbers.setdefault(storage.data_ptr(), len(wholes))
            if number == len(wholes):
                wholes.append(torch.empty(0, dtype=x.dtype, device=x.device).set_(storage))
            length = len(wholes[number])
            layout[name] = number, length, x.shape, x.stride(), int(x.storage_offset())
        return cls(wholes, layout)

    def elsewhere(self, device: torch.device) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Allocates the storages on a device; returns them, and the named views of them."""
        places = [torch.empty_like(whole, device=device) for whole in self.wholes]
        parts = {
            name: places[number].as_strided(shape, strides, offset)
            for name, (number, _, shape, strides, offset) in self.layout.items()
        }
        return places, parts


class Graphed:
    """A function of tensors, captured in a CUDA graph at its fourth call and replayed from then on.

    Every call computes the same as the function itself. Each call overwrites the outputs of the one
    before.
    """

    def __init__(
        self,
        function: Callable[[Tensors], Tensors],
        device: torch.device,
        generators: Sequence[torch.Generator] = (),
        capture: Callable[..., tuple[Callable[[], None], Tensors]] = capture,
    ) -> None:
        """Wraps a function; see `capture` for what it may do.

        Args:
            function: receives its inputs on `device`, wherever the caller's inputs are.
            device: a GPU.
            generators: the generators that the function draws from.
            capture: records the function; tests replace it.
        """
        self._function = function
        self._device = device
        self._generators = generators
        self._capture = capture
        self._calls = 0
        self._layout: object = None
        self._places: list[Tensor] = []
        self._inputs: dict[str, Tensor] = {}
        self._repeat: Callable[[], None] | None = None
        self._outputs: Tensors = {}

    def __call__(self, inputs: Tensors) -> Tensors:
        """Calls the function; inputs with other names or layouts than before are captured anew."""
        given = _Parts.of(inputs)
        if given.layout != self._layout:
            self._layout = given.layout
            self._places, self._inputs = given.elsewhere(self._device)
            self._repeat, self._calls = None, 0
        for place, whole in zip(self._places, given.wholes, strict=True):
            place.copy_(whole, non_blocking=True)
        if self._calls < _WARM_UP:
            self._calls += 1
            return self._function(self._inputs)
        if self._repeat is None:
            self._repeat, self._outputs = self._capture(
                lambda: self._function(self._inputs), self._generators
            )
        self._repeat()
        return self._outputs
