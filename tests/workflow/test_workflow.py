"""The whole pipeline, run by Snakemake from config to figures on a copy of the project."""

import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest

from mpo.jobs.merge import merge
from mpo.report.figures import FIGURES
from tests import processes
from tests.pipeline import ROOT, TINY, changed, dry_run, planned, project, snakemake

CELLS = [
    f"{env}/retrace-{retrace}_optimizer-{optimizer}"
    for env in ("Pendulum-v1", "Reacher-v5")
    for retrace in ("off", "on")
    for optimizer in ("adam", "sgd")
]


def test_every_run_is_trained_and_evaluated(finished):
    runs = finished / "results/tiny/runs"
    for cell in CELLS:
        for seed in (0, 1):
            directory = runs / cell / f"seed{seed}" / "step400"
            record = json.loads((directory / "run.json").read_text())
            assert record["status"] == "ok" and record["env_steps"] == 400
            assert (directory / "evals.parquet").exists()
            assert record["spec"]["seed"] == seed and record["stacked"] == 1
    assert len(list(runs.glob("*/*/*/*/run.json"))) == 16


def test_tables_hold_every_run_and_agree_with_each_other(finished):
    tables = {
        name: pd.read_parquet(finished / f"results/tiny/tables/{name}.parquet")
        for name in ("runs", "evals", "train", "curves", "scores")
    }
    for name, table in tables.items():
        assert len(pd.read_csv(finished / f"results/tiny/tables/{name}.csv")) == len(table)
    assert len(tables["runs"]) == tables["train"]["run_id"].nunique() == 16
    evals = tables["evals"].merge(tables["runs"][["run_id", "env", "retrace", "optimizer", "seed"]])
    final = evals.query("phase == 'final' and policy == 'mode'")
    per_seed = final.groupby(["env", "retrace", "optimizer", "seed"])["return"].mean()
    expected = per_seed.groupby(["env", "retrace", "optimizer"]).mean()
    scores = tables["scores"].query("policy == 'mode'")
    found = scores.set_index(["env", "retrace", "optimizer"])["mean"]
    pd.testing.assert_series_equal(found.sort_index(), expected, check_names=False)
    assert (tables["scores"]["n"] == 2).all()
    assert sorted(tables["curves"]["env_step"].unique()) == [0, 200, 400]


def test_the_random_policy_is_measured_and_scores_are_on_its_scale(finished):
    tables = finished / "results/tiny/tables"
    scale = pd.read_parquet(tables / "references.parquet").set_index("env")
    assert scale.loc["Pendulum-v1", "random_episodes"] == 20
    finals = pd.read_parquet(tables / "finals.parquet")
    low, high = (finals["env"].map(scale[name]) for name in ("random", "reference"))
    assert ((finals["return"] - low) / (high - low)).to_list() == pytest.approx(finals["score"])
    assert len(finals) == 16


def test_figures_and_summary_are_there(finished):
    figures = finished / "results/tiny/figures"
    for name in FIGURES:
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (figures / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert "<svg" in (figures / f"{name}.svg").read_text()
    summary = (finished / "results/tiny/summary.md").read_text()
    assert re.search(
        r"\*\*sgd − adam, at the settings given\*\*: [+-]\d.*, pooled over 2 environments, 2 seeds",
        summary,
    )
    assert "figures/learning_curves.png" in summary and "Reacher-v5" in summary
    assert "exploratory" in summary


def test_progress_is_shown_and_kept(finished):
    shown = (finished / "output.txt").read_text()
    log = (
        finished / "results/tiny/logs/Pendulum-v1/retrace-on_optimizer-sgd/seed1/step400/train.log"
    ).read_text()
    line = (
        r"Pendulum-v1/retrace-on_optimizer-sgd seed 1: 400/400 steps, [\d.]+ *steps/s, "
        r"return=-\d.*ETA"
    )
    assert re.search(line, log) and re.search(line, shown)


def test_a_second_call_has_nothing_to_do(finished):
    assert planned(finished) == {}


def test_from_kept_runs_without_policies_tables_are_made_again_and_nothing_is_trained(
    finished, tmp_path
):
    """A fresh checkout has them, with the times of the checkout."""
    kept, there = tmp_path / "results/reference/tiny", tmp_path / "results/tiny"
    assert len(merge([finished / "results/tiny"], kept, policies=False).taken) == 16
    for number, path in enumerate(sorted(kept.rglob("*.*"))):
        os.utime(path, (number, number))
    assert len(merge([kept], there).taken) == 16
    assert not [*tmp_path.rglob("policies.pt")]
    jobs = planned(project(tmp_path))
    assert "train" not in jobs and "evaluate" not in jobs
    assert jobs["collect"] == jobs["statistics"] == jobs["summary"] == 1
    assert planned(tmp_path, changed(seeds=[0, 1, 5]))["train"] == 8


def test_another_seed_trains_only_itself(finished):
    jobs = planned(finished, changed(seeds=[0, 1, 5]))
    assert jobs["train"] == jobs["evaluate"] == 8


def test_one_optimizers_learning_rate_retrains_only_its_runs(finished):
    jobs = planned(finished, changed(optimizers={"sgd": {"policy_lr": 0.05}}))
    assert jobs["train"] == jobs["evaluate"] == 8


def test_more_evaluation_trains_nothing(finished):
    jobs = planned(finished, changed(evaluation={"final_episodes": 4}))
    assert "train" not in jobs and jobs["evaluate"] == 16


def test_a_longer_budget_keeps_the_shorter_result(finished):
    jobs = planned(finished, changed(schedule={"total_steps": 600}))
    assert jobs["train"] == 16


@pytest.mark.slow
def test_a_policy_is_filmed_on_request(finished):
    film = "results/tiny/runs/Pendulum-v1/retrace-on_optimizer-adam/seed0/step400/video.mp4"
    done = snakemake(finished, "--cores", "1", film)
    assert done.returncode == 0, done.stderr
    assert (finished / film).read_bytes()[4:8] == b"ftyp"


@pytest.mark.slow
def test_films_and_event_files_are_made_where_the_config_says_so(finished):
    config = TINY | {"extras": {"videos": True, "tensorboard": True}}
    there = len(list(finished.rglob("video.mp4")))
    found = planned(finished, config=config)
    # One film per arm, of which another test may have made one, and events of every run.
    assert (found["video"] + there, found["events"]) == (8, 16)
    assert not {"train", "evaluate", "random"} & set(found)
    event = f"results/tiny/tensorboard/{CELLS[0]}/seed1/step400/events.out.tfevents.run"
    done = snakemake(finished, "--cores", "1", event)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (finished / event).stat().st_size > 1000


@pytest.mark.slow
def test_a_sample_of_runs_can_be_verified(finished):
    assert snakemake(finished, "--cores", "2", "verify").returncode == 0
    page = (finished / "results/tiny/verification.md").read_text()
    assert "3 of 3 runs were reproduced bit for bit on this machine." in page
    for run in ("Pendulum-v1/retrace-off_optimizer-adam/seed0", "Reacher-v5/retrace-on"):
        assert run in page


@pytest.mark.slow
def test_a_longer_budget_goes_on_from_the_end_of_the_shorter_one(finished):
    run = "results/tiny/runs/Reacher-v5/retrace-on_optimizer-adam/seed0/step600/run.json"
    config = changed(schedule={"total_steps": 600})
    done = snakemake(finished, "--cores", "2", run, config=config)
    assert done.returncode == 0 and "resumed at step 400" in done.stderr, done.stderr
    assert json.loads((finished / run).read_text())["env_steps"] == 600


def test_where_a_run_executes_retrains_nothing(finished):
    execution = {
        "device": "auto",
        "runs_per_gpu": 2,
        "seeds_per_job": 2,
        "checkpoint_interval_s": 5,
        "environment_timeout_s": 9,
        "keep_resume_state": False,
    }
    assert planned(finished, changed(execution=execution)) == {}


def test_how_a_run_executes_stands_in_its_command(finished):
    execution = {"compile_on_cpu": True, "cuda_graphs": False, "keep_resume_state": False}
    config = changed(execution=execution, seeds=[0, 1, 7])
    done = snakemake(finished, "-n", "--printshellcmds", "--cores", "2", config=config)
    commands = re.findall(r"python -m mpo train .*", done.stdout + done.stderr)
    assert len(commands) == 8
    for option in ("--compile-on-cpu true", "--no-cuda-graphs", "--discard-resume-state"):
        assert all(option in command for command in commands)


def test_an_ablation_axis_leaves_finished_runs_alone(finished):
    jobs = planned(finished, changed(axes={"gamma": [0.99, 0.9]}))
    assert jobs["train"] == 16


def test_editing_a_figure_redraws_only_that_figure(finished):
    code = finished / "mpo/report/figures/final_scores.py"
    before = code.read_text()
    code.write_text(before + "\n# edited\n")
    try:
        assert planned(finished) == {"figure_final_scores": 1, "summary": 1, "pages": 1}
    finally:
        code.write_text(before)


@pytest.mark.slow
def test_a_lost_figure_is_drawn_again_as_it_was(finished):
    picture = finished / "results/tiny/figures/final_scores.png"
    before = picture.read_bytes()
    picture.unlink()
    done = snakemake(finished, "--cores", "2", "figures")
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes() == before and "rule figure_effects" not in done.stderr


@pytest.mark.slow
def test_a_rules_command_can_be_pasted_and_gives_the_same_bits(finished):
    output = (finished / "output.txt").read_text()
    run = "Pendulum-v1/retrace-on_optimizer-adam/seed1"
    commands = re.findall(r"python -m mpo (?:train|evaluate) .*", output)
    train, evaluate = (
        next(c for c in commands if f"mpo {verb} " in c and run in c)
        for verb in ("train", "evaluate")
    )
    for command in (train, evaluate):
        pasted = command.replace(
            "results/tiny", "again/tiny"
        )  # a new folder, so it trains from step 0
        pasted = pasted.replace("python -m", f"{sys.executable} -m")
        subprocess.run(pasted, shell=True, cwd=finished, check=True, capture_output=True)
    first, again = (finished / f"{root}/tiny/runs/{run}/step400" for root in ("results", "again"))
    assert processes.bits(first) == processes.bits(again)
    assert (first / "evals.parquet").read_bytes() == (again / "evals.parquet").read_bytes()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            changed(training={"gama": 0.9}),
            "unknown key 'gama' with value 0.9; did you mean 'gamma'",
        ),
        (changed(environments=["Pendulm-v1"]), "'Pendulm-v1'.*Pendulum-v1"),
        (changed(environments=["CartPole-v1"]), "MPO needs a 1-D Box of actions, got Discrete"),
        (
            changed(axes={"optimizer": ["adam", "adm"]}),
            "axes.optimizer.*'rmsprop' or 'lion', received 'adm'",
        ),
        (
            changed(optimizers={"n": {"class": "torch.optim.Nadam"}}, axes={"optimizer": ["n"]}),
            "optimizers.n.class: 'torch.optim' has no 'Nadam', received .* mean NAdam or",
        ),
        (changed(environments=["Pendulum-v1; touch x"]), "received 'Pendulum-v1; touch x'"),
        (changed(training={"policy_lr": "fast"}), "training.policy_lr.*received 'fast'"),
    ],
)
def test_bad_input_ends_before_any_job_and_writes_nothing(tmp_path, config, message):
    folder = project(tmp_path)
    done = snakemake(folder, "--cores", "1", config=config)
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("content", "cell"),
    [
        (b"", "empty"),
        (b"- a\n", "a list"),
        (b"word\n", "a single word"),
        (b"a: [1\n", "open bracket"),
        ("study: caf\u00e9\n".encode("latin-1"), "not text in UTF-8"),
    ],
)
def test_the_docs_explain_what_snakemake_says_of_files_that_are_no_config(tmp_path, content, cell):
    folder = project(tmp_path)
    (folder / "bad.yaml").write_bytes(content)
    done = dry_run(folder, "-n", "--cores", "1", "--configfile", "bad.yaml")
    rows = (ROOT / "docs/changing-a-study.md").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith("|") and cell in row]
    assert done.returncode == 1 and row.split("`")[1] in done.stdout + done.stderr
    assert not (folder / "results").exists()


@pytest.mark.slow
def test_every_study_of_the_config_folder_can_be_planned(tmp_path):
    """Each message appears once, whatever the environments do to logging."""
    project(tmp_path)
    presets = ROOT / "config/presets"
    studies = [
        [path] for path in sorted((ROOT / "config").rglob("*.yaml")) if path.parent != presets
    ]
    assert len(studies) > 5
    studies += [["config/small.yaml", path] for path in sorted(presets.glob("*"))]
    for files in studies:
        done = dry_run(tmp_path, "--dry-run", "--cores", "2", "--configfile", *map(str, files))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "INFO:snakemake" not in done.stdout + done.stderr
        assert re.search(r"^train\w* +[1-9]\d*$", done.stdout, re.M)


def test_lint_finds_nothing_but_the_missing_software_environment():
    """All rules share one environment, which pip installs from constraints.txt."""
    command = [sys.executable, "-m", "snakemake", "--lint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = {line.strip() for line in done.stderr.splitlines() if line.startswith("    * ")}
    assert found == {"* Specify a conda environment or container for each rule.:"}


@pytest.mark.parametrize("lost", ["summary.md", "tables/effects.csv", "figures/costs.pdf"])
def test_whatever_a_study_lost_is_planned_again(finished, lost):
    path = finished / "results/tiny" / lost
    before = path.read_bytes()
    stat = path.stat()
    path.unlink()
    try:
        assert planned(finished)
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert planned(finished) == {}
