"""Work in one version of an environment is not continued in another one."""

import json
import subprocess
import sys

import pytest

from mpo.environments.fingerprint import present
from mpo.study.specs import RandomSpec
from mpo.training import checkpoint
from tests import processes

SPEC = processes.run_spec("mine:Mine-v0", update_after=1000)
ENVIRONMENT = """
import gymnasium as gym
import numpy as np

class Mine(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}

gym.register("Mine-v0", Mine, max_episode_steps=20)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's with an environment, on the path of the jobs."""
    path = tmp_path / "mine.py"
    path.write_text(ENVIRONMENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return path


def edit(path):
    path.write_text(path.read_text().replace("1.0, False", "2.0, False"))


def record(folder, name, steps=100):
    return json.loads((processes.results(folder, SPEC, steps) / name).read_text())


def evaluate(folder, code=0):
    return processes.finish(processes.evaluate(folder, SPEC, 100, 1), code)


@pytest.mark.slow
def test_a_training_and_its_evaluation_record_the_environment(tmp_path, mine):
    processes.finish(processes.train(tmp_path, SPEC, 100))
    evaluate(tmp_path)
    trained = record(tmp_path, "run.json")["environment"]
    assert [*trained["sources"]] == ["mine"] and trained["max_episode_steps"] == 20
    assert record(tmp_path, "evals.json")["environment"] == trained
    found = checkpoint.peek(processes.resume(tmp_path, SPEC))
    assert found["environment"] == trained


@pytest.mark.slow
def test_after_an_edit_a_training_is_not_continued(tmp_path, mine):
    processes.finish(processes.train(tmp_path, SPEC, 100))
    edit(mine)
    output = processes.finish(processes.train(tmp_path, SPEC, 200), code=1)
    folder = processes.resume(tmp_path, SPEC)
    assert f"failed: {folder} used another version of the environment: source mine has" in output
    assert f"Delete {folder} to start from step 0" in output and "Traceback" not in output
    for path in folder.iterdir():
        path.unlink()
    processes.finish(processes.train(tmp_path, SPEC, 200))
    assert record(tmp_path, "run.json", 200)["provenance"]["resumed"] == []


@pytest.mark.slow
def test_after_an_edit_that_changes_the_observations_it_is_refused_as_well(tmp_path, mine):
    processes.finish(processes.train(tmp_path, SPEC, 100))
    mine.write_text(mine.read_text().replace("(1,)", "(2,)").replace("zeros(1", "zeros(2"))
    output = processes.finish(processes.train(tmp_path, SPEC, 200), code=1)
    assert "used another version of the environment: source mine has changed" in output
    assert not [*processes.resume(tmp_path, SPEC).glob("*.unusable")]


@pytest.mark.slow
def test_after_an_edit_an_older_training_is_not_evaluated(tmp_path, mine):
    processes.finish(processes.train(tmp_path, SPEC, 100))
    edit(mine)
    output = evaluate(tmp_path, code=1)
    assert "used another version of the environment: source mine has changed" in output
    for path in (processes.results(tmp_path, SPEC, 100), processes.resume(tmp_path, SPEC)):
        assert str(path) in output
    assert not (processes.results(tmp_path, SPEC, 100) / "evals.parquet").exists()


@pytest.mark.slow
def test_after_an_edit_an_older_training_is_not_filmed(tmp_path, mine):
    processes.finish(processes.train(tmp_path, SPEC, 100))
    edit(mine)
    run = processes.results(tmp_path, SPEC, 100)
    command = [sys.executable, "-m", "mpo", "video", "--run", run, "--out", tmp_path / "film.gif"]
    output = processes.finish(processes.start_process(command), code=1)
    assert f"failed: the training in {run} used another version of the environment: " in output
    assert f"source mine has changed. Delete {run} to" in output and "Traceback" not in output
    assert not (tmp_path / "film.gif").exists()


@pytest.mark.slow
def test_work_of_older_versions_is_continued_and_the_log_says_so(tmp_path, mine):
    processes.finish(processes.train(tmp_path, SPEC, 100))
    for path in processes.resume(tmp_path, SPEC).glob("checkpoint-*.pt"):
        content = checkpoint._read(path)
        del content["state"]["environment"]
        checkpoint._write(path, content)
    directory = processes.results(tmp_path, SPEC, 100)
    old = record(tmp_path, "run.json")
    for key in ("environment", "sha256", "files"):
        old.pop(key, None)
    (directory / "run.json").write_text(json.dumps(old))
    edit(mine)
    for output in (evaluate(tmp_path), processes.finish(processes.train(tmp_path, SPEC, 200))):
        assert "does not record its environment" in output
    resumed = record(tmp_path, "run.json", 200)["provenance"]["resumed"]
    assert [entry["env_step"] for entry in resumed] == [100]


def test_random_returns_record_the_environment(tmp_path):
    config = RandomSpec(env_id="Pendulum-v1", episodes=1).identity
    out = tmp_path / "random.json"
    command = [sys.executable, "-m", "mpo", "random", "--config", config, "--out", str(out)]
    subprocess.run(command, cwd=processes.ROOT, check=True)
    assert json.loads(out.read_text())["environment"] == present("Pendulum-v1")
