"""What an update costs on one CPU thread, beside the matrix products it cannot do without.

    python -m benchmarks.update [SIZE ...] [--rounds N]

The floor is the time of those products, counted from the shapes, at the rate at which torch
multiplies 5120 x 256 by 256 x 256 in the same moments: updates and that product take turns, lest
other work on the machine touch one of them alone. Times are medians. Where oneDNN, which takes the
update's large products, is faster than that one, the ratio can fall below 1.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from tensordict import TensorDict

from mpo.agent import MPOAgent
from mpo.config import Hyperparameters
from mpo.memory import keep_freed

SAMPLES, LATER_SAMPLES = 20, 8

GROUP_S = 0.03
"""How long updates are timed at a stretch."""


class Size(NamedTuple):
    """A task's and its networks' dimensions."""

    obs: int
    action: int
    widths: tuple[int, ...]
    batch: int


SIZES = {
    "Pendulum": Size(3, 1, (64, 64), 64),
    "Reacher": Size(10, 2, (64, 64), 64),
    "HalfCheetah": Size(17, 6, (256, 256, 256), 256),
    "Humanoid": Size(348, 17, (256, 256, 256), 256),
}
VARIANTS = [(0, 1), (2, 1), (5, 1), (8, 1), (0, 4), (0, 10)]
"""Retrace steps, 0 without Retrace, and stacked seeds."""


def flops(size: Size, steps: int) -> dict[str, int]:
    """Floating-point operations of one seed's matrix products, by part of the update."""
    batch, later = size.batch, max(steps - 1, 0) * size.batch
    hidden = sum(a * b for a, b in zip(size.widths, size.widths[1:], strict=False))
    policy = size.obs * size.widths[0] + hidden + size.widths[-1] * 2 * size.action
    shared, of_sample = size.obs * size.widths[0], size.action * size.widths[0]
    rest = of_sample + hidden + size.widths[-1]
    samples = batch * SAMPLES + later * LATER_SAMPLES + later
    regressed = batch * max(steps, 1)
    # Backward: gradients of all weights, and of the inputs of all layers but the first.
    return {
        "target policy": 2 * (batch + later) * policy,
        "target critic": 2 * ((batch + 2 * later) * shared + samples * rest),
        "critic": 2 * regressed * (3 * (shared + rest) - shared - of_sample),
        "policy": 2 * batch * (3 * policy - shared),
    }


def make(size: Size, steps: int, seeds: int) -> tuple[MPOAgent, TensorDict, np.ndarray]:
    """An agent, made-up windows and observations to act on."""
    config = Hyperparameters(
        policy_layer_sizes=size.widths,
        critic_layer_sizes=size.widths,
        replay_size=1000,
        action_samples=SAMPLES,
        retrace=steps > 0,
        retrace_steps=max(steps, 2),
        retrace_mc_actions=LATER_SAMPLES,
    )
    agent = MPOAgent(size.obs, size.action, config, range(seeds), torch.device("cpu"))
    shape = (seeds, config.window, size.batch)
    vectors = {"obs": size.obs, "next_obs": size.obs, "first_obs": size.obs}
    vectors |= {"action": size.action, "action_raw": size.action}
    fields = {name: torch.rand(*shape, width) for name, width in vectors.items()}
    fields |= {name: torch.rand(shape) for name in ("reward", "behaviour_logp")}
    fields |= {name: torch.zeros(shape) for name in ("terminated", "truncated")}
    acting = np.zeros((seeds, size.obs), dtype=np.float32)
    return agent, TensorDict(fields, batch_size=shape), acting


def seconds_each(call: Callable[[], object], times: int) -> float:
    """Mean wall time of one call."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def measure(name: str, steps: int, seeds: int, rounds: int) -> str:
    """A row of the table."""
    size = SIZES[name]
    agent, windows, obs = make(size, steps, seeds)
    x, y, out = torch.randn(5120, 256), torch.randn(256, 256), torch.empty(5120, 256)

    def learn() -> None:
        agent.act(obs)
        agent.update(windows)

    def multiply() -> None:
        torch.mm(x, y, out=out)

    for _ in range(3):
        learn(), multiply()
    # Small updates take turns in groups: one after a large product finds the caches full of it.
    group = max(1, round(GROUP_S / seconds_each(learn, 3)))
    pairs = [(seconds_each(learn, group), seconds_each(multiply, 1)) for _ in range(rounds)]
    times, products = zip(*pairs, strict=True)
    typical = statistics.median(times)
    needed = flops(size, steps)
    total = seeds * sum(needed.values())
    floor = total / (2 * 5120 * 256 * 256) * statistics.median(products)
    shares = " + ".join(f"{seeds * count / 1e9:.3f}" for count in needed.values())
    return (
        f"| {name} | {steps or 'off'} | {seeds} | {shares} | {1e3 * floor:.2f} "
        f"| {1e3 * typical:.2f} | {1e3 * min(times):.2f} | {typical / floor:.2f} |"
    )


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=f"of {', '.join(SIZES)}; or all")
    parser.add_argument("--rounds", type=int, default=100, help="turns of each, 100 unless given")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_freed()
    print(
        "| size | Retrace steps | seeds | GFLOP of target policy + target critic + critic + policy "
        "| floor, ms | act and update, ms | the fastest, ms | ratio to the floor |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.sizes or SIZES:
        for steps, seeds in VARIANTS:
            print(measure(name, steps, seeds, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
