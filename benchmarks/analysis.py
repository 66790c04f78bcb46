"""What it costs to analyse a thousand runs: tables, statistics, each figure, the page.

    python -m benchmarks.analysis [FOLDER]

Makes up the runs of a study of ten environments, four arms and 25 seeds, each with fifty snapshots
of ten evaluation episodes, in a temporary folder unless one is given; then calls the verbs that the
rules call, one after another, imports and all, and prints the seconds of each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mpo.figures import FIGURES
from mpo.study import Study
from tests import synthetic

ROOT = Path(__file__).parents[1]


def call(folder: Path, verb: str, *arguments: object) -> float:
    """Seconds of one verb."""
    command = [sys.executable, "-m", "mpo", verb, *map(str, arguments)]
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    return time.perf_counter() - start


def measure(folder: Path) -> dict[str, float]:
    """Seconds of every step of the analysis, by name."""
    config = synthetic.config(10, 25, total_steps=50_000, online_episodes=10, snapshots=50)
    del config["statistics"]  # the defaults
    study = Study.parse(config)
    synthetic.write_runs(study, folder)
    references, random = synthetic.write_scale(study, folder / "scale")
    (folder / "study.json").write_text(json.dumps(config))
    common = ("--study", "study.json", "--tables", "tables")
    seconds = {"collect": call(folder, "collect", "--study", "study.json", "--out", "tables")}
    seconds["statistics"] = call(
        folder, "statistics", *common, "--references", references, "--random", *random
    )
    for name in FIGURES:
        out = [f"{name}.{kind}" for kind in ("png", "pdf", "svg")]
        options = ("--name", name, "--out", *out, "--caption", f"{name}.rst")
        seconds[f"figure {name}"] = call(folder, "figure", *common, *options)
    pictures = [f"{name}.png" for name in FIGURES]
    page = ("--figures", *pictures, "--out", "summary.md")
    seconds["summary"] = call(folder, "summary", *common, *page)
    return seconds


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="an empty one")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        seconds = measure((folder or Path(temporary)).resolve())
    figures = sum(value for name, value in seconds.items() if name.startswith("figure"))
    print("| step | s |\n|---|---|")
    for name, value in (seconds | {"all figures": figures}).items():
        print(f"| {name} | {value:.1f} |")


if __name__ == "__main__":
    main()
