"""One seed's stream of training episodes: its environment, and where it stands in it."""

from typing import NamedTuple

import gymnasium as gym
import numpy as np

from mpo.seeding import episode_seed


class Step(NamedTuple):
    """What an environment answered to an action."""

    next_obs: np.ndarray
    """The true successor, before any reset, float32 [O]."""
    reward: float
    terminated: bool
    truncated: bool


class EpisodeStream:
    """Plays training episodes one after another; the n-th is reset with a seed of its own."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        """Starts the first episode."""
        self._env = env
        self._seed = seed
        self._started = 0
        self.count = 0
        """Episodes finished in all."""
        self._finished: list[tuple[float, int]] = []
        self._begin()

    def _begin(self) -> None:
        self.obs, _ = self._env.reset(seed=episode_seed(self._seed, self._started))
        self._started += 1
        self._return, self._length = 0.0, 0

    def step(self, action: np.ndarray) -> Step:
        """Takes one environment step with a canonical action [D]."""
        next_obs, reward, terminated, truncated, _ = self._env.step(action)
        self._return += float(reward)
        self._length += 1
        return Step(next_obs, float(reward), bool(terminated), bool(truncated))

    def advance(self, step: Step, valid: bool) -> None:
        """Moves on to the successor, or to a new episode where this one is over.

        Args:
            step: the last one.
            valid: False where a number in it was not finite: the episode is dropped, uncounted.
        """
        if valid and not (step.terminated or step.truncated):
            self.obs = step.next_obs
            return
        if valid:
            self._finished.append((self._return, self._length))
            self.count += 1
        self._begin()

    def take_finished(self) -> list[tuple[float, int]]:
        """Return and length (environment steps) of what has finished since the last call."""
        taken, self._finished = self._finished, []
        return taken
