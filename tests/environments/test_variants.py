"""What arguments and wrappers do to an environment, and where in the stack the wrappers are."""

import gymnasium as gym
import numpy as np
import pytest

from mpo.environments.envs import check, make_env
from mpo.environments.fingerprint import fingerprint
from mpo.study.config import ConfigError
from mpo.study.specs import EnvironmentSpec
from tests import probes


class Doubled(gym.RewardWrapper):
    """Doubles rewards."""

    def reward(self, reward):
        return 2 * reward


class Noted(gym.Wrapper):
    """Notes the actions that reach it, and the observation space below it."""

    def step(self, action):
        self.action = action
        return self.env.step(action)


def broken(env):
    raise ValueError("no such sensor")


def variant(env_id="probe/Clock-v0", kwargs=None, wrappers=()):
    names = [f"tests.environments.test_variants:{name}" for name in wrappers]
    return EnvironmentSpec(id=env_id, kwargs=kwargs or {}, wrappers=names)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(gym.registry, "probe/Clock-v0", gym.spec("probe/Eternal-v0"))


def play(env):
    env.reset(seed=0)
    steps = 0
    while True:
        steps += 1
        _, reward, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        if terminated or truncated:
            return steps, reward


def test_arguments_reach_the_constructor():
    assert play(make_env(variant(kwargs={"length": 7}))) == (7, 1.0)
    assert play(make_env(variant(kwargs={"max_episode_steps": 4}))) == (4, 1.0)


def test_wrappers_are_applied_in_order_below_the_rescaling_and_above_the_environment():
    spec = variant("probe/Rescaled-v0", wrappers=["Noted", "Doubled"])
    env = make_env(spec)
    env.reset(seed=0)
    reward = env.step(np.ones(1, np.float32))[1]
    assert reward == pytest.approx(2 * -((2.5 / 5) ** 2))
    names = [type(layer).__name__ for layer in layers(env)]
    assert names.index("RescaleAction") < names.index("Doubled") < names.index("Noted")
    assert names.index("Noted") < names.index("TimeLimit") < names.index("Target")
    noted = next(layer for layer in layers(env) if isinstance(layer, Noted))
    assert noted.action == pytest.approx(10.0)  # in the environment's own units


def layers(env):
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def test_a_wrapper_may_make_an_environment_fit():
    flat = EnvironmentSpec(id="probe/Copy-v0", wrappers=["gymnasium.wrappers:FlattenObservation"])
    assert make_env(flat).observation_space.shape == (2,)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (variant(kwargs={"size": 3}), "'probe.Clock-v0_size-3': making it raised TypeError.*size"),
        (
            variant(wrappers=["broken"]),
            "Clock-v0_broken': wrapping it in .*:broken raised ValueErr",
        ),
        (variant(wrappers=["NoSuch"]), "wrapping it in .*:NoSuch raised AttributeError"),
        (variant(wrappers=["probes"]), "wrapping it in .*:probes raised TypeError"),
        (
            variant(wrappers=["layers"]),
            "wrapping it in .*:layers returned .*expected an environment",
        ),
        (
            EnvironmentSpec(id="probe/Clock-v0", wrappers=["no_module:W"]),
            "wrapping it in no_module:W raised ModuleNotFoundError",
        ),
    ],
    ids=str,
)
def test_a_variant_that_cannot_be_made_is_named(spec, message):
    with pytest.raises(ConfigError, match=message):
        check(spec)


def test_a_variant_has_a_fingerprint_of_its_own():
    plain = fingerprint(make_env("probe/Clock-v0"))
    found = fingerprint(make_env(variant(kwargs={"length": 7}, wrappers=["Doubled"])))
    assert plain["kwargs"] == {} and found["kwargs"] == {"length": 7}
    assert "tests.environments.test_variants" in found["sources"].keys() - plain["sources"].keys()
    assert probes.Clock is type(make_env("probe/Clock-v0").unwrapped)
