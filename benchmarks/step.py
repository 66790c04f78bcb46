"""The overhead of a training step over its environment and update, and where the time goes.

Real trainings, with a timer around each part. The environment's time is that of the physics alone,
without wrappers.
"""

import time
from collections import Counter

import pandas as pd
import torch

from benchmarks.findings import Finding
from benchmarks.sizes import SIZES, hyperparameters
from mpo.study.hyperparameters import Training
from mpo.study.specs import CellSpec
from mpo.training import loop
from mpo.training.recorder import Recorder
from mpo.training.session import Session
from mpo.training.stack import Stack

CASES = [
    ("Pendulum", 0, 1),
    ("Pendulum", 5, 1),
    ("Pendulum", 0, 4),
    ("HalfCheetah", 0, 1),
    ("HalfCheetah", 5, 1),
    ("HalfCheetah", 0, 4),
    ("Humanoid", 0, 1),
    ("Humanoid", 5, 1),
]
"""(size, Retrace steps or 0 without Retrace, stacked seeds) of each case."""
PARTS = ["physics", "wrappers", "act", "store", "sample", "target pass", "critic", "policy"]
GOAL = 1.1


class Stopwatch:
    """Adds up the seconds spent in methods, by part."""

    def __init__(self) -> None:
        """Starts without any methods."""
        self.seconds: Counter[str] = Counter()

    def watch(self, owner: object, method: str, part: str) -> None:
        """Times all further calls of an object's method, and adds them to `part`."""
        function = getattr(owner, method)

        def timed(*arguments: object, **options: object) -> object:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[part] += time.perf_counter() - start

        setattr(owner, method, timed)


def watched(stack: Stack) -> Stopwatch:
    """Times everything that a stack does in a training step."""
    watch = Stopwatch()
    for stream in stack.streams.here.each:
        watch.watch(stream._env.unwrapped, "step", "physics")
        watch.watch(stream._env.unwrapped, "reset", "physics")
        watch.watch(stream, "step", "environment")
        watch.watch(stream, "advance", "environment")
    watch.watch(stack, "act", "act")
    watch.watch(stack, "add_transition", "store")
    watch.watch(stack.replay, "sample", "sample")
    watch.watch(stack.agent._update.targets, "compute", "target pass")
    watch.watch(stack.agent._update, "_fit_critic", "critic")
    watch.watch(stack.agent.learners.critic_optimizer, "step", "critic")
    watch.watch(stack.agent._update, "_e_step", "policy")
    watch.watch(stack.agent._update, "_m_step", "policy")
    watch.watch(stack.agent, "update", "update")
    return watch


def measure(steps: int = 1000) -> tuple[list[Finding], pd.DataFrame]:
    """Returns the ratios, and the share of each part in a step's time, one row per case."""
    found, shares = [], {}
    for name, retrace_steps, seeds in CASES:
        seconds = train(name, retrace_steps, seeds, steps)
        learner = f"Retrace {retrace_steps}" if retrace_steps else "TD"
        case = f"{name}, {learner}, {seeds} seed{'s' * (seeds > 1)}"
        needed = seconds["physics"] + seconds["update"]
        found.append(
            Finding(
                "training step",
                case,
                1e3 * seconds["whole"] / steps,
                "physics and update alone",
                1e3 * needed / steps,
                "ms",
                GOAL,
            )
        )
        seconds["wrappers"] = seconds["environment"] - seconds["physics"]
        row = {part: seconds[part] / seconds["whole"] for part in PARTS}
        shares[case] = row | {"rest": 1 - sum(row.values())}
    return found, pd.DataFrame(shares).T


def train(name: str, retrace_steps: int, seeds: int, steps: int) -> Counter[str]:
    """Trains for some steps, one update each; returns the seconds of each part."""
    size, warm_up = SIZES[name], 2 * SIZES[name].batch
    settings = hyperparameters(size, retrace_steps, replay_size=100_000)
    training = Training(
        **settings.model_dump(), update_after=warm_up - 20, batch_size=size.batch, m_steps=1
    )
    spec = CellSpec(
        env_id=size.env_id, training=training, snapshot_interval=10_000, log_interval=200
    )
    stack = Stack(size.env_id, settings, range(seeds), torch.device("cpu"))
    recorder = Recorder(seeds)
    session = Session(stack, recorder)
    loop.advance(stack, warm_up, spec, recorder, session)
    watch = watched(stack)
    start = time.perf_counter()
    loop.advance(stack, warm_up + steps, spec, recorder, session)
    watch.seconds["whole"] = time.perf_counter() - start
    return watch.seconds
