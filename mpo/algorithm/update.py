"""One update of S stacked learners: the steps of critic, temperatures, policy and multipliers.

The losses are in `losses.py` and the critic's targets in `targets.py`; this module applies them to
the online networks.

Letters: S seed, T window, B batch, N action samples, D action dimensions, K E-step constraints (1,
or 2 with the action penalty).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mpo.algorithm import losses
from mpo.algorithm.critics import effective_rank
from mpo.algorithm.learners import Learners
from mpo.algorithm.targets import Regression, Samples, TargetPass
from mpo.compute.compile import compiled
from mpo.compute.cuda_graphs import Graphed, Tensors
from mpo.seeding import torch_generator
from mpo.study.hyperparameters import Hyperparameters

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


class Update:
    """Takes the steps of an update; no operation mixes seeds."""

    def __init__(
        self,
        learners: Learners,
        config: Hyperparameters,
        seeds: Sequence[int],
        device: torch.device,
        cuda_graphs: bool,
        compile_on_cpu: bool,
    ) -> None:
        """Prepares the updates of learners.

        Args:
            learners: what is changed.
            config: the hyperparameters.
            seeds: one seed per learner, S.
            device: the learners' device.
            cuda_graphs: whether updates are captured in CUDA graphs.
            compile_on_cpu: whether updates on a CPU are compiled.
        """
        self._learners = learners
        self._config = config
        self._device = device
        self.noise = [torch_generator(seed, "noise", device) for seed in seeds]
        """The random streams of the action samples, one per seed."""
        self.targets = TargetPass(config, learners.target_policy, learners.target_critic)
        fast = partial(compiled, device=device, on_cpu=compile_on_cpu, reads=learners.form)
        self._evaluation = fast(self._evaluate)
        self._critic_gradients = fast(self._evaluate_critic)
        self._policy_gradients = fast(self._fit_policy)
        self._graphs = cuda_graphs
        self._functions: dict[int, Callable[[Tensors], Tensors]] = {}
        """The function for each number of M-steps; 0 if it trains the critic alone."""

    def __call__(self, windows: Tensors, m_steps: int) -> Tensors:
        """Takes one critic step and `m_steps` policy steps; see `MPOAgent.update`."""
        if m_steps not in self._functions:
            self._functions[m_steps] = self._make_function(m_steps)
        return self._functions[m_steps](windows)

    def forget_graphs(self) -> None:
        """Drops captured graphs, which would still use the old tensors of a state loaded since."""
        self._functions.clear()

    def _graphed(
        self, function: Callable[[Tensors], Tensors], generators: Sequence[torch.Generator] = ()
    ) -> Callable[[Tensors], Tensors]:
        """Wraps `function` in a CUDA graph if graphs are enabled."""
        return Graphed(function, self._device, generators) if self._graphs else function

    def _make_function(self, m_steps: int) -> Callable[[Tensors], Tensors]:
        """Makes the function of an update: in one CUDA graph, or in parts if it cannot be."""
        if not self._graphs or self._learners.policy_optimizer.capturable:
            return self._graphed(partial(self._learn, m_steps=m_steps), self.noise)
        gradients = self._graphed(partial(self._gradients, m_steps=m_steps), self.noise)
        fit = self._graphed(self._fit_and_step_alphas)
        return partial(self._learn_in_parts, gradients=gradients, fit=fit, m_steps=m_steps)

    def _learn(self, windows: Tensors, m_steps: int) -> Tensors:
        """Takes the steps of an update; what happens in only some updates is done elsewhere."""
        noise = [self._draw(*shape) for shape in self.targets.noise_shapes(windows, m_steps > 0)]
        if not m_steps:
            metrics = self._critic_gradients(windows, noise)
            self._learners.critic_optimizer.step()
            return metrics
        found = self._evaluation(windows, noise)
        self._learners.critic_optimizer.step()
        self._learners.temperature_optimizer.step()
        self._learners.temperatures.clamp_()
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
        self._learners.critic_optimizer.step()
        inputs = {name: found[_FOUND + name] for name in _M_STEP_INPUTS if m_steps}
        metrics = {name: x for name, x in found.items() if not name.startswith(_FOUND)}
        for _ in range(m_steps):
            metrics |= fit(inputs)
            self._learners.policy_optimizer.step()
        return metrics

    def _gradients(self, windows: Tensors, m_steps: int) -> Tensors:
        """Writes the critic's gradient and steps the temperatures.

        Returns:
            The metrics and, unless the critic is trained alone, the inputs of the M-step.
        """
        noise = [self._draw(*shape) for shape in self.targets.noise_shapes(windows, m_steps > 0)]
        if not m_steps:
            return self._critic_gradients(windows, noise)
        found = self._evaluation(windows, noise)
        self._learners.temperature_optimizer.step()
        self._learners.temperatures.clamp_()
        inputs = (found.state, found.mean, found.stddev, *found.moments)
        named = zip(_M_STEP_INPUTS, inputs, strict=True)
        return found.metrics | {_FOUND + name: x for name, x in named}

    def _fit_and_step_alphas(self, inputs: Tensors) -> Tensors:
        """Writes the policy's gradient and steps the KL multipliers; returns their metrics."""
        state, mean, stddev, *moments = (inputs[name] for name in _M_STEP_INPUTS)
        metrics = self._policy_gradients(state, mean, stddev, losses.Moments(*moments))
        self._learners.alpha_optimizer.step()
        self._learners.alphas.clamp_()
        return metrics

    def _draw(self, samples: int, rows: int) -> Tensor:
        """Draws standard normal noise [S, samples, rows, D], each seed's from its own stream."""
        dims = self._learners.action_dim
        noise = torch.empty(len(self.noise), samples, rows, dims, device=self._device)
        for place, generator in zip(noise, self.noise, strict=True):
            place.normal_(generator=generator)
        return noise

    def _evaluate_critic(self, windows: Tensors, noise: Sequence[Tensor]) -> dict[str, Tensor]:
        """Writes the critic's gradient; returns its metrics."""
        batch = self.targets.compute(windows, noise, for_policy=False)
        return batch.metrics | self._fit_critic(batch.regression)

    def _evaluate(self, windows: Tensors, noise: Sequence[Tensor]) -> _Evaluated:
        """Writes the gradients of critic and temperatures; returns the inputs of the M-step."""
        batch = self.targets.compute(windows, noise)
        samples = batch.samples
        assert samples is not None
        critic_metrics = self._fit_critic(batch.regression)
        moments, metrics = self._e_step(samples)
        metrics = batch.metrics | critic_metrics | metrics
        return _Evaluated(samples.state, samples.mean, samples.stddev, moments, metrics)

    def _fit_critic(self, batch: Regression) -> dict[str, Tensor]:
        """Writes the critic's gradient; returns its metrics."""
        fits, values, ranks = [], [], []
        for member in self._learners.critic.members:
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
            "critic_grad_norm": self._learners.critic_optimizer.clip_(self._config.max_grad_norm),
            "critic_rank": torch.stack(ranks).mean(0),
            "q_mean": torch.stack(values).mean(0).mean(-1),
            "target_mean": batch.target.mean(-1),
        }

    def _e_step(self, batch: Samples) -> tuple[losses.Moments, dict[str, Tensor]]:
        """Writes the temperatures' gradient; returns the weighted noise moments and metrics."""
        values = batch.values.unsqueeze(1)
        if self._config.action_penalty:
            values = torch.stack([batch.values, losses.out_of_bounds_cost(batch.actions)], dim=1)
        temperatures = self._learners.temperatures.value
        improved = losses.e_step(values, temperatures, self._learners.estep_epsilons)
        self._learners.temperatures.write_gradient(improved.gradient)
        kl = improved.kl / self._learners.estep_epsilons
        metrics = {
            "temperature": temperatures[:, 0],
            "temperature_loss": improved.loss[:, 0],
            "kl_q_relative": kl[:, 0],
        }
        if self._config.action_penalty:
            metrics["penalty_temperature"] = temperatures[:, 1]
            metrics["penalty_kl_relative"] = kl[:, 1]
        return losses.noise_moments(improved.weights.sum(1), batch.noise), metrics

    def _m_step(self, found: _Evaluated) -> dict[str, Tensor]:
        """Takes one step of the policy and the KL multipliers; returns their metrics."""
        metrics = self._policy_gradients(found.state, found.mean, found.stddev, found.moments)
        self._learners.policy_optimizer.step()
        self._learners.alpha_optimizer.step()
        self._learners.alphas.clamp_()
        return metrics

    def _fit_policy(
        self, state: Tensor, target_mean: Tensor, target_stddev: Tensor, moments: losses.Moments
    ) -> dict[str, Tensor]:
        """Writes the gradients of the policy and the KL multipliers; returns their metrics."""
        alphas = self._learners.alphas.value
        mean, stddev, backward = self._learners.policy.vjp(state)
        fit = losses.m_step(moments, target_mean, target_stddev, mean, stddev, alphas)
        backward(fit.grad_mean, fit.grad_stddev)
        norm = self._learners.policy_optimizer.clip_(self._config.max_grad_norm)
        kl = fit.kl if self._config.per_dimension_kl else fit.kl.sum(-1, keepdim=True)
        self._learners.alphas.write_gradient(self._learners.mstep_epsilons - kl)
        kl_mean, kl_stddev = (kl / self._learners.mstep_epsilons).mean(-1).unbind(-1)
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
