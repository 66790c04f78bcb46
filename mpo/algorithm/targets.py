"""One gradient-free pass of the target networks: the critic's targets and the E-step's samples.

At each window's bootstrap state the target policy samples N actions, which the target critic
evaluates once. Their mean value is the critic's bootstrap value; the E-step weighs the individual
values.

Letters: S seed, T window, B batch, N action samples, M action samples at a window's later states,
O observation, D action dimensions, A atoms.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mpo.algorithm import losses, returns
from mpo.algorithm.networks import CategoricalQNetwork, GaussianPolicy, QNetwork
from mpo.study.hyperparameters import Hyperparameters


class _Evaluation(NamedTuple):
    """The target networks at some states; its fields are as in `Targets`."""

    mean: Tensor
    stddev: Tensor
    noise: Tensor
    actions: Tensor
    values: Tensor
    mixture: Tensor | None


class Targets(NamedTuple):
    """The result of the pass: regression targets for the critic, samples for the policy."""

    obs: Tensor
    """Observations that the critic is trained on, [S, R, O]; R = T * B with Retrace, else B."""
    action: Tensor
    """Executed actions at these observations, [S, R, D]."""
    target: Tensor
    """Regression targets of the action values, [S, R]."""
    distribution: Tensor | None
    """Target distributions, for a categorical critic, [S, R, A]."""
    state: Tensor
    """States that the policy is trained on, one per window, [S, B, O]: the state that the (first)
    target bootstraps from. A terminal state is replaced by the first state of its episode: no
    action is taken in a terminal state, and the first state is never a next state. So over an
    episode that terminates, these are exactly the states in which the agent acted (with n-step
    targets, except states 1 ... n-1, which no window bootstraps from)."""
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
    mixture: Tensor | None
    """Mean over N of the return distributions, for a categorical critic, [S, B, A]."""
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

    def samples(self, windows: Mapping[str, Tensor]) -> list[tuple[int, int]]:
        """Returns the noise that a call needs: pairs of actions per state and states per seed."""
        steps, rows = windows["reward"].shape[1:]
        first = self._config.action_samples, rows
        later = self._config.retrace_mc_actions, (steps - 1) * rows
        return [first, later] if self._config.retrace else [first]

    def __call__(self, windows: Mapping[str, Tensor], noise: Sequence[Tensor]) -> Targets:
        """Computes n-step TD or Retrace targets.

        Args:
            windows: fields [S, T, B], from `Replay.sample`.
            noise: standard normal, one tensor [S, actions, states, D] per pair of `samples`.
        """
        terminated = windows["terminated"]
        cut = (terminated + windows["truncated"]) > 0
        discounts = self._config.gamma * (1 - terminated)
        compute = self._retrace if self._config.retrace else self._td
        return compute(windows, discounts, cut, *noise)

    def _evaluate(self, state: Tensor, noise: Tensor) -> _Evaluation:
        """Samples actions at states [S, R, O] from noise [S, N, R, D], and evaluates them."""
        mean, stddev = self._policy(state)
        actions = torch.addcmul(mean.unsqueeze(1), stddev.unsqueeze(1), noise)
        return _Evaluation(mean, stddev, noise, actions, *self._critic.evaluate(state, actions))

    def _distribution(
        self, mixture: Tensor | None, target: Tensor, discount: Tensor, expected: Tensor
    ) -> Tensor | None:
        """Computes the distributions [..., A] whose means are the targets; None for scalar critics.

        A target is its discounted bootstrap value plus a number: rewards and, with Retrace,
        corrections. That number shifts the discounted distribution of the bootstrap.

        Args:
            mixture: return distributions at the bootstrap states, [..., A].
            target: [...].
            discount: factors of the bootstrap, [...].
            expected: means of `mixture`, [...].
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
        # The E-step uses the first next state only, so M < N samples suffice at the later ones.
        later = self._evaluate(windows["next_obs"][:, 1:].flatten(1, 2), later_noise)
        shape = (steps - 1, rows)
        expected = torch.cat(
            [found.values.mean(1, keepdim=True), later.values.mean(1).unflatten(1, shape)], dim=1
        )  # [S, T, B]
        # Unless step t - 1 is cut, s_t is its next state, where the policy is already computed.
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
    """Selects `Targets.state`.

    Args:
        windows: see `Replay.sample`.
        step: index of each window's last transition before the bootstrap, [S, B]; None: 0.

    Returns:
        States, [S, B, O].
    """

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
