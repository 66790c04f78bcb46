"""A fingerprint changes with whatever an environment is made of, and with nothing else."""

import importlib
import importlib.metadata
import json
import subprocess
import sys

import gymnasium as gym
import pytest

from mpo.environments.envs import make_env
from mpo.environments.fingerprint import EnvironmentChanged, fingerprint, refuse_change

ENVIRONMENT = """
import gymnasium as gym
import numpy as np
from . import rewards

class Mine(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, model=None, noise=0.0):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), rewards.reward(action), False, False, {}
"""
PACKAGE = {
    "__init__.py": "from gymnasium import register\n"
    "register('Mine-v0', 'mine.worlds.one:Mine', max_episode_steps=5, kwargs={'noise': 0.5})\n",
    "worlds/__init__.py": "",
    "worlds/one.py": ENVIRONMENT,
    "worlds/rewards.py": "def reward(action):\n    return 1.0\n",
    "unrelated.py": "x = 1\n",
}
PRINT = """
import json
from mpo.environments.envs import make_env
from mpo.environments.fingerprint import fingerprint
print(json.dumps(fingerprint(make_env("mine:Mine-v0"))))
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes a package with an environment; returns its folder."""
    for name, source in PACKAGE.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "mine"
    gym.registry.pop("Mine-v0", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def of(env_id):
    return fingerprint(make_env(env_id))


def test_a_fingerprint_tells_packages_sources_and_arguments(mine):
    found = of("mine:Mine-v0")
    assert found["packages"] == {"gymnasium": gym.__version__}
    assert [*found["sources"]] == ["mine", "mine.worlds", "mine.worlds.one", "mine.worlds.rewards"]
    assert found["kwargs"] == {"noise": 0.5} and found["max_episode_steps"] == 5


def test_a_fingerprint_is_the_same_in_every_process(mine):
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        env={"PYTHONPATH": f"{mine.parent}:."},
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == of("mine:Mine-v0"), done.stderr


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        *((name, True) for name in PACKAGE if name != "unrelated.py"),
        ("unrelated.py", False),
    ],
)
def test_an_edit_of_what_the_environment_imports_is_told(mine, edited, changed):
    before = of("mine:Mine-v0")
    path = mine / edited
    path.write_text(path.read_text() + "\n# edited\n")
    now = of("mine:Mine-v0")
    assert (now != before) == changed
    if changed:
        module = (
            ".".join(["mine", *edited.split("/")]).removesuffix(".py").removesuffix(".__init__")
        )
        with pytest.raises(
            EnvironmentChanged, match=f"^the training .*: source {module} has changed"
        ):
            refuse_change(before, now, "the training", "Delete it")


@pytest.mark.parametrize(
    ("env_id", "packages"),
    [
        ("Pendulum-v1", ["gymnasium"]),
        ("Reacher-v5", ["gymnasium", "mujoco"]),
        ("dm_control/reacher-easy-v0", ["dm_control", "gymnasium", "mujoco", "shimmy"]),
    ],
)
def test_known_simulators_are_told_with_their_versions(monkeypatch, env_id, packages):
    found = of(env_id)
    versions = {name: importlib.metadata.version(name) for name in packages}
    assert found["packages"] == versions and found["sources"] == {}
    original = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "9.9" if name == packages[-1] else original(name),
    )
    with pytest.raises(EnvironmentChanged, match=f"package {packages[-1]} was .*, is 9.9"):
        refuse_change(found, of(env_id), "the training", "Delete it")


def test_a_file_that_an_argument_names_and_the_argument_itself_count(mine, tmp_path, monkeypatch):
    model = tmp_path / "model.xml"
    model.write_text("<mujoco/>")
    importlib.import_module("mine")
    monkeypatch.setitem(gym.registry["Mine-v0"].kwargs, "model", str(model))
    before = of("mine:Mine-v0")
    model.write_text("<mujoco></mujoco>")
    with pytest.raises(EnvironmentChanged, match="file model has changed"):
        refuse_change(before, of("mine:Mine-v0"), "the training", "Delete it")
    model.write_text("<mujoco/>")
    monkeypatch.setitem(gym.registry["Mine-v0"].kwargs, "noise", 0.25)
    with pytest.raises(EnvironmentChanged, match="kwarg noise was 0.5, is 0.25"):
        refuse_change(before, of("mine:Mine-v0"), "the training", "Delete it")


def test_work_without_a_fingerprint_is_taken_and_said(caplog):
    caplog.set_level("INFO", "mpo")
    refuse_change(None, {"packages": {}}, "the training of seed 0", "Delete it")
    assert "the training of seed 0 does not record its environment" in caplog.text
