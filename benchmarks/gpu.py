"""Whether learning on a GPU is right, and what it costs; one call, some minutes.

    python -m benchmarks.gpu [--out FOLDER] [--device cuda] [--updates N] [--steps N]

Prints each finding as it comes, and the tables once more at the end; leaves checks.csv and
times.csv in the folder. Fails where a check does. With `--device cpu` all of it runs, without CUDA
graphs and kernels of its own: to try the script, not the GPU.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from benchmarks.gpu_checks import (
    MODES,
    Rows,
    check_gradients,
    check_graphs,
    check_training,
    make_agent,
    note,
)
from benchmarks.sizes import SIZES, flops
from mpo.provenance import machine
from mpo.recorder import Recorder
from mpo.trainer import MPOTrainer

TIMED = [
    *itertools.product(["HalfCheetah"], ["TD", "Retrace 2", "Retrace 5", "Retrace 8"], [1, 4, 10]),
    *itertools.product(["Pendulum", "Humanoid"], ["TD", "Retrace 5"], [1, 10]),
]


def seconds_each(call: Callable[[], object], times: int, device: torch.device) -> float:
    """Mean time of a call, all of what it asked for done."""

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


def time_updates(times: Rows, device: torch.device, count: int) -> None:
    """Updates and actions."""
    single: dict[tuple[str, str], float] = {}
    for size, mode, seeds in TIMED:
        start = time.perf_counter()
        agent, made_up = make_agent(size, MODES[mode], seeds, device, True)
        seconds_each(lambda: agent.update(made_up), 1, device)  # noqa: B023
        first = time.perf_counter() - start
        seconds = seconds_each(lambda: agent.update(made_up), count, device)  # noqa: B023
        obs = torch.zeros(seeds, SIZES[size].obs).numpy()
        act = seconds_each(lambda: agent.act(obs), count, device)  # noqa: B023
        steps = MODES[mode].get("retrace_steps", 0)
        work = seeds * sum(flops(SIZES[size], steps).values())
        one = single.setdefault((size, mode), seconds)
        note(
            times,
            what="update",
            size=size,
            mode=mode,
            seeds=seeds,
            ms=1e3 * seconds,
            seed_updates_per_s=seeds / seconds,
            tflops=work / seconds / 1e12,
            ratio_to_one_seed=seconds / one,
            act_ms=1e3 * act,
            first_s=first,
        )


def time_steps(trainer: MPOTrainer, batch: int, steps: int) -> tuple[list[float], float]:
    """Seconds of acting and moving, of learning, and of the two as they are in a training."""
    recorder = Recorder(len(trainer.seeds))

    def move() -> None:
        trainer.step_environments(*trainer.act(recorder))

    def learn() -> None:
        recorder.add(trainer.agent.update(trainer.draw_windows(batch)))

    def step() -> None:
        windows = trainer.draw_windows(batch)
        chosen = trainer.act(recorder)
        recorder.add(trainer.agent.update(windows))
        trainer.step_environments(*chosen)

    parts = [seconds_each(part, steps, trainer.device) for part in (move, learn)]
    return parts, seconds_each(step, steps, trainer.device)


def time_training(times: Rows, device: torch.device, steps: int) -> None:
    """Whole steps of HalfCheetah, and how much of a shorter part hides behind a longer one."""
    widths, batch = SIZES["HalfCheetah"].widths, SIZES["HalfCheetah"].batch
    for seeds in (1, 10):
        trainer = MPOTrainer(
            "HalfCheetah-v5", 0, device, widths, widths, 100_000, extra_seeds=range(1, seeds)
        )
        for _ in range(2 * batch):
            trainer.step_environments(*trainer.act(Recorder(seeds)))
        parts, whole = time_steps(trainer, batch, steps)
        note(
            times,
            what="training step",
            size="HalfCheetah",
            mode="TD",
            seeds=seeds,
            ms=1e3 * whole,
            move_ms=1e3 * parts[0],
            learn_ms=1e3 * parts[1],
            hidden=(sum(parts) - whole) / min(parts),
        )


def main() -> None:
    """Reads the command line, checks, measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="a folder for the tables")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--updates", type=int, default=300, help="that are timed, of each kind")
    parser.add_argument("--steps", type=int, default=1000, help="of training that are timed")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    checks: Rows = []
    times: Rows = []
    print(machine(device))
    try:
        check_gradients(checks, device)
        check_graphs(checks, device)
        with tempfile.TemporaryDirectory() as folder:
            check_training(checks, device, Path(folder))
        time_updates(times, device, arguments.updates)
        time_training(times, device, arguments.steps)
    finally:
        # What was found before something failed is worth its time, too.
        for name, rows in (("checks", checks), ("times", times)):
            table = pd.DataFrame(rows)
            table.to_csv(arguments.out / f"{name}.csv", index=False)
            print(table.to_markdown(index=False))
    if not all(row["ok"] for row in checks):
        sys.exit("a check has failed")


if __name__ == "__main__":
    main()
