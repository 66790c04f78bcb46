"""Seeded episodes of a policy, played side by side in one process."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space

from mpo.environments.envs import make_env

MAX_PARALLEL = 10
"""Episodes that are played side by side, with one pass of the network a step."""

Act = Callable[[np.ndarray], np.ndarray]
"""Observations [E, O] to canonical actions [E, D], one row an episode."""


class Episodes(NamedTuple):
    """One entry an episode, [E]."""

    returns: np.ndarray
    """Undiscounted sums of rewards."""
    lengths: np.ndarray
    """Environment steps."""
    terminated: np.ndarray
    """Whether the episode ended by itself, not by its time limit."""


class SideBySide(gym.vector.VectorEnv):
    """Environments that are stepped together in this process, each until its episode is over.

    Gymnasium's own goes on to new episodes, gathers what the environments tell beside numbers and
    copies all of it: with small tasks a quarter of an evaluation.
    """

    def __init__(self, envs: Sequence[gym.Env]) -> None:
        """Takes environments of one kind."""
        self.envs = list(envs)
        self.num_envs = len(self.envs)
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Begins an episode in each, of a seed each: observations [E, O] and nothing."""
        answers = [env.reset(seed=s) for env, s in zip(self.envs, seed, strict=True)]
        self._obs = np.stack([obs for obs, _ in answers])
        self._over = [False] * self.num_envs
        return self._obs.copy(), {}

    def step(self, actions: np.ndarray) -> Any:
        """Of [E, D] to what Gymnasium's return, [E] and more; of an episode that is over, zeros."""
        rewards = np.zeros(self.num_envs)
        terminated, truncated = (np.zeros(self.num_envs, dtype=bool) for _ in range(2))
        for i, env in enumerate(self.envs):
            if not self._over[i]:
                self._obs[i], rewards[i], terminated[i], truncated[i], _ = env.step(actions[i])
                self._over[i] = bool(terminated[i] or truncated[i])
        return self._obs.copy(), rewards, terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        """Closes each."""
        for env in self.envs:
            env.close()


def vector_env(env_id: str, count: int) -> gym.vector.VectorEnv:
    """`count` instances side by side."""
    return SideBySide([make_env(env_id) for _ in range(count)])


def rollouts(envs: gym.vector.VectorEnv, act: Act, seeds: Sequence[int]) -> Episodes:
    """Plays one episode in each environment, all at once.

    Args:
        envs: one environment a seed.
        act: the policy; rows of episodes that are over are ignored.
        seeds: reset seeds, [E].
    """
    obs, _ = envs.reset(seed=list(seeds))  # type: ignore[arg-type]
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), dtype=np.int64)
    ended, running = np.zeros(len(seeds), dtype=bool), np.ones(len(seeds), dtype=bool)
    while running.any():
        obs, rewards, terminated, truncated, _ = envs.step(act(obs))
        returns += np.where(running, rewards, 0.0)
        lengths += running
        ended |= running & terminated
        running &= ~(terminated | truncated)
    return Episodes(returns, lengths, ended)
