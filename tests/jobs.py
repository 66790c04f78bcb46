"""Real `python -m mpo train` processes on small runs, and what they leave behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from mpo.config import RunSpec, Training
from mpo.recorder import CLOCKS

ROOT = Path(__file__).parents[1]


def run_spec(env_id, seed=0, **training):
    """A run of small networks that updates from step 100 on."""
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


def train(folder, spec, steps, *options, out="out", resume="resume", interval=60.0):
    """Starts a training whose files are below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(spec.identity)
    command = [sys.executable, "-m", "mpo", "train", "--spec", folder / "spec.json"]
    command += ["--total-steps", steps, "--device", "cpu", "--out", folder / out]
    command += ["--checkpoint-interval", interval, "--resume", folder / resume]
    command += ["--status", folder / "status.json", "--log", folder / "train.log", *options]
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, code=0):
    """Waits for a process to exit with a code; returns what it printed."""
    output, _ = process.communicate(timeout=180)
    assert process.returncode == code, output
    return output


def wait_until_training(process, resume):
    """Waits until a process holds the lock of a resume directory: its training begins."""
    owner, deadline = resume / "owner", time.monotonic() + 120
    while not (owner.exists() and owner.read_text().startswith(f"process {process.pid} ")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(process):
    """As the OOM killer does it."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def bits(folder):
    """A hash of each table of a run without the clocks, and of its policies; run.json's facts."""
    table = pq.read_table(folder / "train.parquet").drop_columns(list(CLOCKS))
    record = json.loads((folder / "run.json").read_text())
    facts = ("status", "error", "total_steps", "env_steps", "updates", "episodes", "spec")
    return {
        "train": hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest(),
        "policies": hashlib.sha256((folder / "policies.pt").read_bytes()).hexdigest(),
        **{name: record[name] for name in facts},
    }


def status(folder):
    """What the job said last of itself."""
    return json.loads((folder / "status.json").read_text())
