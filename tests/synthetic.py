"""A synthetic study on disk: the files that its runs would have written, with random numbers."""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpo.analysis import answers, baselines, collect, others, tables
from mpo.study.cells import Run
from mpo.study.plan import Study

PROVENANCE = {
    "algorithm_version": 1,
    "git_sha": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": False,
    "device": "cpu",
    "device_name": "cpu",
    "threads": 1,
    "host": "node1",
    "platform": "Linux-6.8-x86_64",
    "cpu": "Example CPU @ 2.50GHz",
    "blas": "mkl, 2024.2",
    "compiled": False,
    "python": "3.12.3",
    "packages": {
        "torch": "2.13.0+cpu",
        "gymnasium": "1.2.0",
        "mujoco": "3.3.0",
        "dm_control": "1.0.30",
        "numpy": "2.3.0",
    },
    "started": "2025-01-02T03:04:05+00:00",
    "finished": "2025-01-02T04:04:05+00:00",
    "resumed": [],
}


def config(
    environments: int | list[Any] = 2,
    seeds: int = 3,
    axes: dict[str, list[Any]] | None = None,
    total_steps: int = 10_000,
    online_episodes: int = 3,
    final_episodes: int = 4,
    snapshots: int = 10,
) -> dict[str, Any]:
    """Makes a study's config; by default its arms are retrace x two optimizers."""
    names = environments
    if isinstance(names, int):
        names = ["Pendulum-v1", "dm_control/walker-walk-v0"][:names]
        names += [f"Environment{index}-v5" for index in range(len(names), int(environments))]
    return {
        "study": "made-up",
        "environments": names,
        "seeds": list(range(seeds)),
        "axes": {"retrace": [False, True], "optimizer": ["adam", "sgd"]} if axes is None else axes,
        "schedule": {
            "total_steps": total_steps,
            "snapshot_interval": total_steps // snapshots,
            "log_interval": total_steps // snapshots,
        },
        "training": {
            "policy_layer_sizes": [64, 64],
            "critic_layer_sizes": [64, 64],
            "replay_size": 100_000,
            "update_after": 1000,
            "batch_size": 128,
        },
        "statistics": {"replicates": 500},
        "evaluation": {"online_episodes": online_episodes, "final_episodes": final_episodes},
    }


def plan(*arguments: Any, **options: Any) -> Study:
    """Makes the study of `config` with the same arguments."""
    return Study.parse(config(*arguments, **options))


def write_status(run: Run, root: Path, **changed: Any) -> None:
    """Writes a run's status file; by default the run has failed."""
    content = {
        "status": "failed",
        "error": "RuntimeError: no luck",
        "phase": "train",
        "identity": run.spec.identity,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "count": 250,
        "total": run.total_steps,
        "per_s": 50.0,
        "heartbeat": time.time(),
    } | changed
    path = root / run.status_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_runs(study: Study, root: Path, spread: float = 0.08) -> None:
    """Writes every planned run's results.

    `spread` is the seeds' standard deviation as a share of the environment's scale.
    """
    for index, run in enumerate(study.runs):
        write_run(study, run, root, np.random.default_rng([7, index]), spread)


SCALES = [(-1400.0, 1250.0), (30.0, 900.0), (0.0, 5200.0), (-60.0, 40.0)]
"""Lowest return and range of returns; the environments use these in turn."""


def scale(study: Study, name: str) -> tuple[float, float]:
    """Returns an environment's entry of `SCALES`."""
    place = [environment.name for environment in study.environments].index(name)
    return SCALES[place % len(SCALES)]


def write_scale(study: Study, root: Path) -> tuple[Path, list[Path]]:
    """Writes a table of reference scores and a random policy's returns; returns their paths."""
    root.mkdir(parents=True, exist_ok=True)
    rows, random = [], []
    for environment in study.environments:
        floor, gain = scale(study, environment.name)
        row = {"env": environment.name, "reference": floor + gain, "what": "w", "source": "s"}
        rows.append(row)
        random.append(root / f"{environment.slug}.json")
        found = {"env_id": environment.name, "mean": floor, "episodes": 20}
        random[-1].write_text(json.dumps(found))
    pd.DataFrame(rows).to_csv(root / "references.csv", index=False)
    return root / "references.csv", random


def write_tables(study: Study, root: Path, published: Path | None = None) -> Path:
    """Writes all tables of a study, with baselines from a csv if given; returns their folder."""
    folder = root / "tables"
    tables.write(collect.collect(study, root), folder)
    found = answers.compute(study, folder, *write_scale(study, root / "scale"))
    found |= {"baselines": baselines.read(study, published), **others.compute(study, folder)}
    tables.write(found, folder)
    return folder


def made(root: Path, **options: Any) -> tuple[Study, Path]:
    """Makes a study with its runs and all tables; returns it and the folder of the tables."""
    study = plan(**options)
    write_runs(study, root)
    return study, write_tables(study, root)


def change(folder: Path, name: str, **columns: Any) -> pd.DataFrame:
    """Replaces columns of a table; returns the table."""
    table = tables.read(folder, name).assign(**columns)
    tables.write({name: table}, folder)
    return table


def write_run(
    study: Study, run: Run, root: Path, rng: np.random.Generator, spread: float = 0.08
) -> None:
    """Writes one run: returns rise from a floor, faster in some arms, to a level per seed."""
    directory = root / run.directory
    directory.mkdir(parents=True)
    floor, gain = scale(study, run.spec.env_name)
    arms = list(dict.fromkeys(other.variant for other in study.runs))
    quality = 1 - 0.5 * arms.index(run.variant) / len(arms) + spread * rng.normal()
    steps = np.arange(0, run.total_steps + 1, run.spec.snapshot_interval)

    def expected(step: int) -> float:
        return floor + gain * quality * (1 - np.exp(-4 * step / run.total_steps))

    def episode(step: int, phase: str, policy: str, index: int) -> dict[str, Any]:
        noise = 0.04 * gain * rng.normal() - (0.03 * gain if policy == "sample" else 0)
        return {
            "env_step": int(step),
            "phase": phase,
            "policy": policy,
            "episode": index,
            "eval_seed": 10_000 + index,
            "return": expected(step) + noise,
            "length": 200,
            "terminated": False,
        }

    evaluation = study.evaluation
    rows = [
        episode(step, "online", "mode", index)
        for step in steps
        for index in range(evaluation.online_episodes)
    ]
    rows += [
        episode(run.total_steps, "final", policy, index)
        for policy in ("mode", "sample")
        for index in range(evaluation.final_episodes)
    ]
    pd.DataFrame(rows).to_parquet(directory / "evals.parquet")
    train = {
        "env_step": steps,
        "updates": steps,
        "wall_s": steps / 500.0,
        "cpu_s": steps / 480.0,
        "episodes": 5,
        "episode_return": [expected(step) for step in steps],
        "episode_length": 200.0,
        "critic_loss": rng.gamma(2.0, 1.0, len(steps)),
        "temperature": np.geomspace(1.0, 0.1, len(steps)),
        "kl_q_relative": rng.gamma(5.0, 0.2, len(steps)),
        "kl_mean_relative": rng.gamma(5.0, 0.2, len(steps)),
        "kl_stddev_relative": rng.gamma(5.0, 0.5, len(steps)),
        "policy_stddev": np.geomspace(0.5, 0.2, len(steps)),
    }
    train["critic_rank"] = rng.uniform(2.0, 20.0, len(steps))
    train["sample_age"] = steps / 2
    train["critic_step_before_copy"] = rng.uniform(0.01, 0.02, len(steps))
    train["critic_step_after_copy"] = rng.uniform(0.02, 0.05, len(steps))
    if run.spec.training.retrace:
        train["trace_coefficient"] = rng.uniform(0.5, 0.95, len(steps))
        train["trace_length_new"] = rng.uniform(1.5, 2.0, len(steps))
        train["trace_length_old"] = rng.uniform(1.0, 1.5, len(steps))
    pd.DataFrame(train).to_parquet(directory / "train.parquet")
    record = {
        "status": "ok",
        "error": None,
        "total_steps": run.total_steps,
        "env_id": run.spec.env_id,
        "seed": run.spec.seed,
        "env_steps": run.total_steps,
        "updates": run.total_steps - 1000,
        "episodes": run.total_steps // 200,
        "wall_s": run.total_steps / 500.0,
        "cpu_s": run.total_steps / 480.0,
        "max_rss_mb": 410.5,
        "stacked": 1.0,
        "spec": run.spec.model_dump(mode="json"),
        "provenance": PROVENANCE,
    }
    (directory / "run.json").write_text(json.dumps(record))
    (directory / "policies.pt").touch()
    error = {"q_bias": rng.normal(5.0, 2.0), "q_spread": 4.0, "q_return": 90.0}
    error |= {"q_states": 800, "q_bootstrap": 0.43}
    (directory / "evals.json").write_text(json.dumps({"eval_s": 12.5, **error}))


def lose(study: Study, root: Path, indices: Iterable[int]) -> Study:
    """Makes some runs fail; returns the study with missing runs allowed."""
    for index in indices:
        shutil.rmtree(root / study.runs[index].directory)
        write_status(study.runs[index], root)
    return study.model_copy(update={"allow_missing": True})
