"""What a job costs before its first step and after its last one.

A study of one run that hardly trains: by Snakemake, from its start until the run's files are there,
as each job of a cluster does it; and by the job's own process alone. Their training is taken off.
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
from mpo.config import RunSpec
from tests.pipeline import TINY, project

GOAL_S = 4.0
RUN = Path("results/tiny/runs/Reacher-v5/retrace-off_optimizer-adam/seed0/step400")


def measure(rounds: int = 5) -> list[Finding]:
    """Medians of the job by Snakemake and of its own process."""
    snakemake, job = zip(*(once() for _ in range(rounds)), strict=True)
    return [
        Finding("start-up", case, median(seconds), f"{GOAL_S:g} s", GOAL_S, "s", at_most=1)
        for case, seconds in (
            ("a job with its Snakemake process", snakemake),
            ("a job's own process", job),
        )
    ]


def once() -> tuple[float, float]:
    """Seconds of both."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = project(Path(temporary))
        (folder / "study.yaml").write_text(yaml.safe_dump(TINY))
        first = RUN / "run.json"
        snakemake = ["snakemake", "--quiet", "--cores", "1", str(first), "--configfile"]
        with_snakemake = seconds(folder, [*snakemake, "study.yaml"], first)
        cell = RunSpec(**json.loads((folder / first).read_text())["spec"]).cell
        again = Path("again") / RUN / "run.json"
        job = ["mpo", "train", "--cell", cell.identity, "--out", str(again), "--device", "cpu"]
        return with_snakemake, seconds(folder, job, again)


def seconds(folder: Path, module: list[str], record: Path) -> float:
    """Of one module as a program, but for the training that the record tells of."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *module],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=True,
        capture_output=True,
    )
    whole = time.perf_counter() - start
    return whole - float(json.loads((folder / record).read_text())["wall_s"])
