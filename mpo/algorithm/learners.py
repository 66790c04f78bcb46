"""What S stacked learners learn: networks, their target networks, duals, and the optimizers.

Letters: S seed, O observation, D action dimensions, K E-step constraints (1, or 2 with the action
penalty).
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpo.algorithm.critics import Critic, make_critic
from mpo.algorithm.duals import Duals, softplus
from mpo.algorithm.layers import Normalizer
from mpo.algorithm.optimizers import Settings, StackedOptimizer, flatten_
from mpo.algorithm.policies import GaussianPolicy, make_normalizer, make_policy
from mpo.seeding import torch_generator
from mpo.study.hyperparameters import Hyperparameters

NOT_COMPILED = {
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "dual_optimizer",
    "lambda_lr",
    "optimizer",
    "optimizer_definition",
    "optimizer_reset",
    "policy_lr",
    "q_lr",
    "replay_size",
    "sgd_momentum",
    "temperature_lr",
    "warmup_updates",
    "weight_decay",
}
"""Keys that compiled code does not read; without them, more learners share it."""


class Learners:
    """Everything that an update changes, for S seeds."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        config: Hyperparameters,
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        """Draws the initial networks, each seed's from its own stream.

        Args:
            obs_dim: O.
            action_dim: D.
            config: the hyperparameters.
            seeds: one seed per learner, S.
            device: the device of networks and duals.
        """
        self._config = config
        self._seeds = tuple(seeds)
        self.obs_dim, self.action_dim = obs_dim, action_dim
        self._device = device
        self._make_networks()
        self._make_duals()
        self._make_optimizers()

    def _make_networks(self) -> None:
        """Draws policy and critic, and copies them as targets."""
        normalizer = make_normalizer(self._config, len(self._seeds), self.obs_dim)
        self.normalizer = normalizer
        self.policy, self.critic = self.draw("init", normalizer=normalizer)
        # The four networks share one normaliser, which is not trained and changes for all at once.
        self.target_policy = copy.deepcopy(self.policy, {id(normalizer): normalizer})
        self.target_critic = copy.deepcopy(self.critic, {id(normalizer): normalizer})
        self.target_policy.torso.precision = self._config.target_precision
        for member in self.target_critic.members:
            member.torso.precision = self._config.target_precision

    def _make_duals(self) -> None:
        """Creates the temperatures and the KL multipliers, and the bounds that they enforce."""
        config, device = self._config, self._device
        penalties = int(config.action_penalty)
        self.temperatures = Duals(
            torch.full((len(self._seeds), 1 + penalties), config.temperature_init)
        ).to(device)
        """Of the E-steps over action values and, if enabled, over the action penalty, [S, K]."""
        bounds = [config.kl_epsilon, config.epsilon_penalty][: 1 + penalties]
        self.estep_epsilons = torch.tensor(bounds, device=device)  # [K]
        multipliers = [config.init_log_alpha_mean, config.init_log_alpha_stddev]
        alphas = torch.tensor([config.lambda_init * softplus(x) for x in multipliers])
        dims = self.action_dim if config.per_dimension_kl else 1
        self.alphas = Duals(alphas[:, None].expand(len(self._seeds), 2, dims)).to(device)
        """Multipliers of the KL bounds on means and on standard deviations, [S, 2, D], or [S, 2, 1]
        if one bound holds for the sum over D."""
        epsilon_mean = config.mstep_kl_epsilon
        epsilons = [epsilon_mean, config.mstep_kl_epsilon_stddev or epsilon_mean]
        self.mstep_epsilons = torch.tensor(epsilons, device=device).unsqueeze(-1)  # [2, 1]

    def _make_optimizers(self) -> None:
        """Creates the four optimizers, and flattens the parameters of the target networks."""
        config = self._config
        settings = Settings(
            momentum=config.sgd_momentum,
            beta1=config.adam_beta1,
            beta2=config.adam_beta2,
            epsilon=config.adam_epsilon,
            weight_decay=config.weight_decay,
            warmup=config.warmup_updates > 0,
        )
        self.policy_optimizer, self.critic_optimizer = (
            StackedOptimizer(
                config.optimizer, network.parameters(), lr, settings, config.optimizer_definition
            )
            for network, lr in ((self.policy, config.policy_lr), (self.critic, config.q_lr))
        )
        of_duals = Settings(momentum=config.sgd_momentum)
        self.temperature_optimizer, self.alpha_optimizer = (
            StackedOptimizer(config.dual_optimizer, duals.parameters(), lr, of_duals)
            for duals, lr in (
                (self.temperatures, config.temperature_lr),
                (self.alphas, config.lambda_lr),
            )
        )
        self.flat_target_policy = flatten_(self.target_policy.parameters())
        self.flat_target_critic = flatten_(self.target_critic.parameters())

    def draw(
        self, stream: str, *key: int, normalizer: Normalizer | None = None
    ) -> tuple[GaussianPolicy, Critic]:
        """Draws policy and critic, each seed's from its own stream; keys tell several apart."""
        config = self._config
        generators = [torch_generator(seed, stream, "cpu", *key) for seed in self._seeds]
        common = (self.obs_dim, self.action_dim, config, generators, normalizer)
        policy, critic = make_policy(*common), make_critic(*common)
        return policy.to(self._device), critic.to(self._device)

    @torch.inference_mode()
    def renew(self, count: int) -> None:
        """Starts policy, critic, their targets and their optimizers anew.

        Args:
            count: number of the renewal; each has a random stream of its own.
        """
        drawn = self.draw("renew", count)
        for network, optimizer in zip(
            drawn, (self.policy_optimizer, self.critic_optimizer), strict=True
        ):
            optimizer.flat.copy_(flatten_(network.parameters()))
            optimizer.reset_()
        self.move_targets(1.0)

    def move_targets(self, share: float) -> None:
        """Moves the target networks' parameters a share of the way to the online ones."""
        for target, optimizer in (
            (self.flat_target_policy, self.policy_optimizer),
            (self.flat_target_critic, self.critic_optimizer),
        ):
            if share == 1:
                target.copy_(optimizer.flat)
            else:
                target.lerp_(optimizer.flat, share)

    def non_finite(self) -> dict[str, Tensor]:
        """Returns which seeds have non-finite parameters, bool [S] for policy, critic and duals."""
        flats = {
            "policy": [self.policy_optimizer.flat],
            "critic": [self.critic_optimizer.flat],
            "duals": [self.temperature_optimizer.flat, self.alpha_optimizer.flat],
        }
        return {name: ~torch.cat(flat, dim=1).isfinite().all(1) for name, flat in flats.items()}

    def state_dict(self, index: int) -> dict[str, Any]:
        """Returns one seed's parameters, targets, duals and optimizer states.

        It does not depend on the other seeds in the stack.
        """
        targets = (self.flat_target_policy, self.flat_target_critic)
        return {
            "optimizers": [optimizer.state_dict(index) for optimizer in self.optimizers],
            "targets": [target[index : index + 1].clone() for target in targets],
        }

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Loads one state per seed, all after the same number of updates."""
        for i, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict([state["optimizers"][i] for state in states])
        for i, target in enumerate((self.flat_target_policy, self.flat_target_critic)):
            target.copy_(torch.cat([state["targets"][i] for state in states]))

    @property
    def form(self) -> str:
        """A text that differs where compiled code would: sizes and settings, see `Compiled`."""
        sizes = (len(self._seeds), self.obs_dim, self.action_dim)
        return f"{sizes} {self._config.model_dump_json(exclude=NOT_COMPILED)}"

    @property
    def optimizers(self) -> tuple[StackedOptimizer, ...]:
        """The four optimizers; together they own every online parameter and dual."""
        return (
            self.policy_optimizer,
            self.critic_optimizer,
            self.temperature_optimizer,
            self.alpha_optimizer,
        )
