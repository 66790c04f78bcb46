"""One gradient-free pass of the target networks: the critic's targets and the E-step's samples.

All targets are made on one path over windows of T transitions. The policy learns from each window's
bootstrap state: the next state of the window's last transition, or of the first one that ends an
episode. There the target policy samples actions for the E-step, and the critic's targets take their
expectation from the same samples. Targets that look at a window's other next states sample there as
well. Every expectation is the mean over M samples.

Letters: S seed, T window, B batch, C windows that the critic learns from, N action samples of the
E-step, M action samples of an expectation, O observation, D action dimensions, A atoms.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mpo.algorithm import losses, returns
from mpo.algorithm.networks import GaussianPolicy, QNetwork
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


class Targets(NamedTuple):
    """The result of the pass: regression targets for the critic, samples for the policy."""

    regression: Regression
    """What the critic is trained on."""
    state: Tensor
    """States that the policy is trained on, one per window, [S, B, O]: its bootstrap state. A
    terminal state is replaced by the first state of its episode: no action is taken in a terminal
    state, and the first state is never a next state. So over an episode that terminates, these are
    exactly the states in which the agent acted, except states 1 ... T-1, from which no window
    bootstraps."""
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
    metrics: dict[str, Tensor]
    """Diagnostics, [S] each."""


class TargetPass:
    """Computes `Targets` from windows of the replay."""

    def __init__(
        self,
        config: Hyperparameters,
        policy: GaussianPolicy,
        critic: QNetwork,
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

    def samples(
        self, windows: Mapping[str, Tensor], for_policy: bool = True
    ) -> list[tuple[int, int]]:
        """Returns the noise that a call needs: pairs of actions per state and states per seed.

        Args:
            windows: see `compute`.
            for_policy: whether the E-step's samples are needed, or the critic's targets alone.
        """
        config = self._config
        steps, rows = windows["reward"].shape[1:]
        samples = config.retrace_mc_actions
        first = max(config.action_samples, samples) if for_policy else samples, rows
        if not config.retrace and (config.regressed == "first" or steps == 1):
            return [first]
        rows = min(rows, config.critic_batch_size or rows)
        return [first, (config.retrace_mc_actions, (steps - 1) * rows)]

    def compute(self, windows: Mapping[str, Tensor], noise: Sequence[Tensor]) -> Targets:
        """Computes the targets that the config names.

        Args:
            windows: fields [S, T, B], from `Replay.sample`.
            noise: standard normal, one tensor [S, actions, states, D] per pair of `samples`.
        """
        terminated = windows["terminated"]
        cut = (terminated + windows["truncated"]) > 0
        discounts = self._config.gamma * (1 - terminated)
        step = returns.n_step(windows["reward"], discounts, cut)
        state = _bootstrap_states(windows, step.last)
        found, actions, values = self._evaluate(state, noise[0])
        rows = self._config.critic_batch_size or len(cut[0, 0])
        regression, metrics = self._regression(
            {name: field[:, :, :rows] for name, field in windows.items()},
            discounts[..., :rows],
            cut[..., :rows],
            returns.NStep(*(x[:, :rows] for x in step)),
            found.map(lambda x: x[:, :rows]),
            noise[1:],
        )
        samples = slice(self._config.action_samples)
        return Targets(
            regression=regression,
            state=state,
            mean=found.mean,
            stddev=found.stddev,
            noise=noise[0][:, samples],
            actions=actions[:, samples],
            values=values[:, samples],
            metrics=metrics | {"sample_age": self._age(windows)},
        )

    def _age(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Returns how many updates ago the transitions were stored, mean over the batch, [S]."""
        return windows["age"].mean((1, 2)) * self._config.updates_per_step

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

    def _regression(
        self,
        windows: Mapping[str, Tensor],
        discounts: Tensor,
        cut: Tensor,
        step: returns.NStep,
        bootstrap: _Expectation,
        noise: Sequence[Tensor],
    ) -> tuple[Regression, dict[str, Tensor]]:
        """Computes what the critic is trained on, and diagnostics, [S] each.

        Args:
            windows: those that the critic learns from, fields [S, T, C].
            discounts: see `returns.multi_step`, [S, T, C].
            cut: whether a transition ends an episode, bool [S, T, C].
            step: each window as one transition, [S, C].
            bootstrap: at the bootstrap states, [S, C, ...].
            noise: for the other next states, unless the targets bootstrap only once.
        """
        metrics: dict[str, Tensor] = {}
        if noise:
            following = self._all_next(windows, step.last, bootstrap, noise[0])
            traces, baselines = self._corrections(windows, following)
            target = returns.multi_step(
                windows["reward"], discounts, following.value, traces, baselines, cut
            )
            metrics = returns.trace_metrics(traces, cut, windows["age"][:, 0])
        else:
            following = bootstrap.map(lambda x: x.unsqueeze(1))
            discounts = step.discount.unsqueeze(1)
            target = torch.addcmul(step.reward.unsqueeze(1), discounts, following.value)
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
        return Regression(obs, action, target.flatten(1), distribution), metrics

    def _all_next(
        self,
        windows: Mapping[str, Tensor],
        last: Tensor,
        bootstrap: _Expectation,
        noise: Tensor,
    ) -> _Expectation:
        """Evaluates every next state of the windows, [S, T, C, ...].

        Args:
            windows: fields [S, T, C].
            last: step of each window whose next state is its bootstrap state, [S, C].
            bootstrap: at the bootstrap states, [S, C, ...]. They replace terminal states, whose
                value has no weight.
            noise: for the other next states, [S, M, (T - 1) * C, D].
        """
        steps, rows = windows["reward"].shape[1:]
        time = torch.arange(steps, device=last.device).unsqueeze(-1)
        last = last.unsqueeze(1)
        others = _steps(windows["next_obs"], (last + 1 + time[:-1]) % steps)
        found, *_ = self._evaluate(others.flatten(1, 2), noise)
        order = (time - last - 1) % steps  # of the steps last + 1, last + 2, ..., last

        def arrange(x: Tensor, end: Tensor) -> Tensor:
            apart = x.unflatten(1, (steps - 1, rows))
            return _steps(torch.cat([apart, end.unsqueeze(1)], dim=1), order)

        mixture = None
        if found.mixture is not None and bootstrap.mixture is not None:
            mixture = arrange(found.mixture, bootstrap.mixture)
        return _Expectation(
            arrange(found.mean, bootstrap.mean),
            arrange(found.stddev, bootstrap.stddev),
            arrange(found.value, bootstrap.value),
            mixture,
        )

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


def _steps(field: Tensor, index: Tensor) -> Tensor:
    """Selects steps of windows: [S, T, C, ...] at the index [S, K, C] gives [S, K, C, ...]."""
    if field.ndim > index.ndim:
        index = index.unsqueeze(-1).expand(*index.shape, field.shape[-1])
    return field.gather(1, index)


def _bootstrap_states(windows: Mapping[str, Tensor], last: Tensor) -> Tensor:
    """Selects `Targets.state`.

    Args:
        windows: see `Replay.sample`.
        last: step of each window whose next state is its bootstrap state, [S, B].

    Returns:
        States, [S, B, O].
    """
    if windows["reward"].shape[1] == 1:
        over, first, following = (windows[k][:, 0] for k in ("terminated", "first_obs", "next_obs"))
    else:
        index = last.unsqueeze(1)
        over, first, following = (
            _steps(windows[k], index).squeeze(1) for k in ("terminated", "first_obs", "next_obs")
        )
    return torch.where(over.bool().unsqueeze(-1), first, following)
