"""Starts `python -m mpo train` on small runs and reads what it leaves behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import torch

from mpo.study.hyperparameters import Training
from mpo.study.paths import Place
from mpo.study.specs import EvaluationSpec, RunSpec
from mpo.training import loop
from mpo.training.recorder import CLOCKS
from mpo.training.stack import Stack
from tests import pipeline

ROOT = Path(__file__).parents[1]


STACKABLE = {"policy_layer_sizes": (32,), "critic_layer_sizes": (32,)}
"""Widths with which rounding on a CPU does not depend on the number of stacked seeds."""


def run_spec(env_id, seed=0, **training):
    """Returns a run with small networks whose updates start at step 100."""
    defaults = {
        "policy_layer_sizes": (16,),
        "critic_layer_sizes": (16,),
        "replay_size": 500,
        "update_after": 100,
        "batch_size": 16,
    }
    return RunSpec(
        env_id=env_id,
        seed=seed,
        training=Training(**defaults | training),
        snapshot_interval=100,
        log_interval=50,
    )


def place(folder, spec, steps, seed=None, study="study"):
    """Returns the place of a run below a folder."""
    seed = spec.seed if seed is None else seed
    return Place(study, "environment", "arm", seed, steps, folder / "results")


def results(folder, *run, **names):
    """Returns the directory of a run's results below a folder; see `place`."""
    return place(folder, *run, **names).directory


def resume(folder, spec, seed=None):
    """Returns the resume directory of a run below a folder."""
    return place(folder, spec, 0, seed).resume_directory(spec.cell.identity)


def wait_for_checkpoint(process, folder):
    """Waits until the run that Snakemake trains in a folder has its first checkpoint."""
    deadline = time.monotonic() + 300
    while not list(folder.glob("results/.resume/**/checkpoint-*.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trainer(folder):
    """Returns the one process that trains in a folder."""
    (found,) = (
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[1:4] == ["-m", "mpo", "train"]
        and process.cwd() == str(folder)
    )
    return found


def train(
    folder,
    spec,
    steps,
    *options,
    seeds=None,
    study="study",
    interval=60.0,
    log=True,
    output=subprocess.PIPE,
):
    """Starts the training of a run, or of several seeds of its cell, with all files in a folder."""
    places = [place(folder, spec, steps, seed, study) for seed in seeds or [spec.seed]]
    command = [sys.executable, "-m", "mpo", "train", "--cell", spec.cell.identity]
    command += ["--device", "cpu", "--checkpoint-interval", interval, *options]
    command += ["--out", *(place.directory / "run.json" for place in places)]
    if log:
        command += ["--log", *(place.log("train") for place in places)]
    return start_process(command, output)


def train_here(directory, spec, steps, seed=None, resume=None):
    """Trains a run in this process, which is faster by one import of torch.

    Args:
        directory: where the run's files are written.
        spec: what is trained.
        steps: budget, in environment steps.
        seed: replaces the seed of `spec`.
        resume: resume directory; None trains without checkpoints.

    Returns:
        The environment step at which the training ended.
    """
    seeds = [spec.seed if seed is None else seed]
    stack = Stack(spec.env_id, spec.training, seeds, torch.device("cpu"))
    loop.train(stack, spec.cell, steps, [directory], [resume] if resume else [])
    return stack.env_steps


def evaluate(folder, spec, steps, episodes):
    """Starts the evaluation of a run, with so many online episodes per snapshot."""
    run = place(folder, spec, steps)
    config = EvaluationSpec(online_episodes=episodes, final_episodes=1).identity
    command = [sys.executable, "-m", "mpo", "evaluate", "--run", run.directory]
    return start_process([*command, "--config", config, "--log", run.log("evaluate")])


def start_process(command, output=subprocess.PIPE):
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, code=0):
    """Waits for a process to exit with this code; returns what it printed."""
    output, _ = process.communicate(timeout=180)
    assert process.returncode == code, output
    return output


def wait_until_training(process, directory):
    """Waits until a process holds the lock of a resume directory, just before it trains."""
    owner, deadline = directory / "owner", time.monotonic() + 120
    while not (owner.exists() and owner.read_text().startswith(f"process {process.pid} ")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def newest_step(directory):
    """Returns the step of the newest checkpoint in a resume directory, 0 without one."""
    return max((int(path.stem[11:]) for path in directory.glob("checkpoint-*.pt")), default=0)


def wait_for_step(process, directory, step):
    """Waits until a process has saved a checkpoint of this step or of a later one."""
    deadline = time.monotonic() + 120
    while newest_step(directory) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(process):
    """Kills a process the way the OOM killer does."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def kill_while_training(folder, config, after, before):
    """Kills Snakemake and its jobs with SIGKILL while a run is between two steps.

    Where that run has gone on too far meanwhile, the next one is waited for.

    Args:
        folder: the project.
        config: a study that saves checkpoints all the time.
        after: a step that the run's newest checkpoint is beyond.
        before: a step that it is short of.

    Returns:
        The step of its newest checkpoint.
    """

    def between():
        states = {path.parent for path in folder.glob("results/.resume/**/checkpoint-*.pt")}
        steps = map(newest_step, states)
        return [step for step in steps if after < step < before]

    while True:
        process = pipeline.start(folder, "--cores", "1", config=config)
        # Snakemake would wait for somebody to read what it prints.
        reader = threading.Thread(target=process.communicate)
        reader.start()
        while not between():
            assert process.poll() is None, "all runs have ended"
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        reader.join()
        assert pipeline.snakemake(folder, "--unlock", config=config).returncode == 0
        if found := between():
            return max(found)


def bits(folder):
    """Returns what equal runs share: hashes of metrics and policies, and facts from run.json.

    Columns that measure time are left out.
    """
    table = pq.read_table(folder / "train.parquet").drop_columns(list(CLOCKS))
    record = json.loads((folder / "run.json").read_text())
    facts = ("status", "error", "total_steps", "env_steps", "updates", "episodes", "spec")
    return {
        "train": hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest(),
        "policies": hashlib.sha256((folder / "policies.pt").read_bytes()).hexdigest(),
        **{name: record[name] for name in facts},
    }


def status(folder, spec, steps, seed=None):
    """Returns the last status that the job wrote for a run."""
    return json.loads(place(folder, spec, steps, seed).status_file.read_text())


def wait_for_status(process, *run):
    """Waits until a job has written a status for a run; see `place`."""
    deadline = time.monotonic() + 120
    while not place(*run).status_file.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
