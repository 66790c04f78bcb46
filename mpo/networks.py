"""Networks of S independent learners, stacked: parameters [S, in, out], gradients by hand.

Torso (Acme's LayerNormMLP): Linear, LayerNorm, tanh, then Linear, ELU, ... A seed's initial weights
come from its own generator, and no operation mixes seeds: on a CPU, with one thread and widths that
are multiples of 32, its numbers are bit for bit those of the seed alone.

`forward` is for inference. `vjp` (vector-Jacobian product) gives the same outputs and a function
that takes the loss's gradient by the outputs, and writes those by the parameters into their `grad`,
over what was there. Autograd has no part in it: at these sizes its bookkeeping costs more than
the arithmetic.

Letters: S seed, B rows, N action samples, O observation, D action dimensions, H hidden units.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.products import add_product_, add_products, affine, affine_elu, product, sum_rows

Backward = Callable[[Tensor], Tensor]
"""From the gradient by the outputs to that by the inputs."""

_MIN_STDDEV = 1e-6
_NORM_EPSILON = 1e-5
_HEAD_SCALE = 1e-2
"""Initial weights of the heads are this much smaller: first outputs hardly depend on the input."""
_MOST_STDDEVS = 10.0
"""Normalised observations are clipped here."""
_IN_CACHE = 2**17
"""Hidden units, over all rows, that a CPU best takes through the layers at once."""


def _parameter(start: Tensor) -> nn.Parameter:
    return nn.Parameter(start, requires_grad=False)


class _Module(nn.Module):
    """A module whose parameters and parts are plain attributes, too."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # Else each use of one is a search that, with small networks, takes a twentieth of the time.
        if isinstance(value, nn.Parameter | nn.Module):
            self.__dict__[name] = value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_Module":
        super()._apply(fn, recurse)
        # A move to another device may have made new ones.
        self.__dict__.update(self._parameters)
        return self


class StackedLinear(_Module):
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


class StackedLayerNorm(_Module):
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


class _Torso(_Module):
    """What follows the first affine map: LayerNorm, tanh, then (Linear, ELU) per further layer."""

    def __init__(self, widths: Sequence[int], generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.norm = StackedLayerNorm(len(generators), widths[0])
        self.layers = nn.ModuleList(
            StackedLinear(a, b, generators) for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = tanh_(self.norm(x))
        for layer in self.layers:
            assert isinstance(layer, StackedLinear)
            x = layer.elu(x)
        return x

    def vjp(self, x: Tensor) -> tuple[Tensor, Backward]:
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


class Normalizer(_Module):
    """Centres and scales each seed's observations; clips what is far from all that was seen."""

    def __init__(self, seeds: int, obs_dim: int) -> None:
        """Starts as the identity."""
        super().__init__()
        self.shift = nn.Buffer(torch.zeros(seeds, 1, obs_dim))
        self.scale = nn.Buffer(torch.ones(seeds, 1, obs_dim))

    def forward(self, obs: Tensor) -> Tensor:
        """[S, B, O] -> [S, B, O]."""
        return ((obs - self.shift) * self.scale).clamp_(-_MOST_STDDEVS, _MOST_STDDEVS)


class GaussianPolicy(_Module):
    """A Gaussian with diagonal covariance over canonical actions, per seed."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        widths: Sequence[int],
        init_scale: float,
        generators: Sequence[torch.Generator],
        normalizer: Normalizer | None = None,
    ) -> None:
        """Starts at mean about 0 and standard deviation about `init_scale`."""
        super().__init__()
        self.normalize = normalizer or nn.Identity()
        # softplus(raw) / softplus(0) is 1 where the raw head is 0.
        self._scale = init_scale / math.log(2)
        self.first = StackedLinear(obs_dim, widths[0], generators)
        self.torso = _Torso(widths, generators)
        self.head = StackedLinear(widths[-1], 2 * action_dim, generators, scale=_HEAD_SCALE)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """[S, B, O] -> mean and standard deviation, [S, B, D] each."""
        mean, raw = self.head(self.torso(self.first(self.normalize(obs)))).chunk(2, dim=-1)
        return mean, self._stddev(raw)

    def vjp(self, obs: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], None]]:
        """[S, B, O] -> mean and standard deviation [S, B, D], and the way back from both."""
        obs = self.normalize(obs)
        features, torso_backward = self.torso.vjp(self.first(obs))
        mean, raw = self.head(features).chunk(2, dim=-1)

        def backward(grad_mean: Tensor, grad_stddev: Tensor) -> None:
            # The derivative of softplus is the logistic function.
            grad_raw = grad_stddev * raw.sigmoid().mul_(self._scale)
            grad = torch.cat([grad_mean, grad_raw], dim=-1)
            self.head.write_gradients(features, grad)
            self.first.write_gradients(obs, torso_backward(self.head.input_gradient(grad)))

        return mean, self._stddev(raw), backward

    def _stddev(self, raw: Tensor) -> Tensor:
        # softplus(raw), written so because the CPU's own kernel rounds by an element's place in
        # memory, and so by the seed's place in the stack.
        return F.logsigmoid(-raw).mul_(-self._scale).add_(_MIN_STDDEV)


class QNetwork(_Module):
    """An action-value per seed of an observation and a clipped canonical action.

    The first layer is the sum of an observation part and an action part, so that N actions at one
    observation share the former.
    """

    outputs = 1

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        widths: Sequence[int],
        generators: Sequence[torch.Generator],
        normalizer: Normalizer | None = None,
    ) -> None:
        """Starts near zero everywhere."""
        super().__init__()
        self.normalize = normalizer or nn.Identity()
        self.first_obs = StackedLinear(obs_dim, widths[0], generators)
        self.first_action = StackedLinear(action_dim, widths[0], generators)
        self.torso = _Torso(widths, generators)
        self.head = StackedLinear(widths[-1], self.outputs, generators, scale=_HEAD_SCALE)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Observations [S, B, O] and actions [S, N, B, D] -> values [S, N, B]."""
        return self.evaluate(obs, actions)[0]

    def evaluate(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `forward`, and the mean over N of the values' distributions, if there are any."""
        return self._outputs(obs, actions).squeeze(-1), None

    def values(self, outputs: Tensor) -> Tensor:
        """What the outputs [..., K] of `vjp` stand for, [...]."""
        return outputs.squeeze(-1)

    def _outputs(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Of each action, [S, N, B, K]."""
        shared = self._first_obs(self.normalize(obs)).unsqueeze(1)  # [S, 1, B, H]
        samples = actions.shape[1]
        if actions.device.type == "cpu":
            samples = max(1, _IN_CACHE // shared.numel())
        chunks = [self._of_some(shared, part) for part in actions.split(samples, dim=1)]
        return torch.cat(chunks, dim=1)

    def _first_obs(self, obs: Tensor) -> Tensor:
        """The first layer but for the actions' weights."""
        return affine(obs, self.first_obs.weight, self.first_obs.bias + self.first_action.bias)

    def _of_some(self, shared: Tensor, actions: Tensor) -> Tensor:
        hidden = add_products(shared, actions.clamp(-1, 1), self.first_action.weight)
        return self.head(self.torso(hidden)).unflatten(1, actions.shape[1:3])

    def vjp(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """[S, B, O] and one action each [S, B, D] -> outputs [S, B, K], and the way back."""
        obs, clipped = self.normalize(obs), action.clamp(-1, 1)
        hidden = add_product_(self._first_obs(obs), clipped, self.first_action.weight)
        features, torso_backward = self.torso.vjp(hidden)

        def backward(grad: Tensor) -> None:
            self.head.write_gradients(features, grad)
            grad = torso_backward(self.head.input_gradient(grad))
            self.first_obs.write_gradients(obs, grad)
            self.first_action.write_gradients(clipped, grad)

        return self.head(features), backward


class CategoricalQNetwork(QNetwork):
    """A distribution of the return on fixed atoms; its mean is the action-value.

    C51, Bellemare et al. 2017 (arXiv 1707.06887).
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        widths: Sequence[int],
        generators: Sequence[torch.Generator],
        normalizer: Normalizer | None = None,
        *,
        atoms: Tensor,
    ) -> None:
        """Starts near the uniform distribution over `atoms` [A], evenly spaced and ascending."""
        self.outputs = len(atoms)
        super().__init__(obs_dim, action_dim, widths, generators, normalizer)
        self.atoms = nn.Buffer(atoms, persistent=False)

    def evaluate(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Values [S, N, B], and the mean over N of their distributions, [S, B, A]."""
        probabilities = self._outputs(obs, actions).softmax(-1)
        return (probabilities * self.atoms).sum(-1), probabilities.mean(1)

    def values(self, outputs: Tensor) -> Tensor:
        """Means of the distributions of logits [..., A]."""
        return (outputs.softmax(-1) * self.atoms).sum(-1)
