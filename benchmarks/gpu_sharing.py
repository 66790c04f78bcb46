"""How fast several processes train that share one GPU, each a pack of seeds like a job's.

All train HalfCheetah with the preset `fast` at the same time. The rate of all of them says how long
a study would take: five tasks, with and without Retrace, ten seeds each, 100 000 steps. That is an
extrapolation from training steps alone: it leaves out start-up and evaluation. The goal on an H100
with 16 cores is 16 000 seed-steps a second, and 15 minutes.
"""

import multiprocessing
import os
import time
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.gpu_checks import Rows, note
from mpo.environments.workers import workers
from mpo.study.hyperparameters import Hyperparameters
from mpo.training.recorder import Recorder
from mpo.training.signals import STOPPING
from mpo.training.stack import Stack

SEEDS = 10
STUDY = 100 * 100_000
"""Seed-steps of the study."""
WARM_UP = 50
WAIT_S = 300.0
"""Longest wait for the other processes to be ready."""


def measure(steps: int, device: torch.device, counts: tuple[int, ...] = (1, 2, 4, 8)) -> Rows:
    """Times training steps of one to eight processes that share the cores, too."""
    cores, rows = os.cpu_count() or 1, Rows()
    for count in counts:
        rows += note(**time_processes(count, max(1, cores // count), SEEDS, steps, device))
    return rows


def time_processes(
    count: int, threads: int, seeds: int, steps: int, device: torch.device
) -> dict[str, Any]:
    """Times training steps of some processes at once.

    Args:
        count: processes, each with a pack of its own.
        threads: processes that step the environments of a pack, its own among them.
        seeds: of a pack.
        steps: training steps to time.
        device: what all of them share.

    Raises:
        RuntimeError: a process ended before it had measured anything.
    """
    context = multiprocessing.get_context("spawn")
    ready, found = context.Barrier(count), context.Queue()
    shared = threads, seeds, steps, device, ready, found
    processes = [context.Process(target=_train, args=shared) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"exit codes {[process.exitcode for process in processes]}")
    seconds = [found.get() for _ in processes]
    rate = count * seeds * steps / max(seconds)
    return {
        "processes": count,
        "threads": threads,
        "seeds": seeds,
        "step_ms": 1e3 * sum(seconds) / count / steps,
        "seed_steps_per_s": rate,
        "study_min": STUDY / rate / 60,
    }


def _train(
    threads: int, seeds: int, steps: int, device: torch.device, ready: Barrier, found: "Queue[Any]"
) -> None:
    """Trains a pack, at the same time as the other processes."""
    torch.set_num_threads(1)
    given = _fast()
    batch = given.pop("batch_size")
    config = Hyperparameters(**given)
    try:
        with workers(threads - 1, STOPPING, threads) as started:
            stack = Stack("HalfCheetah-v5", config, range(seeds), device, workers=started)
            fill(stack, 2 * batch)
            step = partial(training_step, stack, batch, Recorder(seeds))
            for _ in range(WARM_UP):
                step()
            ready.wait(WAIT_S)
            start = time.perf_counter()
            for _ in range(steps):
                step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            found.put(time.perf_counter() - start)
    except BaseException:
        ready.abort()  # or the others would wait for ever
        raise


def fill(stack: Stack, steps: int) -> None:
    """Steps the environments and stores the transitions, so that there is something to learn."""
    recorder = Recorder(len(stack.seeds))
    for _ in range(steps):
        stack.step_environments(*stack.act(recorder))


def training_step(stack: Stack, batch: int, recorder: Recorder) -> None:
    """Acts and learns once; on a GPU the update runs while the environments step."""
    windows = stack.draw_windows(batch)
    chosen = stack.act(recorder)
    recorder.add(stack.agent.update(windows))
    stack.step_environments(*chosen)


def _fast() -> dict[str, Any]:
    """The preset's hyperparameters and its batch size."""
    path = Path(__file__).parents[1] / "config/presets/fast.yaml"
    given: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["training"]
    known = {*Hyperparameters.model_fields, "batch_size"}
    return {"replay_size": 100_000} | {name: given[name] for name in given if name in known}
