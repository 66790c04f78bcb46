"""The outermost wrapper: checks what an environment answers, and names it when it fails."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from mpo.study.config import JobFailed


class EnvironmentFailed(JobFailed):
    """An environment raised an exception or returned something that cannot be used."""


class Caller(Protocol):
    """Whatever waits for an environment."""

    def progress(self, method: str, since: float) -> tuple[str, float]:
        """Describes a call of a method, and says when it began, given when the waiting began."""


_call: tuple[Caller, str, float] | None = None
"""What the main thread waits for: the caller, the method's name and since when."""
_shared: "memoryview[float] | None" = None
"""In a worker process: start of the call and step of the episode, for its parent to read."""


def current_call() -> tuple[str, float] | None:
    """Returns the environment call that this process is waiting for, if any.

    Returns:
        A description of the call, and when it began, in seconds of `time.monotonic`.
    """
    call = _call  # read once: the main thread may change it at any time
    return call and call[0].progress(*call[1:])


def share_calls(memory: "memoryview[float]") -> None:
    """Writes the start and the step of each later call to two doubles of shared memory."""
    global _shared
    _shared = memory


@contextmanager
def waiting_for(caller: Caller, method: str) -> Iterator[None]:
    """While the context is open, `current_call` tells of this call."""
    global _call
    _call = caller, method, time.monotonic()
    try:
        yield
    finally:
        _call = None


_LARGEST = float(np.finfo(np.float32).max)
"""Largest reward: the replay stores float32, so a larger one would become infinite."""

_STEP = "(observation, reward, terminated, truncated, info)"


_LONGEST = 1000
"""Most characters of a value or an error in a message."""


def shown(value: Any) -> str:
    """Returns what an environment gave as text, of bounded length whatever it is."""
    try:
        text = f"{value}"
    except Exception as error:
        text = f"a {type(value).__name__} whose text raised {type(error).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def described(error: BaseException) -> str:
    """Returns an error's type and text."""
    return f"{type(error).__name__}: {shown(error)}"


def place(env_id: str, step: int) -> str:
    """Names an environment and the step of an episode, for messages."""
    return f"environment {env_id!r}, step {step} of an episode"


class Guard(gym.Wrapper):
    """Flat float32 observations [O] and plain rewards; failures with the id, the call and the step.

    A reward or an end of episode may also come as an array with a single element. Anything that is
    not finite, of another shape, or not a number is refused.
    """

    def __init__(self, env: gym.Env, env_id: str) -> None:
        """Wraps an environment whose observation space is a 1-D Box or can be flattened."""
        super().__init__(env)
        self._id = env_id
        self._step = 0
        space = env.observation_space
        self._flattened = None if isinstance(space, Box) and len(space.shape) == 1 else space
        shape = gym.spaces.flatten_space(space).shape
        assert shape is not None
        self._shape = shape
        self.observation_space = Box(-np.inf, np.inf, shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Starts an episode; see `gymnasium.Env.reset`."""
        self._step = 0
        answer = self._guarded("reset", seed=seed, options=options)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise self._failed(f"reset returned {shown(answer)}, expected (observation, info)")
        obs, info = answer
        return self._observation(obs), info

    def step(self, action: np.ndarray) -> Any:
        """Takes a step; see `gymnasium.Env.step`."""
        self._step += 1
        answer = self._guarded("step", action)
        if not isinstance(answer, tuple) or len(answer) != 5:
            raise self._failed(f"step returned {shown(answer)}, expected {_STEP}")
        obs, reward, terminated, truncated, info = answer
        reward = (
            float(reward) if isinstance(reward, float) else self._number("reward", reward, "fiu")
        )
        if not -_LARGEST <= reward <= _LARGEST:
            raise self._failed(f"reward is {shown(answer[1])}")
        if type(terminated) is not bool:
            terminated = self._truth("terminated", terminated)
        if type(truncated) is not bool:
            truncated = self._truth("truncated", truncated)
        return self._observation(obs), reward, terminated, truncated, info

    def close(self) -> None:
        """Closes the environment; see `gymnasium.Env.close`."""
        self._guarded("close")

    def _guarded(self, name: str, *args: Any, **kwargs: Any) -> Any:
        global _call
        now = time.monotonic()
        _call = self, name, now
        if _shared is not None:
            _shared[0], _shared[1] = now, self._step
        try:
            return getattr(self.env, name)(*args, **kwargs)
        except (Exception, SystemExit) as error:
            raise self._failed(f"{name} raised {described(error)}") from error
        finally:
            _call = None

    def _observation(self, obs: Any) -> np.ndarray:
        """Returns a finite float32 copy, [O]."""
        if self._flattened is not None:
            obs = self._flatten(self._flattened, obs)
        try:
            array = np.asarray(obs)
        except Exception:
            array = np.array(None)
        if array.dtype.kind not in "fiub":
            raise self._failed(f"observation is {shown(obs)} of type {type(obs).__name__}")
        if array.shape != self._shape:
            raise self._failed(f"observation has the shape {array.shape}, expected {self._shape}")
        try:
            array = array.astype(np.float32)
        except RuntimeWarning:  # of an overflow, where warnings are errors
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise self._failed(f"observation is {shown(array)}")
        return array

    def _flatten(self, space: gym.Space, obs: Any) -> Any:
        try:
            return gym.spaces.flatten(space, obs)
        except Exception as error:
            text = f"observation {shown(obs)} does not fit {shown(space)}"
            raise self._failed(f"{text}: {described(error)}") from error

    def _number(self, name: str, value: Any, kinds: str) -> float:
        """Returns a number of one of numpy's kinds, also from an array with one element."""
        try:
            array = np.asarray(value)
            if array.size == 1 and array.dtype.kind in kinds:
                return float(array.item())
        except Exception:
            pass
        raise self._failed(f"{name} is {shown(value)} of type {type(value).__name__}")

    def _truth(self, name: str, value: Any) -> bool:
        number = self._number(name, value, "biu")
        if number not in (0, 1):
            raise self._failed(f"{name} is {shown(value)} of type {type(value).__name__}")
        return bool(number)

    def _failed(self, what: str) -> EnvironmentFailed:
        return EnvironmentFailed(f"{self.where}: {what}")

    def progress(self, method: str, since: float) -> tuple[str, float]:
        """See `Caller`."""
        return f"{self.where} ({method})", since

    @property
    def where(self) -> str:
        """The environment and the step, for messages."""
        return place(self._id, self._step)
