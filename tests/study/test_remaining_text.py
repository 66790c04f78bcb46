"""What is said of a running study, and what a calibration adds to it."""

import json

import numpy as np
import pytest

from mpo.study import calibration, remaining_text
from mpo.study.calibration import Rates
from mpo.study.remaining_text import Progress
from mpo.study.status import statuses
from tests import synthetic


@pytest.fixture
def study():
    return synthetic.plan(environments=1, axes={"retrace": [False, True]})


def progress(study, root, monkeypatch, cores=2):
    monkeypatch.setattr(remaining_text, "cores_here", lambda: 4)
    monkeypatch.setattr(remaining_text, "_BETWEEN_S", 0.0)
    monkeypatch.setattr(remaining_text, "_SHARE", np.inf)
    return Progress(lambda: [study], root, cores)


def test_the_progress_line_says_what_the_status_does(study, tmp_path, monkeypatch):
    line = progress(study, tmp_path, monkeypatch, cores=99)
    for run in study.runs[:5]:
        assert line.said() == remaining_text.of_status(
            [(study, statuses(study, tmp_path))], tmp_path
        )
        synthetic.write_run(study, run, tmp_path, np.random.default_rng(0))
    # One run of 10,000 steps at 500 a second, and an evaluation of 12.5 s.
    text = line.said()
    assert "1 training and 1 evaluation, about 0.5 core-minutes. With 4 cores" in text
    assert "Estimated from 5 finished trainings and 0 in progress." in text
    synthetic.write_run(study, study.runs[5], tmp_path, np.random.default_rng(0))
    assert line.said() is None


def test_the_progress_line_counts_the_cores_that_it_was_given(study, tmp_path, monkeypatch):
    synthetic.write_run(study, study.runs[0], tmp_path, np.random.default_rng(0))
    # Five runs of 32.5 s each.
    assert (
        "With 2 cores of this machine that is 1.4 minutes"
        in progress(study, tmp_path, monkeypatch).said()
    )


def test_a_finished_run_is_read_once(study, tmp_path, monkeypatch):
    line = progress(study, tmp_path, monkeypatch)
    synthetic.write_run(study, study.runs[0], tmp_path, np.random.default_rng(0))
    before = line.said()
    (tmp_path / study.runs[0].directory / "run.json").write_text("{")
    assert line.said() == before
    assert "damaged" in {s.status for s in statuses(study, tmp_path)}


def test_it_is_said_once_a_minute_at_most(study, tmp_path):
    line = Progress(lambda: [study], tmp_path, 1)
    assert line.said() is not None and line.said() is None


def test_a_calibration_tells_of_cells_without_runs_only(study, tmp_path, monkeypatch):
    monkeypatch.setattr(remaining_text, "cores_here", lambda: 1)
    rates = {
        calibration.key(cell.spec, cell.total_steps): Rates(0.006 * (1 + place), 3.0, 100.0)
        for place, cell in enumerate(study.cells)
    }
    calibration.write(study, tmp_path, rates)

    def said():
        return remaining_text.of_status([(study, statuses(study, tmp_path))], tmp_path)

    # Three runs of 60 s, three of 120 s, and six evaluations of 26 episodes.
    assert [run.total_steps for run in study.runs] == [10_000] * 6
    core_s = 3 * 60 + 3 * 120 + 6 * 41 * 3
    assert f"about {core_s / 60:.0f} core-minutes" in said() and "6.0 MB of disk" in said()
    assert "0 in progress and a calibration of 2 cells." in said()
    synthetic.write_run(study, study.runs[0], tmp_path, np.random.default_rng(0))
    # Two runs of 20 s and evaluations of 12.5 s, as the finished one; the other arm as calibrated.
    core_s = 2 * (20 + 12.5) + 3 * (120 + 41 * 3)
    assert f"about {core_s / 60:.0f} core-minutes" in said()
    assert "1 finished training, 0 in progress and a calibration of 1 cell." in said()


def test_a_calibration_of_other_settings_tells_nothing(study, tmp_path):
    found = {calibration.key(c.spec, c.total_steps): Rates(1.0, None, 1.0) for c in study.cells}
    calibration.write(study, tmp_path, found)
    assert len(calibration.read(study, tmp_path)) == 2
    for training, known in (({"gamma": 0.9}, 2), ({"batch_size": 64}, 0)):
        given = synthetic.config(environments=1, axes={"retrace": [False, True]})
        other = synthetic.Study.parse(given | {"training": given["training"] | training})
        assert len(calibration.read(other, tmp_path)) == known
    double = {"updates_per_step": 2.0}
    other = synthetic.Study.parse(given | {"training": given["training"] | double})
    assert calibration.read(other, tmp_path) == {}


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({"rates": {"a": {"b": 1}}})])
def test_a_calibration_that_cannot_be_read_tells_nothing(study, tmp_path, content):
    path = tmp_path / "results" / study.study / "calibration.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert calibration.read(study, tmp_path) == {}
