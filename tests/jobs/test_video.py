import json
import os
import subprocess
import sys
from fractions import Fraction

import av
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from mpo.algorithm.policies import GaussianPolicy
from mpo.environments.envs import dimensions, make_env
from mpo.jobs.evaluate import evaluate
from mpo.jobs.video import _choose_renderer, record
from mpo.study import files
from mpo.study.config import ConfigError, JobFailed
from mpo.study.hyperparameters import Training
from mpo.study.specs import EvaluationSpec, RunSpec
from mpo.training.artifacts import read_policies, write_policies, write_rows
from tests.cases import first_of
from tests.requirements import go_without

FILM = """
import pathlib, sys, torch
from mpo.jobs import video
torch.set_num_threads(1)
video.MAX_FRAMES = 60
print(*video.record(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))
"""


@pytest.fixture(autouse=True)
def renderer(monkeypatch):
    """Sets a renderer, or the choice made for one test would stay for the next.

    Pendulum needs none.
    """
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def spec(env_id):
    training = Training(
        policy_layer_sizes=(64, 64),
        critic_layer_sizes=(8,),
        replay_size=9,
        update_after=1,
        batch_size=1,
    )
    return RunSpec(env_id=env_id, seed=0, training=training, snapshot_interval=1, log_interval=1)


def run(path, env_id):
    """Writes a run whose last policy acts far from zero; its first snapshot is a different one."""
    env = make_env(env_id)
    sizes = dimensions(env.observation_space, env.action_space)
    states = []
    for seed in (1, 0):
        generator = torch.Generator().manual_seed(seed)
        network = GaussianPolicy(*sizes, (64, 64), 0.5, [generator])
        network.head.weight.data.normal_(generator=generator)
        states.append(network.state_dict())
    write_policies(path / files.POLICIES, [0, 1], states)
    content = {"spec": spec(env_id).model_dump(mode="json"), "total_steps": 1}
    (path / files.RUN).write_text(json.dumps(content))
    return path


def scores(path, env_id, episodes, cap=None):
    """Evaluates the mean action; returns (return, length) per episode and writes the table."""
    config = EvaluationSpec(online_episodes=1, final_episodes=episodes, max_episode_steps=cap)
    rows = evaluate(spec(env_id), read_policies(path / files.POLICIES), config, 1)
    write_rows(path / files.EVALUATIONS, rows)
    final = [row for row in rows if (row["phase"], row["policy"]) == ("final", "mode")]
    return [(row["return"], row["length"]) for row in final]


def watch(path):
    """Returns the images of a film [F, height, width, 3] and its frame rate in Hz."""
    with av.open(path) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(images), len(images) / (container.duration / av.time_base)


def film_apart(path, output, **environment):
    """Films in a new process, since a process keeps the renderer that it has chosen."""
    unset = {"MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY"}
    kept = {key: value for key, value in os.environ.items() if key not in unset}
    command = [sys.executable, "-c", FILM, str(path), str(output)]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True)


def test_a_film_ends_where_evaluation_cut_the_episode_off(tmp_path):
    directory = run(tmp_path, "Pendulum-v1")
    played = scores(directory, "Pendulum-v1", 2, cap=30)
    film = record(directory, tmp_path / "episode.gif", episode=1)
    assert (film.episode_return, film.length, film.frames) == (*played[1], 31)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", first_of([".gif", ".mp4"]))
def test_a_film_shows_the_episode_that_was_scored(tmp_path, suffix):
    directory = run(tmp_path, "Pendulum-v1")
    played = scores(directory, "Pendulum-v1", 12)
    output = tmp_path / "films" / f"episode{suffix}"
    film = record(directory, output, episode=11)
    assert (film.episode_return, film.length, film.frames) == (*played[11], 201)
    images, rate = watch(output)
    assert images.shape == (201, 500, 500, 3)
    assert rate == pytest.approx(30, rel=0.01)
    changes = np.abs(np.diff(images.astype(int), axis=0)).max(axis=(1, 2, 3))
    assert (changes > 50).mean() > 0.5
    # The arm is red on white ground.
    assert images[0, 0, 0].min() > 250
    red = (images[..., 0] > 180) & (images[..., 1:].max(axis=-1) < 140)
    assert red.any(axis=(1, 2)).all()
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize("episodes", [1, 3, 10])
def test_the_return_is_the_evaluations_own_whatever_the_group(tmp_path, monkeypatch, episodes):
    monkeypatch.setattr("mpo.jobs.video.MAX_FRAMES", 2)
    directory = run(tmp_path, "Pendulum-v1")
    played = scores(directory, "Pendulum-v1", episodes)
    for episode in {0, episodes - 1}:
        film = record(directory, tmp_path / "film.gif", episode)
        assert (film.episode_return, film.length) == played[episode]


def test_a_gif_skips_images_that_viewers_would_show_too_slowly(tmp_path, monkeypatch):
    monkeypatch.setattr("mpo.jobs.video._frame_rate", lambda *_: Fraction(125))
    film = record(run(tmp_path, "Pendulum-v1"), tmp_path / "film.gif")
    images, rate = watch(tmp_path / "film.gif")
    assert film.frames == 201 and len(images) == pytest.approx(201 * 50 / 125, abs=1)
    assert rate == pytest.approx(50, rel=0.02)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_images_of_an_odd_size_get_an_edge(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("mpo.jobs.video._image", lambda _: np.full((65, 47, 3), 200, np.uint8))
    record(run(tmp_path, "Pendulum-v1"), tmp_path / f"film{suffix}")
    images, _ = watch(tmp_path / f"film{suffix}")
    assert images.shape == (201, 66, 48, 3)
    assert np.abs(images[:, :60, :40].astype(int) - 200).max() < 5


def test_a_long_episode_is_filmed_in_part_and_scored_in_full(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("mpo.jobs.video.MAX_FRAMES", 60)
    directory = run(tmp_path, "Pendulum-v1")
    film = record(directory, tmp_path / "film.gif")
    assert (film.length, film.frames) == (200, 60)
    assert len(watch(tmp_path / "film.gif")[0]) == 60
    assert "film.gif ends after 60 frames; the episode took 200 steps" in caplog.text


@pytest.mark.parametrize(
    ("env_id", "size", "rate"),
    first_of([("Reacher-v5", (480, 480), 50), ("dm_control/cartpole-balance-v0", (240, 320), 100)]),
)
def test_mujoco_renders_without_a_display_or_says_what_is_missing(tmp_path, env_id, size, rate):
    directory = run(tmp_path, env_id)
    ((score, length),) = scores(directory, env_id, 1)
    done = film_apart(directory, tmp_path / "film.mp4")
    if done.returncode:
        assert "mpo.study.config.JobFailed: cannot render" in done.stderr
        assert "Debian packages libegl1 and libgl1, or libosmesa6" in done.stderr
        go_without("renderer", done.stderr.splitlines()[-1])
    shown = done.stdout.split()
    assert [float(shown[0]), int(shown[1])] == [score, length]
    images, shown_rate = watch(tmp_path / "film.mp4")
    assert images.shape == (min(length + 1, 60), *size, 3)
    assert shown_rate == pytest.approx(rate, rel=0.01)
    assert images[0].std() > 10 and (images[0] != images[-1]).any()


@pytest.mark.slow
def test_a_renderer_that_does_not_exist_is_named_with_the_choices(tmp_path):
    directory = run(tmp_path, "Reacher-v5")
    done = film_apart(directory, tmp_path / "film.mp4", MUJOCO_GL="nonsense")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mpo.study.config.JobFailed: cannot render 'Reacher-v5': ")
    assert "MUJOCO_GL is 'nonsense'; choose from egl, osmesa, glfw, or leave it unset" in last
    assert not (tmp_path / "film.mp4").exists()


def test_where_no_renderer_works_each_is_named_with_its_reason_and_the_cure(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr("mpo.jobs.video._PROBE", "raise RuntimeError('no driver')")
    text = _choose_renderer()
    assert (
        "with any of egl (RuntimeError: no driver), osmesa (RuntimeError: no driver), glfw" in text
    )
    assert "Debian packages libegl1 and libgl1, or libosmesa6" in text
    assert not os.environ["MUJOCO_GL"]


class Unseen(gym.Env):
    """Cannot render."""

    observation_space = action_space = Box(-1, 1, (1,), np.float32)


gym.register("probe/Unseen-v0", Unseen)


def test_an_environment_that_cannot_render_is_named(tmp_path):
    directory = run(tmp_path, "probe/Unseen-v0")
    with pytest.raises(
        JobFailed, match="cannot render 'probe/Unseen-v0': TypeError: .*render_mode"
    ):
        record(directory, tmp_path / "film.mp4")


def test_a_wrong_request_is_named(tmp_path):
    with pytest.raises(
        ConfigError, match=r"film.avi: unknown suffix '.avi'; choose from .gif, .mp4"
    ):
        record(tmp_path, tmp_path / "film.avi")
    with pytest.raises(ConfigError, match=r"not a trained run: it lacks run.json, policies.pt"):
        record(tmp_path, tmp_path / "film.mp4")
    (tmp_path / files.RUN).write_text("{}")
    with pytest.raises(ConfigError, match=r"not a trained run: it lacks policies.pt"):
        record(tmp_path, tmp_path / "film.mp4")
    with pytest.raises(ConfigError, match="episode: expected 0 or more, received -1"):
        record(tmp_path, tmp_path / "film.mp4", -1)
