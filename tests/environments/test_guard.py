"""What an environment of any kind may answer, and how the rest is refused."""

import re
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict

from mpo.environments.envs import make_env
from mpo.environments.guard import EnvironmentFailed
from mpo.study.config import ConfigError
from mpo.training.signals import Interrupted, stopped_at_once
from tests import probes


def told(monkeypatch, **answers):
    """The environment probe/Told-v0 with other answers or spaces."""
    monkeypatch.setitem(gym.registry["probe/Told-v0"].kwargs, "obs", (0.0, 0.0))
    for name, value in answers.items():
        monkeypatch.setitem(gym.registry["probe/Told-v0"].kwargs, name, value)
    return make_env("probe/Told-v0")


EXTREME = np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Box(0, 10, (1,), np.int64), "floating-point actions, got Box"),
        (Box(0, 255, (2,), np.uint8), "floating-point actions, got Box"),
        (Box(-EXTREME, EXTREME, (1,), np.float32), "finite bounds"),
        (Box(0, EXTREME, (1,), np.float32), "finite bounds"),
        (Box(-1.5e38, 1.5e38, (1,), np.float32), "finite bounds"),
        (Box(-np.finfo(np.float64).max, 0, (1,), np.float64), "finite bounds"),
        (Box(-65504, 65504, (1,), np.float16), "finite bounds"),
        # Where a training ran in the process, so small a number is taken for 0.
        (Box(0, 1e-45, (1,), np.float32), "(finite bounds|below its upper bound)"),
        (Box(np.array([-1, -EXTREME]), np.array([1, EXTREME]), dtype=np.float32), "finite bounds"),
        (Box(-1, 1, (0,)), "at least one action"),
        (Box(-1, 1, ()), "1-D Box"),
    ],
    ids=str,
)
def test_actions_that_cannot_be_rescaled_are_refused(monkeypatch, space, message):
    with pytest.raises(ConfigError, match=f"'probe/Told-v0'.*{message}"):
        told(monkeypatch, action_space=space)


@pytest.mark.parametrize(
    "space",
    [
        Box(-1, 1, (1,)),
        Box(-1e30, 1e30, (1,), np.float32),
        Box(0, 1e-30, (1,), np.float32),
        Box(-1e300, 1e300, (1,), np.float64),
        Box(-2, 3, (2,), np.float16),
    ],
    ids=str,
)
def test_the_ends_of_canonical_actions_are_the_environments_bounds(monkeypatch, space):
    env = told(monkeypatch, action_space=space)
    env.reset(seed=0)
    for end, bound in ((-1, space.low), (1, space.high)):
        env.step(np.full(space.shape, end, np.float32))
        assert env.unwrapped.action == pytest.approx(bound, rel=1e-3)
    assert isinstance(env.unwrapped, probes.Told)


def failure(monkeypatch, **answers):
    """The message with which reset or the first step of the told environment is refused."""
    env = told(monkeypatch, **answers)
    with pytest.raises(EnvironmentFailed) as raised:
        env.reset(seed=0)
        env.step(np.zeros(1, np.float32))
    return str(raised.value)


AT_STEP_1 = "environment 'probe/Told-v0', step 1 of an episode: "


@pytest.mark.parametrize(
    "reward",
    [
        *(2, 2.0, np.float32(2), np.float16(2), np.int8(2), np.longdouble(2)),
        *(np.array(2.0), np.array([2.0]), np.array([[2]], np.int64), torch.tensor(2.0)),
    ],
    ids=repr,
)
def test_a_reward_is_one_number_of_any_real_type(monkeypatch, reward):
    env = told(monkeypatch, reward=reward)
    env.reset(seed=0)
    found = env.step(np.zeros(1, np.float32))[1]
    assert type(found) is float and found == 2.0


@pytest.mark.parametrize(
    "reward",
    [
        *(None, True, np.True_, "1.0", 1j, [], {}, (1.0, 2.0), 10**400, np.array(["1"])),
        *(np.float16(np.inf), np.float32(-np.inf), np.array([np.nan]), np.longdouble("1e4000")),
        *(np.zeros(2), np.zeros(0), np.array([True]), np.array([None])),
    ],
    ids=repr,
)
def test_any_other_reward_is_refused_with_its_value(monkeypatch, reward):
    message = failure(monkeypatch, reward=reward)
    assert message.startswith(f"{AT_STEP_1}reward is {reward}")


@pytest.mark.parametrize(
    "obs",
    [
        *([0.5, 1], np.array([0.5, 1], np.float16), np.array([0.5, 1], np.longdouble)),
        torch.tensor([0.5, 1]),
    ],
    ids=repr,
)
def test_observations_of_any_real_type_become_float32(monkeypatch, obs):
    env = told(monkeypatch, obs=obs)
    for found in (env.reset(seed=0)[0], env.step(np.zeros(1, np.float32))[0]):
        assert found.dtype == np.float32 and found.tolist() == [0.5, 1]


def test_observations_are_copies(monkeypatch):
    env = told(monkeypatch, obs=np.zeros(2, np.float32))
    first, _ = env.reset(seed=0)
    env.unwrapped.obs[:] = 1
    assert first.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros(3), r"observation has the shape (3,), expected (2,)"),
        (np.zeros((1, 2)), "observation has the shape (1, 2), expected (2,)"),
        (np.float64(0), "observation has the shape (), expected (2,)"),
        (None, "observation is None of type NoneType"),
        ("ab", "observation is ab of type str"),
        (["1", "2"], "observation is ['1', '2'] of type list"),
        ([[1], [1, 2]], "observation is [[1], [1, 2]] of type list"),
        ({"x": 1.0}, "observation is {'x': 1.0} of type dict"),
        (np.array([None, 1.0]), "observation is [None 1.0] of type ndarray"),
        (np.array([1j, 1.0]), "observation is [0.+1.j 1.+0.j] of type ndarray"),
        (np.array([1.0, np.inf], np.float16), "observation is [ 1. inf]"),
        (np.array([1.0, 1e39]), "observation is [ 1. inf]"),
        ([np.nan, 1.0], "observation is [nan  1.]"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.filterwarnings("error")
def test_any_other_observation_is_refused_with_what_it_is(monkeypatch, obs, message, step):
    first = obs if step == 0 else np.zeros(2)
    found = failure(monkeypatch, first=first, obs=obs)
    assert found.startswith(f"environment 'probe/Told-v0', step {step} of an episode: {message}")


class Speechless:
    """Its text cannot be had."""

    def __str__(self):
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"obs": ["x" * 9999]}, "observation is ['xxxx"),
        ({"reward": "x" * 9999}, "reward is xxxx"),
        ({"reward": Speechless()}, "reward is a Speechless whose text raised ValueError of type"),
        ({"over": Speechless()}, "terminated is a Speechless whose text raised ValueError of"),
    ],
)
def test_messages_are_short_whatever_an_environment_answers(monkeypatch, answers, message):
    found = failure(monkeypatch, first=np.zeros(2), **answers)
    assert found.startswith(AT_STEP_1 + message) and len(found) < 1200


def test_an_observation_that_cannot_be_flattened_is_refused(monkeypatch):
    space = Dict({"x": Box(-1, 1, (1,)), "y": Box(-1, 1, (1,))})
    found = failure(monkeypatch, observation_space=space, obs={"x": np.zeros(1)})
    assert "step 0 of an episode: observation {'x': array([0.])} does not fit Dict('x'" in found
    assert found.endswith("KeyError: 'y'")


@pytest.mark.parametrize("over", [True, np.True_, 1, np.array(True), np.array([True])], ids=repr)
def test_an_end_of_episode_is_a_truth_value(monkeypatch, over):
    env = told(monkeypatch, over=over)
    env.reset(seed=0)
    assert env.step(np.zeros(1, np.float32))[2] is True


@pytest.mark.parametrize("over", [None, "yes", 2, np.nan, np.zeros(2, bool), []], ids=repr)
def test_any_other_end_of_episode_is_refused(monkeypatch, over):
    assert failure(monkeypatch, over=over).startswith(f"{AT_STEP_1}terminated is {over}")


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("step", (np.zeros(2), 1.0, False, {}), "step raised ValueError: not enough values"),
        ("step", None, "step raised TypeError: cannot unpack"),
        ("reset", np.zeros(2), "reset returned [0. 0.], expected (observation, info)"),
        ("reset", None, "reset returned None, expected (observation, info)"),
    ],
)
def test_an_answer_of_the_old_interface_is_refused(monkeypatch, method, answer, message):
    env = told(monkeypatch)
    monkeypatch.setattr(env.unwrapped, method, lambda *args, **options: answer)
    with pytest.raises(EnvironmentFailed, match="'probe/Told-v0'.*" + re.escape(message)):
        env.reset(seed=0)
        env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize("method", ["reset", "step", "close"])
@pytest.mark.parametrize("error", [SystemExit(0), KeyError("gone"), RuntimeError()], ids=repr)
def test_a_call_that_raises_is_named(monkeypatch, method, error):
    env = told(monkeypatch)

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(env.unwrapped, method, fail)
    with pytest.raises(EnvironmentFailed, match="environment 'probe/Told-v0', step .") as raised:
        env.reset(seed=0)
        env.step(np.zeros(1, np.float32))
        env.close()
    assert f"{method} raised {type(error).__name__}: {error}" in str(raised.value)


def test_a_signal_during_a_step_stops_the_job_and_is_no_failure(monkeypatch):
    env = told(monkeypatch)
    env.reset(seed=0)
    monkeypatch.setattr(env.unwrapped, "step", lambda action: signal.raise_signal(signal.SIGTERM))
    with stopped_at_once(), pytest.raises(Interrupted, match="SIGTERM"):
        env.step(np.zeros(1, np.float32))
