"""Measures how fast the code is on this machine.

Results are printed as they are measured. Nothing else should run on the machine meanwhile.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import torch

from benchmarks import (
    beside,
    checkpoint,
    environments,
    evaluation,
    levers,
    precision,
    replay,
    scale,
    startup,
    step,
    study,
    update,
)
from benchmarks.findings import Finding, machine, write
from mpo.compute.malloc import keep_freed

PARTS: dict[str, Callable[[], Iterable[Finding]]] = {
    "update": update.measure,
    "levers": levers.measure,
    "precision": precision.measure,
    "replay": replay.measure,
    "checkpoint": checkpoint.measure,
    "environments": environments.measure,
    "evaluation": evaluation.measure,
    "startup": startup.measure,
    "scale": scale.measure,
    "study": study.measure,
}
"""All parts except `step`, which also returns how the time of a step divides."""


def run(parts: list[str]) -> tuple[list[Finding], pd.DataFrame]:
    """Measures and prints the given parts.

    Returns:
        The findings, and the shares of a training step's time (see `step.measure`); the latter are
        empty without the part `step`.
    """
    found: list[Finding] = []
    shares = pd.DataFrame()
    for part in parts:
        start = time.perf_counter()
        new: Iterable[Finding]
        if part == "step":
            new, shares = step.measure()
        else:
            new = PARTS[part]()
        for finding in new:
            print(finding, flush=True)
            found.append(finding)
        print(f"({part} took {time.perf_counter() - start:.0f} s)", flush=True)
    return found, shares


def main() -> None:
    """Reads the command line, measures, and prints and saves the results."""
    choices = ["update", "step", *list(PARTS)[1:]]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    text = f"what to measure: {', '.join(choices)}; everything if none is given"
    parser.add_argument("parts", nargs="*", metavar="PART", help=text)
    parser.add_argument("--out", type=Path, help="folder for the results; needs all parts")
    text = "measure only this: a function that makes another library's update, see beside.py"
    parser.add_argument("--beside", metavar="MODULE:FUNCTION", help=text)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.parts) - set(choices)):
        parser.error(f"PART: received {', '.join(unknown)}; choose from {', '.join(choices)}")
    if arguments.out and arguments.parts:
        parser.error(
            f"--out: needs the results of all parts, received only {', '.join(arguments.parts)}"
        )
    try:
        factory = beside.find(arguments.beside) if arguments.beside else None
    except ValueError as error:
        parser.error(f"--beside: {error}")
    # The same settings as in a training, see `mpo.jobs.cli` and `mpo.training.stack`.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_freed()
    print(machine(), flush=True)
    if arguments.beside:
        print(*beside.measure(arguments.beside, factory), sep="\n")
        return
    found, shares = run(arguments.parts or choices)
    if not shares.empty:
        print((100 * shares).round(1).to_markdown())
    if arguments.out:
        write(found, shares, arguments.out)


if __name__ == "__main__":
    main()
