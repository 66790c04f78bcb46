"""The layers of S independent learners, stacked: parameters [S, in, out], gradients by hand.

Torso (Acme's LayerNormMLP): Linear, LayerNorm, tanh, then Linear, ELU, ... A seed's initial weights
come from its own generator, and no operation mixes seeds: on a CPU, with one thread and widths that
are multiples of 32, its numbers are bit for bit those of the seed alone.

`forward` is for inference. `vjp` (vector-Jacobian product) gives the same outputs and a function
that takes the loss's gradient by the outputs, and writes those by the parameters into their `grad`,
over what was there. Autograd has no part in it: at these sizes its bookkeeping costs more than
the arithmetic.

Letters: S seed, B rows, O observation, H hidden units.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mpo.compute.matmul import affine, affine_elu, product, sum_rows

Backward = Callable[[Tensor], Tensor]
"""From the gradient by the outputs to that by the inputs."""

_NORM_EPSILON = 1e-5
_MOST_STDDEVS = 10.0
"""Normalised observations are clipped here."""


def _parameter(start: Tensor) -> nn.Parameter:
    return nn.Parameter(start, requires_grad=False)


class Module(nn.Module):
    """A module whose parameters and parts are plain attributes, too."""

    def __setattr__(self, name: str, value: Any) -> None:
        """As `torch.nn.Module` does, and once more where Python looks first."""
        super().__setattr__(name, value)
        # Else each use of one is a search that, with small networks, takes a twentieth of the time.
        if isinstance(value, nn.Parameter | nn.Module):
            self.__dict__[name] = value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Module":
        super()._apply(fn, recurse)
        # A move to another device may have made new ones.
        self.__dict__.update(self._parameters)
        return self


class StackedLinear(Module):
    """S affine maps at once; weights uniform in +-scale / sqrt(outputs), biases zero."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        generators: Sequence[torch.Generator],
        scale: float = 1.0,
    ) -> None:
        """Draws each seed's weights from its generator."""
        super().__init__()
        bound = scale / outputs**0.5
        drawn = [torch.rand(inputs, outputs, generator=g) for g in generators]
        self.weight = _parameter((torch.stack(drawn) * 2 - 1) * bound)  # [S, in, out]
        self.bias = _parameter(torch.zeros(len(generators), 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, in] -> [S, B, out]."""
        return affine(x, self.weight, self.bias)

    def elu(self, x: Tensor) -> Tensor:
        """The ELU of it."""
        return affine_elu(x, self.weight, self.bias)

    def write_gradients(self, x: Tensor, grad: Tensor) -> None:
        """Of the parameters, from inputs [S, B, in] and the outputs' gradient [S, B, out]."""
        product(x.mT, grad, out=self.weight.grad)
        sum_rows(grad, self.bias.grad)

    def input_gradient(self, grad: Tensor) -> Tensor:
        """From that of the outputs, [S, B, out] -> [S, B, in]."""
        return product(grad, self.weight.mT)


class StackedLayerNorm(Module):
    """LayerNorm over the last axis with a gain and a bias per seed."""

    def __init__(self, seeds: int, width: int) -> None:
        """Starts as the plain normalisation."""
        super().__init__()
        self.gain = _parameter(torch.ones(seeds, 1, width))
        self.bias = _parameter(torch.zeros(seeds, 1, width))
        # Without a gain and a bias the CPU's kernel takes twice the time.
        self._ones = nn.Buffer(torch.ones(width), persistent=False)
        self._zeros = nn.Buffer(torch.zeros(width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, H] -> [S, B, H]."""
        return self.vjp(x)[0]

    def vjp(self, x: Tensor) -> tuple[Tensor, Backward]:
        """[S, B, H] -> [S, B, H], and the way back."""
        width = x.shape[-1:]
        unit, mean, rstd = torch.native_layer_norm(x, width, self._ones, self._zeros, _NORM_EPSILON)

        def backward(grad: Tensor) -> Tensor:
            sum_rows(grad * unit, self.gain.grad)
            sum_rows(grad, self.bias.grad)
            return torch.ops.aten.native_layer_norm_backward(
                grad * self.gain, x, width, mean, rstd, None, None, (True, False, False)
            )[0]

        return torch.addcmul(self.bias, unit, self.gain), backward


def tanh_(x: Tensor) -> Tensor:
    """In place; on a CPU as 2 sigmoid(2 x) - 1, whose own kernel is several times slower."""
    if x.device.type != "cpu":
        return x.tanh_()
    x.add_(x).sigmoid_()
    return x.add_(x).sub_(1)


def tanh_backward(y: Tensor, grad: Tensor) -> Tensor:
    """The gradient by x from that by y = tanh(x): grad * (1 - y^2)."""
    return torch.addcmul(grad, grad * y, y, value=-1)


def elu_backward(y: Tensor, grad: Tensor) -> Tensor:
    """The gradient by x from that by y = elu(x): grad, times exp(x) = y + 1 where x < 0."""
    return torch.addcmul(grad, grad, y.clamp(max=0))


class Torso(Module):
    """What follows the first affine map: LayerNorm, tanh, then (Linear, ELU) per further layer."""

    def __init__(self, widths: Sequence[int], generators: Sequence[torch.Generator]) -> None:
        """Draws each seed's weights; `widths` are of all layers, the first affine map's too."""
        super().__init__()
        self.norm = StackedLayerNorm(len(generators), widths[0])
        self.layers = nn.ModuleList(
            StackedLinear(a, b, generators) for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, H] -> [S, B, H], each H of its own layer."""
        x = tanh_(self.norm(x))
        for layer in self.layers:
            assert isinstance(layer, StackedLinear)
            x = layer.elu(x)
        return x

    def vjp(self, x: Tensor) -> tuple[Tensor, Backward]:
        """[S, B, H] -> [S, B, H], and the way back."""
        normal, norm_backward = self.norm.vjp(x)
        outputs = [tanh_(normal)]
        for layer in self.layers:
            assert isinstance(layer, StackedLinear)
            outputs.append(layer.elu(outputs[-1]))

        def backward(grad: Tensor) -> Tensor:
            for layer, x, y in reversed([*zip(self.layers, outputs, outputs[1:], strict=False)]):
                assert isinstance(layer, StackedLinear)
                grad = elu_backward(y, grad)
                layer.write_gradients(x, grad)
                grad = layer.input_gradient(grad)
            return norm_backward(tanh_backward(outputs[0], grad))

        return outputs[-1], backward


class Normalizer(Module):
    """Centres and scales each seed's observations; clips what is far from all that was seen."""

    def __init__(self, seeds: int, obs_dim: int) -> None:
        """Starts as the identity."""
        super().__init__()
        self.shift = nn.Buffer(torch.zeros(seeds, 1, obs_dim))
        self.scale = nn.Buffer(torch.ones(seeds, 1, obs_dim))

    def forward(self, obs: Tensor) -> Tensor:
        """[S, B, O] -> [S, B, O]."""
        return ((obs - self.shift) * self.scale).clamp_(-_MOST_STDDEVS, _MOST_STDDEVS)
