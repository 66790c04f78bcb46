"""One seed's stream of training episodes: its environment, and where it stands in it."""

import logging
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from mpo.seeding import episode_seed

logger = logging.getLogger(__name__)


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
        self._finished: list[tuple[float, int]] = []
        self._begin()

    def _begin(self) -> None:
        self.obs, _ = self._env.reset(seed=episode_seed(self._seed, self._started))
        self._started += 1
        self._return = 0.0
        self._actions: list[np.ndarray] = []

    def step(self, action: np.ndarray) -> Step:
        """Takes one environment step with a canonical action [D]; call `advance` after it."""
        next_obs, reward, terminated, truncated, _ = self._env.step(action)
        self._return += float(reward)
        self._actions.append(action)
        return Step(next_obs, float(reward), bool(terminated), bool(truncated))

    def advance(self, step: Step) -> None:
        """Moves on to the last step's successor, or to a new episode where this one is over."""
        if step.terminated or step.truncated:
            self._finished.append((self._return, len(self._actions)))
            self._begin()
        else:
            self.obs = step.next_obs

    def take_finished(self) -> list[tuple[float, int]]:
        """Return and length (environment steps) of what has finished since the last call."""
        taken, self._finished = self._finished, []
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands; the environment's own state is its episode's actions."""
        actions = np.stack(self._actions) if self._actions else np.empty((0,), np.float32)
        return {
            "started": self._started,
            "finished": list(self._finished),
            "actions": torch.from_numpy(actions),
            "obs": torch.from_numpy(self.obs),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to where another stream of the same seed stood, by playing its last episode again.

        Where the environment does not repeat itself, a warning says so and a new episode begins.
        """
        self._started = state["started"] - 1
        self._begin()
        for action in state["actions"].numpy():
            self.advance(self.step(action))
        self._finished = [(total, length) for total, length in state["finished"]]
        repeated = self._started == state["started"]
        if not (repeated and np.array_equal(self.obs, state["obs"].numpy())):
            logger.warning(
                "%s does not repeat an episode from its seed and actions: episode %d of seed %d is "
                "dropped, and this run is not what an uninterrupted one would be",
                self._env.spec.id if self._env.spec else self._env,
                state["started"],
                self._seed,
            )
            self._started = state["started"]
            self._begin()
