"""Studies in which something goes wrong, run by Snakemake, and what the user reads about it."""

import os
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest

from tests import processes
from tests.pipeline import changed, planned, project, snakemake, start

CELL = "retrace-off_optimizer-adam"
BROKEN = '''
import gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv

class Broken(PendulumEnv):
    """Raises in its second episode."""
    def reset(self, **kwargs):
        self.episode = getattr(self, "episode", 0) + 1
        return super().reset(**kwargs)
    def step(self, action):
        if self.episode == 2:
            raise RuntimeError("the engine is out of order")
        return super().step(action)

gym.register("Broken-v0", Broken, max_episode_steps=80)
'''


def mpo(folder, *arguments):
    command = [sys.executable, "-m", "mpo", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    """A study, run once, in which one environment fails and one optimizer diverges."""
    folder = project(tmp_path_factory.mktemp("troubled"))
    (folder / "broken.py").write_text(BROKEN)
    config = changed(
        environments=["Pendulum-v1", "broken:Broken-v0"],
        seeds=[0],
        axes={"retrace": [False]},
        optimizers={"sgd": {"q_lr": 1e38}},
    )
    return folder, config, snakemake(folder, "--cores", "2", "--retries", "1", config=config)


@pytest.mark.slow
def test_all_that_can_be_finished_is_and_tables_wait_for_the_rest(troubled):
    folder, _, done = troubled
    assert done.returncode != 0
    assert "failures.md" in done.stderr and "Trying to restart job" in done.stderr
    study = folder / "results/tiny"
    for variant in (CELL, "retrace-off_optimizer-sgd"):
        assert (study / "runs/Pendulum-v1" / variant / "seed0/step400/evals.json").exists()
        assert not list((study / "runs/broken-Broken-v0" / variant).rglob("run.json"))
    assert not (study / "tables").exists()


def test_failures_are_named_with_their_logs(troubled):
    folder, *_ = troubled
    page = (folder / "results/tiny/failures.md").read_text()
    assert "4 runs of study tiny: 1 ok, 1 diverged, 2 failed." in page
    assert f"## broken-Broken-v0/{CELL}/seed0: failed" in page
    error = "environment 'broken:Broken-v0', step 1 of an episode: step raised RuntimeError: the"
    assert page.count(error) >= 4  # for each of two runs, as its error and in its log
    assert "## Pendulum-v1/retrace-off_optimizer-sgd/seed0: diverged" in page
    assert "is not finite at step" in page or " is nan at step" in page or " is inf at" in page


def test_the_status_shows_them_too(troubled):
    folder, *_ = troubled
    text = mpo(folder, "status")
    assert "4 runs of study tiny: 1 ok, 1 diverged, 2 failed." in text
    assert "the engine is out of order" in text
    assert text == mpo(folder, "status", "--study", "results/tiny/study.json")


@pytest.mark.slow
def test_missing_runs_are_left_out_only_where_that_is_allowed(troubled):
    folder, config, _ = troubled
    done = snakemake(folder, "--cores", "2", config=config | {"allow_missing": True})
    assert done.returncode == 0, done.stderr
    study = folder / "results/tiny"
    assert "rule train:" not in done.stderr and "rule evaluate:" not in done.stderr
    scores = pd.read_parquet(study / "tables/scores.parquet").query("policy == 'mode'")
    assert scores["n"].tolist() == [1, 1, 0, 0] and scores["diverged"].tolist() == [0, 1, 0, 0]
    assert scores["mean"].notna().tolist() == [True, True, False, False]
    summary = (study / "summary.md").read_text()
    assert "**2 runs of 4 missing: broken-Broken-v0/" in summary
    assert "1 run diverged (scored by the last finite policy): " in summary
    assert (study / "figures/learning_curves.png").exists()


UNRULY = """
import gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv

class Always(PendulumEnv):
    \"\"\"Fails in every episode but the one that is tried while planning.\"\"\"
    def reset(self, *, seed=None, options=None):
        if seed != 0:
            raise RuntimeError("no licence")
        return super().reset(seed=seed, options=options)

class Shaky(PendulumEnv):
    \"\"\"Fails in an episode that only the random policy plays.\"\"\"
    def reset(self, *, seed=None, options=None):
        if seed == 2**31 + 2**20 + 5:
            raise RuntimeError("the engine is out of order")
        return super().reset(seed=seed, options=options)

gym.register("Always-v0", Always, max_episode_steps=80)
gym.register("Shaky-v0", Shaky, max_episode_steps=80)
"""


@pytest.fixture(scope="module")
def unruly(tmp_path_factory):
    """A study that allows missing runs, in which one environment always fails, called twice."""
    folder = project(tmp_path_factory.mktemp("unruly"))
    (folder / "unruly.py").write_text(UNRULY)
    config = changed(
        environments=["Pendulum-v1", "unruly:Always-v0", "unruly:Shaky-v0"],
        seeds=[0, 1],
        axes={"retrace": [False], "optimizer": ["adam"]},
        schedule={"total_steps": 200},
        allow_missing=True,
    ) | {"extras": {"videos": True, "tensorboard": True}}
    arguments = "--cores", "2", "--retries", "0"
    calls = [snakemake(folder, *arguments, config=config) for _ in range(2)]
    return folder, config, calls


@pytest.mark.slow
def test_an_environment_that_always_fails_leaves_the_others_their_statistics(unruly):
    folder, _, (first, second) = unruly
    assert first.returncode != 0 and "environment 'unruly:Always-v0'" in first.stderr
    assert second.returncode == 0, second.stderr
    study = folder / "results/tiny"
    finals = pd.read_parquet(study / "tables/finals.parquet").set_index(["env", "seed"])["score"]
    assert finals.notna().groupby("env").all().to_dict() == {
        "Pendulum-v1": True,
        "unruly:Always-v0": False,
        "unruly:Shaky-v0": False,
    }
    assert len(pd.read_parquet(study / "tables/runs.parquet").query("status == 'ok'")) == 4
    summary = (study / "summary.md").read_text()
    assert "**2 runs of 6 missing: unruly-Always-v0/" in summary
    assert "**No scores in unruly:Shaky-v0: its random return could not be measured.**" in summary
    assert "the engine is out of order" in summary
    assert "no licence" in (study / "failures.md").read_text()
    assert len(list(study.rglob("video.mp4"))) == 2 and len(list(study.rglob("*tfevents*"))) == 4
    assert planned(folder, unruly[1]) == {}


@pytest.mark.slow
def test_a_damaged_run_keeps_neither_films_nor_event_files_of_the_others(unruly):
    folder, config, _ = unruly
    study = folder / "results/tiny"
    run = study / f"runs/Pendulum-v1/{CELL}/seed0/step200"
    path = run / "evals.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)  # of the same size, so that only `collect` can tell
    shutil.rmtree(study / "tensorboard")
    for film in study.rglob("video.mp4"):
        film.unlink()
    arguments = "--cores", "2", "--retries", "0"
    first = snakemake(folder, *arguments, config=config)
    assert first.returncode != 0
    assert f"{path.relative_to(folder)}: it is not the file that its job wrote" in first.stderr
    second = snakemake(folder, *arguments, config=config)
    assert second.returncode == 0, second.stderr
    assert len(list(study.rglob("*tfevents*"))) == 3
    films = [film.parent.parent.name for film in sorted(study.rglob("video.mp4"))]
    assert films == ["seed1", "seed0"]
    assert f"Pendulum-v1/{CELL}/seed0 (damaged)" in (study / "summary.md").read_text()


LONG = changed(
    environments=["Pendulum-v1"],
    seeds=[0],
    axes={"retrace": [False], "optimizer": ["adam"]},
    schedule={"total_steps": 3000, "snapshot_interval": 1500, "log_interval": 500},
    execution={"checkpoint_interval_s": 0.2},
)
RUN = f"results/tiny/runs/Pendulum-v1/{CELL}/seed0/step3000"


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The bits of a run that nothing interrupted."""
    folder = project(tmp_path_factory.mktemp("calm"))
    done = snakemake(folder, "--cores", "1", f"{RUN}/run.json", config=LONG)
    assert done.returncode == 0, done.stderr
    return processes.bits(folder / RUN)


def stop(process, number):
    """Signals the whole process group, as Ctrl-C in a terminal does."""
    os.killpg(process.pid, number)
    return process.communicate(timeout=120)


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_goes_on(tmp_path, calm):
    folder = project(tmp_path)
    process = start(folder, "--cores", "2", config=LONG)
    processes.wait_for_checkpoint(process, folder)
    stop(process, signal.SIGINT)
    assert process.returncode != 0
    status = mpo(folder, "status")
    assert "1 run of study tiny: 1 planned." in status, status
    done = snakemake(folder, "--cores", "2", f"{RUN}/run.json", config=LONG)
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
    assert processes.bits(folder / RUN) == calm


@pytest.mark.slow
def test_after_a_kill_and_an_unlock_the_same_command_goes_on(tmp_path, calm):
    folder = project(tmp_path)
    process = start(folder, "--cores", "2", config=LONG)
    processes.wait_for_checkpoint(process, folder)
    stop(process, signal.SIGKILL)
    assert "ended without reporting an error" in mpo(folder, "status")
    locked = snakemake(folder, "--cores", "2", config=LONG)
    assert locked.returncode != 0 and "--unlock" in locked.stderr
    assert snakemake(folder, "--unlock", config=LONG).returncode == 0
    done = snakemake(folder, "--cores", "2", f"{RUN}/run.json", config=LONG)
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
    assert processes.bits(folder / RUN) == calm


@pytest.mark.slow
def test_a_job_that_outlives_its_snakemake_and_its_duplicate_do_not_mix(tmp_path, calm):
    folder = project(tmp_path)
    process = start(folder, "--cores", "2", config=LONG)
    processes.wait_for_checkpoint(process, folder)
    trainer = processes.trainer(folder)
    trainer.suspend()  # so that it cannot finish before the second call
    try:
        second = snakemake(folder, "--cores", "2", config=LONG)
        assert second.returncode != 0 and "locked" in second.stderr  # two calls at once
        process.kill()  # Snakemake alone; its job goes on
        process.wait()
        assert "1 running" in mpo(folder, "status")
        assert snakemake(folder, "--unlock", config=LONG).returncode == 0
        again = start(folder, "--cores", "2", f"{RUN}/run.json", config=LONG)
        assert any("waiting for process" in line for line in again.stderr)
    finally:
        trainer.resume()
    _, stderr = again.communicate()
    assert again.returncode == 0, stderr
    assert processes.bits(folder / RUN) == calm
