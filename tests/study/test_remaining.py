"""What the rest of a study will cost, against sums by hand."""

import json
import math
import os

import numpy as np
import pytest

from mpo.study import overview, remaining_text, words
from mpo.study.plan import Study
from mpo.study.remaining import Cost, Estimate, Work, costs, estimate, work_left
from mpo.study.status import statuses
from tests import synthetic
from tests.study.test_tuning import config

THERE = Work("Hopper", "adam", training=True, steps=100, episodes=10, total_steps=100, present=0)


def cost(env="Hopper", variant="adam", finished=True, rates=(1.0, 2.0, 3.0)):
    return Cost(env, variant, finished, *rates)


def test_work_costs_what_runs_of_its_environment_and_arm_have_cost():
    known = [cost(), cost(rates=(3.0, 4.0, 5.0)), cost("Walker"), cost(variant="sgd")]
    found = estimate([[THERE, THERE]], known, cores=4)
    # Means of 2 and 3 core-seconds and 4 bytes: 2 x 100 x 2, 2 x 10 x 3, 2 x 100 x 4.
    assert found == Estimate(2, 2, 400.0, 60.0, 230.0, 800.0)


@pytest.mark.parametrize(
    ("known", "step_s"),
    [
        ([cost("Hopper", "sgd"), cost("Walker", "adam", rates=(9.0, 9.0, 9.0))], 1.0),
        ([cost("Walker", "adam"), cost("Walker", "sgd", rates=(9.0, 9.0, 9.0))], 1.0),
        ([cost("Walker", "sgd"), cost("Swimmer", "lion", rates=(9.0, 9.0, 9.0))], 5.0),
        ([cost(), cost(finished=False, rates=(9.0, None, None))], 1.0),
        ([cost("Walker"), cost(finished=False, rates=(9.0, None, None))], 9.0),
    ],
    ids=["its environment", "its arm", "any", "finished ones first", "but the nearest"],
)
def test_what_is_not_known_is_taken_from_the_nearest_runs(known, step_s):
    assert estimate([[THERE]], known, 1).training_s == 100 * step_s


def test_each_rate_comes_from_the_nearest_runs_that_have_it():
    known = [cost("Walker", rates=(9.0, 2.0, 3.0)), cost(finished=False, rates=(1.0, None, None))]
    assert estimate([[THERE]], known, 1) == Estimate(1, 1, 100.0, 20.0, 120.0, 300.0)


def test_a_stage_takes_at_least_as_long_as_its_longest_run_and_stages_follow_each_other():
    known = [cost()]
    long = THERE._replace(steps=1000, total_steps=1000)
    assert estimate([[long, THERE]], known, 4).span_s == 1000 + 10 * 2
    assert estimate([[THERE] * 8, [THERE]], known, 4).span_s == 2 * 120 + 120


def test_what_is_done_or_there_is_not_counted_again():
    evaluated = THERE._replace(training=False, steps=0, present=250)
    found = estimate([[evaluated, THERE._replace(steps=30, present=1000)]], [cost()], 1)
    assert found == Estimate(1, 2, 30.0, 40.0, 70.0, 50.0)


def test_without_runs_nothing_is_known_but_the_counts():
    found = estimate([[THERE]], [], 2)
    assert found[:2] == (1, 1) and all(map(math.isnan, found[2:]))
    found = estimate([[THERE]], [cost(finished=False, rates=(1.0, None, None))], 2)
    assert (found.training_s, found.span_s) == (100.0, 100.0)
    assert math.isnan(found.evaluation_s) and math.isnan(found.bytes)


@pytest.fixture
def study():
    return synthetic.plan(environments=1, axes={})


def state(run, root):
    folder = root / run.resume_directory(run.spec.cell.identity)
    folder.mkdir(parents=True)
    return folder


def test_a_finished_run_tells_its_share_of_a_process_its_evaluation_and_its_size(study, tmp_path):
    run = study.runs[0]
    synthetic.write_runs(study, tmp_path)
    path = tmp_path / run.directory / "run.json"
    record = json.loads(path.read_text()) | {"stacked": 5.0, "wall_s": 100.0, "env_steps": 4000}
    record["provenance"] |= {"threads": 2}
    path.write_text(json.dumps(record))
    (state(run, tmp_path) / "transitions-000000010000.pt").write_bytes(b"0" * 5000)
    found = costs(study, statuses(study, tmp_path), tmp_path)
    assert len(found) == 3 and all(each.finished for each in found)
    size = sum(each.stat().st_size for each in (tmp_path / run.directory).iterdir())
    # 11 snapshots of 3 episodes, and 4 twice; 12.5 s in all.
    expected = ("Pendulum-v1", run.variant, True, 100 / 5 * 2 / 4000, 12.5 / 41)
    assert found[0][:5] == pytest.approx(expected)
    assert found[0].step_bytes == pytest.approx((size + 5000) / 10_000)
    assert found[1].step_s == pytest.approx(1 / 500)


def test_a_run_in_progress_tells_its_rate_once_it_learns(study, tmp_path):
    first, second, third = study.runs
    for run, count in ((first, 4000), (second, 4000), (third, 900)):
        said = {"status": "running", "count": count, "pid": os.getpid()}
        synthetic.write_status(run, tmp_path, **said)
    synthetic.write_status(third, tmp_path, status="running", count=900, pid=os.getppid())
    (state(first, tmp_path) / "checkpoint-000000003000.pt").write_bytes(b"0" * 800)
    found = costs(study, statuses(study, tmp_path), tmp_path)
    place = ("Pendulum-v1", first.variant)
    # Two seeds share a process of 50 steps a second each; the third has not learnt yet.
    assert found == [Cost(*place, False, 0.01, None, 0.2), Cost(*place, False, 0.01, None, None)]
    steps = [work.steps for work in work_left(study, statuses(study, tmp_path), tmp_path)]
    assert steps == [6000, 6000, 9100]


def test_the_rest_of_a_run_starts_at_its_last_checkpoint_or_its_evaluation(study, tmp_path):
    failed, trained, longer = study.runs
    synthetic.write_runs(study, tmp_path)
    for name in ("run.json", "evals.json", "evals.parquet"):
        (tmp_path / failed.directory / name).unlink()
    synthetic.write_status(failed, tmp_path)
    folder = state(failed, tmp_path)
    (folder / "checkpoint-mine.pt").symlink_to("gone")
    for step in (6000, 7000):
        (folder / f"checkpoint-{step:012d}.pt").touch()
    (tmp_path / trained.directory / "evals.json").unlink()
    (state(longer, tmp_path) / "checkpoint-000000020000.pt").touch()
    (
        tmp_path / longer.directory / "run.json"
    ).unlink()  # cut from a longer run, so it costs nothing
    found = work_left(study, statuses(study, tmp_path), tmp_path)
    assert [(work.training, work.steps, work.episodes) for work in found] == [
        (True, 3000, 41),
        (False, 0, 41),
        (True, 0, 41),
    ]
    lenient = study.model_copy(update={"allow_missing": True})
    assert len(work_left(lenient, statuses(lenient, tmp_path), tmp_path)) == 2


def test_records_that_cannot_be_read_tell_nothing(study, tmp_path):
    synthetic.write_runs(study, tmp_path)
    for run, content in zip(study.runs, ("{", '{"env_steps": 0}', "[]"), strict=True):
        (tmp_path / run.directory / "run.json").write_text(content)
    found = statuses(study, tmp_path)
    assert [s.status for s in found] == ["damaged"] * 3
    assert costs(study, found, tmp_path) == [] == work_left(study, found, tmp_path)


def last(text):
    return text.split("\n\n")[-1]


def test_the_status_says_what_is_left_and_what_it_will_cost(study, tmp_path, monkeypatch):
    monkeypatch.setattr(remaining_text, "cores_here", lambda: 2)
    expected = (
        "Left: 3 trainings and 3 evaluations. What they will cost is not known yet; it will be "
        "once a training has begun to learn, or after `snakemake --cores 1 calibrate`."
    )
    assert last(overview.overview(study, tmp_path)) == expected
    synthetic.write_status(study.runs[0], tmp_path, status="running", count=5000)
    # 5000 + 2 x 10,000 steps at 50 a second: 500 s, of which a core has 250.
    assert last(overview.overview(study, tmp_path)) == (
        "Left: 3 trainings and 3 evaluations, about 8.3 core-minutes without the evaluations, of "
        "which none is done yet. With 2 cores of this machine that is 4.2 minutes. Estimated from "
        "0 finished trainings and 1 in progress."
    )
    synthetic.write_run(study, study.runs[1], tmp_path, np.random.default_rng(0))
    size = sum(path.stat().st_size for path in (tmp_path / study.runs[1].directory).iterdir())
    # 15,000 steps at 500 a second, and two evaluations of 12.5 s: 55 s, of which a core has 27.5.
    assert last(overview.overview(study, tmp_path)) == (
        "Left: 2 trainings and 2 evaluations, about 0.9 core-minutes. With 2 cores of this machine "
        f"that is 0.5 minutes, and {2 * size / 1000:.0f} kB of disk. Estimated from 1 finished "
        "training and 1 in progress."
    )
    synthetic.write_runs(study, tmp_path / "all")
    assert "Left" not in overview.overview(study, tmp_path / "all")


@pytest.mark.parametrize(
    ("seconds", "size", "said"),
    [
        (1.0, 2e3, ("0.0 minutes", "2.0 kB")),
        (3599.0, 2e6, ("60 minutes", "2.0 MB")),
        (3600.0, 4.56e7, ("1.0 hours", "46 MB")),
        (4.44e5, 7.89e11, ("123 hours", "789 GB")),
    ],
)
def test_amounts_are_told_in_a_unit_that_fits(seconds, size, said):
    assert (words.duration(seconds), words.size(size)) == said


def test_the_stage_of_tuning_counts_too(tmp_path, monkeypatch):
    monkeypatch.setattr(remaining_text, "cores_here", lambda: 4)
    given = config(1)
    study = Study.parse(given)
    stage = Study.parse(study.tuning_stages(given)[0])
    text = last(overview.overview(study, tmp_path, [stage]))
    assert text.startswith("Left, with the tuning in made-up-tuning: 30 trainings and 30 evaluat")
    synthetic.write_runs(stage, tmp_path)
    text = last(overview.overview(study, tmp_path, [stage]))
    # 12 runs of 10,000 steps at 500 a second; an evaluation has 41 episodes, of 12.5 s / 26 each.
    assert text.startswith("Left: 12 trainings and 12 evaluations, about 7.9 core-minutes.")
    assert "With 4 cores of this machine that is 2.0 minutes" in text
    assert "Estimated from 18 finished trainings and 0 in progress." in text
