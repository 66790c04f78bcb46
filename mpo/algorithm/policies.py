"""The policies of S independent learners, made of the layers in `layers.py`.

Letters: S seed, B rows, O observation, D action dimensions.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.algorithm.layers import HEAD_SCALE, Module, Normalizer, StackedLinear, Torso
from mpo.study.hyperparameters import Hyperparameters

_MIN_STDDEV = 1e-6
"""Added to the policy's standard deviation."""


class GaussianPolicy(Module):
    """A diagonal Gaussian policy over canonical actions, per seed."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        widths: Sequence[int],
        init_scale: float,
        generators: Sequence[torch.Generator],
        normalizer: Normalizer | None = None,
        norm_in_every_layer: bool = False,
    ) -> None:
        """Draws the initial weights; the mean starts near 0.

        Args:
            obs_dim: O.
            action_dim: D.
            widths: hidden units of each layer.
            init_scale: initial standard deviation, approximately.
            generators: one per seed, on the CPU.
            normalizer: applied to the observations, if given.
            norm_in_every_layer: see `Torso`.
        """
        super().__init__()
        self.normalize = normalizer or nn.Identity()
        # The standard deviation is init_scale * softplus(raw) / softplus(0): init_scale at raw = 0.
        self._scale = init_scale / math.log(2)
        self.first = StackedLinear(obs_dim, widths[0], generators)
        self.torso = Torso(widths, generators, norm_in_every_layer)
        self.head = StackedLinear(widths[-1], 2 * action_dim, generators, scale=HEAD_SCALE)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Maps observations [S, B, O] to mean and standard deviation, [S, B, D] each."""
        mean, raw = self.head(self.torso(self.first(self.normalize(obs)))).chunk(2, dim=-1)
        return mean, self._stddev(raw)

    def vjp(self, obs: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], None]]:
        """Returns the outputs of `forward`, and the backward function of both gradients."""
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
        # softplus(raw) is computed as -logsigmoid(-raw), because rounding in the CPU's softplus
        # kernel depends on an element's position in memory, and thus on the seed's in the stack.
        return F.logsigmoid(-raw).mul_(-self._scale).add_(_MIN_STDDEV)


def make_policy(
    obs_dim: int,
    action_dim: int,
    config: Hyperparameters,
    generators: Sequence[torch.Generator],
    normalizer: Normalizer | None,
) -> GaussianPolicy:
    """Makes the policy that the config describes; see `GaussianPolicy`."""
    widths, every = config.policy_layer_sizes, config.layer_norm == "all"
    scale = config.policy_init_scale
    return GaussianPolicy(obs_dim, action_dim, widths, scale, generators, normalizer, every)


def make_normalizer(config: Hyperparameters, seeds: int, obs_dim: int) -> Normalizer | None:
    """Makes the normaliser that the config names; None if observations are used as they are."""
    if not config.normalize_observations:
        return None
    return Normalizer(seeds, obs_dim, squash=config.observation_bound == "squash")
