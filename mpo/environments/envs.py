"""Environments as the agent sees them: flat float32 observations, actions in [-1, 1].

As in Gymnasium, a time limit sets `truncated`, not `terminated`.
"""

import copy
import difflib
import importlib
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from mpo.environments.guard import EnvironmentFailed, Guard, described, shown
from mpo.study.config import ConfigError
from mpo.study.specs import EnvironmentSpec

RENDERERS = ("egl", "osmesa", "glfw")
"""MuJoCo's renderers (MUJOCO_GL); the last one needs a display."""

_RENDERS = re.compile(r"(OpenGL|dm_control\._render|mujoco\.rendering|mujoco\.gl_context)\b")
"""Modules that load renderers."""


def make_env(env: str | EnvironmentSpec, render_mode: str | None = None) -> gym.Env:
    """Makes an environment with flat float32 observations and canonical actions in [-1, 1].

    Args:
        env: a Gymnasium id, `dm_control/domain-task-v0` (through shimmy), or `module:id`, which
            imports the module first; or an id with arguments and wrappers.
        render_mode: Gymnasium's render mode; by default nothing is rendered.

    Returns:
        An environment whose observation space is a float32 Box `[O]` and whose action space is the
        Box [-1, 1] `[D]`, mapped affinely to the environment's own bounds. Its methods raise
        `EnvironmentFailed` if the environment raises or returns something that cannot be used.

    Raises:
        ConfigError: the id is unknown or lacks its version, the environment cannot be made, or a
            space is not supported.
    """
    spec = EnvironmentSpec.model_construct(id=env) if isinstance(env, str) else env
    env_id = spec.name
    with _same_directory():
        made = _wrapped(_make(spec, render_mode), spec)
    with _named(env_id, "reading its spaces"):
        actions, observations = made.action_space, made.observation_space
    _refuse_unscalable(env_id, actions)
    if not isinstance(observations, gym.Space) or not observations.is_np_flattenable:
        text = f"environment {env_id!r}: cannot flatten observations {shown(observations)}"
        raise ConfigError(text)
    with _named(env_id, "wrapping it"):
        # For dm_control's float64 actions, Gymnasium casts the float64 range to float32: it
        # overflows.
        with np.errstate(over="ignore"):
            made = gym.wrappers.RescaleAction(made, np.float32(-1.0), np.float32(1.0))
        return Guard(made, env_id)


def check(env: str | EnvironmentSpec) -> None:
    """Makes an environment, plays its first step, and closes it.

    Whatever it prints goes to stderr: stdout belongs to the program that plans.

    Args:
        env: see `make_env`.

    Raises:
        ConfigError: the environment cannot be made, or fails in this step.
    """
    with stdout_to_stderr(), _same_directory():
        made = make_env(env)
        try:
            made.reset(seed=0)
            made.step(np.zeros(made.action_space.shape or (), np.float32))
            made.close()
        except EnvironmentFailed as error:
            raise ConfigError(str(error)) from error


@contextmanager
def _same_directory() -> Iterator[None]:
    """Goes back to the working directory if an environment leaves it: all paths are relative."""
    before = os.open(".", os.O_RDONLY)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Also holds for what other languages print."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _refuse_unscalable(env_id: str, actions: gym.Space) -> None:
    """Refuses actions that [-1, 1] cannot be mapped to.

    Raises:
        ConfigError: the space is no 1-D Box of floating-point numbers with finite bounds, or its
            scale is not a normal number of its dtype: the mapping would then send inf or NaN.
    """

    def refuse(wanted: str) -> NoReturn:
        raise ConfigError(f"environment {env_id!r}: {wanted}, got {shown(actions)}")

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


def name_of(env: str | EnvironmentSpec) -> str:
    """Returns the environment's name for messages; see `make_env`."""
    return env if isinstance(env, str) else env.name


def dimensions(observations: gym.Space, actions: gym.Space) -> tuple[int, int]:
    """Returns the observation and action dimensions O and D of an environment from `make_env`."""
    assert isinstance(observations, Box) and isinstance(actions, Box)
    return observations.shape[0], actions.shape[0]


def _make(spec: EnvironmentSpec, render_mode: str | None) -> gym.Env:
    env_id = spec.name
    module, _, name = spec.id.rpartition(":")
    if spec.id.startswith("dm_control/"):
        module = "shimmy"
    if module:
        with _named(env_id, f"importing {module!r}"), warnings.catch_warnings():
            if module == "shimmy":
                # glfw warns if there is no display, but no window is ever opened here.
                warnings.simplefilter("ignore")
            importlib.import_module(module)
    # Environments that cannot render may not accept the argument.
    options = spec.kwargs if render_mode is None else spec.kwargs | {"render_mode": render_mode}
    with _named(env_id, "making it"):
        try:
            # Refuse an id without a version: `make` would take the newest one, which can change
            # when Gymnasium is upgraded.
            gym.spec(name)
            # A copy, so that an environment that changes its arguments changes only its own.
            return gym.make(name, disable_env_checker=True, **copy.deepcopy(options))
        except (gym.error.Error, ImportError) as error:
            similar = _similar(name)
            choices = f"; similar ids: {', '.join(similar)}" if similar else ""
            choices = _renderer_hint(error) or choices
            raise ConfigError(f"environment {env_id!r}: {shown(error)}{choices}") from error


def _wrapped(env: gym.Env, spec: EnvironmentSpec) -> gym.Env:
    """Applies the spec's wrappers, the innermost first."""
    for wrapper in spec.wrappers:
        with _named(spec.name, f"wrapping it in {wrapper}"):
            module, _, name = wrapper.partition(":")
            env = getattr(importlib.import_module(module), name)(env)
        if not isinstance(env, gym.Env):
            raise ConfigError(
                f"environment {spec.name!r}: wrapping it in {wrapper} returned {shown(env)}, "
                "expected an environment"
            )
    return env


@contextmanager
def _named(env_id: str, doing: str) -> Iterator[None]:
    """Turns whatever the environment's own code raises into a `ConfigError` with its id."""
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        text = f"environment {env_id!r}: {doing} raised {described(error)}"
        raise ConfigError(text + _renderer_hint(error)) from error


def _renderer_hint(error: BaseException) -> str:
    """Says what to set if loading a renderer of MuJoCo raised the error; otherwise empty.

    MuJoCo and dm_control load a renderer when they are imported, also if nothing is rendered.
    """
    frames = traceback.walk_tb(error.__traceback__)
    if not any(_RENDERS.match(frame.f_globals.get("__name__", "")) for frame, _ in frames):
        return ""
    given, platform = (os.environ.get(name) for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"))
    found = f"MUJOCO_GL is {given!r}" if given else "MUJOCO_GL is not set"
    if platform not in (None, given):
        found += f" and PYOPENGL_PLATFORM is {platform!r}"
    return (
        f"; {found}, and MuJoCo cannot load such a renderer; choose from {', '.join(RENDERERS)}, "
        "leave it unset, or set MUJOCO_GL=off to train without films"
    )


def _similar(name: str) -> list[str]:
    """Returns the registered ids that are most like `name`, each in its newest version."""
    newest: dict[tuple[str | None, str], EnvSpec] = {}
    for spec in gym.registry.values():
        known = newest.setdefault((spec.namespace, spec.name), spec)
        if (spec.version or 0) > (known.version or 0):
            newest[spec.namespace, spec.name] = spec
    ids = [spec.id for spec in newest.values() if spec.id != name]
    return difflib.get_close_matches(name, ids, n=5, cutoff=0.4)
