"""Streams of training episodes, which can be saved and resumed within an episode."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from mpo.environments.envs import make_env
from mpo.seeding import episode_seed
from mpo.study.specs import EnvironmentSpec

logger = logging.getLogger(__name__)


class Step(NamedTuple):
    """The result of one environment step."""

    next_obs: np.ndarray
    """The observation after the step, before any reset, float32 [O]."""
    reward: float
    terminated: bool
    truncated: bool


class EpisodeStream:
    """Plays training episodes one after another; each is reset with its own `episode_seed`."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        """Starts the first episode.

        Args:
            env: an environment from `make_env`.
            seed: the run's seed, from which the reset seeds are derived.
        """
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
        """Takes one environment step with a canonical action [D]; call `advance` afterwards."""
        next_obs, reward, terminated, truncated, _ = self._env.step(action)
        self._return += float(reward)
        self._actions.append(action)
        return Step(next_obs, float(reward), bool(terminated), bool(truncated))

    def advance(self, step: Step) -> None:
        """Moves to the step's next observation, or starts a new episode if this one is over."""
        if step.terminated or step.truncated:
            self._finished.append((self._return, len(self._actions)))
            self._begin()
        else:
            self.obs = step.next_obs

    def take_finished(self) -> list[tuple[float, int]]:
        """Returns the episodes that finished since the last call.

        Returns:
            Each episode's undiscounted return and its length in environment steps.
        """
        taken, self._finished = self._finished, []
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Returns the stream's state.

        Environments cannot be saved in general, so the actions of the current episode are stored
        instead, to be replayed.
        """
        actions = np.stack(self._actions) if self._actions else np.empty((0,), np.float32)
        return {
            "started": self._started,
            "finished": list(self._finished),
            "actions": torch.from_numpy(actions),
            "obs": torch.from_numpy(self.obs),
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restores a state of the same seed by replaying the actions of its current episode.

        If the environment is not deterministic, so that the replay ends elsewhere, this logs a
        warning and starts a new episode.

        Returns:
            Whether the episode goes on.
        """
        self._started = state["started"] - 1
        self._begin()
        for action in state["actions"].numpy():
            self.advance(self.step(action))
        self._finished = [(total, length) for total, length in state["finished"]]
        repeated = self._started == state["started"]
        if repeated and np.array_equal(self.obs, state["obs"].numpy()):
            return True
        logger.warning(
            "%s does not reproduce an episode from its seed and actions: episode %d of seed %d "
            "is dropped, and this run will differ from an uninterrupted one",
            self._env.spec.id if self._env.spec else self._env,
            state["started"],
            self._seed,
        )
        self._started = state["started"]
        self._begin()
        return False


class Streams:
    """The streams of some seeds, stepped one after another."""

    def __init__(self, env: str | EnvironmentSpec, seeds: Sequence[int]) -> None:
        """Makes an environment for each seed; see `make_env`."""
        self.envs = [make_env(env) for _ in seeds]
        self._seeds = seeds

    def begin(self) -> np.ndarray:
        """Starts the first episodes; returns the observations to act on, [S, O]."""
        self.each = [EpisodeStream(*each) for each in zip(self.envs, self._seeds, strict=True)]
        return self._obs()

    def _obs(self) -> np.ndarray:
        return np.stack([stream.obs for stream in self.each])

    def step(self, actions: np.ndarray) -> tuple[list[Step], np.ndarray]:
        """Takes a step with canonical actions [S, D]; starts new episodes where they are over.

        Returns:
            The step of each seed, and the observations to act on next, [S, O].
        """
        steps = []
        for stream, action in zip(self.each, actions, strict=True):
            steps.append(stream.step(action))
            stream.advance(steps[-1])
        return steps, self._obs()

    def take_finished(self, index: int) -> list[tuple[float, int]]:
        """Calls `EpisodeStream.take_finished` of one seed."""
        return self.each[index].take_finished()

    def state_dict(self, index: int) -> dict[str, Any]:
        """Calls `EpisodeStream.state_dict` of one seed."""
        return self.each[index].state_dict()

    def load_state_dicts(self, states: Sequence[dict[str, Any]]) -> tuple[list[bool], np.ndarray]:
        """Calls `EpisodeStream.load_state_dict` of each seed.

        Returns:
            Whether the episode of each seed goes on, and the observations to act on, [S, O].
        """
        go_on = [
            stream.load_state_dict(state) for stream, state in zip(self.each, states, strict=True)
        ]
        return go_on, self._obs()
