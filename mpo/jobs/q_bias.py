"""Bias and spread of the critic's action values against returns of the policy that it judges.

The final evaluation plays episodes with sampled actions. At each step of them, the critic's error
is Q(s_t, a_t) - G_t, with the discounted return G_t = r_t + gamma r_{t+1} + ... of that episode, as
in van Hasselt et al. 2016 (arXiv 1509.06461) and Fujimoto et al. 2018 (arXiv 1802.09477).

A termination ends the sum. A time limit does not end the return that the critic learns, so there V
of the last observation follows, the mean of Q over sampled actions. Only states at least
ln(100) / (1 - gamma) steps before the limit count: V then weighs 1 % or less. An episode that is
too short to have such a state counts whole, so that short tasks have a number, too. `q_bootstrap`
says how much of the returns is then the critic's own value, which hides a part of its bias.

Letters: E episodes, T steps, K states, O observation, D action dimensions, M action samples.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from mpo.algorithm.critics import Critic, make_critic
from mpo.algorithm.policies import GaussianPolicy, make_normalizer
from mpo.environments.rollouts import RecordedStep
from mpo.jobs.snapshots import load_policy
from mpo.seeding import FIRST_FINAL_SEED, value_generator
from mpo.study.hyperparameters import Hyperparameters, Training

_SAMPLES = 128
"""M."""
_ROWS = 4096
"""State-action pairs per call of the critic."""
_MOST_WEIGHT = 0.01
"""Of V in the return, where an episode is long enough."""


class QError(NamedTuple):
    """The critic's error over the states that count; the first three are discounted returns."""

    q_bias: float
    """Mean of Q - G; above 0 the critic overestimates."""
    q_spread: float
    """Standard deviation of Q - G. The randomness of the episodes is part of it."""
    q_return: float
    """Mean of G, as a scale."""
    q_states: int
    """Number of states, K."""
    q_bootstrap: float
    """Mean weight of V in G: 0 where all episodes terminate."""


class Episode(NamedTuple):
    """One episode from its first step to its last."""

    obs: np.ndarray
    """[T, O]."""
    actions: np.ndarray
    """Canonical actions, clipped, [T, D]."""
    rewards: np.ndarray
    """[T]."""
    last_obs: np.ndarray
    """The observation after the last step, [O]."""
    terminated: bool
    """Whether it terminated rather than reaching a time limit."""


@np.errstate(invalid="ignore")
def measure(
    training: Training,
    policy: dict[str, torch.Tensor],
    critic: dict[str, torch.Tensor] | None,
    recordings: Sequence[Sequence[RecordedStep]],
) -> QError | None:
    """Compares a run's critic with episodes of its policy.

    Args:
        training: the run's hyperparameters.
        policy: state dict of the one-seed `GaussianPolicy` that played.
        critic: state dict of the one-seed critic; see `make_critic`.
        recordings: the steps of episodes with the seeds of the final evaluation, see `evaluate`.

    Returns:
        The critic's error; None without a critic or if a value is not finite.
    """
    if critic is None:
        return None
    played = [episode for steps in recordings for episode in episodes(steps)]
    sizes = played[0].obs.shape[1], played[0].actions.shape[1]
    networks = (
        load_policy(training, policy, *sizes),
        load_critic(training, critic, *sizes),
    )
    tails = bootstraps(*networks, np.stack([episode.last_obs for episode in played]))
    errors, returns, weights = [], [], []
    for episode, tail in zip(played, tails, strict=True):
        end, gamma = 0.0 if episode.terminated else tail, training.gamma
        first = states_that_count(len(episode.rewards), episode.terminated, gamma)
        found = discounted_returns(episode.rewards, gamma, end)[:first]
        values = action_values(networks[1], episode.obs[:first], episode.actions[:first])
        errors.append(values - found)
        returns.append(found)
        left = len(episode.rewards) - np.arange(first)
        weights.append(gamma**left * (not episode.terminated))
    error, scale = np.concatenate(errors), np.concatenate(returns)
    if not np.isfinite(error).all():
        return None
    return QError(
        q_bias=float(error.mean()),
        q_spread=float(error.std()),
        q_return=float(scale.mean()),
        q_states=len(error),
        q_bootstrap=float(np.concatenate(weights).mean()),
    )


def load_critic(
    config: Hyperparameters, state: dict[str, torch.Tensor], obs_dim: int, action_dim: int
) -> Critic:
    """Makes the critic of a snapshot, with its normalisation of observations.

    Args:
        config: the run's hyperparameters.
        state: state dict of a one-seed critic, see `make_critic`.
        obs_dim: O.
        action_dim: D.
    """
    normalizer = make_normalizer(config, 1, obs_dim)
    network = make_critic(obs_dim, action_dim, config, [torch.Generator()], normalizer)
    network.load_state_dict(state)
    return network


def episodes(steps: Sequence[RecordedStep]) -> Iterator[Episode]:
    """Takes apart the recording of E episodes side by side; yields them in order."""
    obs, actions, rewards, next_obs, terminated, running = map(np.stack, zip(*steps, strict=True))
    for i, length in enumerate(running.sum(axis=0)):
        last = next_obs[length - 1, i]
        ended = bool(terminated[length - 1, i])
        yield Episode(obs[:length, i], actions[:length, i], rewards[:length, i], last, ended)


def discounted_returns(rewards: np.ndarray, gamma: float, end: float) -> np.ndarray:
    """Discounted returns G_t = r_t + gamma G_{t+1} with G_T = `end`; [T] -> [T], in float64."""
    backwards = itertools.accumulate(
        rewards[::-1].tolist(), lambda later, reward: reward + gamma * later, initial=end
    )
    return np.array([*backwards][:0:-1])


def states_that_count(length: int, terminated: bool, gamma: float) -> int:
    """How many states of an episode count, from its first: all, or those far from its time limit.

    Far is ln(100) / (1 - gamma) steps or more. Where no state is far, all count.
    """
    horizon = -math.log(_MOST_WEIGHT) / (1 - gamma) if gamma < 1 else math.inf
    return length if terminated or length < horizon else length - math.ceil(horizon) + 1


@torch.no_grad()
def action_values(critic: Critic, obs: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Q of one action per observation: [K, O] and [K, D] -> [K], in float64."""
    pairs = (torch.from_numpy(part).split(_ROWS) for part in (obs, actions))
    parts = [critic(s.unsqueeze(0), a[None, None]) for s, a in zip(*pairs, strict=True)]
    return torch.cat(parts, dim=-1)[0, 0].double().numpy()


@torch.no_grad()
def bootstraps(policy: GaussianPolicy, critic: Critic, obs: np.ndarray) -> np.ndarray:
    """V after each episode: the mean of Q over M actions sampled from the policy, clipped.

    Each episode has a random stream of its own.

    Args:
        policy: of one seed.
        critic: of one seed.
        obs: last observations, [E, O].

    Returns:
        Values, [E], in float64.
    """
    state = torch.from_numpy(obs).unsqueeze(0)  # [1, E, O]
    mean, stddev = policy(state)  # [1, E, D]
    streams = [value_generator(FIRST_FINAL_SEED + i) for i in range(len(obs))]
    shape = (_SAMPLES, mean.shape[-1])
    noise = np.stack([s.standard_normal(shape, dtype=np.float32) for s in streams], axis=1)
    actions = mean + stddev * torch.from_numpy(noise)  # [M, E, D]
    return critic(state, actions.unsqueeze(0))[0].double().mean(0).numpy()
