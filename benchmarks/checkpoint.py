"""The cost of a checkpoint, compared with the minute of training between two checkpoints.

HalfCheetah, with a replay of a million transitions and networks of 256 x 256 x 256 units.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.findings import Finding
from benchmarks.sizes import SIZES, hyperparameters
from mpo.training.checkpoint import ResumeDirectory
from mpo.training.recorder import Recorder
from mpo.training.session import Session
from mpo.training.signals import StopRequest
from mpo.training.stack import Stack

CAPACITY = 1_000_000
EPISODE = 1_000
TRAINED_STEPS = 300
INTERVAL_S = 60.0
GOAL = 0.02


def make_stack(capacity: int) -> Stack:
    """Makes the stack to save and resume."""
    size = SIZES["HalfCheetah"]
    settings = hyperparameters(size, 0, replay_size=capacity)
    return Stack(size.env_id, settings, [0], torch.device("cpu"))


def fill(stack: Stack, count: int) -> None:
    """Stores `count` synthetic transitions."""
    rng = np.random.default_rng(stack.env_steps)
    obs = rng.standard_normal(stack.obs_dim, dtype=np.float32)
    for _ in range(count):
        after = rng.standard_normal(stack.obs_dim, dtype=np.float32)
        action = rng.uniform(-1, 1, stack.action_dim).astype(np.float32)
        stack.env_steps += 1
        over = stack.env_steps % EPISODE == 0
        stack.add_transition(obs, action, action, -3.0, 1.0, after, 0.0, float(over))
        obs = rng.standard_normal(stack.obs_dim, dtype=np.float32) if over else after


def train(stack: Stack, recorder: Recorder, steps: int) -> float:
    """Trains for some environment steps, one update each; returns the seconds per step."""
    start = time.perf_counter()
    for _ in range(steps):
        stack.step_environments(*stack.act(recorder))
        windows = stack.draw_windows(SIZES["HalfCheetah"].batch)
        recorder.add(stack.agent.update(windows))
    return (time.perf_counter() - start) / steps


def measure(capacity: int = CAPACITY, steps: int = TRAINED_STEPS) -> list[Finding]:
    """Measures saving and resuming, compared with training and with saving the whole replay."""
    with tempfile.TemporaryDirectory() as folder:
        return measure_in(Path(folder), capacity, steps)


def measure_in(folder: Path, capacity: int, steps: int) -> list[Finding]:
    """Same as `measure`, in a given empty folder."""
    stack, recorder = make_stack(capacity), Recorder(1)
    with ResumeDirectory(folder, "{}", StopRequest()) as directory:
        session = Session(stack, recorder, [directory])
        fill(stack, capacity)
        session.save()
        step = train(stack, recorder, steps)
        # Add as many transitions as training adds between two checkpoints.
        fill(stack, max(0, int(INTERVAL_S / step) - steps))
        start = time.perf_counter()
        session.save()
        saving = time.perf_counter() - start
    fresh = make_stack(capacity)
    with ResumeDirectory(folder, "{}", StopRequest()) as directory:
        start = time.perf_counter()
        Session(fresh, Recorder(1), [directory], [directory.load()])
        resuming = time.perf_counter() - start
    assert fresh.replay.size() == capacity
    start = time.perf_counter()
    torch.save(stack.newest_transitions(0, capacity), folder / "whole.pt")
    whole = time.perf_counter() - start
    part, size = "checkpoint", f"HalfCheetah, {capacity} transitions"
    return [
        Finding(part, f"{size}, saving", saving, "a minute of training", INTERVAL_S, "s", GOAL),
        Finding(part, f"{size}, saving", saving, "writing the whole replay", whole, "s"),
        Finding(part, f"{size}, resuming", resuming, "a minute of training", INTERVAL_S, "s"),
    ]
