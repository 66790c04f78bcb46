"""The MPO agent: S stacked learners of one shape, their targets, duals and optimizers.

The formulas are in `losses.py`, the targets in `targets.py`; here they meet the online networks.

Letters: S seed, T window, B batch, N action samples, O observation, D action dimensions.
"""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mpo.algorithm import losses
from mpo.algorithm.duals import Duals, softplus
from mpo.algorithm.layers import Normalizer
from mpo.algorithm.networks import CategoricalQNetwork, GaussianPolicy, QNetwork
from mpo.algorithm.optimizers import StackedOptimizer, flatten_
from mpo.algorithm.running_moments import RunningMoments
from mpo.algorithm.targets import TargetPass, Targets
from mpo.compute.compile import compiled, compiles
from mpo.compute.cuda_graphs import Graphed, Tensors
from mpo.seeding import numpy_generator, torch_generator
from mpo.study.hyperparameters import Hyperparameters

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class _Evaluated(NamedTuple):
    """What an update goes on with once the critic and the temperatures have their gradients."""

    state: Tensor
    """See `Targets`, like the next two."""
    mean: Tensor
    stddev: Tensor
    moments: losses.Moments
    """Of the improved samples at these states."""
    metrics: dict[str, Tensor]
    """Diagnostics so far, [S] each."""


class MPOAgent:
    """Acts for S seeds and learns from their windows; no operation mixes seeds."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        config: Hyperparameters,
        seeds: Sequence[int],
        device: torch.device,
        cuda_graphs: bool = True,
        compile_on_cpu: bool = False,
    ) -> None:
        """Draws the initial networks from each seed's own stream.

        Args:
            obs_dim: O.
            action_dim: D.
            config: of the networks and of the learning.
            seeds: of each learner, S.
            device: of networks and updates.
            cuda_graphs: whether acting and learning are a graph each, where the device is a GPU.
            compile_on_cpu: whether they are compiled where it is none.
        """
        self.config = config
        self.device = device
        self.action_dim = action_dim
        self.num_seeds = len(seeds)
        self._seen = [RunningMoments(obs_dim) for _ in seeds]
        self._act_noise = [numpy_generator(seed, "act") for seed in seeds]
        self._noise = [torch_generator(seed, "noise", device) for seed in seeds]
        self._make_networks(obs_dim, seeds)
        self._make_duals()
        self._make_optimizers()
        self._make_programs(cuda_graphs, compile_on_cpu)
        self.updates = 0

    def _make_networks(self, obs_dim: int, seeds: Sequence[int]) -> None:
        """Draws policy and critic from each seed's own stream, and copies them to the targets."""
        config, init = self.config, [torch_generator(seed, "init") for seed in seeds]
        normalizer = Normalizer(len(seeds), obs_dim) if config.normalize_observations else None
        self._normalizer = normalizer
        widths, scale = config.policy_layer_sizes, config.policy_init_scale
        self.policy = GaussianPolicy(obs_dim, self.action_dim, widths, scale, init, normalizer)
        self.critic = _make_critic(obs_dim, self.action_dim, config, init, normalizer)
        self.policy.to(self.device)
        self.critic.to(self.device)
        # The four networks share one normaliser: it is not trained, and changes for all at once.
        self.target_policy = copy.deepcopy(self.policy, {id(normalizer): normalizer})
        self.target_critic = copy.deepcopy(self.critic, {id(normalizer): normalizer})
        self._targets = TargetPass(config, self.target_policy, self.target_critic)
        behaves = {"online": self.policy, "target": self.target_policy}
        self._behaviour = behaves[config.behaviour_policy]

    def _make_duals(self) -> None:
        """The temperatures and the KL multipliers, each beside the bounds it enforces."""
        config, device = self.config, self.device
        penalties = int(config.action_penalty)
        self.temperatures = Duals(
            torch.full((self.num_seeds, 1 + penalties), config.temperature_init)
        ).to(device)
        """Of the E-step over action values and, if there is one, over the penalty, [S, K]."""
        bounds = [config.kl_epsilon, config.epsilon_penalty][: 1 + penalties]
        self._estep_epsilons = torch.tensor(bounds, device=device)  # [K]
        multipliers = [config.init_log_alpha_mean, config.init_log_alpha_stddev]
        alphas = torch.tensor([config.lambda_init * softplus(x) for x in multipliers])
        dims = self.action_dim if config.per_dimension_kl else 1
        self.alphas = Duals(alphas[:, None].expand(self.num_seeds, 2, dims)).to(device)
        """Of the KL bounds on means and on standard deviations, [S, 2, D]; [S, 2, 1] if one bound
        holds for the sum over D."""
        epsilon_mean = config.mstep_kl_epsilon
        epsilons = [epsilon_mean, config.mstep_kl_epsilon_stddev or epsilon_mean]
        self._mstep_epsilons = torch.tensor(epsilons, device=device).unsqueeze(-1)  # [2, 1]

    def _make_optimizers(self) -> None:
        """The four optimizers, and the targets' parameters as one flat tensor a network."""
        config = self.config
        self._policy_optimizer, self._critic_optimizer = (
            StackedOptimizer(config.optimizer, network.parameters(), lr, config.sgd_momentum)
            for network, lr in ((self.policy, config.policy_lr), (self.critic, config.q_lr))
        )
        self._temperature_optimizer, self._alpha_optimizer = (
            StackedOptimizer(config.dual_optimizer, duals.parameters(), lr, config.sgd_momentum)
            for duals, lr in (
                (self.temperatures, config.temperature_lr),
                (self.alphas, config.lambda_lr),
            )
        )
        self._flat_target_policy = flatten_(self.target_policy.parameters())
        self._flat_target_critic = flatten_(self.target_critic.parameters())

    def _make_programs(self, cuda_graphs: bool, compile_on_cpu: bool) -> None:
        """What acts and learns: plain, compiled, or as CUDA graphs."""
        self.compiled = compiles(self.device, compile_on_cpu)
        """Whether torch's compiler makes the code of acting and learning."""
        fast = partial(compiled, device=self.device, on_cpu=compile_on_cpu)
        self._evaluation = fast(self._evaluate)
        self._policy_gradients = fast(self._fit_policy)
        self._graphs = cuda_graphs and self.device.type == "cuda"
        self._heads = self._graphed(fast(self._policy_heads))
        self._learners: dict[int, Callable[[Tensors], Tensors]] = {}
        """By M-steps an update."""

    @torch.inference_mode()
    def mode(self, obs: np.ndarray, seed_index: int = 0) -> np.ndarray:
        """One seed's online mean actions, clipped: float32 [B, O] -> [B, D]."""
        rows = torch.from_numpy(obs).to(self.device).expand(self.num_seeds, -1, -1)
        return self.policy(rows)[0][seed_index].clamp(-1, 1).cpu().numpy()

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples the behaviour policy for every seed.

        Args:
            obs: float32 [S, O].

        Returns:
            Raw (unclipped) actions [S, D] and their log-densities [S], float32.
        """
        if self._normalizer is not None:
            for seen, own in zip(self._seen, obs, strict=True):
                seen.add(own)
        heads = self._heads({"obs": torch.from_numpy(obs)})["heads"]
        mean, stddev = np.split(heads.cpu().numpy(), 2, axis=-1)  # one copy to the host
        noise = np.stack(
            [g.standard_normal(self.action_dim, dtype=np.float32) for g in self._act_noise]
        )
        log_prob = -(0.5 * noise**2 + np.log(stddev)).sum(-1) - self.action_dim * _HALF_LOG_2PI
        return mean + stddev * noise, log_prob.astype(np.float32)

    @torch.inference_mode()
    def update(self, windows: Tensors, m_steps: int = 1) -> Tensors:
        """One critic step and `m_steps` policy steps on windows of the replay.

        Args:
            windows: see `Replay.sample`, [S, T, B].
            m_steps: policy and multiplier steps on the same E-step.

        Returns:
            Diagnostics of the update, each [S]; on a GPU the next one overwrites them.
        """
        if m_steps not in self._learners:
            learn = partial(self._learn, m_steps=m_steps)
            self._learners[m_steps] = self._graphed(learn, self._noise)
        if self.updates == 0:
            self._refresh_normalizer()
        metrics = self._learners[m_steps](windows)
        self.updates += 1
        periodic = self.updates % self.config.target_networks_update_period == 0
        if periodic:
            self._refresh_normalizer()
        if self.config.target_polyak is not None:
            self._move_targets(self.config.target_polyak)
        elif periodic:
            self._move_targets(1.0)
        return metrics

    def non_finite(self) -> dict[str, Tensor]:
        """Where parameters are not finite: a bool [S] for each of policy, critic and duals."""
        flats = {
            "policy": [self._policy_optimizer.flat],
            "critic": [self._critic_optimizer.flat],
            "duals": [self._temperature_optimizer.flat, self._alpha_optimizer.flat],
        }
        return {name: ~torch.cat(flat, dim=1).isfinite().all(1) for name, flat in flats.items()}

    def state_dict(self, index: int) -> dict[str, Any]:
        """All that a seed's acting and learning depend on, as if it were alone."""
        targets = (self._flat_target_policy, self._flat_target_critic)
        return {
            "updates": self.updates,
            "optimizers": [optimizer.state_dict(index) for optimizer in self._optimizers],
            "targets": [target[index : index + 1].clone() for target in targets],
            "act_noise": [self._act_noise[index].bit_generator.state],
            "noise": [self._noise[index].get_state()],
            "seen": self._seen[index].state_dict(),
            "normalizer": [x[index : index + 1].clone() for x in self._normalization],
        }

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Loads one state per seed, from agents with the same settings.

        Args:
            states: of each seed, see `state_dict`; all after the same number of updates.
        """
        self.updates = states[0]["updates"]
        for i, optimizer in enumerate(self._optimizers):
            optimizer.load_state_dict([state["optimizers"][i] for state in states])
        for i, target in enumerate((self._flat_target_policy, self._flat_target_critic)):
            target.copy_(torch.cat([state["targets"][i] for state in states]))
        for i, state in enumerate(states):
            self._act_noise[i].bit_generator.state = state["act_noise"][0]
            self._noise[i].set_state(state["noise"][0])
            self._seen[i].load_state_dict(state["seen"])
        for i, part in enumerate(self._normalization):
            part.copy_(torch.cat([state["normalizer"][i] for state in states]))
        # The optimizers' states are other tensors now: a graph would go on with the old ones.
        self._learners.clear()

    @property
    def _optimizers(self) -> tuple[StackedOptimizer, ...]:
        """The four optimizers; together they own every online parameter and dual."""
        return (
            self._policy_optimizer,
            self._critic_optimizer,
            self._temperature_optimizer,
            self._alpha_optimizer,
        )

    def _graphed(
        self, function: Callable[[Tensors], Tensors], generators: Sequence[torch.Generator] = ()
    ) -> Callable[[Tensors], Tensors]:
        """Wraps `function` in a CUDA graph if graphs are enabled."""
        return Graphed(function, self.device, generators) if self._graphs else function

    def _policy_heads(self, inputs: Tensors) -> Tensors:
        """Of `obs` [S, O]: `heads`, mean and standard deviation in one, [S, 2 D]."""
        rows = inputs["obs"].to(self.device).unsqueeze(1)
        return {"heads": torch.cat(self._behaviour(rows), dim=-1).squeeze(1)}

    def _learn(self, windows: Tensors, m_steps: int) -> Tensors:
        """The update, but for what does not happen in each: the copies to the targets."""
        noise = [self._draw(*shape) for shape in self._targets.samples(windows)]
        found = self._evaluation(windows, noise)
        self._critic_optimizer.step()
        self._temperature_optimizer.step()
        self.temperatures.clamp_()
        metrics = found.metrics
        for _ in range(m_steps):
            metrics |= self._m_step(found)
        return metrics

    def _draw(self, samples: int, rows: int) -> Tensor:
        """Standard normal noise [S, samples, rows, D], each seed's from its own stream."""
        noise = torch.empty(self.num_seeds, samples, rows, self.action_dim, device=self.device)
        for place, generator in zip(noise, self._noise, strict=True):
            place.normal_(generator=generator)
        return noise

    def _evaluate(self, windows: Tensors, noise: Sequence[Tensor]) -> _Evaluated:
        """The gradients of critic and temperatures, and what the policy is to become."""
        batch = self._targets(windows, noise)
        critic_metrics = self._fit_critic(batch)
        moments, metrics = self._e_step(batch)
        metrics = batch.metrics | critic_metrics | metrics
        return _Evaluated(batch.state, batch.mean, batch.stddev, moments, metrics)

    def _fit_critic(self, batch: Targets) -> dict[str, Tensor]:
        """Writes the critic's gradient."""
        outputs, backward = self.critic.vjp(batch.obs, batch.action)
        values = self.critic.values(outputs)
        if batch.distribution is None:
            fit = losses.regression(values, batch.target)
            backward(fit.gradient.unsqueeze(-1))
        else:
            fit = losses.cross_entropy(outputs, batch.distribution)
            backward(fit.gradient)
        return {
            "critic_loss": fit.loss,
            "critic_grad_norm": self._critic_optimizer.clip_(self.config.max_grad_norm),
            "q_mean": values.mean(-1),
            "target_mean": batch.target.mean(-1),
        }

    def _e_step(self, batch: Targets) -> tuple[losses.Moments, dict[str, Tensor]]:
        """The improved samples' moments; writes the temperatures' gradient."""
        values = batch.values.unsqueeze(1)
        if self.config.action_penalty:
            values = torch.stack([batch.values, losses.out_of_bounds_cost(batch.actions)], dim=1)
        temperatures = self.temperatures.value
        improved = losses.e_step(values, temperatures, self._estep_epsilons)
        self.temperatures.write_gradient(improved.gradient)
        kl = improved.kl / self._estep_epsilons
        metrics = {
            "temperature": temperatures[:, 0],
            "temperature_loss": improved.loss[:, 0],
            "kl_q_relative": kl[:, 0],
        }
        if self.config.action_penalty:
            metrics["penalty_temperature"] = temperatures[:, 1]
            metrics["penalty_kl_relative"] = kl[:, 1]
        return losses.noise_moments(improved.weights.sum(1), batch.noise), metrics

    def _m_step(self, found: _Evaluated) -> dict[str, Tensor]:
        """One step of the policy and of the KL multipliers."""
        metrics = self._policy_gradients(found.state, found.mean, found.stddev, found.moments)
        self._policy_optimizer.step()
        self._alpha_optimizer.step()
        self.alphas.clamp_()
        return metrics

    def _fit_policy(
        self, state: Tensor, target_mean: Tensor, target_stddev: Tensor, moments: losses.Moments
    ) -> dict[str, Tensor]:
        """Writes the gradients of the policy and of the KL multipliers."""
        alphas = self.alphas.value
        mean, stddev, backward = self.policy.vjp(state)
        fit = losses.m_step(moments, target_mean, target_stddev, mean, stddev, alphas)
        backward(fit.grad_mean, fit.grad_stddev)
        norm = self._policy_optimizer.clip_(self.config.max_grad_norm)
        kl = fit.kl if self.config.per_dimension_kl else fit.kl.sum(-1, keepdim=True)
        self.alphas.write_gradient(self._mstep_epsilons - kl)
        kl_mean, kl_stddev = (kl / self._mstep_epsilons).mean(-1).unbind(-1)
        alpha_mean, alpha_stddev = alphas.mean(-1).unbind(-1)
        return {
            "policy_loss": fit.loss,
            "kl_mean_relative": kl_mean,
            "kl_stddev_relative": kl_stddev,
            "alpha_mean": alpha_mean,
            "alpha_stddev": alpha_stddev,
            "policy_stddev": stddev.mean((-2, -1)),
            "policy_grad_norm": norm,
        }

    def _move_targets(self, share: float) -> None:
        """Goes a share of the way from the target networks to the online ones."""
        for target, optimizer in (
            (self._flat_target_policy, self._policy_optimizer),
            (self._flat_target_critic, self._critic_optimizer),
        ):
            if share == 1:
                target.copy_(optimizer.flat)
            else:
                target.lerp_(optimizer.flat, share)

    @property
    def _normalization(self) -> tuple[Tensor, ...]:
        """What the networks do with observations, [S, 1, O] each; nothing where they do nothing."""
        return () if self._normalizer is None else (self._normalizer.shift, self._normalizer.scale)

    def _refresh_normalizer(self) -> None:
        """Has the networks centre and scale by all observations that were acted in so far."""
        if self._normalizer is None:
            return
        found = ([seen.mean for seen in self._seen], [seen.inverse_stddev for seen in self._seen])
        for part, values in zip(self._normalization, found, strict=True):
            part.copy_(torch.from_numpy(np.stack(values)).unsqueeze(1))


def _make_critic(
    obs_dim: int,
    action_dim: int,
    config: Hyperparameters,
    generators: Sequence[torch.Generator],
    normalizer: Normalizer | None,
) -> QNetwork:
    """The kind of critic that the config names."""
    common = (obs_dim, action_dim, config.critic_layer_sizes, generators, normalizer)
    if config.critic == "scalar":
        return QNetwork(*common)
    atoms = torch.linspace(config.critic_min, config.critic_max, config.critic_atoms)
    return CategoricalQNetwork(*common, atoms=atoms)
