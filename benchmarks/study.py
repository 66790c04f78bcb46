"""The default study, compared with its trainings, its evaluations and the sum of their floors.

The floor of a training is the floor of its updates (see `benchmarks.update`) plus the physics of
its environment steps. The floor of an evaluation is its physics. The study uses all cores, so each
sum is divided by their number.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import yaml
from snakemake.utils import update_config

from benchmarks.findings import Finding
from benchmarks.sizes import SIZES, flops
from benchmarks.update import PRODUCT, matrix_product, seconds_each
from mpo.environments.envs import make_env
from mpo.study.plan import Study
from tests.pipeline import ROOT, project

GOAL = 1.15


def measure(overlay: Mapping[str, Any] | None = None) -> list[Finding]:
    """Runs the default study from training to figures; `overlay` changes its config."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(config, overlay or {})
    study, cores = Study.parse(config), os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = project(Path(temporary))
        (folder / "study.yaml").write_text(yaml.safe_dump(config))
        command = [
            "snakemake",
            "--quiet",
            "all",
            "--cores",
            str(cores),
            "--configfile",
            "study.yaml",
        ]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", *command], cwd=folder, check=True)
        wall = time.perf_counter() - start
        tables = folder / "results" / study.study / "tables"
        runs, evals = (pd.read_parquet(tables / f"{name}.parquet") for name in ("runs", "evals"))
    training, evaluation = float(runs["wall_s"].sum()), float(runs["eval_s"].sum())
    floors = floor(study, runs, evals)
    part, case = "study", f"{study.study}, {len(runs)} runs on {cores} cores"
    return [
        Finding(part, case, wall, "its trainings", training / cores, "s", GOAL),
        Finding(
            part, case, wall, "its trainings and evaluations", (training + evaluation) / cores, "s"
        ),
        Finding(part, case, wall, "the sum of its floors", floors / cores, "s"),
    ]


def floor(study: Study, runs: pd.DataFrame, evals: pd.DataFrame) -> float:
    """The floor of a study's trainings and evaluations, in seconds on one core."""
    multiply = matrix_product()
    rate = 2 * np.prod(PRODUCT) / median(seconds_each(multiply, 3) for _ in range(50))
    physics = {each.id: physics_seconds(each.id) for each in study.environments}
    tested = evals.groupby("run_id")["length"].sum()
    updates = runs.set_index("run_id")["updates"]
    total = 0.0
    for run in study.runs:
        training = run.spec.training
        size = next(size for size in SIZES.values() if size.env_id == run.spec.env_id)
        size = size._replace(batch=training.batch_size)
        total += updates[run.run_id] * sum(flops(size, training).values()) / rate
        total += (run.total_steps + tested[run.run_id]) * physics[run.spec.env_id]
    return total


def physics_seconds(env_id: str, steps: int = 3000) -> float:
    """Seconds per environment step without wrappers, including resets."""
    env: gym.Env = make_env(env_id).unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    actions = rng.uniform(space.low, space.high, (steps, *space.shape))
    start = time.perf_counter()
    for action in actions:
        if env.step(action)[2]:
            env.reset()
    return (time.perf_counter() - start) / steps
