"""Whatever goes wrong while an environment is made names the environment and the error."""

import os
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from mpo.environments.envs import check, make_env
from mpo.study.config import ConfigError
from mpo.study.specs import EnvironmentSpec
from tests import probes
from tests.pipeline import ROOT


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def broken(:", r"SyntaxError: invalid syntax \(odd_environments.py, line 1\)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("exit(0)", "SystemExit: 0"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(monkeypatch, tmp_path, source, message):
    (tmp_path / "odd_environments.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    wanted = (
        f"^environment 'odd_environments:Odd-v0': importing 'odd_environments' raised {message}"
    )
    with pytest.raises(ConfigError, match=wanted):
        make_env("odd_environments:Odd-v0")


def raising(error):
    def make(**kwargs):
        raise error

    return make


class NoSpaces(gym.Env):
    """Tells neither what it wants nor what it shows."""


class NoObservations(probes.Clock):
    """Its observations are of no kind."""

    observation_space = None


class Speechless(Exception):
    """Its text cannot be had."""

    def __str__(self):
        raise ValueError("no text")


class BadSpaces(probes.Clock):
    """Its actions are not known before it has been reset."""

    @property
    def action_space(self):
        raise RuntimeError("call reset first")


def wants_a_map(*, map_name):
    return probes.Clock()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (raising(KeyError("gravity")), "making it raised KeyError: 'gravity'"),
        (raising(SystemExit(0)), "making it raised SystemExit: 0"),
        (raising(gym.error.DependencyNotInstalled("no Box2D")), "no Box2D"),
        (raising(ImportError("no MuJoCo")), "no MuJoCo"),
        (wants_a_map, "making it raised TypeError: .*'map_name'"),
        (lambda: "an environment", "making it raised TypeError: .*must inherit"),
        ("no_such_module:Odd", "No module named 'no_such_module'"),
        ("tests.probes:NoSuchClass", "making it raised AttributeError: .*NoSuchClass"),
        (None, "entry_point"),
        (NoObservations, "cannot flatten observations None"),
        (
            raising(Speechless()),
            "raised Speechless: a Speechless whose text raised Value",
        ),
        (raising(ValueError("x" * 9999)), r"ValueError: x{1000}\.\.\. \(\d+ characters\)$"),
        (NoSpaces, "reading its spaces raised AttributeError: .*action_space"),
        (BadSpaces, "reading its spaces raised RuntimeError: call reset first"),
    ],
)
def test_an_environment_that_cannot_be_made_is_named(monkeypatch, entry, message):
    spec = gym.envs.registration.EnvSpec("Odd-v0", lambda: None, order_enforce=False)
    spec.entry_point = entry
    monkeypatch.setitem(gym.registry, "Odd-v0", spec)
    with pytest.raises(ConfigError, match=f"^environment 'Odd-v0': .*{message}"):
        make_env("Odd-v0")


@pytest.mark.parametrize(
    ("env_id", "near"),
    [
        ("Ant-v2", "Ant-v5"),
        ("Humanoid-v3", "Humanoid-v5"),
        ("Hopper-v2", "Hopper-v5"),
        ("Pendulum-v0", "Pendulum-v1"),
        ("gymnasium:Hopper-v3", "Hopper-v5"),
        ("Hoper-v5", "Hopper-v5"),
    ],
)
def test_similar_ids_are_the_newest_versions_and_never_the_id_that_failed(env_id, near):
    with pytest.raises(ConfigError, match=f"^environment '{env_id}': .*similar ids: ") as raised:
        make_env(env_id)
    similar = str(raised.value).rpartition("similar ids: ")[2].split(", ")
    assert near in similar and env_id.rpartition(":")[2] not in similar
    assert not [name for name in similar if re.fullmatch(r"(Ant|Hopper|Humanoid)-v[234]", name)]


def test_an_environment_whose_package_is_missing_is_not_similar_to_itself(monkeypatch):
    spec = gym.envs.registration.EnvSpec("Pendulom-v1", raising(ImportError("no pygame")))
    monkeypatch.setitem(gym.registry, "Pendulom-v1", spec)
    with pytest.raises(ConfigError, match="similar ids: ") as raised:
        make_env("Pendulom-v1")
    assert "Pendulom" not in str(raised.value).rpartition("similar ids: ")[2]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"obs": [0.0]}, "step 0 of an episode: observation has the shape"),
        ({"first": np.zeros(2), "obs": None}, "step 1 of an episode: observation is None"),
        ({"reward": None}, "step 1 of an episode: reward is None"),
    ],
)
def test_a_check_plays_a_step_and_refuses_what_it_finds(monkeypatch, answers, message):
    monkeypatch.setattr(gym.registry["probe/Told-v0"], "kwargs", answers)
    with pytest.raises(ConfigError, match=f"^environment 'probe/Told-v0', {message}"):
        check("probe/Told-v0")


def test_a_check_takes_an_action_from_the_middle_and_closes(monkeypatch):
    made = []

    class Noted(probes.Told):
        closed = False

        def __init__(self):
            super().__init__(action_space=Box(2, 4, (1,)))
            made.append(self)

        def close(self):
            self.closed = True

    monkeypatch.setattr(gym.registry["probe/Told-v0"], "entry_point", Noted)
    assert check("probe/Told-v0") is None
    assert made[0].action.tolist() == [3.0] and made[0].closed


@pytest.mark.parametrize("use", [make_env, check])
def test_an_environment_that_changes_the_working_directory_changes_it_for_nobody_else(
    monkeypatch, tmp_path, use
):
    class Moving(probes.Told):
        def __init__(self):
            os.chdir("/")
            super().__init__()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gym.registry["probe/Told-v0"], "entry_point", Moving)
    use("probe/Told-v0")
    assert os.getcwd() == str(tmp_path)


def test_what_an_environment_prints_while_it_is_checked_goes_to_stderr(monkeypatch, capfd):
    class Chatty(probes.Told):
        def reset(self, *, seed=None, options=None):
            print("from Python")
            os.system("echo from another program")
            return super().reset(seed=seed)

    monkeypatch.setattr(gym.registry["probe/Told-v0"], "entry_point", Chatty)
    check("probe/Told-v0")
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err == "from Python\nfrom another program\n"
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"


@pytest.mark.parametrize("env_id", ["dm_control/reacher-easy-v0", "Hopper-v5"])
def test_a_renderer_that_does_not_exist_is_named_with_the_choices(env_id):
    code = f"from mpo.environments.envs import check\ncheck({env_id!r})"
    variables = {**os.environ, "MUJOCO_GL": "nonsense"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"mpo.study.config.ConfigError: environment {env_id!r}: ")
    assert "; MUJOCO_GL is 'nonsense', and MuJoCo cannot load such a renderer; choose from" in last
    assert "egl, osmesa, glfw, leave it unset, or set MUJOCO_GL=off to train" in last


@pytest.mark.parametrize(
    ("error", "given", "platform", "shown"),
    [
        (AttributeError, "osmesa", "osmesa", "MUJOCO_GL is 'osmesa', and"),
        (ImportError, "egl", "osmesa", "MUJOCO_GL is 'egl' and PYOPENGL_PLATFORM is 'osmesa', and"),
        (ImportError, None, None, "MUJOCO_GL is not set, and"),
    ],
)
def test_a_renderer_that_cannot_be_loaded_is_named(monkeypatch, error, given, platform, shown):
    for name, value in (("MUJOCO_GL", given), ("PYOPENGL_PLATFORM", platform)):
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)
    library = {"__name__": "OpenGL.platform"}
    exec("def load(error): raise error('no glGetError')", library)
    spec = gym.envs.registration.EnvSpec("Odd-v0", lambda: library["load"](error))
    monkeypatch.setitem(gym.registry, "Odd-v0", spec)
    with pytest.raises(ConfigError, match=f"no glGetError; {shown} MuJoCo cannot load") as raised:
        make_env("Odd-v0")
    assert "similar" not in str(raised.value)


def test_other_errors_say_nothing_of_renderers(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(ConfigError) as raised:
        make_env(EnvironmentSpec(id="Hopper-v5", kwargs={"xml_file": "/no/such.xml"}))
    assert "MUJOCO_GL" not in str(raised.value)
