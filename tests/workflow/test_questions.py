"""What a study asks is written down once, before its first run; and whose contrasts those are."""

import json

import pandas as pd
import pytest

from mpo.study.files import QUESTIONS
from tests.pipeline import TINY, changed, project, snakemake

STUDY = "results/tiny/study.json"
SGD = [{"axis": "optimizer", "level": "sgd", "against": "adam"}]


def planned(folder, config=None):
    """Makes the study.json of a config, which starts no run; returns it."""
    done = snakemake(folder, "--cores", "1", STUDY, config=config)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / STUDY).read_text())


@pytest.mark.slow
def test_the_questions_are_those_of_the_first_call_that_does_something(tmp_path):
    folder = project(tmp_path)
    path = folder / "results/tiny" / QUESTIONS
    assert snakemake(folder, "-n", "--cores", "1", STUDY).returncode == 0
    assert not (folder / "results").exists()
    # The contrasts of the default study are those of its axes.
    assert "contrasts" not in planned(folder)
    asked = json.loads(path.read_text())["asked"]
    assert asked["seeds"] == TINY["seeds"] and asked["axes"] == TINY["axes"]
    before = path.read_bytes()
    assert planned(folder, changed(contrasts=SGD))["contrasts"] == SGD
    assert path.read_bytes() == before
    # Once a run has begun, it is too late to say what it was for.
    path.unlink()
    (folder / "results/tiny/runs/Pendulum-v1").mkdir(parents=True)
    assert len(planned(folder, {"study": "tiny"})["contrasts"]) == 2
    assert not path.exists()


@pytest.mark.slow
def test_a_calibration_starts_no_study_and_is_said_with_the_progress(tmp_path):
    folder = project(tmp_path)
    small = changed(environments=["Pendulum-v1"], axes={"optimizer": ["adam"]})
    done = snakemake(folder, "--cores", "1", "calibrate", config=small)
    assert done.returncode == 0, done.stderr
    found = {path.name for path in (folder / "results/tiny").iterdir()}
    assert "calibration.json" in found and not found & {QUESTIONS, "runs"}
    left = "Left: 4 trainings and 4 evaluations"
    assert f"{left}, about" in done.stdout
    # The first progress line is that of study.json, before anything is known.
    lines = done.stderr.splitlines()
    assert lines[lines.index("1 of 2 steps (50%) done") + 1].startswith(f"{left}. What they will")


def test_a_contrast_named_later_is_answered_without_a_run(finished):
    asked = (finished / "results/tiny" / QUESTIONS).read_bytes()
    table = "results/tiny/tables/contrasts.csv"
    assert pd.read_csv(finished / table).empty
    done = snakemake(finished, "--cores", "1", table, config=changed(contrasts=SGD))
    assert done.returncode == 0, done.stderr
    assert "rule statistics" in done.stderr
    assert "rule train" not in done.stderr and "rule evaluate" not in done.stderr
    (row,) = pd.read_csv(finished / table).to_dict("records")
    assert (row["level"], row["against"], row["environments"], row["n"]) == ("sgd", "adam", 2, 4)
    assert (finished / "results/tiny" / QUESTIONS).read_bytes() == asked
