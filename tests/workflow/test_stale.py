"""Finished files of another plan are found by their content, whatever Snakemake remembers."""

import json
import shutil

import pytest

from tests.pipeline import changed, planned, snakemake

RATE = changed(training={"policy_lr": 2e-3})
MORE = changed(seeds=[0, 1, 2])
RUN = "results/tiny/runs/Pendulum-v1/retrace-on_optimizer-adam/seed0/step400"


@pytest.fixture
def moved(finished, tmp_path):
    """The finished study as it is after a copy from another machine: without `.snakemake/`."""
    return shutil.copytree(
        finished, tmp_path / "moved", ignore=shutil.ignore_patterns(".snakemake", "__pycache__")
    )


def files(folder):
    """Every file below a folder, with its content's age and size."""
    found = (path for path in folder.rglob("*") if path.is_file())
    facts = {path: path.stat() for path in found if "__pycache__" not in path.parts}
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in facts.items()}


def test_a_study_that_was_moved_is_finished(moved):
    assert planned(moved) == {}


def test_runs_of_another_spec_are_planned_again(moved):
    jobs = planned(moved, RATE)
    # The optimizer sgd has a rate of its own.
    assert (jobs["train"], jobs["evaluate"], jobs["study"], jobs["collect"]) == (8, 8, 1, 1)
    assert "random" not in jobs


def test_a_seed_more_redoes_the_tables_also_by_times_alone(moved):
    done = snakemake(moved, "-n", "--cores", "2", "--rerun-triggers", "mtime", config=MORE)
    assert done.returncode == 0, done.stderr
    for line in ("study 1", "train 8", "evaluate 8", "collect 1", "statistics 1", "summary 1"):
        assert line in " ".join(done.stdout.split()), line


def test_evaluations_and_random_returns_of_another_spec_are_planned_again(moved):
    jobs = planned(moved, changed(evaluation={"online_episodes": 3}))
    assert "train" not in jobs and jobs["evaluate"] == 16
    jobs = planned(moved, changed(statistics={"random_episodes": 21}))
    assert jobs["random"] == 2 and not {"train", "evaluate"} & set(jobs)


@pytest.mark.slow
def test_a_change_and_its_return_are_both_seen(moved):
    """From A to B and back to A, with one run and the plan made anew on the way."""
    for config, rate in ((RATE, 2e-3), (None, None)):
        done = snakemake(moved, "--cores", "2", f"{RUN}/run.json", config=config)
        assert done.returncode == 0, done.stderr
        done = snakemake(moved, "--cores", "2", "results/tiny/study.json", config=config)
        assert done.returncode == 0, done.stderr
        trained = json.loads((moved / RUN / "run.json").read_text())["spec"]["training"]
        plan = json.loads((moved / "results/tiny/study.json").read_text())
        assert plan["training"]["policy_lr"] == trained["policy_lr"]
        assert rate is None or trained["policy_lr"] == rate
        if rate:
            shutil.rmtree(moved / ".snakemake")
            assert planned(moved)["study"] == 1 and planned(moved)["train"] == 1
    assert not {"study", "train"} & set(planned(moved))


def test_a_plan_that_was_edited_is_made_again(moved):
    path = moved / "results/tiny/study.json"
    path.write_text(path.read_text().replace('"seeds":[0,1]', '"seeds":[0]'))
    jobs = planned(moved)
    assert jobs["study"] == 1 and "train" not in jobs


def test_planning_writes_nothing(moved):
    results = moved / "results"
    before = files(results)
    planned(moved, RATE)
    assert snakemake(moved, "--unlock", config=RATE).returncode == 0
    assert files(results) == before
