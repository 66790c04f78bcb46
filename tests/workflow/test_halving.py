"""Tuning by successive halving: the runs of a rung depend on what the rung before found."""

import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tests import processes
from tests.pipeline import ROOT, changed, finished_project, planned, project, snakemake
from tests.workflow.test_tuning import CHOSEN, assert_same_runs, chosen

pytestmark = pytest.mark.slow

RATES = [1e-4, 1e-3, 3e-3, 1e-2]
FIRST, LAST = "results/tiny-tuning-rung1", "results/tiny-tuning"


def config(rates=RATES, rungs=2, **sections):
    """Two arms, each with four candidates for 100 steps, of which two go on to 200."""
    grids = [{"optimizer": name, "q_lr": rates} for name in ("adam", "sgd")]
    tuning = {"axes": ["optimizer"], "grids": grids, "seeds": [1000], "budget": 0.5}
    tuning["halving"] = {"factor": 2, "rungs": rungs}
    given = {
        "environments": ["Pendulum-v1"],
        "seeds": [0],
        "axes": {"retrace": [False]},
        "schedule": {"total_steps": 400, "snapshot_interval": 100, "log_interval": 100},
        "training": {"update_after": 50},
        "evaluation": {"online_episodes": 1, "final_episodes": 1},
    }
    return changed(**given | sections) | {"tuning": tuning}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a study that is tuned by halving and finished; nobody may change it."""
    return finished_project(tmp_path_factory.mktemp("halved"), config())


@pytest.fixture
def halved(made, tmp_path):
    return shutil.copytree(made, tmp_path / "halved")


def trained(folder, study):
    """The optimizer and rate of each candidate that was trained in a rung, and its steps."""
    records = [json.loads(path.read_text()) for path in folder.glob(f"{study}/runs/**/run.json")]
    return {
        (each["spec"]["training"]["optimizer"], each["spec"]["training"]["q_lr"]): each["env_steps"]
        for each in records
    }


def best_two(folder):
    """The two candidates of each arm with the greatest mean in the first rung's table."""
    table = pd.read_parquet(folder / f"{FIRST}/tables/candidates.parquet")
    best = table.sort_values("mean", ascending=False, kind="stable").groupby("arm").head(2)
    return {*best[["arm", "q_lr"]].itertuples(index=False, name=None)}


def test_all_candidates_are_trained_for_a_while_and_the_best_of_each_arm_go_on(made):
    first, last = trained(made, FIRST), trained(made, LAST)
    assert len(first) == 8 and {*first.values()} == {100}
    assert {*last.values()} == {200} and last.keys() == best_two(made)
    for optimizer, settings in chosen(made).items():
        assert (optimizer, settings["q_lr"]) in last
    # Those that went on resumed, so that no step was trained twice.
    assert (made / "output.txt").read_text().count("resumed at step 100\n") >= 4


def test_the_summary_and_the_status_show_the_rungs(made):
    text = (made / "results/tiny/summary.md").read_text()
    assert "4 up to 25 %, 2 up to 50 % of the budget. Each arm was given 600 environment" in text
    assert "tiny-tuning-rung1/figures/sensitivity.png" in text
    command = [sys.executable, "-m", "mpo", "status"]
    environment = {**os.environ, "PYTHONPATH": str(made)}
    said = subprocess.run(command, cwd=made, env=environment, capture_output=True, text=True).stdout
    for line in ("8 runs of study tiny-tuning-rung1: 8 ok.", "4 runs of study tiny-tuning: 4 ok."):
        assert line in said


def test_a_second_call_has_nothing_to_do_also_where_snakemake_remembers_nothing(made, halved):
    assert planned(made, config()) == {}
    shutil.rmtree(halved / ".snakemake")
    assert planned(halved, config()) == {}


def test_all_rungs_are_kept_and_taken_back_without_a_training(halved):
    command = ["make", "-f", str(ROOT / "Makefile"), "reference", "STUDY=tiny"]
    subprocess.run([*command, f"BIN={os.path.dirname(sys.executable)}"], cwd=halved, check=True)
    before = chosen(halved)
    for stage in ("results/tiny", FIRST, LAST):
        shutil.rmtree(halved / stage)
        kept = stage.replace("results", "results/reference")
        command = [sys.executable, "-m", "mpo", "merge", kept, "--into", stage]
        subprocess.run(command, cwd=halved, check=True)
    assert (halved / kept.replace("tuning", "tuning-rung1") / "figures/sensitivity.png").exists()
    # The choice first: until it is known, all reported runs are planned.
    for target in ([CHOSEN], []):
        done = snakemake(halved, "--cores", "2", *target, config=config())
        assert done.returncode == 0, done.stderr
        assert "rule train" not in done.stderr and "rule evaluate" not in done.stderr
    assert chosen(halved) == before and (halved / "results/tiny/summary.md").exists()


def test_a_reported_seed_more_tunes_nothing(made):
    jobs = planned(made, config(seeds=[0, 1]))
    assert jobs["train"] == 2 and not {"choose", "choose_for_rung_2", "tuning_collect"} & set(jobs)


def test_a_candidate_more_trains_what_is_new_and_no_other(halved):
    before = {p: p.stat().st_mtime_ns for p in halved.glob("results/tiny*/runs/**/run.json")}
    survived, old = best_two(halved), chosen(halved)
    more = config([*RATES, 3e-4])
    done = snakemake(halved, "--cores", "2", config=more)
    assert done.returncode == 0, done.stderr
    again = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    others = [arm for arm, settings in chosen(halved).items() if settings != old[arm]]
    assert len(again) == len(others)
    for path in again:  # of the reported runs only those whose settings changed
        assert path.is_relative_to(halved / "results/tiny")
        assert any(f"optimizer-{arm}" in str(path) for arm in others)
    assert len(trained(halved, FIRST)) == 8 + 2
    assert trained(halved, LAST).keys() == survived | best_two(halved)
    assert planned(halved, more) == {}


@pytest.mark.parametrize("lost", [f"{LAST}/chosen.json", CHOSEN])
def test_a_lost_choice_is_made_again_and_trains_nothing(halved, lost):
    whole = (halved / lost).read_bytes()
    (halved / lost).unlink()
    done = snakemake(halved, "--cores", "2", config=config())
    assert done.returncode == 0, done.stderr
    assert "rule train" not in done.stderr and (halved / lost).read_bytes() == whole
    assert planned(halved, config()) == {}


def test_killed_in_the_second_rung_the_next_call_goes_on_to_the_same_bits(made, tmp_path):
    folder = project(tmp_path)
    often = config(execution={"checkpoint_interval_s": 0.02})
    step = processes.kill_while_training(folder, often, after=100, before=200)
    assert (folder / LAST / "chosen.json").exists() and not (folder / CHOSEN).exists()
    done = snakemake(folder, "train", "--cores", "2", config=config())
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {step}\n" in done.stderr and "rung1" not in done.stderr
    assert (folder / CHOSEN).read_bytes() == (made / CHOSEN).read_bytes()
    assert_same_runs(folder, made, 8 + 4 + 2)
