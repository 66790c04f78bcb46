"""The program's end, whatever became of its output."""

import json
import shlex
import subprocess
import sys

import pytest

from mpo.__main__ import main
from tests import synthetic
from tests.pipeline import ROOT


@pytest.fixture
def folder(tmp_path):
    """A folder in which a study has been started."""
    plan = tmp_path / "results/tiny/study.json"
    plan.parent.mkdir(parents=True)
    plan.write_text(json.dumps(synthetic.plan().model_dump(mode="json")))
    return tmp_path


STATUS = [sys.executable, "-m", "mpo", "status"]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}


def test_a_reader_that_has_gone_gets_no_stack(folder):
    """As in `python -m mpo status | head`."""
    process = subprocess.Popen(
        STATUS, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141


def test_a_closed_output_gets_no_stack(folder):
    command = f"{shlex.join(STATUS)} >&-"
    done = subprocess.run(command, shell=True, cwd=folder, env=ENVIRONMENT, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_study_elsewhere_has_its_runs_there(folder, tmp_path_factory, monkeypatch, capsys):
    study = synthetic.plan()
    (folder / "results/tiny").rename(folder / f"results/{study.study}")
    synthetic.write_runs(study, folder)
    plan = folder / f"results/{study.study}/study.json"
    plan.write_text(json.dumps(synthetic.config()))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert main(["status", "--study", str(plan)]) == 0
    assert f"{len(study.runs)} ok" in capsys.readouterr().out
    assert main(["collect", "--study", str(plan), "--out", "tables"]) == 0
