"""One gradient-free pass of the target networks: the critic's targets and the E-step's samples.

All targets are made on one path over windows of T transitions. In every mode the policy learns from
the same state of a window, the next state of its first transition. There the target policy samples
actions for the E-step, and targets that bootstrap there take their expectation from the same
samples. Targets that look at later next states sample there as well. Every expectation is the mean
over M samples.

Letters: S seed, T window, B batch, C windows that the critic learns from, N action samples of the
E-step, M action samples of an expectation, O observation, D action dimensions, A atoms.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mpo.algorithm import losses, returns
from mpo.algorithm.critics import Critic
from mpo.algorithm.policies import GaussianPolicy
from mpo.study.hyperparameters import Hyperparameters


class _Expectation(NamedTuple):
    """The target policy at R states, and the value of its actions: means over M samples."""

    mean: Tensor
    """Mean of the policy, [S, R, D]."""
    stddev: Tensor
    """Standard deviation of the policy, [S, R, D]."""
    value: Tensor
    """Expected value by the target critic, [S, R]."""
    mixture: Tensor | None
    """Expected return distribution, for a categorical critic, [S, R, A]."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "_Expectation":
        """Applies a function to each tensor."""
        mixture = None if self.mixture is None else function(self.mixture)
        return _Expectation(
            function(self.mean), function(self.stddev), function(self.value), mixture
        )


class Regression(NamedTuple):
    """What the critic is trained on; R = C, or T * C if all pairs of a window are regressed."""

    obs: Tensor
    """Observations, [S, R, O]."""
    action: Tensor
    """Executed actions at these observations, [S, R, D]."""
    target: Tensor
    """Targets of their values, [S, R]."""
    distribution: Tensor | None
    """Target distributions, for a categorical critic, [S, R, A]."""


class Samples(NamedTuple):
    """The E-step's samples, drawn by the target policy."""

    state: Tensor
    """States that the policy is trained on, one per window, [S, B, O]: the next state of its first
    transition. A terminal state is replaced by the first state of its episode: no action is taken
    in a terminal state, and the first state is never a next state. So over an episode that
    terminates, these are exactly the states in which the agent acted."""
    mean: Tensor
    """Mean of the target policy at `state`, [S, B, D]."""
    stddev: Tensor
    """Standard deviation of the target policy at `state`, [S, B, D]."""
    noise: Tensor
    """Standard normal noise, [S, N, B, D]."""
    actions: Tensor
    """Samples of the target policy, mean + stddev * noise, [S, N, B, D]."""
    values: Tensor
    """Values of these actions by the target critic, [S, N, B]."""


class Targets(NamedTuple):
    """The result of the pass: regression targets for the critic, samples for the policy."""

    regression: Regression
    """What the critic is trained on."""
    samples: Samples | None
    """What the policy is trained on; None if the critic learns alone."""
    metrics: dict[str, Tensor]
    """Diagnostics, [S] each."""


class TargetPass:
    """Computes `Targets` from windows of the replay."""

    def __init__(
        self,
        config: Hyperparameters,
        policy: GaussianPolicy,
        critic: Critic,
    ) -> None:
        """Keeps references to the target networks, whose parameters may change later.

        Args:
            config: the hyperparameters.
            policy: the target policy.
            critic: the target critic.
        """
        self._config = config
        self._policy = policy
        self._critic = critic

    def noise_shapes(
        self, windows: Mapping[str, Tensor], for_policy: bool = True
    ) -> list[tuple[int, int]]:
        """Returns the noise that a call needs: pairs of actions per state and states per seed.

        Args:
            windows: see `compute`.
            for_policy: see `compute`.
        """
        config = self._config
        steps, rows = windows["reward"].shape[1:]
        few, fitted = config.retrace_mc_actions, min(rows, config.critic_batch_size or rows)
        if steps > 1 and self._bootstraps_once(steps):
            return [*[(config.action_samples, rows)] * for_policy, (few, fitted)]
        first = (max(config.action_samples, few), rows) if for_policy else (few, fitted)
        return [first, (few, (steps - 1) * fitted)] if steps > 1 else [first]

    def compute(
        self, windows: Mapping[str, Tensor], noise: Sequence[Tensor], for_policy: bool = True
    ) -> Targets:
        """Computes the targets that the config names.

        Args:
            windows: fields [S, T, B], from `Replay.sample`.
            noise: standard normal, one tensor [S, actions, states, D] per pair of `noise_shapes`.
            for_policy: whether the policy learns as well, or the critic alone.
        """
        rows = self._config.critic_batch_size
        fitted = {name: field[:, :, :rows] for name, field in windows.items()}
        first = samples = None
        if for_policy:
            first, samples = self._sample(windows, noise[0])
            first = first.map(lambda x: x[:, :rows])
        if self._bootstraps_once(fitted["reward"].shape[1]):
            regression, metrics = self._regress_once(fitted, first, noise[-1])
        else:
            regression, metrics = self._regress_windows(fitted, first, noise)
        metrics["sample_age"] = windows["age"].mean((1, 2)) * self._config.updates_per_step
        return Targets(regression, samples, metrics)

    def _bootstraps_once(self, steps: int) -> bool:
        """Whether a window of some steps has a single target, with a single bootstrap."""
        return steps == 1 or not (self._config.retrace or self._config.regressed == "all")

    def _sample(self, windows: Mapping[str, Tensor], noise: Tensor) -> tuple[_Expectation, Samples]:
        """Samples for the E-step; returns what the critic's targets take from it, too."""
        state = _first_next_states(windows)
        found, actions, values = self._evaluate(state, noise)
        n = slice(self._config.action_samples)
        samples = Samples(state, found.mean, found.stddev, noise[:, n], actions[:, n], values[:, n])
        return found, samples

    def _evaluate(self, state: Tensor, noise: Tensor) -> tuple[_Expectation, Tensor, Tensor]:
        """Samples actions at states [S, R, O] from noise [S, samples, R, D], and evaluates them.

        Returns:
            What the critic's targets take from them, the actions [S, samples, R, D], and their
            values [S, samples, R].
        """
        mean, stddev = self._policy(state)
        actions = torch.addcmul(mean.unsqueeze(1), stddev.unsqueeze(1), noise)
        samples = self._config.retrace_mc_actions
        values, mixture = self._critic.evaluate(state, actions, samples)
        return _Expectation(mean, stddev, values[:, :samples].mean(1), mixture), actions, values

    def _regress_once(
        self, windows: Mapping[str, Tensor], first: _Expectation | None, noise: Tensor
    ) -> tuple[Regression, dict[str, Tensor]]:
        """Computes each window's n-step target.

        Args:
            windows: those that the critic learns from, fields [S, T, C].
            first: at the next states of their first transitions, if known, [S, C, ...].
            noise: for the states that the targets bootstrap from.
        """
        discounts, cut = self._ends(windows)
        step = returns.n_step(windows["reward"], discounts, cut)
        if windows["reward"].shape[1] > 1:
            found, *_ = self._evaluate(_at(windows["next_obs"], step.last), noise)
        else:
            found = first or self._evaluate(_first_next_states(windows), noise)[0]
        target = torch.addcmul(step.reward, step.discount, found.value)
        following = found.map(lambda x: x.unsqueeze(1))
        return self._pairs(windows, target.unsqueeze(1), step.discount.unsqueeze(1), following), {}

    def _regress_windows(
        self,
        windows: Mapping[str, Tensor],
        first: _Expectation | None,
        noise: Sequence[Tensor],
    ) -> tuple[Regression, dict[str, Tensor]]:
        """Computes targets that look at every next state of a window, and their diagnostics, [S].

        Args:
            windows: those that the critic learns from, fields [S, T, C].
            first: at the next states of their first transitions, if known, [S, C, ...].
            noise: for the first next states, and for the others.
        """
        discounts, cut = self._ends(windows)
        steps = discounts.shape[1]
        first = first or self._evaluate(_first_next_states(windows), noise[0])[0]
        later, *_ = self._evaluate(windows["next_obs"][:, 1:].flatten(1, 2), noise[1])
        following = _joined(
            first.map(lambda x: x.unsqueeze(1)),
            later.map(lambda x: x.unflatten(1, (steps - 1, -1))),
        )
        traces, baselines = self._corrections(windows, following)
        target = returns.multi_step(
            windows["reward"], discounts, following.value, traces, baselines, cut
        )
        metrics = returns.trace_metrics(traces, cut, windows["age"][:, 0])
        return self._pairs(windows, target, discounts, following), metrics

    def _ends(self, windows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns discounts and whether an episode ends, see `returns.multi_step`, [S, T, C]."""
        terminated = windows["terminated"]
        return self._config.gamma * (1 - terminated), (terminated + windows["truncated"]) > 0

    def _pairs(
        self,
        windows: Mapping[str, Tensor],
        target: Tensor,
        discounts: Tensor,
        following: _Expectation,
    ) -> Regression:
        """Selects the pairs that are regressed, with their targets.

        Args:
            windows: fields [S, T, C].
            target: [S, T, C], or [S, 1, C].
            discounts: factor of the bootstrap in the target, of its shape.
            following: at the states that the targets bootstrap from, [S, T, C, ...] or
                [S, 1, C, ...].
        """
        pairs = slice(None if self._config.regressed == "all" else 1)
        target = target[:, pairs]
        distribution = None
        if self._critic.atoms is not None:
            assert following.mixture is not None
            # A target is its discounted bootstrap value plus a number: rewards and corrections.
            # That number shifts the discounted distribution of the bootstrap.
            factor = discounts[:, pairs]
            shift = target - factor * following.value[:, pairs]
            mixture = following.mixture[:, pairs]
            distribution = returns.project(mixture, self._critic.atoms, shift, factor).flatten(1, 2)
        obs, action = (windows[name][:, pairs].flatten(1, 2) for name in ("obs", "action"))
        return Regression(obs, action, target.flatten(1), distribution)

    def _corrections(
        self, windows: Mapping[str, Tensor], following: _Expectation
    ) -> tuple[Tensor, Tensor]:
        """Computes traces and baselines of steps 1 ... T-1, [S, T-1, C] each.

        See `returns.multi_step`.
        """
        config, value = self._config, following.value[:, :-1]
        if not config.retrace:
            return torch.ones_like(value), value  # the n-step return of each of the window's steps
        if config.corrections == "zero":
            return torch.zeros_like(value), value
        traces = torch.full_like(value, config.retrace_lambda)
        if config.corrections == "peng":
            return traces, value
        later = {name: windows[name][:, 1:] for name in ("obs", "action", "action_raw")}
        taken = self._critic(
            later["obs"].flatten(1, 2), later["action"].flatten(1, 2).unsqueeze(1)
        ).view_as(value)
        if config.corrections == "retrace":
            # Unless step t - 1 is cut, s_t is its next state, where the policy is known.
            mean, stddev = following.mean[:, :-1], following.stddev[:, :-1]
            log_prob = losses.gaussian_log_prob(later["action_raw"], mean, stddev)
            log_ratios = log_prob - windows["behaviour_logp"][:, 1:]
            traces = traces * log_ratios.clamp(max=0).exp()
        return traces, taken


def _joined(one: _Expectation, later: _Expectation) -> _Expectation:
    """Joins expectations of a window's steps, [S, steps, C, ...] each."""
    mixture = None
    if one.mixture is not None and later.mixture is not None:
        mixture = torch.cat([one.mixture, later.mixture], dim=1)
    mean, stddev, value = (
        torch.cat([getattr(x, name) for x in (one, later)], dim=1)
        for name in ("mean", "stddev", "value")
    )
    return _Expectation(mean, stddev, value, mixture)


def _at(field: Tensor, step: Tensor) -> Tensor:
    """Selects a step of each window: [S, T, C, O] at steps [S, C] gives [S, C, O]."""
    index = step[:, None, :, None].expand(-1, -1, -1, field.shape[-1])
    return field.gather(1, index).squeeze(1)


def _first_next_states(windows: Mapping[str, Tensor]) -> Tensor:
    """Selects `Samples.state`, [S, B, O]."""
    over, first, following = (windows[k][:, 0] for k in ("terminated", "first_obs", "next_obs"))
    return torch.where(over.bool().unsqueeze(-1), first, following)
