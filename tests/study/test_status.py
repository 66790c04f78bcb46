import re

import pytest

from mpo.study.config import Execution
from mpo.study.overview import failures, overview
from mpo.study.packs import packs
from mpo.study.status import given_up, run_status
from tests import synthetic


@pytest.fixture
def study(tmp_path):
    return synthetic.plan(environments=1, axes={})


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"status": "running"}, "running"),
        ({"status": "running", "host": "elsewhere", "pid": 1}, "running"),
        ({"status": "running", "pid": 2**22 + 1}, "failed"),
        ({"status": "running", "heartbeat": 1e9}, "failed"),
        ({"status": "running", "host": "elsewhere", "heartbeat": 1e9}, "failed"),
        ({"status": "failed"}, "failed"),
        ({"status": "timeout"}, "timeout"),
        ({"status": "planned"}, "planned"),
        ({"status": "ok"}, "planned"),
        ({"status": "failed", "identity": "of another spec"}, "planned"),
    ],
)
def test_a_run_without_results_stands_as_its_job_says(study, tmp_path, said, status):
    run = study.runs[0]
    assert run_status(run, tmp_path).status == "planned"
    synthetic.write_status(run, tmp_path, **said)
    assert run_status(run, tmp_path).status == status
    assert given_up(run, tmp_path) == (status in ("failed", "timeout"))


def test_results_outweigh_what_a_job_said(study, tmp_path):
    synthetic.write_status(study.runs[0], tmp_path)
    synthetic.write_runs(study, tmp_path)
    assert run_status(study.runs[0], tmp_path).status == "ok"


def test_a_job_that_vanished_is_said_to_have(study, tmp_path):
    synthetic.write_status(study.runs[0], tmp_path, status="running", pid=2**22 + 1)
    found = run_status(study.runs[0], tmp_path)
    assert re.fullmatch(
        r"the job on .* ended without reporting an error, last heartbeat \d+ s ago; "
        r"it may have been killed",
        found.error,
    )


def test_the_overview_shows_cells_then_runs_at_work_and_in_trouble(study, tmp_path):
    running, failed, _ = study.runs
    synthetic.write_status(running, tmp_path, status="running")
    synthetic.write_status(failed, tmp_path, error="Traceback\nValueError: no luck")
    text = overview(study, tmp_path)
    assert "3 runs of study made-up: 1 planned, 1 running, 1 failed." in text
    assert re.search(r"Pendulum-v1 +\S+ +1 +1 +1\b", text)
    line = rf"{running.run_id} +train +250/10000 +50 +0:03:15 +0 s ago"
    assert re.search(line, text), text
    assert re.search(rf"{failed.run_id} +failed +ValueError: no luck", text)


def test_failures_are_shown_with_the_ends_of_their_logs(study, tmp_path):
    failed, diverged, fine = study.runs
    synthetic.write_runs(study, tmp_path)
    (tmp_path / failed.directory / "run.json").unlink()
    synthetic.write_status(failed, tmp_path)
    log = tmp_path / failed.log("train")
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {i}\n" for i in range(50)))
    path = tmp_path / diverged.directory / "run.json"
    text = path.read_text().replace('"ok"', '"diverged"').replace('"error": null', '"error": "inf"')
    path.write_text(text)
    page = failures(study, tmp_path)
    assert "3 runs of study made-up: 1 ok, 1 diverged, 1 failed." in page
    assert f"## {failed.run_id}: failed\n\n```\nRuntimeError: no luck\n```\n" in page
    assert "line 49" in page and "line 30" in page and "line 29" not in page
    assert f"## {diverged.run_id}: diverged\n\n```\ninf\n```\n" in page
    assert fine.run_id not in page


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'{"a": 1}'])
def test_planning_goes_on_with_records_that_cannot_be_read(tmp_path, content):
    """No run is planned again for that: `collect` says what to delete."""
    study = synthetic.plan(environments=1, seeds=3, axes={})
    study = study.model_copy(update={"execution": Execution(seeds_per_job=3)})
    synthetic.write_runs(study, tmp_path)
    first, second, third = study.runs
    (tmp_path / first.directory / "run.json").write_bytes(content)
    assert not given_up(first, tmp_path)
    assert run_status(first, tmp_path).status == "damaged"
    for run in (second, third):
        for name in ("policies.pt", "evals.json"):
            (tmp_path / run.directory / name).unlink()
    (tmp_path / second.status_file).parent.mkdir(parents=True)
    (tmp_path / second.status_file).write_bytes(content)
    assert not given_up(second, tmp_path)
    if content != b'{"a": 1}':
        assert [pack.seeds for pack in packs(study, study.runs, tmp_path)] == [(1, 2)]


def test_planning_opens_no_finished_file_but_records(tmp_path):
    study = synthetic.plan(environments=1, seeds=2, axes={})
    study = study.model_copy(update={"execution": Execution(seeds_per_job=2)})
    synthetic.write_runs(study, tmp_path)
    for path in tmp_path.rglob("*.parquet"):
        path.write_bytes(b"never read")
    assert packs(study, study.runs, tmp_path) == {}
    assert not any(given_up(run, tmp_path) for run in study.runs)
