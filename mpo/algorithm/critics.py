"""The critics of S independent learners, made of the layers in `layers.py`.

Letters: S seed, B rows, N action samples, O observation, D action dimensions, H hidden units,
A atoms, K outputs of a network (1, or A if it is categorical).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mpo.algorithm.layers import HEAD_SCALE, Module, Normalizer, StackedLinear, Torso
from mpo.compute.matmul import add_product_, add_products, affine, product, step_by_step
from mpo.study.hyperparameters import Hyperparameters

_IN_CACHE = 2**17
"""Activations per layer (rows times H) that a CPU processes fastest in one pass: they fit its
cache."""


class Critic(Module, ABC):
    """A critic per seed: the value of a canonical action, clipped to [-1, 1], at an observation."""

    @property
    def atoms(self) -> Tensor | None:
        """Returns that a categorical critic distinguishes, [A]."""
        return None

    @property
    @abstractmethod
    def members(self) -> "Sequence[QNetwork]":
        """The networks that are trained."""

    @abstractmethod
    def predict(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns values [S, N, B], and their distributions [S, N, B, A] if it is categorical."""

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


class QNetwork(Critic):
    """A critic of one network.

    The first layer is the sum of an observation part and an action part, so that N actions at one
    observation share the former.
    """

    outputs = 1
    """K."""

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
        self.head = StackedLinear(widths[-1], self.outputs, generators, scale=HEAD_SCALE)

    @property
    def members(self) -> "Sequence[QNetwork]":
        """Itself."""
        return (self,)

    def predict(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Critic.predict`."""
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
        """See `Critic.atoms`."""
        return self.support

    def predict(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """See `Critic.predict`."""
        probabilities = self._outputs(obs, actions).softmax(-1)
        return (probabilities * self.atoms).sum(-1), probabilities

    def values(self, outputs: Tensor) -> Tensor:
        """Converts logits [..., A] to the means of their distributions [...]."""
        return (outputs.softmax(-1) * self.atoms).sum(-1)


class CriticPair(Critic):
    """Two critics per seed, whose values are combined sample by sample."""

    def __init__(self, pair: Sequence[QNetwork], minimum: bool) -> None:
        """Takes two critics of one kind.

        Args:
            pair: the critics.
            minimum: whether the smaller of both values counts (Fujimoto et al. 2018, TD3, arXiv
                1802.09477), or their mean.
        """
        super().__init__()
        self.pair = nn.ModuleList(pair)
        self._minimum = minimum

    @property
    def members(self) -> Sequence[QNetwork]:
        """Both."""
        return cast(Sequence[QNetwork], self.pair)

    @property
    def atoms(self) -> Tensor | None:
        """See `Critic.atoms`."""
        return self.members[0].atoms

    def predict(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Critic.predict`; the distribution is that of the smaller value, or the mean."""
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
) -> Critic:
    """Makes the critic, or the pair of critics, that the config describes; see `QNetwork`."""
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
