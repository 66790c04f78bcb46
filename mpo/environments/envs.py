"""Environments as the agent sees them: flat float32 observations, actions in [-1, 1].

As in Gymnasium, a time limit sets `truncated`, not `terminated`.
"""

import difflib
import importlib
import time
import warnings
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from mpo.study.config import ConfigError, JobFailed


class EnvironmentFailed(JobFailed):
    """An environment raised an exception or returned a non-finite number."""


_call: tuple["_Guard", str, float] | None = None
"""The environment call in progress: the environment, the method's name and its start."""


def current_call() -> tuple[str, float] | None:
    """Returns the environment call that this process is waiting for, if any.

    Returns:
        A description of the call, and when it began, in seconds of `time.monotonic`.
    """
    call = _call  # read once: the main thread may change it at any time
    if call is None:
        return None
    guard, name, since = call
    return f"{guard.where} ({name})", since


_LARGEST = float(np.finfo(np.float32).max)
"""Largest reward: the replay stores float32, so a larger one would become infinite."""


class _Guard(gym.Wrapper):
    """Reports failures of the environment with its id, the call and the step."""

    def __init__(self, env: gym.Env, env_id: str) -> None:
        super().__init__(env)
        self._id = env_id
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._step = 0
        obs, info = self._guarded("reset", seed=seed, options=options)
        self._refuse_non_finite(obs)
        return obs, info

    def step(self, action: np.ndarray) -> Any:
        self._step += 1
        result = self._guarded("step", action)
        self._refuse_non_finite(result[0])
        if not -_LARGEST <= result[1] <= _LARGEST:
            raise EnvironmentFailed(f"{self.where}: reward is {result[1]}")
        return result

    def _guarded(self, name: str, *args: Any, **kwargs: Any) -> Any:
        global _call
        _call = self, name, time.monotonic()
        try:
            return getattr(self.env, name)(*args, **kwargs)
        except Exception as error:
            text = f"{self.where}: {name} raised {type(error).__name__}: {error}"
            raise EnvironmentFailed(text) from error
        finally:
            _call = None

    def _refuse_non_finite(self, obs: np.ndarray) -> None:
        if not np.isfinite(obs).all():
            raise EnvironmentFailed(f"{self.where}: observation is {obs}")

    @property
    def where(self) -> str:
        """The environment and the step, for messages."""
        return f"environment {self._id!r}, step {self._step} of an episode"


def make_env(env_id: str, render_mode: str | None = None) -> gym.Env:
    """Makes an environment with flat float32 observations and canonical actions in [-1, 1].

    Args:
        env_id: a Gymnasium id, `dm_control/domain-task-v0` (through shimmy), or `module:id`, which
            imports the module first.
        render_mode: Gymnasium's render mode; by default nothing is rendered.

    Returns:
        An environment whose observation space is a float32 Box `[O]` and whose action space is the
        Box [-1, 1] `[D]`, mapped affinely to the environment's own bounds. Its `step` and `reset`
        raise `EnvironmentFailed` if the environment raises or returns a non-finite number.

    Raises:
        ConfigError: the id is unknown or lacks its version, or a space is not supported.
    """
    env = _make(env_id, render_mode)
    _refuse_unscalable(env_id, env.action_space)
    observations = env.observation_space
    if not isinstance(observations, Box) or len(observations.shape) != 1:
        if not observations.is_np_flattenable:
            raise ConfigError(f"environment {env_id!r}: cannot flatten observations {observations}")
        env = gym.wrappers.FlattenObservation(env)
    space = Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
    env = gym.wrappers.TransformObservation(env, lambda obs: obs.astype(np.float32), space)
    # For dm_control's float64 actions, Gymnasium casts the float64 range to float32: it overflows.
    with np.errstate(over="ignore"):
        env = gym.wrappers.RescaleAction(env, np.float32(-1.0), np.float32(1.0))
    return _Guard(env, env_id)


def _refuse_unscalable(env_id: str, actions: gym.Space) -> None:
    """Refuses actions that [-1, 1] cannot be mapped to.

    Raises:
        ConfigError: the space is no 1-D Box of floating-point numbers with finite bounds, or its
            scale is not a normal number of its dtype: the mapping would then send inf or NaN.
    """

    def refuse(wanted: str) -> NoReturn:
        raise ConfigError(f"environment {env_id!r}: {wanted}, got {actions}")

    if not isinstance(actions, Box) or len(actions.shape) != 1:
        refuse("MPO needs a 1-D Box of actions")
    if not np.issubdtype(actions.dtype, np.floating):
        refuse("MPO needs floating-point actions")
    if actions.shape == (0,):
        refuse("MPO needs at least one action")
    if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
        refuse("actions must have finite bounds")
    if not (actions.low < actions.high).all():
        refuse("each action's lower bound must be below its upper bound")
    numbers = np.finfo(actions.dtype)
    half = actions.high.astype(np.longdouble) / 2 - actions.low.astype(np.longdouble) / 2
    largest = np.maximum(-actions.low, actions.high)
    if not ((half * numbers.tiny <= 1) & (half * numbers.max >= 1) & (largest < numbers.max)).all():
        refuse(f"actions must have finite bounds whose range {numbers.dtype} can rescale")


def dimensions(observations: gym.Space, actions: gym.Space) -> tuple[int, int]:
    """Returns the observation and action dimensions O and D of an environment from `make_env`."""
    assert isinstance(observations, Box) and isinstance(actions, Box)
    return observations.shape[0], actions.shape[0]


def _make(env_id: str, render_mode: str | None) -> gym.Env:
    try:
        if env_id.startswith("dm_control/"):
            with warnings.catch_warnings():
                # glfw warns if there is no display, but no window is ever opened here.
                warnings.simplefilter("ignore")
                importlib.import_module("shimmy")
        module, _, name = env_id.rpartition(":")
        if module:
            importlib.import_module(module)
        # Refuse an id without a version: `make` would take the newest one, which can change when
        # Gymnasium is upgraded.
        gym.spec(name)
        # Environments that cannot render may not accept the argument.
        options: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        return gym.make(name, disable_env_checker=True, **options)
    except (gym.error.Error, ModuleNotFoundError) as error:
        near = difflib.get_close_matches(env_id, gym.registry, n=5, cutoff=0.4)
        choices = f"; similar ids: {', '.join(near)}" if near else ""
        raise ConfigError(f"environment {env_id!r}: {error}{choices}") from error
