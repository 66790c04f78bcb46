"""A calibration of a few tenths of a second, and what the status says after it."""

import json

import pytest
import torch

from mpo.__main__ import main
from mpo.jobs.calibrate import calibrate
from mpo.study import calibration
from tests import synthetic


def test_each_kind_of_run_is_measured_once_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = {"retrace": [False], "gamma": [0.9, 0.99]}
    study = synthetic.plan(environments=1, axes=axes)
    found = calibrate(study, 2, 0.2, torch.device("cpu"), compile_on_cpu="false")
    (rates,) = found.values()
    assert rates.step_s > 0 < rates.episode_s
    # At least the transitions: two observations of 3, two actions and 4 more numbers of 4 bytes.
    assert 4 * 12 < rates.step_bytes < 10 * 4 * 12
    assert list(tmp_path.iterdir()) == []
    calibration.write(study, tmp_path, found)
    assert [*calibration.read(study, tmp_path).values()] == [rates] * 2


def test_the_command_writes_what_it_found_and_prints_the_status(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = synthetic.config(environments=1, axes={})
    path = tmp_path / "results/made-up/study.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(config))
    arguments = ["--seconds", "0.2", "--device", "cpu", "--compile-on-cpu", "false"]
    assert main(["calibrate", "--study", str(path), *arguments]) == 0
    said = capsys.readouterr().out
    assert "Left: 3 trainings and 3 evaluations, about" in said
    assert "0 finished trainings, 0 in progress and a calibration of 1 cell." in said
    assert {file.name for file in path.parent.iterdir()} == {"study.json", "calibration.json"}


@pytest.mark.parametrize("value", ["0", "soon"])
def test_seconds_that_cannot_be_used_are_refused(value, tmp_path, capsys):
    path = tmp_path / "study.json"
    path.write_text(json.dumps(synthetic.config(environments=1, axes={})))
    assert main(["calibrate", "--study", str(path), "--seconds", value]) == 2
    error = capsys.readouterr().err
    assert "--seconds: expected seconds above 0" in error and f"received {value!r}" in error
