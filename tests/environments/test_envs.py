import contextlib
import os
import re
import termios

import numpy as np
import pytest

from mpo.environments.envs import make_env
from mpo.environments.episodes import EpisodeStream
from mpo.environments.guard import EnvironmentFailed
from mpo.seeding import FIRST_FINAL_SEED, FIRST_ONLINE_SEED, episode_seed, numpy_generator
from mpo.study.config import ConfigError
from tests import (
    probes,  # noqa: F401 (registers the environments)
    processes,
)


@pytest.mark.parametrize(
    ("env_id", "obs_dim", "action_dim"),
    [
        ("Pendulum-v1", 3, 1),
        ("Reacher-v5", 10, 2),
        ("dm_control/reacher-easy-v0", 6, 2),
        ("probe/Copy-v0", 2, 2),
        ("tests.probes:probe/Copy-v0", 2, 2),
    ],
)
def test_observations_are_flat_floats_and_actions_canonical(env_id, obs_dim, action_dim):
    env = make_env(env_id)
    obs, _ = env.reset(seed=1)
    assert obs.shape == (obs_dim,) and obs.dtype == np.float32
    assert env.observation_space.shape == (obs_dim,)
    assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()
    assert env.action_space.shape == (action_dim,)
    obs, *_ = env.step(np.ones(action_dim, np.float32))
    assert obs.shape == (obs_dim,) and obs.dtype == np.float32


def test_actions_are_rescaled_to_the_environments_bounds():
    env = make_env("probe/Rescaled-v0")  # bounds 0 and 10, best action 7.5
    for action, distance in ((-1.0, 7.5), (1.0, 2.5), (0.5, 0.0)):
        env.reset(seed=0)
        reward = env.step(np.array([action], np.float32))[1]
        assert reward == pytest.approx(-((distance / 5) ** 2), abs=1e-6)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Pendulm-v1", "'Pendulm-v1'.*Pendulum-v1"),
        ("Pendulum", "similar ids: Pendulum-v1"),
        ("Pendulum-v9", "Pendulum-v1"),
        ("dm_control/cartpole-swingpu-v0", "dm_control/cartpole-swingup-v0"),
        ("no_such_module:Some-v0", "no_such_module"),
        ("CartPole-v1", "1-D Box of actions, got Discrete"),
        ("probe/Discrete-v0", "1-D Box of actions, got Discrete"),
        ("probe/Unbounded-v0", "actions must have finite bounds"),
        ("probe/Matrix-v0", "1-D Box of actions"),
        ("probe/Sequence-v0", "cannot flatten observations"),
    ],
)
def test_an_environment_that_does_not_fit_is_named_with_the_choices(env_id, message):
    with pytest.raises(ConfigError, match=message):
        make_env(env_id)


def test_a_time_limit_truncates_and_does_not_terminate():
    env = make_env("dm_control/reacher-easy-v0")
    env.reset(seed=0)
    steps = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(1000)]
    assert steps[-1] == (False, True) and not any(a or b for a, b in steps[:-1])


def test_training_and_evaluation_seeds_never_meet():
    training = {episode_seed(seed, n) for seed in (0, 1, 2**32 - 1) for n in range(500)}
    assert len(training) == 1500
    assert max(training) < FIRST_ONLINE_SEED
    assert FIRST_FINAL_SEED - FIRST_ONLINE_SEED > 1000 and FIRST_FINAL_SEED + 1000 < 2**32


def test_streams_of_a_seed_are_independent_and_repeatable():
    draws = {
        (seed, name): numpy_generator(seed, name).standard_normal(3).tolist()
        for seed in (0, 1)
        for name in ("act", "noise")
    }
    assert len({tuple(v) for v in draws.values()}) == 4
    assert draws[0, "act"] == numpy_generator(0, "act").standard_normal(3).tolist()


def test_an_episode_stream_counts_and_restarts():
    stream = EpisodeStream(make_env("probe/Terminating-v0"), seed=0)
    for _ in range(7):  # three steps an episode
        step = stream.step(np.zeros(1, np.float32))
        stream.advance(step)
    assert stream.take_finished() == [(3.0, 3), (3.0, 3)]
    assert stream.take_finished() == []


def test_the_nth_episode_starts_alike_whatever_came_before():
    first, second = (EpisodeStream(make_env("Pendulum-v1"), seed=3) for _ in range(2))
    for stream, action in ((first, -1.0), (second, 1.0)):
        for _ in range(200):
            stream.advance(stream.step(np.array([action], np.float32)))
    assert np.array_equal(first.obs, second.obs)


@pytest.mark.parametrize("env_id", ["Reacher-v5", "InvertedDoublePendulum-v5", "Pendulum-v1"])
def test_a_stream_goes_on_from_the_middle_of_an_episode(env_id):
    def play(stream, generator, steps):
        seen = []
        for _ in range(steps):
            action = generator.uniform(-1, 1, stream._env.action_space.shape).astype(np.float32)
            step = stream.step(action)
            seen.append((stream.obs.tolist(), step.reward))
            stream.advance(step)
        return seen

    generator = np.random.default_rng(0)
    first = EpisodeStream(make_env(env_id), seed=3)
    play(first, generator, 73)
    other = EpisodeStream(make_env(env_id), seed=3)
    other.load_state_dict(first.state_dict())
    again = np.random.default_rng(1), np.random.default_rng(1)
    assert play(first, again[0], 300) == play(other, again[1], 300)
    assert first.take_finished() == other.take_finished()


def test_an_environment_that_does_not_repeat_itself_is_named_and_starts_anew(caplog):
    first = EpisodeStream(make_env("probe/Fickle-v0"), seed=3)
    for _ in range(4):
        first.advance(first.step(np.zeros(1, np.float32)))
    other = EpisodeStream(make_env("probe/Fickle-v0"), seed=3)
    other.load_state_dict(first.state_dict())
    assert "probe/Fickle-v0 does not reproduce an episode" in caplog.text
    assert other.state_dict()["started"] == 2 and len(other.state_dict()["actions"]) == 0


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("probe/Broken-v0", "environment 'probe/Broken-v0', step 7 of an episode: reward is nan"),
        ("probe/Raising-v0", "step 3 of an episode: step raised ZeroDivisionError: a sensor"),
        ("probe/Blind-v0", r"step 2 of an episode: observation is \[inf\]"),
    ],
)
def test_a_failure_names_the_environment_and_the_step(env_id, message):
    env = make_env(env_id)
    env.reset(seed=0)
    with pytest.raises(EnvironmentFailed, match=message):
        for _ in range(9):
            env.step(np.zeros(1, np.float32))


def test_a_reward_that_single_precision_cannot_hold_is_refused(monkeypatch):
    env = make_env("Pendulum-v1")
    env.reset(seed=0)

    def step(reward):
        answer = np.zeros(3), reward, False, False, {}
        monkeypatch.setattr(env.unwrapped, "step", lambda action: answer)
        return env.step(np.zeros(1, np.float32))[1]

    assert step(-1e38) == -1e38
    with pytest.raises(EnvironmentFailed, match=r"reward is 1e\+39"):
        step(1e39)


def test_a_training_in_dm_control_prints_each_line_once(tmp_path):
    """dm_control logs with absl, which would print every log line to stderr a second time."""
    spec = processes.run_spec("dm_control/reacher-easy-v0", update_after=1000)
    lines = processes.finish(processes.train(tmp_path, spec, 100)).splitlines()
    assert lines and len(set(lines)) == len(lines)
    assert not [line for line in lines if re.search("INFO|Warning", line)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "code", "shown"),
    [
        ("dm_control/reacher-easy-v0", 0, r"100%\|.*\| 100/100 "),
        ("tests.probes:probe/Raising-v0", 1, r"failed: .*probe/Raising-v0"),
    ],
    ids=["a bar", "a failure"],
)
def test_on_a_terminal_a_training_shows(tmp_path, env_id, code, shown):
    reading, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    spec = processes.run_spec(env_id, update_after=1000)
    process = processes.train(tmp_path, spec, 100, log=False, output=terminal)
    os.close(terminal)
    pieces = []
    with contextlib.suppress(OSError):  # a terminal signals its end by an error
        while piece := os.read(reading, 4096):
            pieces.append(piece)
    os.close(reading)
    assert process.wait() == code
    text = b"".join(pieces).decode()
    assert re.search(shown, text) and "INFO" not in text, text
