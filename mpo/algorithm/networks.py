"""The policy and the critics of S independent learners, made of the layers in `layers.py`.

Letters: S seed, B rows, N action samples, O observation, D action dimensions, H hidden units,
A atoms, K outputs of the critic (1, or A if it is categorical).
"""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.algorithm.layers import Module, Normalizer, StackedLinear, Torso
from mpo.compute.matmul import add_product_, add_products, affine, product, step_by_step
from mpo.study.hyperparameters import Hyperparameters

_MIN_STDDEV = 1e-6
"""Added to the policy's standard deviation."""
_HEAD_SCALE = 1e-2
"""Factor on the bound of the heads' initial weights, so that outputs hardly depend on the input."""
_IN_CACHE = 2**17
"""Activations per layer (rows times H) that a CPU processes fastest in one pass: they fit its
cache."""


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
        self.head = StackedLinear(widths[-1], 2 * action_dim, generators, scale=_HEAD_SCALE)

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


class QNetwork(Module):
    """A critic per seed: the value of a canonical action, clipped to [-1, 1], at an observation.

    The first layer is the sum of an observation part and an action part, so that N actions at one
    observation share the former.
    """

    outputs = 1
    """K."""

    @property
    def atoms(self) -> Tensor | None:
        """Returns that a categorical critic distinguishes, [A]."""
        return None

    @property
    def members(self) -> "Sequence[QNetwork]":
        """The networks that are trained: itself."""
        return (self,)

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        widths: Sequence[int],
        generators: Sequence[torch.Generator],
        normalizer: Normalizer | None = None,
        norm_in_every_layer: bool = False,
    ) -> None:
        """Draws the initial weights; values start near 0.

        Args:
            obs_dim: O.
            action_dim: D.
            widths: hidden units of each layer.
            generators: one per seed, on the CPU.
            normalizer: applied to the observations, if given.
            norm_in_every_layer: see `Torso`.
        """
        super().__init__()
        self.normalize = normalizer or nn.Identity()
        self.first_obs = StackedLinear(obs_dim, widths[0], generators)
        self.first_action = StackedLinear(action_dim, widths[0], generators)
        self.torso = Torso(widths, generators, norm_in_every_layer)
        self.head = StackedLinear(widths[-1], self.outputs, generators, scale=_HEAD_SCALE)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Maps observations [S, B, O] and actions [S, N, B, D] to values [S, N, B]."""
        return self.evaluate(obs, actions)[0]

    def evaluate(
        self, obs: Tensor, actions: Tensor, samples: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluates N actions at each observation.

        Args:
            obs: [S, B, O].
            actions: [S, N, B, D].
            samples: how many of the N actions, the first ones, the mean distribution is taken over;
                None: all.

        Returns:
            Values [S, N, B], and the mean distribution, [S, B, A], of a categorical critic.
        """
        values, probabilities = self.predict(obs, actions)
        return values, None if probabilities is None else probabilities[:, :samples].mean(1)

    def predict(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns values [S, N, B], and their distributions [S, N, B, A] if it is categorical."""
        return self._outputs(obs, actions).squeeze(-1), None

    def values(self, outputs: Tensor) -> Tensor:
        """Converts outputs [..., K] of `vjp` to values [...]."""
        return outputs.squeeze(-1)

    def _outputs(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Computes the outputs for all actions, [S, N, B, K]."""
        shared = self._first_obs(self.normalize(obs)).unsqueeze(1)  # [S, 1, B, H]
        samples = actions.shape[1]
        if step_by_step(actions):
            samples = max(1, _IN_CACHE // shared.numel())
        chunks = [self._of_some(shared, part) for part in actions.split(samples, dim=1)]
        return torch.cat(chunks, dim=1)

    def _first_obs(self, obs: Tensor) -> Tensor:
        """Computes the observation part of the first layer, with both biases, [S, B, H]."""
        return affine(obs, self.first_obs.weight, self.first_obs.bias + self.first_action.bias)

    def _of_some(self, shared: Tensor, actions: Tensor) -> Tensor:
        """Computes the outputs for some of the actions; `shared` is the observation part."""
        hidden = add_products(shared, actions.clamp(-1, 1), self.first_action.weight)
        return self.head(self.torso(hidden)).unflatten(1, actions.shape[1:3])

    def vjp(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], None]]:
        """Computes outputs for one action per observation, and the backward function.

        Args:
            obs: [S, B, O].
            action: [S, B, D].

        Returns:
            Outputs [S, B, K], the features that they are linear in [S, B, H], and a function of the
            gradient with respect to the outputs.
        """
        obs, clipped = self.normalize(obs), action.clamp(-1, 1)
        hidden = add_product_(self._first_obs(obs), clipped, self.first_action.weight)
        features, torso_backward = self.torso.vjp(hidden)

        def backward(grad: Tensor) -> None:
            self.head.write_gradients(features, grad)
            grad = torso_backward(self.head.input_gradient(grad))
            self.first_obs.write_gradients(obs, grad)
            self.first_action.write_gradients(clipped, grad)

        return self.head(features), features, backward


def effective_rank(features: Tensor) -> Tensor:
    """Computes in how many directions features [S, B, H] vary, from the first 64 rows, [S].

    It is the participation ratio (sum of l)^2 / sum of l^2 of the eigenvalues l of their covariance
    (Gao et al. 2017, bioRxiv 214262): H if all directions vary equally, 1 if only one does.
    """
    some = features[:, :64]
    centred = some - some.mean(1, keepdim=True)
    # The products of the rows with each other have the same eigenvalues as the covariance.
    products = product(centred, centred.mT)
    trace = centred.square().sum((1, 2))
    return trace.square() / products.square().sum((1, 2)).clamp(min=1e-30)


class CategoricalQNetwork(QNetwork):
    """A critic per seed that predicts the return's distribution on fixed atoms.

    Its mean is the value (C51, Bellemare et al. 2017, arXiv 1707.06887).
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        widths: Sequence[int],
        generators: Sequence[torch.Generator],
        normalizer: Normalizer | None = None,
        norm_in_every_layer: bool = False,
        *,
        atoms: Tensor,
    ) -> None:
        """Draws the initial weights; distributions start near uniform.

        Args:
            obs_dim: O.
            action_dim: D.
            widths: hidden units of each layer.
            generators: one per seed, on the CPU.
            normalizer: applied to the observations, if given.
            norm_in_every_layer: see `Torso`.
            atoms: returns, evenly spaced and ascending, [A].
        """
        self.outputs = len(atoms)
        super().__init__(obs_dim, action_dim, widths, generators, normalizer, norm_in_every_layer)
        self.support: Tensor = nn.Buffer(atoms, persistent=False)

    @property
    def atoms(self) -> Tensor:
        """See `QNetwork.atoms`."""
        return self.support

    def predict(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """See `QNetwork.predict`."""
        probabilities = self._outputs(obs, actions).softmax(-1)
        return (probabilities * self.atoms).sum(-1), probabilities

    def values(self, outputs: Tensor) -> Tensor:
        """Converts logits [..., A] to the means of their distributions [...]."""
        return (outputs.softmax(-1) * self.atoms).sum(-1)


class CriticPair(QNetwork):
    """Two critics per seed, whose values are combined sample by sample."""

    def __init__(self, pair: Sequence[QNetwork], minimum: bool) -> None:
        """Takes two critics of one kind.

        Args:
            pair: the critics.
            minimum: whether the smaller of both values counts (Fujimoto et al. 2018, TD3, arXiv
                1802.09477), or their mean.
        """
        Module.__init__(self)
        self.pair = nn.ModuleList(pair)
        self._minimum = minimum

    @property
    def members(self) -> Sequence[QNetwork]:
        """The networks that are trained."""
        return cast(Sequence[QNetwork], self.pair)

    @property
    def atoms(self) -> Tensor | None:
        """See `QNetwork.atoms`."""
        return self.members[0].atoms

    def predict(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `QNetwork.predict`; the distribution is that of the smaller value, or the mean."""
        (value, mass), (other, other_mass) = (m.predict(obs, actions) for m in self.members)
        if not self._minimum:
            if mass is not None and other_mass is not None:
                mass = (mass + other_mass) / 2
            return (value + other) / 2, mass
        if mass is not None and other_mass is not None:
            mass = torch.where((value <= other).unsqueeze(-1), mass, other_mass)
        return torch.minimum(value, other), mass


def make_critic(
    obs_dim: int,
    action_dim: int,
    config: Hyperparameters,
    generators: Sequence[torch.Generator],
    normalizer: Normalizer | None,
) -> QNetwork:
    """Makes the critic, or the pair of critics, that the config names; see `QNetwork`."""
    every = config.layer_norm == "all"
    common = (obs_dim, action_dim, config.critic_layer_sizes, generators, normalizer, every)

    def one() -> QNetwork:
        if config.critic == "scalar":
            return QNetwork(*common)
        atoms = torch.linspace(config.critic_min, config.critic_max, config.critic_atoms)
        return CategoricalQNetwork(*common, atoms=atoms)

    if config.critics == "one":
        return one()
    return CriticPair([one(), one()], minimum=config.critics == "minimum")


def make_normalizer(config: Hyperparameters, seeds: int, obs_dim: int) -> Normalizer | None:
    """Makes the normaliser that the config names; None if observations are used as they are."""
    if not config.normalize_observations:
        return None
    return Normalizer(seeds, obs_dim, squash=config.observation_bound == "squash")
