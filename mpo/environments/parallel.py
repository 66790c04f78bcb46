"""Environments side by side: some in this process, and a share in each worker.

Each environment belongs to one process from its first reset on, and is told the same as if all were
stepped here, so all numbers are the same.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space

from mpo.environments.envs import make_env, name_of
from mpo.environments.episodes import Step, Streams
from mpo.environments.guard import EnvironmentFailed
from mpo.environments.rollouts import SideBySide, vector_env
from mpo.environments.workers import Finish, Here, Share, Worker, together
from mpo.study.specs import EnvironmentSpec

_COST_S = 5e-4
"""What a worker may cost per step: two messages, and 0.1 to 0.4 ms until a sleeping one wakes."""
_TRIED = 20
"""Steps that tell how long one takes."""


def useful_workers(env: str | EnvironmentSpec, count: int, processes: int) -> int:
    """Returns how many workers are worth their cost; it decides on no number, only on time.

    Args:
        env: see `make_env`; an instance of its own is stepped.
        count: environments that step side by side.
        processes: most processes, this one among them.
    """
    used = min(count, processes)
    if used < 2:
        return 0
    try:
        step_s = _step_s(make_env(env))
    except EnvironmentFailed:  # whoever uses the environment will tell
        return 0
    return used - 1 if step_s * (count - math.ceil(count / used)) > _COST_S else 0


def _step_s(env: gym.Env) -> float:
    """Median seconds of the first steps of an episode; closes the environment."""
    env.reset(seed=0)
    taken: list[float] = []
    over = False
    while not over and len(taken) < _TRIED:
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape or ()))
        taken.append(time.perf_counter() - start)
        over = terminated or truncated
    env.close()
    return median(taken)


class Shares:
    """S environments, dealt out evenly; this process gets the smallest share."""

    def __init__(
        self,
        name: str,
        count: int,
        workers: Sequence[Worker],
        make: Callable[..., Any],
        arguments: Callable[[slice], tuple[Any, ...]],
    ) -> None:
        """Makes all shares at once.

        Args:
            name: the environment's, for messages.
            count: S.
            workers: the processes beside this one.
            make: makes an object that plays some of the environments.
            arguments: its arguments for the environments in a slice of 0 ... S - 1.
        """
        used = min(count, len(workers) + 1)
        sizes = [(count + i) // used for i in range(used)]
        self.slices = [slice(*ends) for ends in pairwise(accumulate(sizes, initial=0))]
        others = [
            worker.make(name, make, *arguments(part))
            for worker, part in zip(workers, self.slices[1:], strict=False)
        ]
        made: list[Finish] = [partial(make, *arguments(self.slices[0]))]
        made += [finish for _, finish in others]
        self.here, *_ = together(made)
        """The share of this process."""
        self._shares: list[Share] = [Here(self.here), *(share for share, _ in others)]

    def call(self, method: str, **arguments: Any) -> list[Any]:
        """Calls a method of all shares; each gets its part of the arguments, which have S rows."""
        begun = [
            share.begin(method, **{name: rows[part] for name, rows in arguments.items()})
            for share, part in zip(self._shares, self.slices, strict=True)
        ]
        return together(begun)

    def of(self, index: int, method: str) -> Any:
        """Calls a method of the share that has an environment, with its index there."""
        for share, part in zip(self._shares, self.slices, strict=True):
            if part.start <= index < part.stop:
                return share.begin(method, index - part.start)()
        raise IndexError(index)


class ParallelStreams:
    """The streams of S seeds; see `Streams`."""

    def __init__(
        self, env: str | EnvironmentSpec, seeds: Sequence[int], workers: Sequence[Worker]
    ) -> None:
        """Makes the environments; see `make_env`."""
        self._shares = Shares(name_of(env), len(seeds), workers, Streams, lambda i: (env, seeds[i]))
        self.here: Streams = self._shares.here
        """The streams that are stepped in this process."""
        self.obs: np.ndarray
        """Observations to act on, float32 [S, O]."""

    def begin(self) -> None:
        """Starts the first episodes."""
        self.obs = _joined(self._shares.call("begin"))

    def step(self, actions: np.ndarray) -> list[Step]:
        """Takes a step with canonical actions [S, D]; starts new episodes where they are over."""
        parts = self._shares.call("step", actions=actions)
        self.obs = _joined([obs for _, obs in parts])
        return [step for steps, _ in parts for step in steps]

    def take_finished(self, index: int) -> list[tuple[float, int]]:
        """Calls `EpisodeStream.take_finished` of one seed."""
        return self._shares.of(index, "take_finished")

    def state_dict(self, index: int) -> dict[str, Any]:
        """Calls `EpisodeStream.state_dict` of one seed."""
        return self._shares.of(index, "state_dict")

    def load_state_dicts(self, states: Sequence[dict[str, Any]]) -> list[bool]:
        """Calls `EpisodeStream.load_state_dict` of each seed; returns which episodes go on."""
        parts = self._shares.call("load_state_dicts", states=states)
        self.obs = _joined([obs for _, obs in parts])
        return [goes_on for part, _ in parts for goes_on in part]


class ParallelEpisodes(gym.vector.VectorEnv):
    """One episode in each of E environments; see `SideBySide`."""

    def __init__(
        self, env: str | EnvironmentSpec, count: int, workers: Sequence[Worker] = ()
    ) -> None:
        """Makes E environments; see `make_env`."""
        self._shares = Shares(
            name_of(env), count, workers, vector_env, lambda i: (env, i.stop - i.start)
        )
        here: SideBySide = self._shares.here
        self.num_envs = count
        self.single_observation_space = here.single_observation_space
        self.single_action_space = here.single_action_space
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self.time_limit = here.time_limit

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """See `SideBySide.reset`."""
        return _joined([obs for obs, _ in self._shares.call("reset", seed=seed)]), {}

    def step(self, actions: np.ndarray) -> Any:
        """See `SideBySide.step`."""
        *parts, _ = zip(*self._shares.call("step", actions=actions), strict=True)
        return *(_joined(part) for part in parts), {}

    def close_extras(self, **kwargs: Any) -> None:
        """Closes all environments."""
        self._shares.call("close")


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Joins the parts of all shares; most jobs have one, which needs no copy."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
