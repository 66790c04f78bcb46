"""The policy and the critics of S independent learners; see `layers.py`.

Letters: S seed, B rows, N action samples, O observation, D action dimensions, H hidden units.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.algorithm.layers import Module, Normalizer, StackedLinear, Torso
from mpo.compute.matmul import add_product_, add_products, affine, step_by_step

_MIN_STDDEV = 1e-6
_HEAD_SCALE = 1e-2
"""Initial weights of the heads are this much smaller: first outputs hardly depend on the input."""
_IN_CACHE = 2**17
"""Hidden units, over all rows, that a CPU best takes through the layers at once."""


class GaussianPolicy(Module):
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
        self.torso = Torso(widths, generators)
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


class QNetwork(Module):
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
        self.torso = Torso(widths, generators)
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
        if step_by_step(actions):
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
