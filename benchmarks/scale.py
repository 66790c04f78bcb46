"""How the pipeline scales: planning of ten thousand runs, analysis of a thousand runs.

The analysed runs are synthetic: ten environments, four arms and 25 seeds. Each run has fifty
snapshots with ten evaluation episodes.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import yaml

from benchmarks.findings import Finding
from mpo.report.figures import FIGURES
from mpo.study.plan import Study
from tests import synthetic
from tests.pipeline import ROOT, project

ENVIRONMENTS = [
    f"{name}-v5"
    for name in ("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "Pusher")
    + ("InvertedDoublePendulum", "Reacher", "Swimmer", "Walker2d")
]
_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
PLAN_GOAL_S, PLAN_GOAL_GB, COLLECT_GOAL_S = 30.0, 1.0, 20.0


def measure(seeds: int = 25) -> list[Finding]:
    """Measures the planning of a study with ten times the seeds, and each step of the analysis."""
    with tempfile.TemporaryDirectory() as temporary:
        return plan(Path(temporary) / "plan", 10 * seeds) + analyse(
            Path(temporary) / "analysis", seeds
        )


def plan(folder: Path, seeds: int) -> list[Finding]:
    """Measures a dry run of a new study."""
    folder.mkdir()
    project(folder)
    config = synthetic.config(ENVIRONMENTS, seeds)
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    command = ["snakemake", "-n", "--quiet", "all", "--cores", "8", "--configfile", "study.yaml"]
    start = perf_counter()
    # Start it from a small process: the peak memory of a child is at least that of its parent.
    told = subprocess.run(
        [sys.executable, "-c", _PEAK, sys.executable, "-m", *command],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = perf_counter() - start
    case = f"planning {len(Study.parse(config).runs)} runs (snakemake -n)"
    gigabytes = int(told.stdout) * 1024 / 1e9
    return [
        Finding("scale", case, seconds, f"{PLAN_GOAL_S:g} s", PLAN_GOAL_S, "s", at_most=1),
        Finding("scale", case, gigabytes, f"{PLAN_GOAL_GB:g} GB", PLAN_GOAL_GB, "GB", at_most=1),
    ]


def analyse(folder: Path, seeds: int) -> list[Finding]:
    """Measures the verbs that the rules run, one after another, including imports."""
    folder.mkdir()
    config = synthetic.config(10, seeds, total_steps=50_000, online_episodes=10, snapshots=50)
    del config["statistics"]  # the defaults
    study = Study.parse(config)
    synthetic.write_runs(study, folder)
    references, random = synthetic.write_scale(study, folder / "scale")
    (folder / "study.json").write_text(json.dumps(config))
    common = ("--study", "study.json", "--tables", "tables")
    collecting = call(folder, "collect", "--study", "study.json", "--out", "tables")
    steps = {
        "statistics": call(
            folder, "statistics", *common, "--references", references, "--random", *random
        )
    }
    for name in FIGURES:
        out = [f"{name}.{kind}" for kind in ("png", "pdf", "svg")]
        options = ("--name", name, "--out", *out, "--caption", f"{name}.rst")
        steps[f"figure {name}"] = call(folder, "figure", *common, *options)
    pictures = [f"{name}.png" for name in FIGURES]
    steps["summary"] = call(folder, "summary", *common, "--figures", *pictures, "--out", "s.md")
    whole = collecting + sum(steps.values())
    runs = f"of {len(study.runs)} runs"
    goal = f"{COLLECT_GOAL_S:g} s"
    found = [
        Finding("scale", f"tables {runs}", collecting, goal, COLLECT_GOAL_S, "s", at_most=1),
        Finding("scale", f"tables {runs}", collecting, "the whole analysis", whole, "s"),
    ]
    return found + [
        Finding("scale", f"{name} {runs}", value, "the whole analysis", whole, "s")
        for name, value in steps.items()
    ]


def call(folder: Path, verb: str, *arguments: object) -> float:
    """Runs a verb; returns the seconds it takes."""
    command = [sys.executable, "-m", "mpo", verb, *map(str, arguments)]
    start = perf_counter()
    subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    return perf_counter() - start
