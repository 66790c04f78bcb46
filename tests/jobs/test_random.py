"""The measurement of the random policy, where its environment fails."""

import json
import logging
import sys

import pytest

from mpo.__main__ import main
from mpo.study.checksums import read_record
from mpo.study.specs import RandomSpec
from tests import processes


def arguments(env_id, out):
    config = RandomSpec(env_id=f"tests.probes:probe/{env_id}-v0", episodes=2).identity
    return ["random", "--config", config, "--out", str(out)]


@pytest.fixture(autouse=True)
def untouched_logger(monkeypatch):
    logger = logging.getLogger("mpo")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", logger.propagate)


MESSAGE = "environment 'tests.probes:probe/Raising-v0', step 3 of an episode: step raised ZeroD"


def test_an_environment_that_fails_fails_the_job(tmp_path, capsys):
    assert main(arguments("Raising", tmp_path / "random.json")) == 1
    assert f"failed: {MESSAGE}" in capsys.readouterr().err
    assert not (tmp_path / "random.json").exists()


def test_where_it_may_be_missing_the_failure_is_the_result(tmp_path, capsys):
    assert main([*arguments("Raising", tmp_path / "random.json"), "--allow-missing"]) == 0
    assert f"no random return: {MESSAGE}" in capsys.readouterr().err
    found = read_record(tmp_path / "random.json")
    assert found["error"].startswith(MESSAGE) and "mean" not in found
    assert found["spec"]["episodes"] == 2 and found["environment"]["max_episode_steps"] == 10


def test_an_environment_that_does_not_fail_is_measured_all_the_same(tmp_path):
    for option in ([], ["--allow-missing"]):
        assert main([*arguments("Terminating", tmp_path / "random.json"), *option]) == 0
        assert json.loads((tmp_path / "random.json").read_text())["mean"] == 3.0


@pytest.mark.parametrize(("reference", "code"), [(2.0, 2), (3.0, 2), (3.1, 0)])
def test_a_reference_that_is_not_above_it_fails_the_job(tmp_path, capsys, reference, code):
    table = tmp_path / "references.csv"
    name = "tests.probes:probe/Terminating-v0"
    table.write_text(f"env,reference,what,source\n{name},{reference},w,s\n")
    command = [*arguments("Terminating", tmp_path / "random.json"), "--references", str(table)]
    assert main(command) == code
    message = f"the reference of {name} must be above the random return 3, received {reference}"
    assert (message in capsys.readouterr().err) == (code == 2)
    assert (tmp_path / "random.json").exists() == (code == 0)


@pytest.mark.slow
def test_an_environment_that_hangs_ends_the_job(tmp_path):
    command = [sys.executable, "-m", "mpo", *arguments("Seized", tmp_path / "random.json")]
    command += ["--environment-timeout", "1", "--log", tmp_path / "random.log"]
    processes.finish(processes.start_process(command), code=1)
    assert "probes.py" in (tmp_path / "random.log").read_text()
