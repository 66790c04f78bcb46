"""The MPO agent: S stacked learners with their target networks, duals and optimizers.

The losses are in `losses.py` and the critic's targets in `targets.py`; this module applies them to
the online networks.

Letters: S seed, T window, B batch, N action samples, O observation, D action dimensions,
K E-step constraints (1, or 2 with the action penalty).
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mpo.algorithm import losses
from mpo.algorithm.action_noise import make_noise
from mpo.algorithm.duals import Duals, softplus
from mpo.algorithm.layers import Normalizer
from mpo.algorithm.networks import GaussianPolicy, QNetwork, effective_rank, make_critic
from mpo.algorithm.optimizers import Settings, StackedOptimizer, flatten_
from mpo.algorithm.running_moments import ObservationMoments
from mpo.algorithm.targets import Regression, Samples, TargetPass
from mpo.compute.compile import compiled, compiles
from mpo.compute.cuda_graphs import Graphed, Tensors
from mpo.seeding import torch_generator
from mpo.study.hyperparameters import Hyperparameters

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_M_STEP_INPUTS = ("state", "mean", "stddev", *losses.Moments._fields)
"""The inputs of the M-step, see `_Evaluated`."""
_FOUND = "m-step "
"""Begins their names among metrics."""


class _Evaluated(NamedTuple):
    """The inputs of the M-step; see `Samples` for `state`, `mean` and `stddev`."""

    state: Tensor
    mean: Tensor
    stddev: Tensor
    moments: losses.Moments
    """Moments of the noise under the E-step's weights."""
    metrics: dict[str, Tensor]
    """Diagnostics so far, [S] each."""


class MPOAgent:
    """Acts for S seeds and learns from windows of their replays; no operation mixes seeds."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        config: Hyperparameters,
        seeds: Sequence[int],
        device: torch.device,
        cuda_graphs: bool = True,
        compile_on_cpu: bool = False,
        episode_steps: int | None = None,
    ) -> None:
        """Creates the learners, with initial networks drawn from each seed's own stream.

        Args:
            obs_dim: O.
            action_dim: D.
            config: the hyperparameters.
            seeds: one seed per learner, S.
            device: the device of networks and updates.
            cuda_graphs: whether acting and learning on a GPU are captured in a CUDA graph each.
            compile_on_cpu: whether acting and learning on a CPU are compiled.
            episode_steps: most steps of a training episode, if known; see `PinkNoise`.
        """
        self.config = config
        self.device = device
        self.action_dim = action_dim
        self.num_seeds = len(seeds)
        self._seeds = tuple(seeds)
        self._act_noise = [
            make_noise(config.action_noise, seed, action_dim, episode_steps) for seed in seeds
        ]
        self._noise = [torch_generator(seed, "noise", device) for seed in seeds]
        self._make_networks(obs_dim)
        self._make_duals()
        self._make_optimizers()
        self._make_programs(cuda_graphs, compile_on_cpu)
        self.updates = 0

    def _make_networks(self, obs_dim: int) -> None:
        """Draws policy and critic, and copies them as targets."""
        config, seeds = self.config, self.num_seeds
        normalizer = Normalizer(seeds, obs_dim) if config.normalize_observations else None
        self._observations = ObservationMoments(seeds, obs_dim, normalizer)
        self._obs_dim = obs_dim
        self.policy, self.critic = self._draw_networks("init", normalizer=normalizer)
        # The four networks share one normaliser, which is not trained and changes for all at once.
        self.target_policy = copy.deepcopy(self.policy, {id(normalizer): normalizer})
        self.target_critic = copy.deepcopy(self.critic, {id(normalizer): normalizer})
        self._targets = TargetPass(config, self.target_policy, self.target_critic)
        behaves = {"online": self.policy, "target": self.target_policy}
        self._behaviour = behaves[config.behaviour_policy]

    def _draw_networks(
        self, stream: str, *key: int, normalizer: Normalizer | None = None
    ) -> tuple[GaussianPolicy, QNetwork]:
        """Draws policy and critic, each seed's from its own stream; keys tell several apart."""
        config = self.config
        generators = [torch_generator(seed, stream, "cpu", *key) for seed in self._seeds]
        policy = GaussianPolicy(
            self._obs_dim,
            self.action_dim,
            config.policy_layer_sizes,
            config.policy_init_scale,
            generators,
            normalizer,
            config.layer_norm == "all",
        )
        critic = make_critic(self._obs_dim, self.action_dim, config, generators, normalizer)
        return policy.to(self.device), critic.to(self.device)

    def _make_duals(self) -> None:
        """Creates the temperatures and the KL multipliers, and the bounds that they enforce."""
        config, device = self.config, self.device
        penalties = int(config.action_penalty)
        self.temperatures = Duals(
            torch.full((self.num_seeds, 1 + penalties), config.temperature_init)
        ).to(device)
        """Of the E-steps over action values and, if enabled, over the action penalty, [S, K]."""
        bounds = [config.kl_epsilon, config.epsilon_penalty][: 1 + penalties]
        self._estep_epsilons = torch.tensor(bounds, device=device)  # [K]
        multipliers = [config.init_log_alpha_mean, config.init_log_alpha_stddev]
        alphas = torch.tensor([config.lambda_init * softplus(x) for x in multipliers])
        dims = self.action_dim if config.per_dimension_kl else 1
        self.alphas = Duals(alphas[:, None].expand(self.num_seeds, 2, dims)).to(device)
        """Multipliers of the KL bounds on means and on standard deviations, [S, 2, D], or [S, 2, 1]
        if one bound holds for the sum over D."""
        epsilon_mean = config.mstep_kl_epsilon
        epsilons = [epsilon_mean, config.mstep_kl_epsilon_stddev or epsilon_mean]
        self._mstep_epsilons = torch.tensor(epsilons, device=device).unsqueeze(-1)  # [2, 1]

    def _make_optimizers(self) -> None:
        """Creates the four optimizers, and flattens the parameters of the target networks."""
        config = self.config
        settings = Settings(
            momentum=config.sgd_momentum,
            beta1=config.adam_beta1,
            beta2=config.adam_beta2,
            epsilon=config.adam_epsilon,
            weight_decay=config.weight_decay,
            warmup=config.warmup_updates > 0,
        )
        self._policy_optimizer, self._critic_optimizer = (
            StackedOptimizer(
                config.optimizer, network.parameters(), lr, settings, config.optimizer_definition
            )
            for network, lr in ((self.policy, config.policy_lr), (self.critic, config.q_lr))
        )
        of_duals = Settings(momentum=config.sgd_momentum)
        self._temperature_optimizer, self._alpha_optimizer = (
            StackedOptimizer(config.dual_optimizer, duals.parameters(), lr, of_duals)
            for duals, lr in (
                (self.temperatures, config.temperature_lr),
                (self.alphas, config.lambda_lr),
            )
        )
        self._flat_target_policy = flatten_(self.target_policy.parameters())
        self._flat_target_critic = flatten_(self.target_critic.parameters())

    def _make_programs(self, cuda_graphs: bool, compile_on_cpu: bool) -> None:
        """Compiles acting and learning and wraps them in CUDA graphs, where enabled."""
        self.compiled = compiles(self.device, compile_on_cpu)
        """Whether acting and learning are compiled by torch."""
        fast = partial(compiled, device=self.device, on_cpu=compile_on_cpu)
        self._evaluation = fast(self._evaluate)
        self._critic_gradients = fast(self._evaluate_critic)
        self._policy_gradients = fast(self._fit_policy)
        self._graphs = cuda_graphs and self.device.type == "cuda"
        self._heads = self._graphed(fast(self._policy_heads))
        self._learners: dict[int, Callable[[Tensors], Tensors]] = {}
        """The update's function for each number of M-steps; 0 if it trains the critic alone."""

    @torch.inference_mode()
    def mode(self, obs: np.ndarray, seed_index: int = 0) -> np.ndarray:
        """Returns the means of one seed's online policy, clipped to [-1, 1].

        Args:
            obs: float32 [B, O].
            seed_index: the seed's position in the stack.

        Returns:
            Canonical actions, float32 [B, D].
        """
        rows = torch.from_numpy(obs).to(self.device).expand(self.num_seeds, -1, -1)
        return self.policy(rows)[0][seed_index].clamp(-1, 1).cpu().numpy()

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples one action per seed from the behaviour policy.

        Args:
            obs: float32 [S, O].

        Returns:
            Raw (unclipped) actions [S, D] and their log-densities in nats [S], float32.
        """
        self._observations.add(obs)
        heads = self._heads({"obs": torch.from_numpy(obs)})["heads"]
        mean, stddev = np.split(heads.cpu().numpy(), 2, axis=-1)  # one copy to the host
        noise = np.stack([own.next() for own in self._act_noise])
        log_prob = -(0.5 * noise**2 + np.log(stddev)).sum(-1) - self.action_dim * _HALF_LOG_2PI
        return mean + stddev * noise, log_prob.astype(np.float32)

    def begin_episode(self, index: int) -> None:
        """Tells that a seed's next action is the first of an episode."""
        self._act_noise[index].begin_episode()

    @torch.inference_mode()
    def renew_networks(self, count: int) -> None:
        """Starts policy, critic, their targets and their optimizers anew.

        Args:
            count: number of the renewal; each has a random stream of its own.
        """
        drawn = self._draw_networks("renew", count)
        for network, optimizer in zip(
            drawn, (self._policy_optimizer, self._critic_optimizer), strict=True
        ):
            optimizer.flat.copy_(flatten_(network.parameters()))
            optimizer.reset_()
        self._move_targets(1.0)

    @torch.inference_mode()
    def update(self, windows: Tensors, m_steps: int = 1) -> Tensors:
        """Takes one critic step and `m_steps` policy steps on windows of the replay.

        The policy's steps are taken in one of `policy_update_period` updates.

        Args:
            windows: fields [S, T, B], from `Replay.sample`.
            m_steps: steps of the policy and the KL multipliers with the same E-step.

        Returns:
            Diagnostics of the update, [S] each. With CUDA graphs the next update overwrites them.
        """
        config = self.config
        if self.updates % config.policy_update_period:
            m_steps = 0
        if m_steps not in self._learners:
            self._learners[m_steps] = self._make_learner(m_steps)
        if self.updates == 0:
            self._observations.refresh_normalizer()
        networks = self._policy_optimizer, self._critic_optimizer
        if config.warmup_updates:
            for optimizer in networks:
                optimizer.scale_(min(1.0, (self.updates + 1) / config.warmup_updates))
        with self._step_lengths(m_steps > 0) as lengths:
            metrics = self._learners[m_steps](windows)
        metrics = {**metrics, **lengths}
        self.updates += 1
        periodic = self.updates % config.target_networks_update_period == 0
        if periodic:
            self._observations.refresh_normalizer()
        if config.target_polyak is not None:
            self._move_targets(config.target_polyak)
        elif periodic:
            self._move_targets(1.0)
            if config.optimizer_reset != "never":
                for optimizer in networks:
                    optimizer.reset_(config.optimizer_reset)
        return metrics

    @contextmanager
    def _step_lengths(self, with_policy: bool) -> Iterator[dict[str, Tensor]]:
        """Measures how far an update moves the networks, just before and after a copy to targets.

        Yields:
            At the end: 2-norms of the steps, [S] each; empty for all other updates.
        """
        period, lengths = self.config.target_networks_update_period, dict[str, Tensor]()
        place = {period - 1: "before", 0: "after"}.get(self.updates % period)
        if place is None or self.config.target_polyak is not None:
            yield lengths
            return
        networks = {"critic": self._critic_optimizer}
        if with_policy:
            networks["policy"] = self._policy_optimizer
        starts = {name: optimizer.flat.clone() for name, optimizer in networks.items()}
        yield lengths
        for name, start in starts.items():
            step = torch.linalg.vector_norm(networks[name].flat - start, dim=1)
            lengths[f"{name}_step_{place}_copy"] = step

    def non_finite(self) -> dict[str, Tensor]:
        """Returns which seeds have non-finite parameters, bool [S] for policy, critic and duals."""
        flats = {
            "policy": [self._policy_optimizer.flat],
            "critic": [self._critic_optimizer.flat],
            "duals": [self._temperature_optimizer.flat, self._alpha_optimizer.flat],
        }
        return {name: ~torch.cat(flat, dim=1).isfinite().all(1) for name, flat in flats.items()}

    def state_dict(self, index: int) -> dict[str, Any]:
        """Returns everything that one seed's acting and learning depend on.

        It does not depend on the other seeds in the stack.
        """
        targets = (self._flat_target_policy, self._flat_target_critic)
        return {
            "updates": self.updates,
            "optimizers": [optimizer.state_dict(index) for optimizer in self._optimizers],
            "targets": [target[index : index + 1].clone() for target in targets],
            "act_noise": self._act_noise[index].state_dict(),
            "noise": [self._noise[index].get_state()],
            **self._observations.state_dict(index),
        }

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Loads one state per seed, from agents with the same settings.

        Args:
            states: one per seed, from `state_dict`, all after the same number of updates.
        """
        self.updates = states[0]["updates"]
        for i, optimizer in enumerate(self._optimizers):
            optimizer.load_state_dict([state["optimizers"][i] for state in states])
        for i, target in enumerate((self._flat_target_policy, self._flat_target_critic)):
            target.copy_(torch.cat([state["targets"][i] for state in states]))
        for i, state in enumerate(states):
            self._act_noise[i].load_state_dict(state["act_noise"])
            self._noise[i].set_state(state["noise"][0])
        self._observations.load_state_dict(states)
        # Captured graphs would still use the old tensors of the optimizers' states.
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

    def _make_learner(self, m_steps: int) -> Callable[[Tensors], Tensors]:
        """Makes the function of an update: in one CUDA graph, or in parts if it cannot be."""
        if not self._graphs or self._policy_optimizer.capturable:
            return self._graphed(partial(self._learn, m_steps=m_steps), self._noise)
        gradients = self._graphed(partial(self._gradients, m_steps=m_steps), self._noise)
        fit = self._graphed(self._fit_and_step_alphas)
        return partial(self._learn_in_parts, gradients=gradients, fit=fit, m_steps=m_steps)

    def _policy_heads(self, inputs: Tensors) -> Tensors:
        """Maps `obs` [S, O] to `heads`, the behaviour policy's mean and stddev, [S, 2 D]."""
        rows = inputs["obs"].to(self.device).unsqueeze(1)
        return {"heads": torch.cat(self._behaviour(rows), dim=-1).squeeze(1)}

    def _learn(self, windows: Tensors, m_steps: int) -> Tensors:
        """Takes the steps of an update; what happens in only some updates is done elsewhere."""
        noise = [self._draw(*shape) for shape in self._targets.noise_shapes(windows, m_steps > 0)]
        if not m_steps:
            metrics = self._critic_gradients(windows, noise)
            self._critic_optimizer.step()
            return metrics
        found = self._evaluation(windows, noise)
        self._critic_optimizer.step()
        self._temperature_optimizer.step()
        self.temperatures.clamp_()
        metrics = found.metrics
        for _ in range(m_steps):
            metrics |= self._m_step(found)
        return metrics

    def _learn_in_parts(
        self,
        windows: Tensors,
        gradients: Callable[[Tensors], Tensors],
        fit: Callable[[Tensors], Tensors],
        m_steps: int,
    ) -> Tensors:
        """Computes the same as `_learn`; policy and critic step outside of the captured parts.

        Args:
            windows: see `update`.
            gradients: `_gradients`, captured.
            fit: `_fit_and_step_alphas`, captured.
            m_steps: see `update`.
        """
        found = gradients(windows)
        self._critic_optimizer.step()
        inputs = {name: found[_FOUND + name] for name in _M_STEP_INPUTS if m_steps}
        metrics = {name: x for name, x in found.items() if not name.startswith(_FOUND)}
        for _ in range(m_steps):
            metrics |= fit(inputs)
            self._policy_optimizer.step()
        return metrics

    def _gradients(self, windows: Tensors, m_steps: int) -> Tensors:
        """Writes the critic's gradient and steps the temperatures.

        Returns:
            The metrics and, unless the critic is trained alone, the inputs of the M-step.
        """
        noise = [self._draw(*shape) for shape in self._targets.noise_shapes(windows, m_steps > 0)]
        if not m_steps:
            return self._critic_gradients(windows, noise)
        found = self._evaluation(windows, noise)
        self._temperature_optimizer.step()
        self.temperatures.clamp_()
        inputs = (found.state, found.mean, found.stddev, *found.moments)
        named = zip(_M_STEP_INPUTS, inputs, strict=True)
        return found.metrics | {_FOUND + name: x for name, x in named}

    def _fit_and_step_alphas(self, inputs: Tensors) -> Tensors:
        """Writes the policy's gradient and steps the KL multipliers; returns their metrics."""
        state, mean, stddev, *moments = (inputs[name] for name in _M_STEP_INPUTS)
        metrics = self._policy_gradients(state, mean, stddev, losses.Moments(*moments))
        self._alpha_optimizer.step()
        self.alphas.clamp_()
        return metrics

    def _draw(self, samples: int, rows: int) -> Tensor:
        """Draws standard normal noise [S, samples, rows, D], each seed's from its own stream."""
        noise = torch.empty(self.num_seeds, samples, rows, self.action_dim, device=self.device)
        for place, generator in zip(noise, self._noise, strict=True):
            place.normal_(generator=generator)
        return noise

    def _evaluate_critic(self, windows: Tensors, noise: Sequence[Tensor]) -> dict[str, Tensor]:
        """Writes the critic's gradient; returns its metrics."""
        batch = self._targets.compute(windows, noise, for_policy=False)
        return batch.metrics | self._fit_critic(batch.regression)

    def _evaluate(self, windows: Tensors, noise: Sequence[Tensor]) -> _Evaluated:
        """Writes the gradients of critic and temperatures; returns the inputs of the M-step."""
        batch = self._targets.compute(windows, noise)
        samples = batch.samples
        assert samples is not None
        critic_metrics = self._fit_critic(batch.regression)
        moments, metrics = self._e_step(samples)
        metrics = batch.metrics | critic_metrics | metrics
        return _Evaluated(samples.state, samples.mean, samples.stddev, moments, metrics)

    def _fit_critic(self, batch: Regression) -> dict[str, Tensor]:
        """Writes the critic's gradient; returns its metrics."""
        fits, values, ranks = [], [], []
        for member in self.critic.members:
            outputs, features, backward = member.vjp(batch.obs, batch.action)
            ranks.append(effective_rank(features))
            values.append(member.values(outputs))
            if batch.distribution is None:
                fit = losses.regression(values[-1], batch.target)
                backward(fit.gradient.unsqueeze(-1))
            else:
                fit = losses.cross_entropy(outputs, batch.distribution)
                backward(fit.gradient)
            fits.append(fit.loss)
        return {
            "critic_loss": torch.stack(fits).mean(0),
            "critic_grad_norm": self._critic_optimizer.clip_(self.config.max_grad_norm),
            "critic_rank": torch.stack(ranks).mean(0),
            "q_mean": torch.stack(values).mean(0).mean(-1),
            "target_mean": batch.target.mean(-1),
        }

    def _e_step(self, batch: Samples) -> tuple[losses.Moments, dict[str, Tensor]]:
        """Writes the temperatures' gradient; returns the weighted noise moments and metrics."""
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
        """Takes one step of the policy and the KL multipliers; returns their metrics."""
        metrics = self._policy_gradients(found.state, found.mean, found.stddev, found.moments)
        self._policy_optimizer.step()
        self._alpha_optimizer.step()
        self.alphas.clamp_()
        return metrics

    def _fit_policy(
        self, state: Tensor, target_mean: Tensor, target_stddev: Tensor, moments: losses.Moments
    ) -> dict[str, Tensor]:
        """Writes the gradients of the policy and the KL multipliers; returns their metrics."""
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
        """Moves the target networks' parameters a share of the way to the online ones."""
        for target, optimizer in (
            (self._flat_target_policy, self._policy_optimizer),
            (self._flat_target_critic, self._critic_optimizer),
        ):
            if share == 1:
                target.copy_(optimizer.flat)
            else:
                target.lerp_(optimizer.flat, share)
