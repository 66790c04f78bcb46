"""The time of a job before its first step and after its last.

A study of one run trains very briefly, and its training time is subtracted. It is measured twice:
with Snakemake, as each job of a cluster runs, and as the job's own process alone. Compiling is
measured as the extra time of a compiled job, with an empty and with a filled cache of compiled
code.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml

from benchmarks.findings import Finding
from mpo.study.specs import RunSpec
from tests.pipeline import TINY, project

GOAL_S = 4.0
RUN = Path("results/tiny/runs/Reacher-v5/retrace-off_optimizer-adam/seed0/step400")


def measure(rounds: int = 5) -> list[Finding]:
    """Medians of a job with Snakemake, of its own process, and of the time compiling adds."""
    snakemake, job, new, kept = (
        median(column) for column in zip(*(once() for _ in range(rounds)), strict=True)
    )
    own = "a job's own process"
    return [
        Finding("start-up", case, spent, f"{GOAL_S:g} s", GOAL_S, "s", at_most=1)
        for case, spent in (("a job with its Snakemake process", snakemake), (own, job))
    ] + [
        Finding("start-up", "compiling, the first time", new, own, job, "s"),
        Finding("start-up", "compiling, later", kept, f"{GOAL_S:g} s", GOAL_S, "s", at_most=1),
    ]


def once() -> tuple[float, float, float, float]:
    """Seconds of: a job with Snakemake, its own process, compiling first, compiling again."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = project(Path(temporary))
        (folder / "study.yaml").write_text(yaml.safe_dump(TINY))
        first = RUN / "run.json"
        snakemake = ["snakemake", "--quiet", "--cores", "1", str(first), "--configfile"]
        with_snakemake, _ = seconds(folder, [*snakemake, "study.yaml"], first)
        cell = RunSpec(**json.loads((folder / first).read_text())["spec"]).cell

        def job(where: str, *options: str) -> tuple[float, float]:
            record = Path(where) / first
            command = ["mpo", "train", "--cell", cell.identity, "--device", "cpu", *options]
            return seconds(folder, [*command, "--out", str(record)], record)

        start, training = job("again")
        new, kept = (sum(job(where, "--compile-on-cpu", "true")) for where in ("new", "kept"))
        return with_snakemake, start, new - start - training, kept - start - training


def seconds(folder: Path, module: list[str], record: Path) -> tuple[float, float]:
    """Runs a module as a program; returns its seconds without training, and those of training."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *module],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(folder),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
        },
        check=True,
        capture_output=True,
    )
    whole = time.perf_counter() - start
    training = float(json.loads((folder / record).read_text())["wall_s"])
    return whole - training, training
