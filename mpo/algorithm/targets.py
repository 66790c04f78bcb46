"""One gradient-free pass of the target networks: critic targets, and the E-step's samples.

The target policy is sampled once at successor states and the target critic evaluated once on those
actions; the values serve the critic's target as an expectation and the E-step as they are.

Letters: S seed, T window, B batch, N action samples, M samples at later steps, O observation,
D action dimensions.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mpo.algorithm import losses, returns
from mpo.algorithm.networks import CategoricalQNetwork, GaussianPolicy, QNetwork
from mpo.study.hyperparameters import Hyperparameters


class _Evaluation(NamedTuple):
    """The fields of `Targets` of the same names, at other states or with other samples."""

    mean: Tensor
    stddev: Tensor
    noise: Tensor
    actions: Tensor
    values: Tensor
    mixture: Tensor | None


class Targets(NamedTuple):
    """What one pass of the target networks leaves for the critic and the policy."""

    obs: Tensor
    """The critic's inputs, [S, R, O]; R = T * B rows with Retrace, B without."""
    action: Tensor
    """[S, R, D]."""
    target: Tensor
    """[S, R]."""
    distribution: Tensor | None
    """Of the targets, with a categorical critic, [S, R, A]."""
    state: Tensor
    """The policy's states, [S, B, O], one a window, with Retrace or without: the successor that the
    target bootstraps from. Nothing bootstraps from a terminal one and no action is taken there, so
    the episode's first state, which is nothing's successor, takes its place: over an episode that
    terminates these are just the states that were acted in (but for its states 1 ... n-1 with
    n-step targets, which are no window's bootstrap)."""
    mean: Tensor
    """The target policy there, [S, B, D]."""
    stddev: Tensor
    """Likewise."""
    noise: Tensor
    """Standard normal, [S, N, B, D]."""
    actions: Tensor
    """The target policy's samples mean + stddev * noise, [S, N, B, D]."""
    values: Tensor
    """The target critic of the samples, [S, N, B]."""
    mixture: Tensor | None
    """Mean over N of the values' distributions, with a categorical critic, [S, B, A]."""
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
        """Takes the target networks."""
        self._config = config
        self._policy = policy
        self._critic = critic

    def samples(self, windows: Mapping[str, Tensor]) -> list[tuple[int, int]]:
        """How many actions at how many states a call will sample, in turn."""
        steps, rows = windows["reward"].shape[1:]
        first = self._config.action_samples, rows
        later = self._config.retrace_mc_actions, (steps - 1) * rows
        return [first, later] if self._config.retrace else [first]

    def __call__(self, windows: Mapping[str, Tensor], noise: Sequence[Tensor]) -> Targets:
        """Computes targets by TD or Retrace.

        Args:
            windows: [S, T, B], see `Replay.sample`.
            noise: standard normal, [S, samples, states, D] for each pair of `samples`.
        """
        terminated = windows["terminated"]
        cut = (terminated + windows["truncated"]) > 0
        discounts = self._config.gamma * (1 - terminated)
        compute = self._retrace if self._config.retrace else self._td
        return compute(windows, discounts, cut, *noise)

    def _evaluate(self, state: Tensor, noise: Tensor) -> _Evaluation:
        """Samples the target policy at [S, R, O] states by [S, N, R, D]; values the actions."""
        mean, stddev = self._policy(state)
        actions = torch.addcmul(mean.unsqueeze(1), stddev.unsqueeze(1), noise)
        return _Evaluation(mean, stddev, noise, actions, *self._critic.evaluate(state, actions))

    def _distribution(
        self, mixture: Tensor | None, target: Tensor, discount: Tensor, expected: Tensor
    ) -> Tensor | None:
        """Of targets [...] whose bootstrap has a mixture [..., A] with these expectations [...].

        What a target has beside the discounted bootstrap, Retrace's corrections included, is a
        number: it shifts the bootstrap's distribution.
        """
        if not isinstance(self._critic, CategoricalQNetwork):
            return None
        assert mixture is not None
        shift = target - discount * expected
        return returns.project(mixture, self._critic.atoms, shift, discount)

    def _td(
        self, windows: Mapping[str, Tensor], discounts: Tensor, cut: Tensor, noise: Tensor
    ) -> Targets:
        step = returns.n_step(windows["reward"], discounts, cut)
        state = _policy_states(windows, step.last if self._config.n_step > 1 else None)
        found = self._evaluate(state, noise)
        expected = found.values.mean(1)
        target = torch.addcmul(step.reward, step.discount, expected)
        return Targets(
            obs=windows["obs"][:, 0],
            action=windows["action"][:, 0],
            target=target,
            distribution=self._distribution(found.mixture, target, step.discount, expected),
            state=state,
            metrics={},
            **found._asdict(),
        )

    def _retrace(
        self,
        windows: Mapping[str, Tensor],
        discounts: Tensor,
        cut: Tensor,
        noise: Tensor,
        later_noise: Tensor,
    ) -> Targets:
        steps, rows = cut.shape[1:]
        state = _policy_states(windows, None)
        found = self._evaluate(state, noise)
        # The expectation at the later successors needs no E-step, so fewer samples do.
        later = self._evaluate(windows["next_obs"][:, 1:].flatten(1, 2), later_noise)
        shape = (steps - 1, rows)
        expected = torch.cat(
            [found.values.mean(1, keepdim=True), later.values.mean(1).unflatten(1, shape)], dim=1
        )  # [S, T, B]
        # Where no trace is cut, s_t is the successor of step t - 1, whose policy is known.
        policy_mean, policy_stddev = (
            torch.cat([head.unsqueeze(1), tail.unflatten(1, shape)[:, :-1]], dim=1)
            for head, tail in ((found.mean, later.mean), (found.stddev, later.stddev))
        )  # at s_1 ... s_{T-1}: [S, T-1, B, D]
        log_ratios = (
            losses.gaussian_log_prob(windows["action_raw"][:, 1:], policy_mean, policy_stddev)
            - windows["behaviour_logp"][:, 1:]
        )
        taken = self._critic(
            windows["obs"][:, 1:].flatten(1, 2),
            windows["action"][:, 1:].flatten(1, 2).unsqueeze(1),
        )
        unused = torch.zeros_like(log_ratios[:, :1])
        target = returns.retrace(
            windows["reward"],
            discounts,
            expected,
            torch.cat([unused, taken.squeeze(1).unflatten(1, shape)], dim=1),
            torch.cat([unused, log_ratios], dim=1),
            cut,
            self._config.retrace_lambda,
        )
        joined = ~cut[:, :-1]
        ratios = torch.where(joined, log_ratios.clamp(max=0).exp(), 0.0)
        mean_ratio = ratios.sum((1, 2)) / joined.sum((1, 2)).clamp(min=1)
        mixture = None
        if found.mixture is not None and later.mixture is not None:
            mixture = torch.cat([found.mixture, later.mixture], dim=1).view(*target.shape, -1)
        distribution = self._distribution(mixture, target, discounts, expected)
        return Targets(
            obs=windows["obs"].flatten(1, 2),
            action=windows["action"].flatten(1, 2),
            target=target.flatten(1),
            distribution=None if distribution is None else distribution.flatten(1, 2),
            state=state,
            metrics={"retrace_truncated_ratio": mean_ratio},
            **found._asdict(),
        )


def _policy_states(windows: Mapping[str, Tensor], step: Tensor | None) -> Tensor:
    """The states of `Targets.state` after a step of each window, [S, B], None: the first."""

    def at(name: str) -> Tensor:
        field = windows[name]
        if step is None:
            return field[:, 0]
        index = step.unsqueeze(1)  # [S, 1, B]
        if field.ndim > index.ndim:
            index = index.unsqueeze(-1).expand(-1, -1, -1, field.shape[-1])
        return field.gather(1, index).squeeze(1)

    over = at("terminated").bool().unsqueeze(-1)
    return torch.where(over, at("first_obs"), at("next_obs"))
