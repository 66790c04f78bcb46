"""Records a video of an evaluation episode, exactly as the run's final policy was scored."""

import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import gymnasium as gym
import numpy as np
import pyarrow.parquet as pq

from mpo.environments import fingerprint
from mpo.environments.envs import RENDERERS, make_env
from mpo.environments.rollouts import MAX_PARALLEL, SideBySide
from mpo.jobs.camera import CODECS, Camera
from mpo.jobs.snapshots import actor, play
from mpo.seeding import FIRST_FINAL_SEED
from mpo.study.checksums import intact, read_evaluation, read_run, reading
from mpo.study.config import ConfigError, JobFailed
from mpo.study.files import EVALUATION_COST, EVALUATIONS, POLICIES, RUN, replacing
from mpo.study.specs import EnvironmentSpec
from mpo.training.artifacts import read_policies

logger = logging.getLogger(__name__)

MAX_FRAMES = 2000
"""Longest video; the episode itself is always played to its end."""

_PROBE = """
import mujoco
context = mujoco.GLContext(8, 8)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100).free()
context.free()
"""


class Film(NamedTuple):
    """The recorded episode."""

    episode_return: float
    """Undiscounted sum of rewards over the whole episode."""
    length: int
    """Environment steps."""
    frames: int
    """Number of frames: one before each step and one at the end, at most `MAX_FRAMES`."""


def record(run_directory: Path, output: Path, episode: int = 0) -> Film:
    """Records a video of an episode of the final evaluation with the mean action.

    Sets MUJOCO_GL if it is unset, which has an effect only before mujoco is imported. Call it with
    the thread settings of evaluation: one thread, denormal numbers flushed.

    Args:
        run_directory: directory of a trained run.
        output: an .mp4 or .gif file; a GIF has at most 50 frames per second and skips the others.
        episode: index of the episode, from 0.

    Returns:
        The recorded episode; its return equals that of the evaluation.

    Raises:
        ConfigError: there is no such run or episode, or the suffix is unknown.
        JobFailed: no renderer here works for the environment.
        EnvironmentChanged: the run was trained in another version of the environment.
        Damaged: a file of the run cannot be read, or its job did not write it.
    """
    _refuse(run_directory, output, episode)
    run, spec = read_run(run_directory)
    _, state = read_policies(intact(run_directory / POLICIES, run))[-1]
    row, rows, length = _place(run_directory, run, episode)

    renderer = _choose_renderer()
    with _rendering(spec.env_name, renderer):
        env = _environment(run_directory, run, spec.environment)
    seeds = [FIRST_FINAL_SEED + episode]
    with closing(SideBySide([env])) as envs, replacing(output) as temporary:
        policy = actor(spec, state, envs)
        rate = _frame_rate(env, spec.env_id)
        with av.open(temporary, "w", format=output.suffix.removeprefix(".")) as container:
            camera = Camera(container, output.suffix, rate)

            def shoot() -> None:
                if camera.frames < MAX_FRAMES:
                    with _rendering(spec.env_name, renderer):
                        image = _image(env)
                    camera.write(image)

            def act(obs: np.ndarray) -> np.ndarray:
                shoot()
                group = np.zeros((rows, *obs.shape[1:]), obs.dtype)
                group[row] = obs[0]
                return policy(group)[row : row + 1]

            played = play(spec.env_name, envs, act, seeds, length, run["total_steps"])
            shoot()
            camera.finish()
    film = Film(float(played.returns[0]), int(played.lengths[0]), camera.frames)
    if film.frames <= film.length:
        logger.warning(
            "%s ends after %d frames; the episode took %d steps", output, film.frames, film.length
        )
    return film


def _refuse(run_directory: Path, output: Path, episode: int) -> None:
    """Checks the arguments of `record`; raises its `ConfigError`."""
    if output.suffix not in CODECS:
        choices = ", ".join(CODECS)
        raise ConfigError(f"{output}: unknown suffix {output.suffix!r}; choose from {choices}")
    if episode < 0:
        raise ConfigError(f"episode: expected 0 or more, received {episode}")
    missing = [name for name in (RUN, POLICIES) if not (run_directory / name).exists()]
    if missing:
        raise ConfigError(f"{run_directory} is not a trained run: it lacks {', '.join(missing)}")


def _environment(
    run_directory: Path, run: Mapping[str, Any], environment: EnvironmentSpec
) -> gym.Env:
    """Makes the environment; it must be what it was when the run was trained."""
    fingerprint.refuse_change(
        run.get("environment"),
        fingerprint.present(environment),
        f"the training in {run_directory}",
        f"Delete {run_directory} to train again, or film it with that version",
    )
    return make_env(environment, render_mode="rgb_array")


class _Scored(NamedTuple):
    """How evaluation plays an episode."""

    row: int
    """The episode's row in the group that is played at once."""
    rows: int
    """The group's size."""
    length: int | None
    """Environment steps, if the episode has been evaluated. It may have been cut off after them."""


def _place(run_directory: Path, run: Mapping[str, Any], episode: int) -> _Scored:
    """Returns how evaluation plays an episode.

    A network rounds by the row and the number of rows, and one rounding soon makes another episode.
    """
    start = episode - episode % MAX_PARALLEL
    played, length = start + MAX_PARALLEL, None
    path = run_directory / EVALUATIONS
    if path.exists():
        known = (run_directory / EVALUATION_COST).exists()
        intact(path, read_evaluation(run_directory, run) if known else {})
        filters = [("phase", "==", "final"), ("policy", "==", "mode")]
        with reading(path):
            scored = pq.read_table(path, columns=["length"], filters=filters)
        if episode < scored.num_rows:
            played = min(played, scored.num_rows)
            length = scored["length"][episode].as_py()
    return _Scored(episode - start, played - start, length)


def _choose_renderer() -> str:
    """Sets MUJOCO_GL to the first renderer that works, unless it is already set.

    Each renderer is tried in its own process, because a failed one can break the next.

    Returns:
        A text on the renderer, for error messages if rendering fails after all.
    """
    # Otherwise pygame looks for a display, and complains, even if it only draws into memory.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    given = os.environ.get("MUJOCO_GL")
    if given:
        return f"MUJOCO_GL is {given!r}; choose from {', '.join(RENDERERS)}, or leave it unset"
    failed = []
    for name in RENDERERS:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": name},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return f"MuJoCo renders with {name}"
        reason = (done.stderr.strip() or "it crashed").splitlines()[-1]
        failed.append(f"{name} ({textwrap.shorten(reason, 80)})")
    return (
        f"MuJoCo cannot render with any of {', '.join(failed)}; install a GPU driver, or the "
        "Debian packages libegl1 and libgl1, or libosmesa6"
    )


@contextmanager
def _rendering(env_id: str, renderer: str) -> Iterator[None]:
    """Turns errors from making or rendering an environment into `JobFailed`, with a remedy."""
    try:
        yield
    except JobFailed:
        raise
    except Exception as error:
        # What an environment raises while it is made comes as the cause of a `ConfigError`.
        cause = error.__cause__ if isinstance(error, ConfigError) else error
        if cause is None or isinstance(cause, gym.error.Error):
            raise  # no such environment
        text = f"cannot render {env_id!r}: {type(cause).__name__}: {cause}; {renderer}"
        raise JobFailed(text) from error


def _image(env: gym.Env) -> np.ndarray:
    image = env.render()
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.dtype != np.uint8:
        raise TypeError(f"expected an image of bytes [height, width, 3], got {type(image)}")
    return image


def _frame_rate(env: gym.Env, env_id: str) -> Fraction:
    """Frames per second at which the episode plays in real time."""
    # Shimmy's `render_fps` is wrong: it is the milliseconds between two steps.
    shimmy = env_id.startswith("dm_control/")
    rate = 1 / env.get_wrapper_attr("dt") if shimmy else env.metadata.get("render_fps") or 30
    return Fraction(rate).limit_denominator(1000)
