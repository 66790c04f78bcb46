"""Checks that learning on a GPU is correct, and measures its speed; takes some minutes.

    python -m benchmarks.gpu [--out FOLDER] [--device cuda] [--updates N] [--steps N]

Prints results as they come, then tables, which it also writes to the folder as checks.csv,
updates.csv, trainings.csv and sharing.csv. Exits with an error if a check fails. The checks run in
parallel; the timings run after them, one at a time. `--device cpu` only tries out the script: it
uses no CUDA graphs and no Triton kernels.
"""

import argparse
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import gpu_sharing
from benchmarks.gpu_checks import MODES, Rows, all_checks, make_agent, note
from benchmarks.sizes import SIZES, flops
from mpo.provenance import machine
from mpo.trainer import MPOTrainer
from mpo.training.recorder import Recorder

TIMED = [
    *itertools.product(["HalfCheetah"], ["TD", "Retrace 2", "Retrace 5", "Retrace 8"], [1, 4, 10]),
    *itertools.product(["Pendulum", "Humanoid"], ["TD", "Retrace 5"], [1, 10]),
]


def seconds_each(call: Callable[[], object], times: int, device: torch.device) -> float:
    """Mean seconds of a call, including the GPU work that it starts."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(6):
        call()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - start) / times


def time_updates(
    size: str, mode: str, seeds: int, count: int, device: torch.device
) -> dict[str, Any]:
    """Times the update and the action of one size, mode and number of seeds."""
    start = time.perf_counter()
    agent, made_up = make_agent(size, MODES[mode], seeds, device, True)
    agent.update(made_up)
    first = time.perf_counter() - start
    seconds = seconds_each(lambda: agent.update(made_up), count, device)
    obs = torch.zeros(seeds, SIZES[size].obs).numpy()
    act = seconds_each(lambda: agent.act(obs), count, device)
    work = seeds * sum(flops(SIZES[size], agent.config).values())
    return {
        "size": size,
        "mode": mode,
        "seeds": seeds,
        "ms": 1e3 * seconds,
        "seed_updates_per_s": seeds / seconds,
        "tflops": work / seconds / 1e12,
        "act_ms": 1e3 * act,
        "first_s": first,
    }


def time_steps(trainer: MPOTrainer, batch: int, steps: int) -> tuple[list[float], float]:
    """Seconds of [acting and stepping, learning] apart, and of a whole training step."""
    recorder = Recorder(len(trainer.seeds))

    def move() -> None:
        trainer.stack.step_environments(*trainer.stack.act(recorder))

    def learn() -> None:
        recorder.add(trainer.agent.update(trainer.stack.draw_windows(batch)))

    step = partial(gpu_sharing.training_step, trainer.stack, batch, recorder)
    parts = [seconds_each(part, steps, trainer.device) for part in (move, learn)]
    return parts, seconds_each(step, steps, trainer.device)


def time_training(seeds: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Times training steps of HalfCheetah.

    `hidden` is the fraction of the shorter part's time that overlaps with the longer part.
    """
    widths, batch = SIZES["HalfCheetah"].widths, SIZES["HalfCheetah"].batch
    trainer = MPOTrainer(
        "HalfCheetah-v5", 0, device, widths, widths, 100_000, extra_seeds=range(1, seeds)
    )
    gpu_sharing.fill(trainer.stack, 2 * batch)
    parts, whole = time_steps(trainer, batch, steps)
    return {
        "seeds": seeds,
        "ms": 1e3 * whole,
        "steps_per_s": seeds / whole,
        "move_ms": 1e3 * parts[0],
        "learn_ms": 1e3 * parts[1],
        "hidden": (sum(parts) - whole) / min(parts),
    }


def compile_ahead(size: str, mode: str, seeds: int, device: torch.device) -> Rows:
    """Fills the on-disk cache of compiled code for the later timings; returns no findings."""
    agent, made_up = make_agent(size, MODES[mode], seeds, device, True)
    agent.update(made_up)
    agent.act(torch.zeros(seeds, SIZES[size].obs).numpy())
    return []


def alone() -> None:
    """Prepares a process that runs beside others: one thread to compute and to compile."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def run_checks(checks: Rows, device: torch.device) -> None:
    """Runs all checks, several at a time, and compiles code for the timings."""
    calls = [*all_checks(device), *(partial(compile_ahead, *each, device) for each in TIMED)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1), context, alone) as pool:
        for done in as_completed([pool.submit(call) for call in calls]):
            failed = done.exception()
            # If a check raises an error, still report the others.
            checks += note(check=repr(failed), ok=False) if failed else done.result()


def print_table(rows: Rows, path: Path) -> None:
    """Prints the rows as a table, and writes them as csv."""
    table = pd.DataFrame(rows)
    table.to_csv(path, index=False)
    print(table.to_markdown(index=False, floatfmt=".4g"))


def main() -> None:
    """Reads the command line, checks, measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for the tables")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--updates", type=int, default=300, help="updates to time in each case")
    parser.add_argument("--steps", type=int, default=1000, help="training steps to time")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(machine(device))
    checks: Rows = []
    updates: Rows = []
    trainings: Rows = []
    sharing: Rows = []
    try:
        run_checks(checks, device)
        for case in TIMED:
            updates += note(**time_updates(*case, arguments.updates, device))
        for seeds in (1, 10):
            trainings += note(**time_training(seeds, arguments.steps, device))
        sharing += gpu_sharing.measure(arguments.steps, device)
    finally:
        # Also keep the results from before a failure.
        tables = {"checks": checks, "updates": updates, "trainings": trainings, "sharing": sharing}
        for name, rows in tables.items():
            print_table(rows, arguments.out / f"{name}.csv")
    if not all(row["ok"] for row in checks):
        sys.exit("a check failed")


if __name__ == "__main__":
    main()
