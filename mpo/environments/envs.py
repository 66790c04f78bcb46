"""Environments as the agent sees them: flat float32 observations, actions in [-1, 1].

As in Gymnasium, a time limit sets `truncated`, not `terminated`.
"""

import difflib
import importlib
import warnings
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from mpo.environments.guard import Guard
from mpo.study.config import ConfigError


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
    # For dm_control's float64 actions, Gymnasium casts the float64 range to float32: it overflows.
    with np.errstate(over="ignore"):
        env = gym.wrappers.RescaleAction(env, np.float32(-1.0), np.float32(1.0))
    return Guard(env, env_id)


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
