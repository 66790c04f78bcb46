"""The stage of tuning: candidates, a choice, and reported runs that are trained with it."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from mpo.study.files import TUNED
from tests import processes
from tests.pipeline import ROOT, changed, finished_project, planned, project, snakemake

RATES = {"adam": [1e-4, 1e-3], "sgd": [1e-3, 1e-2]}
pytestmark = pytest.mark.slow

RECORD = "run.json"
CHOSEN = "results/tiny/chosen.json"


def config(rates=RATES, **sections):
    grids = [{"optimizer": name, "q_lr": values} for name, values in rates.items()]
    tuning = {"axes": ["optimizer"], "grids": grids, "seeds": [1000, 1001], "budget": 0.5}
    tuning["followers"] = {"policy_lr": {"q_lr": 1.0}}
    given = {"environments": ["Pendulum-v1"], "seeds": [0]} | sections
    return changed(**given) | {"tuning": tuning}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a tuned study that is finished; nobody may change it."""
    return finished_project(tmp_path_factory.mktemp("tuned"), config())


@pytest.fixture
def tuned(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tuned")


def chosen(folder):
    record = json.loads((folder / CHOSEN).read_text())
    return {row["arm"]["optimizer"]: row["settings"] for row in record["chosen"]}


def test_the_reported_runs_are_trained_with_what_was_chosen(made):
    rates = chosen(made)
    records = [*(made / "results/tiny/runs").rglob("run.json")]
    assert len(records) == 4
    for record in records:
        training = json.loads(record.read_text())["spec"]["training"]
        own = rates[training["optimizer"]]
        assert (training["q_lr"], training["policy_lr"]) == (own["q_lr"], own["policy_lr"])
        assert own["q_lr"] == own["policy_lr"] and own["q_lr"] in RATES[training["optimizer"]]
    candidates = [*(made / "results/tiny-tuning/runs").rglob("run.json")]
    assert len(candidates) == 8


def test_the_summary_says_what_was_tuned_and_chosen(made):
    text = (made / "results/tiny/summary.md").read_text()
    assert "2 candidates per arm (q_lr)" in text and "1000, 1001 for 50 % of the budget" in text
    assert "sgd \N{MINUS SIGN} adam, each at its tuned q_lr" in text
    assert "choices at the end of a grid: adam in Pendulum-v1 (q lr" in text
    assert "tiny-tuning/figures/sensitivity.png" in text


def test_both_stages_are_in_the_status(made):
    command = [sys.executable, "-m", "mpo", "status"]
    environment = {**os.environ, "PYTHONPATH": str(made)}
    said = subprocess.run(command, cwd=made, env=environment, capture_output=True, text=True).stdout
    assert "8 runs of study tiny-tuning: 8 ok." in said and "4 runs of study tiny: 4 ok." in said


def test_both_stages_can_be_kept_and_the_page_finds_its_figure(tuned):
    command = ["make", "-f", str(ROOT / "Makefile"), "reference", "STUDY=tiny"]
    subprocess.run([*command, f"BIN={os.path.dirname(sys.executable)}"], cwd=tuned, check=True)
    kept = tuned / "results/reference"
    for figure in re.findall(r"\]\((\S+\.png)\)", (kept / "tiny/summary.md").read_text()):
        assert (kept / "tiny" / figure).exists()
    tables = {path.stem for path in (kept / "tiny-tuning/tables").iterdir()}
    assert tables == {*TUNED} and (kept / "tiny-tuning/figures/sensitivity.png").exists()
    for name, count in (("tiny", 4), ("tiny-tuning", 8)):
        assert len([*kept.glob(f"{name}/runs/**/evals.parquet")]) == count


def test_a_second_call_has_nothing_to_do(made):
    assert planned(made, config()) == {}


def test_a_reported_seed_more_tunes_nothing(made):
    jobs = planned(made, config(seeds=[0, 1]))
    assert jobs["train"] == 4 and jobs["evaluate"] == 4
    assert not {"choose", "tuning_collect", "random"} & set(jobs)


def test_a_value_more_trains_that_candidate_and_chooses_again(made):
    more = config(RATES | {"sgd": [1e-3, 1e-2, 1e-1]})
    done = snakemake(made, "-n", "--cores", "2", config=more)
    lines = (done.stdout + done.stderr).splitlines()
    trained = {line for line in lines if "output: " in line and RECORD in line}
    new = [line for line in trained if "tiny-tuning" in line]
    assert len(new) == 2 and all("optimizer-sgd_q_lr-0.1/" in line for line in new)
    # It does not know the choice, so it lists all reported runs.
    assert len(trained) == 2 + 4 and "checkpoint choose" in "".join(lines)


def test_a_value_more_trains_reported_runs_only_where_it_is_chosen(tuned):
    before = {p: p.stat().st_mtime_ns for p in (tuned / "results/tiny/runs").rglob("run.json")}
    more = config(RATES | {"sgd": [1e-3, 1e-2, 1e-1]}, seeds=[0])
    done = snakemake(tuned, "--cores", "2", config=more)
    assert done.returncode == 0, done.stderr
    rate = chosen(tuned)["sgd"]["q_lr"]
    again = {p for p, time in before.items() if p.stat().st_mtime_ns != time}
    assert all("optimizer-sgd" in str(path) for path in again)
    assert len(again) == (2 if rate == 1e-1 else 0)
    assert planned(tuned, more) == {}


@pytest.mark.parametrize("remembered", [True, False])
def test_another_choice_trains_the_reported_runs_again(tuned, remembered):
    """With the criterion of the other candidate, also where Snakemake remembers nothing."""
    if not remembered:
        shutil.rmtree(tuned / ".snakemake")
    other = {
        name: [value for value in values if value != chosen(tuned)[name]["q_lr"]]
        for name, values in RATES.items()
    }
    given = config(other)
    for _ in range(2):  # without its memory, Snakemake needs a second call; the first one says so
        done = snakemake(tuned, "--cores", "2", config=given)
        if done.returncode == 0:
            break
        assert "another spec than the study plans" in done.stderr
    assert done.returncode == 0, done.stderr
    for record in (tuned / "results/tiny/runs").rglob("run.json"):
        training = json.loads(record.read_text())["spec"]["training"]
        assert [training["q_lr"]] == other[training["optimizer"]]


def test_a_lost_choice_is_made_again_and_trains_nothing(tuned):
    (tuned / CHOSEN).unlink()
    done = snakemake(tuned, "--cores", "2", config=config())
    assert done.returncode == 0, done.stderr
    assert "rule train" not in done.stderr and (tuned / CHOSEN).exists()
    assert planned(tuned, config()) == {}


@pytest.mark.parametrize("change", ["edited", "cut"])
def test_a_damaged_choice_is_made_again_and_nothing_is_trained_with_it(tuned, change):
    whole = (tuned / CHOSEN).read_text()
    (tuned / CHOSEN).write_text(
        whole.replace('"q_lr": 0.', '"q_lr": 0.9') if change == "edited" else whole[:99]
    )
    done = snakemake(tuned, "--cores", "2", config=config())
    assert done.returncode == 0, done.stderr
    assert "rule train" not in done.stderr and (tuned / CHOSEN).read_text() == whole


def test_a_choice_that_failed_is_tried_again_by_the_next_call(tuned):
    table = tuned / "results/tiny-tuning/tables/evals.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:100])
    (tuned / CHOSEN).unlink()
    done = snakemake(tuned, "--cores", "2", config=config())
    assert done.returncode != 0 and "evals.parquet" in done.stderr
    table.write_bytes(whole)
    assert planned(tuned, config())["choose"] == 1


def test_killed_while_a_candidate_trains_the_next_call_goes_on_to_the_same_bits(made, tmp_path):
    folder = project(tmp_path)
    often = config(execution={"checkpoint_interval_s": 0.02})
    step = processes.kill_while_training(folder, often, after=100, before=200)
    assert not (folder / CHOSEN).exists()
    done = snakemake(folder, "train", "--cores", "2", config=config())
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {step}\n" in done.stderr
    assert (folder / CHOSEN).read_bytes() == (made / CHOSEN).read_bytes()
    assert_same_runs(folder, made, 8 + 4)


def assert_same_runs(folder, calm, count):
    """Compares the bits of all runs in two projects."""
    runs = [path.parent.relative_to(calm) for path in calm.glob("results/*/runs/**/run.json")]
    assert len(runs) == count
    for run in runs:
        assert processes.bits(folder / run) == processes.bits(calm / run)
