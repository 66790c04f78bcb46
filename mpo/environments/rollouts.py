"""Rollouts: seeded episodes of a policy, played in parallel in one process.

Letters: E episodes, O observation, D action dimensions.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space

from mpo.environments.envs import make_env
from mpo.study.specs import EnvironmentSpec

MAX_PARALLEL = 10
"""Most episodes that are played in parallel, sharing one forward pass per step."""

Act = Callable[[np.ndarray], np.ndarray]
"""A policy: observations [E, O] to canonical actions [E, D], one row per episode."""


class RecordedStep(NamedTuple):
    """One step of E episodes side by side, for a recording of them."""

    obs: np.ndarray
    """Observations before the step, [E, O]."""
    actions: np.ndarray
    """Canonical actions, clipped, [E, D]."""
    rewards: np.ndarray
    """[E]."""
    next_obs: np.ndarray
    """Observations after the step, before any reset, [E, O]."""
    terminated: np.ndarray
    """Whether the step terminated the episode, [E]."""
    running: np.ndarray
    """Whether the episode was still running before the step, [E]; else the row means nothing."""


class Episodes(NamedTuple):
    """Finished episodes; each field is [E]."""

    returns: np.ndarray
    """Undiscounted sums of rewards."""
    lengths: np.ndarray
    """Lengths in environment steps."""
    terminated: np.ndarray
    """Whether the episode terminated rather than reaching its time limit."""
    running: np.ndarray
    """Whether the episode was cut off before its end."""


class SideBySide(gym.vector.VectorEnv):
    """A vector environment that plays one episode in each of its environments.

    Gymnasium's `SyncVectorEnv` starts new episodes, collects the `info` dictionaries and copies
    everything, which takes a quarter of an evaluation with small tasks.
    """

    def __init__(self, envs: Sequence[gym.Env]) -> None:
        """Takes environments with equal observation and action spaces."""
        self.envs = list(envs)
        self.num_envs = len(self.envs)
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Starts an episode in each environment.

        Args:
            seed: one reset seed per environment, [E].
            options: ignored.

        Returns:
            Observations [E, O] and an empty `info`.
        """
        results = [env.reset(seed=s) for env, s in zip(self.envs, seed, strict=True)]
        self._obs = np.stack([obs for obs, _ in results])
        self._over = [False] * self.num_envs
        return self._obs.copy(), {}

    def step(self, actions: np.ndarray) -> Any:
        """Steps the environments whose episode is not over.

        Args:
            actions: canonical actions, [E, D].

        Returns:
            As in Gymnasium: observations [E, O], rewards, terminated and truncated [E], and an
            empty `info`. A finished episode repeats its last observation; its other entries are 0.
        """
        rewards = np.zeros(self.num_envs)
        terminated, truncated = (np.zeros(self.num_envs, dtype=bool) for _ in range(2))
        for i, env in enumerate(self.envs):
            if not self._over[i]:
                self._obs[i], rewards[i], terminated[i], truncated[i], _ = env.step(actions[i])
                self._over[i] = bool(terminated[i] or truncated[i])
        return self._obs.copy(), rewards, terminated, truncated, {}

    @property
    def time_limit(self) -> int | None:
        """The environment's `max_episode_steps`, if Gymnasium knows it."""
        spec = self.envs[0].spec
        return spec.max_episode_steps if spec else None

    def close_extras(self, **kwargs: Any) -> None:
        """Closes all environments."""
        for env in self.envs:
            env.close()


def vector_env(env: str | EnvironmentSpec, count: int) -> SideBySide:
    """Makes `count` instances of an environment; see `make_env`."""
    return SideBySide([make_env(env) for _ in range(count)])


class Rollout:
    """One episode in each of E environments, played step by step, all in parallel."""

    def __init__(
        self,
        envs: gym.vector.VectorEnv,
        seeds: Sequence[int],
        max_steps: float = math.inf,
        recording: list[RecordedStep] | None = None,
    ) -> None:
        """Starts the episodes.

        Args:
            envs: E environments, one per seed.
            seeds: reset seeds, [E].
            max_steps: environment steps after which an episode is cut off.
            recording: gets every step, if given.
        """
        self._envs, self._max_steps, self._recording = envs, max_steps, recording
        self.obs, _ = envs.reset(seed=list(seeds))  # type: ignore[arg-type]
        count = len(seeds)
        self._steps = 0
        self.episodes = Episodes(
            returns=np.zeros(count),
            lengths=np.zeros(count, dtype=np.int64),
            terminated=np.zeros(count, dtype=bool),
            running=np.ones(count, dtype=bool),
        )
        """The episodes so far, in the order of the seeds."""

    @property
    def over(self) -> bool:
        """Whether no episode is running, or those that are have been cut off."""
        return not self.episodes.running.any() or self._steps >= self._max_steps

    def step(self, actions: np.ndarray) -> None:
        """Takes a step in each environment; actions [E, D] of finished episodes are ignored."""
        returns, lengths, ended, running = self.episodes
        self._steps += 1
        before = self.obs
        self.obs, rewards, terminated, truncated, _ = self._envs.step(actions)
        if self._recording is not None:
            step = RecordedStep(before, actions, rewards, self.obs, terminated, running.copy())
            self._recording.append(step)
        returns += np.where(running, rewards, 0.0)
        lengths += running
        ended |= running & terminated
        running &= ~(terminated | truncated)


def rollouts(
    envs: gym.vector.VectorEnv,
    act: Act,
    seeds: Sequence[int],
    max_steps: float = math.inf,
    recording: list[RecordedStep] | None = None,
) -> Episodes:
    """Plays one episode in each environment, all in parallel.

    Args:
        envs: E environments, one per seed.
        act: the policy.
        seeds: reset seeds, [E].
        max_steps: environment steps after which an episode is cut off.
        recording: gets every step, if given.

    Returns:
        The episodes, in the order of the seeds.
    """
    rollout = Rollout(envs, seeds, max_steps, recording)
    while not rollout.over:
        rollout.step(act(rollout.obs))
    return rollout.episodes
