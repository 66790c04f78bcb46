"""The rungs of successive halving: their studies, budgets and candidates."""

import json

import pytest

from mpo.study.checksums import sealed
from mpo.study.choice import read_choice
from mpo.study.config import ConfigError
from mpo.study.overview import overview
from mpo.study.plan import Study
from mpo.study.remaining import work_left
from mpo.study.status import statuses
from tests.study.test_tuning import search

PENDULUM, WALKER = "Pendulum-v1", "dm_control-walker-walk-v0"


def config(environments=2, **tuning):
    """Eight candidates for 3,000 steps, of which two go on to 9,000."""
    section = {"candidates": 8, "budget": 0.9, "halving": {"factor": 3, "rungs": 2}}
    return search(environments, **(section | tuning))


def rungs(given):
    return [Study.parse(each) for each in Study.parse(given).tuning_stages(given)]


def choice(tmp_path, study, places):
    """What a choice file says of candidates at these places, by environment, the same in each arm.

    Args:
        tmp_path: where it is written.
        study: the rung that chooses.
        places: the places of its candidates.
    """
    rows = [
        {"env": env, "arm": arm, "settings": study.tuned.settings(candidate)}
        for env, chosen in places.items()
        for arm in ({"optimizer": "adam"}, {"optimizer": "sgd"})
        for candidate in [study.tuned.candidates_of(arm)[place] for place in chosen]
    ]
    path = tmp_path / "chosen.json"
    path.write_text(json.dumps(sealed({"chosen": rows})))
    return read_choice(path)


def rates(study, env, arm):
    runs = [r for r in study.runs if r.env_slug == env and r.arm["optimizer"] == arm]
    return {run.spec.training.q_lr for run in runs}


def test_each_rung_is_a_study_with_fewer_candidates_and_a_longer_budget():
    first, last = rungs(config())
    assert [study.study for study in (first, last)] == ["made-up-tuning-rung1", "made-up-tuning"]
    assert [study.chosen_in for study in (first, last)] == [None, "made-up-tuning-rung1"]
    assert Study.parse(config()).chosen_in == "made-up-tuning"
    assert {run.total_steps for run in first.runs} == {3000}
    assert {run.total_steps for run in last.runs} == {9000}
    # Two environments, two arms and three seeds.
    assert len(first.runs) == 2 * 2 * 3 * 8 and len(last.runs) == 2 * 2 * 3 * 2
    assert first.is_settled and not last.is_settled and last.has_stand_ins
    assert not Study.parse(config()).has_stand_ins


def test_the_numbers_of_candidates_and_the_budgets_are_rounded_down_each():
    given = config(1, candidates=23, halving={"factor": 2, "rungs": 4})
    found = [(len(s.runs) // 6, s.runs[0].total_steps) for s in rungs(given)]
    assert found == [(23, 1000), (11, 2000), (5, 4000), (2, 9000)]
    names = [study.study for study in rungs(given)]
    assert names == [*(f"made-up-tuning-rung{n}" for n in (1, 2, 3)), "made-up-tuning"]
    assert [s.chosen_in for s in rungs(given)] == [None, *names[:-1]]


def test_a_rung_trains_what_was_chosen_in_each_environment_and_resumes_it(tmp_path):
    first, last = rungs(config())
    (_, given) = Study.parse(config()).tuning_stages(config())
    chosen = choice(tmp_path, first, {PENDULUM: [6, 1], WALKER: [0, 7]})
    settled = Study.parse(given, chosen)
    assert settled.is_settled and not settled.has_stand_ins and len(settled.runs) == len(last.runs)
    for arm in ("adam", "sgd"):
        tried = [c["q_lr"] for c in first.tuned.candidates_of({"optimizer": arm})]
        assert rates(settled, PENDULUM, arm) == {tried[1], tried[6]}
        assert rates(settled, WALKER, arm) == {tried[0], tried[7]}
    states = {run.run_id: run.resume_directory(run.spec.cell.identity) for run in first.runs}
    for run in settled.runs:
        assert run.resume_directory(run.spec.cell.identity) == states[run.run_id]
        assert settled.resumed_at(run) == 3000
    assert {first.resumed_at(run) for run in first.runs} == {0}


@pytest.mark.parametrize("places", [{PENDULUM: [1, 2]}, {PENDULUM: [1], WALKER: [1, 2]}])
def test_a_choice_of_another_plan_settles_nothing(tmp_path, places):
    first, last = rungs(config())
    (_, given) = Study.parse(config()).tuning_stages(config())
    found = Study.parse(given, choice(tmp_path, first, places))
    assert found.has_stand_ins and len(found.runs) == len(last.runs)


def test_a_candidate_more_leaves_the_runs_of_the_others(tmp_path):
    before, after = (
        {run.directory: run.spec for run in rungs(config(candidates=n))[0].runs} for n in (8, 9)
    )
    assert before.items() <= after.items() and len(after) == len(before) + 2 * 2 * 3


def test_the_rung_after_needs_only_the_rest_of_the_steps(tmp_path):
    _, last = rungs(config())
    work = work_left(last, statuses(last, tmp_path), tmp_path)
    assert {each.steps for each in work} == {9000 - 3000}


def test_the_status_names_no_candidates_that_are_not_known(tmp_path):
    _, last = rungs(config())
    told = "24 runs of study made-up-tuning, of candidates that made-up-tuning-rung1 will choose."
    assert overview(last, tmp_path) == told
    study = Study.parse(config())
    # 96 and 24 candidates, and 24 reported runs.
    left = overview(study, tmp_path, rungs(config())).splitlines()[-1]
    assert left.startswith("Left, with the tuning in made-up-tuning: 144 trainings")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"candidates": 5}, "tuning.halving: expected at least 6 candidates .*adam.* received 5"),
        ({"halving": {"factor": 1, "rungs": 2}}, "tuning.halving.factor: .*received 1"),
        ({"halving": {"factor": 3, "rungs": 1}}, "tuning.halving.rungs: .*received 1"),
        ({"halving": {"factor": 3}}, "tuning.halving.rungs: .*required"),
        ({"halving": {"rung": 3}}, "unknown key 'rung'.* did you mean 'rungs'"),
    ],
)
def test_halving_that_cannot_be_is_refused_with_the_key_and_the_value(changed, message):
    with pytest.raises(ConfigError, match=message):
        Study.parse(config(**changed))


def test_rungs_without_a_snapshot_between_them_are_refused():
    given = config(budget=0.2, candidates=8, halving={"factor": 2, "rungs": 3})
    with pytest.raises(ConfigError, match=r"received \[1000, 1000, 2000\] steps in Pendulum-v1"):
        Study.parse(given).tuning_stages(given)


def test_without_the_state_to_resume_from_halving_is_refused():
    given = config() | {"execution": {"keep_resume_state": False}}
    with pytest.raises(ConfigError, match="execution.keep_resume_state: expected true .*halving"):
        Study.parse(given)
