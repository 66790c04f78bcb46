"""Stacked layers of S independent learners: parameters [S, in, out], hand-written gradients.

The torso is Acme's LayerNormMLP: Linear, LayerNorm, tanh, then Linear, ELU, ... Each seed's initial
weights come from its own generator, and no operation mixes seeds. On a CPU, with one thread and
widths that are multiples of 32, a seed's numbers are bit for bit the same as when it is trained
alone.

`forward` is for inference. `vjp` (vector-Jacobian product) returns the same outputs and a backward
function, which takes the gradient with respect to the outputs and overwrites each parameter's
`grad`. Autograd is not used: at these sizes its bookkeeping costs more than the arithmetic.

Letters: S seed, B rows, O observation, H hidden units.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.compute.matmul import affine, affine_elu, product, sum_rows

Backward = Callable[[Tensor], Tensor]
"""Maps the gradient with respect to the outputs to the gradient with respect to the inputs."""

HEAD_SCALE = 1e-2
"""Factor on the bound of the initial weights of last layers, so that outputs hardly depend on the
input."""
_NORM_EPSILON = 1e-5
"""LayerNorm's epsilon, as in torch."""
_MOST_STDDEVS = 10.0
"""Normalised observations are clipped to plus or minus this."""
_SQUASHED_STDDEVS = 3.0
"""The bound that squashed observations approach."""


def _parameter(start: Tensor) -> nn.Parameter:
    """Makes a parameter that autograd ignores."""
    return nn.Parameter(start, requires_grad=False)


class Module(nn.Module):
    """A module whose parameters and submodules are ordinary attributes as well."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets the attribute as `torch.nn.Module` does, and in the instance's `__dict__`."""
        super().__setattr__(name, value)
        # Without this, `torch.nn.Module.__getattr__` searches for each parameter at each use, which
        # takes 5 % of the time with small networks.
        if isinstance(value, nn.Parameter | nn.Module):
            self.__dict__[name] = value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Module":
        super()._apply(fn, recurse)
        # Moving to another device may have replaced the parameters.
        self.__dict__.update(self._parameters)
        return self


class StackedLinear(Module):
    """S affine maps; initial weights uniform in +-scale / sqrt(outputs), biases zero."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        generators: Sequence[torch.Generator],
        scale: float = 1.0,
    ) -> None:
        """Draws the initial weights.

        Args:
            inputs: number of inputs.
            outputs: number of outputs.
            generators: one per seed, on the CPU.
            scale: factor on the weights' bound.
        """
        super().__init__()
        bound = scale / outputs**0.5
        drawn = [torch.rand(inputs, outputs, generator=g) for g in generators]
        self.weight = _parameter((torch.stack(drawn) * 2 - 1) * bound)  # [S, in, out]
        self.bias = _parameter(torch.zeros(len(generators), 1, outputs))

    def forward(self, x: Tensor, precision: str = "float32") -> Tensor:
        """Applies the map: [S, B, in] -> [S, B, out]; see `affine` for `precision`."""
        return affine(x, self.weight, self.bias, precision)

    def elu(self, x: Tensor, precision: str = "float32") -> Tensor:
        """Applies the map, then the ELU: [S, B, in] -> [S, B, out]."""
        return affine_elu(x, self.weight, self.bias, precision)

    def write_gradients(self, x: Tensor, grad: Tensor) -> None:
        """Writes the parameters' gradients.

        Args:
            x: the inputs, [S, B, in].
            grad: gradient with respect to the outputs, [S, B, out].
        """
        product(x.mT, grad, out=self.weight.grad)
        sum_rows(grad, self.bias.grad)

    def input_gradient(self, grad: Tensor) -> Tensor:
        """Returns the gradient with respect to the inputs [S, B, in], given `grad` [S, B, out]."""
        return product(grad, self.weight.mT)


class StackedLayerNorm(Module):
    """LayerNorm over the last axis with a gain and a bias per seed."""

    def __init__(self, seeds: int, width: int) -> None:
        """Starts with gain 1 and bias 0; `width` is H."""
        super().__init__()
        self.gain = _parameter(torch.ones(seeds, 1, width))
        self.bias = _parameter(torch.zeros(seeds, 1, width))
        # The CPU's kernel takes twice as long without a gain and a bias.
        self._ones = nn.Buffer(torch.ones(width), persistent=False)
        self._zeros = nn.Buffer(torch.zeros(width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises: [S, B, H] -> [S, B, H]."""
        return self.vjp(x)[0]

    def vjp(self, x: Tensor) -> tuple[Tensor, Backward]:
        """Returns the outputs of `forward` and the backward function."""
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
    """Computes tanh in place."""
    if x.device.type != "cpu":
        return x.tanh_()
    # tanh(x) = 2 sigmoid(2 x) - 1, several times faster than the CPU's tanh kernel.
    x.add_(x).sigmoid_()
    return x.add_(x).sub_(1)


def tanh_backward(y: Tensor, grad: Tensor) -> Tensor:
    """Returns the gradient with respect to x, given that of y = tanh(x): grad * (1 - y^2)."""
    return torch.addcmul(grad, grad * y, y, value=-1)


def elu_backward(y: Tensor, grad: Tensor) -> Tensor:
    """Returns the gradient with respect to x, given that of y = elu(x).

    The derivative is 1 for x >= 0, and exp(x) = y + 1 for x < 0.
    """
    return torch.addcmul(grad, grad, y.clamp(max=0))


class Torso(Module):
    """The hidden layers after the first affine map: LayerNorm, tanh, then (Linear, ELU)*.

    With a LayerNorm in every layer they are LayerNorm, tanh, then (Linear, LayerNorm, ELU)*.
    """

    precision = "float32"
    """Of the matrix products in `forward`, see `affine`; `vjp` is always in float32."""

    def __init__(
        self,
        widths: Sequence[int],
        generators: Sequence[torch.Generator],
        norm_in_every_layer: bool = False,
    ) -> None:
        """Draws the initial weights.

        Args:
            widths: hidden units of all layers, including the first affine map.
            generators: one per seed, on the CPU.
            norm_in_every_layer: whether every layer has a LayerNorm, or the first only.
        """
        super().__init__()
        self.norm = StackedLayerNorm(len(generators), widths[0])
        self.layers = nn.ModuleList(
            StackedLinear(a, b, generators) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.norms = nn.ModuleList(
            StackedLayerNorm(len(generators), width)
            for width in (widths[1:] if norm_in_every_layer else ())
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps the first affine map's outputs to features; [S, B, H], H by layer."""
        x = tanh_(self.norm(x))
        for layer, norm in itertools.zip_longest(self.layers, self.norms):
            assert isinstance(layer, StackedLinear)
            if norm is None:
                x = layer.elu(x, self.precision)
            else:
                x = F.elu_(norm(layer(x, self.precision)))
        return x

    def vjp(self, x: Tensor) -> tuple[Tensor, Backward]:
        """Returns the outputs of `forward` and the backward function."""
        normal, norm_backward = self.norm.vjp(x)
        outputs = [tanh_(normal)]
        backwards: list[Backward | None] = []
        for layer, norm in itertools.zip_longest(self.layers, self.norms):
            assert isinstance(layer, StackedLinear)
            if norm is None:
                outputs.append(layer.elu(outputs[-1]))
                backwards.append(None)
            else:
                assert isinstance(norm, StackedLayerNorm)
                normal, backward = norm.vjp(layer(outputs[-1]))
                outputs.append(F.elu_(normal))
                backwards.append(backward)

        def backward_all(grad: Tensor) -> Tensor:
            steps = zip(self.layers, outputs, outputs[1:], backwards, strict=False)
            for layer, x, y, backward in reversed([*steps]):
                assert isinstance(layer, StackedLinear)
                grad = elu_backward(y, grad)
                if backward is not None:
                    grad = backward(grad)
                layer.write_gradients(x, grad)
                grad = layer.input_gradient(grad)
            return norm_backward(tanh_backward(outputs[0], grad))

        return outputs[-1], backward_all


class Normalizer(Module):
    """Centres, scales and bounds each seed's observations."""

    def __init__(self, seeds: int, obs_dim: int, squash: bool = False) -> None:
        """Starts as the identity, up to the bound.

        Args:
            seeds: S.
            obs_dim: O.
            squash: whether the bound is smooth, instead of clipping.
        """
        super().__init__()
        self._squash = squash
        self.shift = nn.Buffer(torch.zeros(seeds, 1, obs_dim))
        self.scale = nn.Buffer(torch.ones(seeds, 1, obs_dim))

    def forward(self, obs: Tensor) -> Tensor:
        """Normalises observations: [S, B, O] -> [S, B, O]."""
        found = (obs - self.shift) * self.scale
        if self._squash:
            return found * (1 + (found / _SQUASHED_STDDEVS).square()).rsqrt()
        return found.clamp_(-_MOST_STDDEVS, _MOST_STDDEVS)
