"""Networks of S independent learners, stacked: parameters [S, in, out], one `baddbmm` a layer.

Torso (Acme's LayerNormMLP): Linear, LayerNorm, tanh, then Linear, ELU, ... A seed's initial weights
come from its own generator, and no operation mixes seeds: on a CPU, with one thread, widths that
are multiples of 32, and one or an even number of action dimensions, its numbers are bit for bit
those of the seed alone; elsewhere kernels round by the size of the stack.

Letters: S seed, B rows, N action samples, O observation, D action dimensions, H hidden units.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MIN_STDDEV = 1e-6
_HEAD_SCALE = 1e-2
"""Initial weights of the heads are this much smaller: first outputs hardly depend on the input."""


class StackedLinear(nn.Module):
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
        self.weight = nn.Parameter((torch.stack(drawn) * 2 - 1) * bound)  # [S, in, out]
        self.bias = nn.Parameter(torch.zeros(len(generators), 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, in] -> [S, B, out]."""
        return torch.baddbmm(self.bias, x, self.weight)


class StackedLayerNorm(nn.Module):
    """LayerNorm over the last axis with a gain and a bias per seed."""

    def __init__(self, seeds: int, width: int) -> None:
        """Starts as the plain normalisation."""
        super().__init__()
        self.gain = nn.Parameter(torch.ones(seeds, 1, width))
        self.bias = nn.Parameter(torch.zeros(seeds, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, H] -> [S, B, H]."""
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:]), self.gain)


class _Torso(nn.Module):
    """What follows the first affine map: LayerNorm, tanh, then (Linear, ELU) per further layer."""

    def __init__(self, widths: Sequence[int], generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.norm = StackedLayerNorm(len(generators), widths[0])
        self.layers = nn.ModuleList(
            StackedLinear(a, b, generators) for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(x))
        for layer in self.layers:
            x = F.elu(layer(x))
        return x


class GaussianPolicy(nn.Module):
    """A Gaussian with diagonal covariance over canonical actions, per seed."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        widths: Sequence[int],
        init_scale: float,
        generators: Sequence[torch.Generator],
    ) -> None:
        """Starts at mean about 0 and standard deviation about `init_scale`."""
        super().__init__()
        self._init_scale = init_scale
        self.first = StackedLinear(obs_dim, widths[0], generators)
        self.torso = _Torso(widths, generators)
        self.head = StackedLinear(widths[-1], 2 * action_dim, generators, scale=_HEAD_SCALE)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """[S, B, O] -> mean and standard deviation, [S, B, D] each."""
        mean, raw = self.head(self.torso(self.first(obs))).chunk(2, dim=-1)
        # softplus(raw) / softplus(0), written so because the CPU's softplus kernel rounds by an
        # element's place in memory, and so by the seed's place in the stack.
        unit = -F.logsigmoid(-raw) / math.log(2)
        return mean, self._init_scale * unit + _MIN_STDDEV


class QNetwork(nn.Module):
    """An action-value per seed of an observation and a clipped canonical action.

    The first layer is the sum of an observation part and an action part, so that N actions at one
    observation share the former.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        widths: Sequence[int],
        generators: Sequence[torch.Generator],
    ) -> None:
        """Starts near zero everywhere."""
        super().__init__()
        self.first_obs = StackedLinear(obs_dim, widths[0], generators)
        self.first_action = StackedLinear(action_dim, widths[0], generators)
        self.torso = _Torso(widths, generators)
        self.head = StackedLinear(widths[-1], 1, generators, scale=_HEAD_SCALE)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Observations [S, B, O] and actions [S, N, B, D] -> values [S, N, B]."""
        seeds, samples, rows, _ = actions.shape
        clipped = actions.clamp(-1, 1).flatten(1, 2)  # [S, N*B, D]
        hidden = self.first_action(clipped).unflatten(1, (samples, rows))
        hidden = hidden + self.first_obs(obs).unsqueeze(1)  # [S, N, B, H]
        features = self.torso(hidden.flatten(1, 2))
        # Two equal columns: for a single one a stack of one seed takes another kernel on a CPU than
        # a stack of several, and rounds otherwise.
        twice = torch.bmm(features, self.head.weight.expand(-1, -1, 2))
        return (twice[..., 0] + self.head.bias[..., 0]).view(seeds, samples, rows)
