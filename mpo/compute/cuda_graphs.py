"""CUDA graphs: hundreds of small kernels, launched as one.

`tensordict.nn.CudaGraphModule` would serve, but for three things: it waits for the GPU at each
call, copies what it returns, and knows of no generator but the default one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

_WARM_UP = 3
"""Calls before a capture: libraries choose their kernels, and optimizers make their state."""


def capture(
    function: Callable[[], Tensors], generators: Sequence[torch.Generator]
) -> tuple[Callable[[], None], Tensors]:
    """Records what a function does on the GPU, without doing it.

    Args:
        function: works on tensors that stay where they are, and never looks at their values.
        generators: those that it draws from; each repetition draws on.

    Returns:
        What does it, any number of times, and what it writes its result to.
    """
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        outputs = function()
    return graph.replay, outputs


class _Parts(NamedTuple):
    """Tensors as parts of what they lie in, which is copied at once where it holds several."""

    wholes: list[Tensor]
    """One-dimensional, each."""
    layout: dict[str, tuple[int, int, torch.Size, tuple[int, ...], int]]
    """By name: of which whole it is a part, how long that is, and shape, strides and offset."""

    @classmethod
    def of(cls, tensors: Tensors) -> "_Parts":
        """Finds the wholes of some tensors, all small enough to be copied."""
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
        """Places for the wholes on a device, and the same tensors as parts of those."""
        places = [torch.empty_like(whole, device=device) for whole in self.wholes]
        parts = {
            name: places[number].as_strided(shape, strides, offset)
            for name, (number, _, shape, strides, offset) in self.layout.items()
        }
        return places, parts


class Graphed:
    """A function of tensors, captured at its fourth call and repeated as one graph from then on.

    All calls compute the same; what one returns is overwritten by the next.
    """

    def __init__(
        self,
        function: Callable[[Tensors], Tensors],
        device: torch.device,
        generators: Sequence[torch.Generator] = (),
        capture: Callable[..., tuple[Callable[[], None], Tensors]] = capture,
    ) -> None:
        """Takes a function as `capture` wants it, of inputs that lie anywhere.

        Args:
            function: gets its inputs on the device.
            device: where it works.
            generators: those that it draws from.
            capture: records it; see there.
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
        """Calls the function; inputs of other names or layouts than before start anew."""
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
