"""The policies of snapshots, and their episodes.

Episodes are played in groups: a network rounds by the number of rows that it is given, so the
groups, and the rows in them, are part of what identifies a result.

Letters: G groups, E episodes of a group, O observation, D action dimensions.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch

from mpo.algorithm.policies import GaussianPolicy, make_normalizer, make_policy
from mpo.environments.envs import dimensions
from mpo.environments.guard import EnvironmentFailed
from mpo.environments.parallel import ParallelEpisodes
from mpo.environments.rollouts import (
    Act,
    Episodes,
    RecordedStep,
    Rollout,
    SideBySide,
    rollouts,
)
from mpo.environments.workers import Worker
from mpo.study.hyperparameters import Training
from mpo.study.specs import RunSpec

MAX_GROUPS = 10
"""Most groups side by side. A hundred environments of dm_control's humanoid need 1.3 GB."""
_SURELY_OVER = 10_000
"""Steps within which an episode usually ends: ten times those of MuJoCo and dm_control tasks."""
_ALIKE = 32
"""Units in whose multiples a slice of a stacked network rounds as it does alone, see `layers`."""


class Group(NamedTuple):
    """Episodes of one snapshot."""

    env_step: int
    """The environment step that they are evaluated for."""
    phase: str
    policy: str
    """`mode` for mean actions, `sample` for sampled ones, with one noise stream per episode."""
    state: dict[str, torch.Tensor]
    """State dict of a one-seed `GaussianPolicy`."""
    first: int
    """Number of the first episode."""
    seeds: Sequence[int]
    """Reset seeds, and seeds of the noise, [E]."""
    recording: list[RecordedStep] | None = None
    """Gets every step, if given."""


def play_groups(
    spec: RunSpec,
    groups: Sequence[Group],
    max_episode_steps: int | None,
    budget: int,
    finished: Callable[[Group, Episodes], None],
    workers: Sequence[Worker] = (),
) -> list[Episodes]:
    """Plays groups of episodes side by side; each has the numbers that it has alone.

    The first group is played alone, so that little is lost if its episodes never end.

    Args:
        spec: the run's spec.
        groups: the groups, [G].
        max_episode_steps: see `play`.
        budget: see `play`.
        finished: called with each group whose episodes are over, and with these.
        workers: processes that play some of the episodes.

    Returns:
        The episodes of each group, [G].

    Raises:
        EnvironmentFailed: see `play`.
    """
    found: list[Episodes] = []
    starts = [0, *range(1, len(groups), MAX_GROUPS), len(groups)]
    for start, end in itertools.pairwise(starts):
        some = groups[start:end]
        block = [_Player(spec, group, max_episode_steps, budget, workers) for group in some]
        playing = block
        while playing:
            stacks = list(_stacked(spec.training, playing))
            while not any(player.over for player in playing):
                for network, players in stacks:
                    _step(network, players)
            for player in playing:
                if player.over:
                    player.end()
                    finished(player.group, player.rollout.episodes)
            playing = [player for player in playing if not player.over]
        found += [player.rollout.episodes for player in block]
    return found


class _Player:
    """A group that is being played."""

    def __init__(
        self,
        spec: RunSpec,
        group: Group,
        max_episode_steps: int | None,
        budget: int,
        workers: Sequence[Worker],
    ) -> None:
        """Makes and resets the environments of the group."""
        self.group, self._name = group, spec.env_name
        self._cut_off = max_episode_steps is not None
        self._envs = ParallelEpisodes(spec.environment, len(group.seeds), workers)
        self._limit = _limit(self._envs, max_episode_steps, budget)
        sampled = group.policy == "sample"
        self.streams = [np.random.default_rng(seed) for seed in group.seeds] if sampled else []
        self.rollout = Rollout(self._envs, group.seeds, self._limit, group.recording)
        self.spaces = self._envs.single_observation_space, self._envs.single_action_space

    @property
    def over(self) -> bool:
        """Whether all episodes are over."""
        return self.rollout.over

    def end(self) -> None:
        """Closes the environments."""
        if not self._cut_off:
            _refuse_endless(self._name, self.rollout.episodes, self._limit)
        self._envs.close()


def _stacked(
    training: Training, players: Sequence[_Player]
) -> Iterator[tuple[GaussianPolicy, list[_Player]]]:
    """Makes one network for all players with equally many episodes.

    With other widths than multiples of `_ALIKE`, each player has its own.
    """
    alike = not any(width % _ALIKE for width in training.policy_layer_sizes)
    parts: dict[int, list[_Player]] = defaultdict(list)
    for index, player in enumerate(players):
        parts[len(player.group.seeds) if alike else -index].append(player)
    for part in parts.values():
        states = [player.group.state for player in part]
        yield load_policies(training, states, *dimensions(*part[0].spaces)), part


@torch.no_grad()
def _step(network: GaussianPolicy, players: Sequence[_Player]) -> None:
    """Takes a step in the environments of all players, which share a network."""
    obs = np.stack([player.rollout.obs for player in players])
    mean, stddev = (x.numpy() for x in network(torch.from_numpy(obs)))
    for i, player in enumerate(players):
        player.rollout.step(_chosen(mean[i], stddev[i], player.streams))


def _chosen(
    mean: np.ndarray, stddev: np.ndarray, streams: Sequence[np.random.Generator]
) -> np.ndarray:
    """The actions of a group, [E, D]: sampled if there are streams of noise, else the means."""
    if streams:
        size = mean.shape[-1]
        drawn = [stream.standard_normal(size, dtype=np.float32) for stream in streams]
        mean = mean + stddev * np.stack(drawn)
    return mean.clip(-1, 1)


def play(
    name: str,
    envs: SideBySide,
    act: Act,
    seeds: Sequence[int],
    max_episode_steps: int | None,
    budget: int,
) -> Episodes:
    """Plays one episode in each environment, see `rollouts`.

    Args:
        name: the environment's, for messages.
        envs: E environments, one per seed.
        act: the policy.
        seeds: reset seeds, [E].
        max_episode_steps: steps after which an episode is cut off.
        budget: environment steps of the training.

    Raises:
        EnvironmentFailed: without `max_episode_steps`, an episode has not ended after `budget`
            steps. Budgets below `_SURELY_OVER` count as that, because a first try of a few steps
            may be shorter than an episode. Environments with a known time limit are left alone.
    """
    longest = _limit(envs, max_episode_steps, budget)
    played = rollouts(envs, act, seeds, longest)
    if max_episode_steps is None:
        _refuse_endless(name, played, longest)
    return played


def _limit(
    envs: SideBySide | ParallelEpisodes, max_episode_steps: int | None, budget: int
) -> float:
    """Steps after which episodes are cut off, or have not ended as they should have."""
    return max_episode_steps or (math.inf if envs.time_limit else max(budget, _SURELY_OVER))


def _refuse_endless(name: str, played: Episodes, longest: float) -> None:
    if played.running.any():
        raise EnvironmentFailed(
            f"environment {name!r}: an episode has not ended after {longest} steps, and the "
            "environment has no time limit. Give it one, with max_episode_steps among its kwargs "
            "or where it is registered, or cut evaluation episodes off with "
            "evaluation.max_episode_steps"
        )


def actor(spec: RunSpec, state: dict[str, torch.Tensor], envs: gym.vector.VectorEnv) -> Act:
    """Makes the policy of a snapshot: its mean, clipped.

    Args:
        spec: the run's spec.
        state: state dict of a one-seed `GaussianPolicy`.
        envs: environments, which set the dimensions.

    Returns:
        A function from observations [E, O] to canonical actions [E, D].
    """
    sizes = dimensions(envs.single_observation_space, envs.single_action_space)
    network = load_policy(spec.training, state, *sizes)

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        mean, stddev = (x[0].numpy() for x in network(torch.from_numpy(obs).unsqueeze(0)))
        return _chosen(mean, stddev, [])

    return act


def load_policy(
    training: Training, state: dict[str, torch.Tensor], obs_dim: int, action_dim: int
) -> GaussianPolicy:
    """Makes the policy of one snapshot, see `load_policies`."""
    return load_policies(training, [state], obs_dim, action_dim)


def load_policies(
    training: Training,
    states: Sequence[dict[str, torch.Tensor]],
    obs_dim: int,
    action_dim: int,
) -> GaussianPolicy:
    """Stacks the policies of snapshots, with their normalisation of observations.

    Args:
        training: the run's hyperparameters.
        states: state dict of a one-seed `GaussianPolicy` for each.
        obs_dim: O.
        action_dim: D.
    """
    normalizer = make_normalizer(training, len(states), obs_dim)
    generators = [torch.Generator() for _ in states]
    network = make_policy(obs_dim, action_dim, training, generators, normalizer)
    network.load_state_dict(
        {name: torch.cat([state[name] for state in states]) for name in states[0]}
    )
    return network
