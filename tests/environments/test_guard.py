"""What an environment of any kind may answer, and how the rest is refused."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from mpo.environments.envs import make_env
from mpo.study.config import ConfigError
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
        (Box(0, 1e-45, (1,), np.float32), "finite bounds"),
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
