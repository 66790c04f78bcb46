"""Results of one study from several machines, brought together."""

import json
import shutil

import pytest

from mpo.__main__ import main
from mpo.analysis import collect
from mpo.analysis.runs import read_run
from mpo.jobs.merge import merge
from mpo.study.checksums import sealed
from mpo.study.config import JobFailed
from mpo.study.files import QUESTIONS
from mpo.study.status import run_status
from tests import synthetic


@pytest.fixture
def machines(tmp_path):
    """Two machines that share the runs of a study between them, and one run have both."""
    study = synthetic.plan(environments=1)
    synthetic.write_runs(study, tmp_path / "all")
    for run in study.runs:
        directory = tmp_path / "all" / run.directory
        record = json.loads((directory / "run.json").read_text())
        files = [directory / name for name in ("train.parquet", "policies.pt")]
        (directory / "run.json").write_text(json.dumps(sealed(record, files)))
    for name, runs in (("a", study.runs[:3]), ("b", study.runs[2:])):
        for run in runs:
            shutil.copytree(
                tmp_path / "all" / run.directory, tmp_path / name / "results" / run.directory
            )
    return study, *(tmp_path / name / "results" for name in "ab")


def folder(study, root):
    return root / "results" / study.study


def test_each_run_is_taken_once_and_the_tables_are_those_of_one_machine(machines, tmp_path):
    study, a, b = machines
    mine = (a / study.runs[2].directory / "run.json").stat().st_mtime_ns
    found = merge([folder(study, b)], folder(study, a))
    assert found.taken == sorted(run.run_id + "/step10000" for run in study.runs[3:])
    assert found.present == [study.runs[2].run_id + "/step10000"]
    assert (a / study.runs[2].directory / "run.json").stat().st_mtime_ns == mine
    whole, merged = (collect.collect(study, root) for root in (tmp_path / "all", a))
    for name, frame in whole.items():
        assert frame.equals(merged[name]), name
    assert merge([folder(study, b)], folder(study, a)).taken == []


def test_times_are_kept_so_that_nothing_is_planned_again(machines):
    study, a, b = machines
    merge([folder(study, b)], folder(study, a))
    for name in ("run.json", "policies.pt", "evals.parquet"):
        theirs, ours = (root / study.runs[-1].directory / name for root in (b, a))
        assert theirs.stat().st_mtime_ns == ours.stat().st_mtime_ns


def test_runs_of_unlike_specs_are_named_and_nothing_is_copied(machines):
    study, a, b = machines
    path = b / study.runs[2].directory / "run.json"
    record = json.loads(path.read_text())
    record["spec"]["training"]["gamma"] = 0.5
    path.write_text(json.dumps(sealed(record)))
    with pytest.raises(JobFailed, match=f"{study.runs[2].run_id}.*unlike specs"):
        merge([folder(study, b)], folder(study, a))
    assert not (a / study.runs[-1].directory).exists()


def test_a_damaged_run_is_named_and_nothing_is_copied(machines):
    study, a, b = machines
    path = b / study.runs[-1].directory / "train.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(JobFailed, match="train.parquet"):
        merge([folder(study, b)], folder(study, a))
    assert not (a / study.runs[-2].directory).exists()


def test_an_evaluation_that_is_missing_here_is_taken(machines):
    study, a, b = machines
    here = a / study.runs[2].directory
    for name in ("evals.parquet", "evals.json"):
        (here / name).unlink()
    assert study.runs[2].run_id + "/step10000" in merge([folder(study, b)], folder(study, a)).taken
    assert (here / "evals.parquet").exists() and (here / "evals.json").exists()


def test_the_command_says_how_many_runs_it_took(machines, capsys):
    study, a, b = machines
    arguments = [str(folder(study, b)), "--into", str(folder(study, a))]
    assert main(["merge", *arguments]) == 0
    assert "9 runs taken, 1 were there already" in capsys.readouterr().out
    assert main(["merge", str(b / "nowhere"), "--into", str(folder(study, a))]) == 2
    assert str(b / "nowhere") in capsys.readouterr().err


def test_what_is_no_study_is_neither_merged_nor_merged_into(machines, tmp_path):
    study, a, b = machines
    (tmp_path / "notes").mkdir()
    wrong = [([a / "results"], folder(study, b)), ([folder(study, a)], tmp_path / "notes")]
    for sources, target in wrong:
        with pytest.raises(JobFailed, match="expected a folder results/STUDY, found .*s$"):
            merge(sources, target)
    with pytest.raises(JobFailed, match="is the folder to merge into"):
        merge([folder(study, a)], folder(study, a))
    assert not [*(tmp_path / "notes").iterdir()]


def test_recorded_questions_stay_those_of_each_machine(machines, tmp_path):
    study, a, b = machines
    for root in (a, b):
        (folder(study, root) / QUESTIONS).write_text(root.parent.name)
    assert len(merge([folder(study, b)], folder(study, a)).taken) == 9
    assert (folder(study, a) / QUESTIONS).read_text() == "a"


def test_a_study_that_has_not_been_started_here_takes_all_runs_and_its_questions(
    machines, tmp_path
):
    study, a, _ = machines
    new = tmp_path / "new/results/made-up"
    (folder(study, a) / QUESTIONS).write_text("asked before")
    assert len(merge([folder(study, a)], new).taken) == 3
    assert (new / QUESTIONS).read_text() == "asked before"


def test_without_policies_evaluated_runs_are_copied_and_give_the_same_tables(machines, tmp_path):
    study, a, _ = machines
    kept, again = (tmp_path / name / "made-up" for name in ("results/reference", "again/results"))
    (a / study.runs[0].directory / "evals.json").unlink()
    assert len(merge([folder(study, a)], kept, policies=False).taken) == 2
    assert not [*kept.rglob("policies.pt")]
    assert len(merge([kept], again).taken) == 2 and merge([kept], again).taken == []
    status = [run_status(run, again.parents[1]).status for run in study.runs[:3]]
    assert status == ["planned", "ok", "ok"]
    for run in study.runs[1:3]:
        facts = [read_run(run, root)._asdict() for root in (a, again.parents[1])]
        assert facts[0] == facts[1]


def test_policies_come_back_from_a_copy_that_has_them(machines, tmp_path):
    study, a, _ = machines
    kept = tmp_path / "results/reference/made-up"
    merge([folder(study, a)], kept, policies=False)
    assert len(merge([folder(study, a)], kept).taken) == 3
    assert len([*kept.rglob("policies.pt")]) == 3


def test_a_run_without_policies_that_is_not_evaluated_is_named(machines):
    study, a, b = machines
    for name in ("policies.pt", "evals.parquet"):
        (b / study.runs[-1].directory / name).unlink()
    with pytest.raises(JobFailed, match="policies.pt"):
        merge([folder(study, b)], folder(study, a))
