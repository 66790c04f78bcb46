"""What a job costs before its first step and after its last one.

A study of one run that hardly trains: by Snakemake, from its start until the run's files are there,
as each job of a cluster does it; and by the job's own process alone. Their training is taken off.
What compiling adds is the longer time of a job whose learning is compiled: where torch has kept
nothing yet, and where it has.
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
    """Medians of the job by Snakemake and of its own process, and of what compiling adds."""
    snakemake, job, new, kept = (
        median(column) for column in zip(*(once() for _ in range(rounds)), strict=True)
    )
    own = "a job's own process"
    return [
        Finding("start-up", case, spent, f"{GOAL_S:g} s", GOAL_S, "s", at_most=1)
        for case, spent in (("a job with its Snakemake process", snakemake), (own, job))
    ] + [
        Finding("start-up", f"compiling, {which}", spent, own, job, "s")
        for which, spent in (("the first time", new), ("later", kept))
    ]


def once() -> tuple[float, float, float, float]:
    """Seconds of each."""
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
        new, kept = (sum(job(where, "--compile-on-cpu")) for where in ("new", "kept"))
        return with_snakemake, start, new - start - training, kept - start - training


def seconds(folder: Path, module: list[str], record: Path) -> tuple[float, float]:
    """Of one module as a program: without the training that the record tells of, and of that."""
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
