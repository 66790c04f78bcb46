"""The update of `mpo.algorithm.agent` in plain torch: modules, autograd and torch's optimizers.

It computes the same update for one seed, with TD or Retrace, and is the reference of
`benchmarks.update`. `tests/benchmarks/test_benchmarks.py` checks that both agree.

Letters: T window, B batch, N action samples, O observation dims, D action dims.
"""

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from mpo.algorithm.agent import MPOAgent
from tests.reference import PlainCritic, PlainPolicy


class PlainLearner:
    """A copy of the first seed of an agent, in plain torch."""

    def __init__(self, agent: MPOAgent, draw: Callable[[int, int], Tensor]) -> None:
        """Copies the agent's networks; `draw(samples, rows)` gives noise [samples, rows, D]."""
        self._config, self._draw = agent.config, draw
        self.policy = PlainPolicy(agent.policy, 0, agent.config.policy_init_scale)
        self.critic = PlainCritic(agent.critic, 0)
        self._target_policy = copy.deepcopy(self.policy)
        self._target_critic = copy.deepcopy(self.critic)
        self._temperatures = nn.Parameter(agent.learners.temperatures.raw[0].detach().clone())
        self._alphas = nn.Parameter(agent.learners.alphas.raw[0].detach().clone())
        groups = (
            (self.policy.parameters(), agent.config.policy_lr),
            (self.critic.parameters(), agent.config.q_lr),
            ([self._temperatures], agent.config.temperature_lr),
            ([self._alphas], agent.config.lambda_lr),
        )
        self._optimizers = [torch.optim.Adam(group, lr) for group, lr in groups]
        self._updates = 0

    def update(self, windows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One update on windows [1, T, B], in which no episode ends; returns the losses."""
        fields = {name: value[0] for name, value in windows.items()}
        state = fields["next_obs"][0]
        with torch.no_grad():
            pi = self._pi(self._target_policy, state)
            noise = self._draw(self._config.action_samples, len(pi.mean))
            actions = pi.mean + pi.stddev * noise
            values = self._q(self._target_critic, state, actions)  # [N, B]
            bootstrap = values[: self._config.retrace_mc_actions].mean(0)
        if self._config.retrace:
            critic_loss = self._critic_loss(
                fields["obs"].flatten(0, 1),
                fields["action"].flatten(0, 1),
                self._retrace(fields, bootstrap).flatten(),
            )
        else:
            target = fields["reward"][0] + self._config.gamma * bootstrap
            critic_loss = self._critic_loss(fields["obs"][0], fields["action"][0], target)
        temperature_loss, weights = self._e_step(values, actions)
        policy_loss, alpha_loss = self._m_step(state, pi, actions, weights)
        policy, critic, temperatures, alphas = self._optimizers
        for loss, optimizer, network in (
            (critic_loss, critic, self.critic),
            (temperature_loss, temperatures, None),
            (policy_loss, policy, self.policy),
            (alpha_loss, alphas, None),
        ):
            optimizer.zero_grad()
            loss.backward()
            if network is not None:
                clip_grad_norm_(network.parameters(), self._config.max_grad_norm)
            optimizer.step()
        self._updates += 1
        if self._updates % self._config.target_networks_update_period == 0:
            self._target_policy.load_state_dict(self.policy.state_dict())
            self._target_critic.load_state_dict(self.critic.state_dict())
        return {"critic_loss": critic_loss.detach(), "policy_loss": policy_loss.detach()}

    @staticmethod
    def _pi(policy: PlainPolicy, obs: Tensor) -> Normal:
        return Normal(*policy(obs), validate_args=False)

    @staticmethod
    def _q(critic: PlainCritic, obs: Tensor, actions: Tensor) -> Tensor:
        """Values [N, B] of actions [N, B, D] at observations [B, O]."""
        return critic(obs.expand(len(actions), -1, -1), actions)

    def _critic_loss(self, obs: Tensor, action: Tensor, target: Tensor) -> Tensor:
        return 0.5 * F.mse_loss(self.critic(obs, action), target)

    def _retrace(self, fields: Mapping[str, Tensor], first_value: Tensor) -> Tensor:
        """Retrace targets [T, B]; `first_value` [B] are the values at the first successors."""
        config = self._config
        with torch.no_grad():
            taken = self._target_critic(fields["obs"], fields["action"])
            others = fields["next_obs"][1:].flatten(0, 1)
            pi = self._pi(self._target_policy, others)
            actions = pi.mean + pi.stddev * self._draw(config.retrace_mc_actions, len(others))
            rest = self._q(self._target_critic, others, actions).mean(0)
            successors = torch.cat([first_value[None], rest.view(-1, len(first_value))])
            current = Independent(self._pi(self._target_policy, fields["obs"]), 1)
            ratios = (current.log_prob(fields["action_raw"]) - fields["behaviour_logp"]).exp()
            traces = config.retrace_lambda * ratios.clamp(max=1)
            target, targets = successors[-1], []
            for t in reversed(range(len(taken))):
                if t < len(taken) - 1:
                    target = successors[t] + traces[t + 1] * (targets[-1] - taken[t + 1])
                targets.append(fields["reward"][t] + config.gamma * target)
        return torch.stack(targets[::-1])

    def _e_step(self, values: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The temperatures' loss, and the weights [N, B], summed over the objectives."""
        objectives, epsilons = [values], [self._config.kl_epsilon]
        if self._config.action_penalty:
            objectives.append(-(actions - actions.clamp(-1, 1)).norm(dim=-1))
            epsilons.append(self._config.epsilon_penalty)
        etas = F.softplus(self._temperatures) + 1e-8
        loss, weights = torch.zeros(()), torch.zeros_like(values)
        for value, eta, epsilon in zip(objectives, etas, epsilons, strict=True):
            weights = weights + F.softmax(value / eta.detach(), 0)
            normalizers = torch.logsumexp(value / eta, 0) - math.log(len(value))
            loss = loss + eta * (epsilon + normalizers.mean())
        return loss, weights

    def _m_step(
        self, obs: Tensor, target: Normal, actions: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The losses of the policy and of the Lagrange multipliers."""
        online = self._pi(self.policy, obs)
        halves = (Normal(online.mean, target.stddev), Normal(target.mean, online.stddev))
        config = self._config
        epsilons = (config.mstep_kl_epsilon, config.mstep_kl_epsilon_stddev)
        alphas = F.softplus(self._alphas) + 1e-8
        policy_loss, alpha_loss = torch.zeros(()), torch.zeros(())
        for half, alpha, epsilon in zip(halves, alphas, epsilons, strict=True):
            likelihood = Independent(half, 1).log_prob(actions)
            kl = kl_divergence(target, half).mean(0)
            policy_loss = policy_loss - (weights * likelihood).sum(0).mean()
            policy_loss = policy_loss + (alpha.detach() * kl).sum()
            alpha_loss = alpha_loss + (alpha * ((epsilon or epsilons[0]) - kl.detach())).sum()
        return policy_loss, alpha_loss

    def policy_parameters(self) -> Tensor:
        """The policy's parameters in one vector."""
        return torch.cat([parameter.detach().flatten() for parameter in self.policy.parameters()])
