"""The cost of an update on one CPU thread, compared with the matrix products it needs.

The floor is the time of those products: their operations, counted from the shapes, at the rate at
which torch multiplies 5120 x 256 by 256 x 256. Updates and that product take turns, so that other
work on the machine affects both. Large products of the update may run in oneDNN, which can be
faster, so the ratio can be below 1. Networks of 256 units therefore have a second floor, at
oneDNN's rate. Updates are measured uncompiled and compiled; the time to compile is excluded.
Compiled, ten stacked seeds are also compared with one. Times are medians.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from benchmarks.findings import Finding
from benchmarks.plain import PlainLearner
from benchmarks.sizes import SIZES, STANDARD, flops, hyperparameters, windows
from mpo.algorithm.agent import MPOAgent
from mpo.algorithm.separate import Agent, make_agent
from mpo.compute.matmul import product

VARIANTS = [(0, 1), (2, 1), (5, 1), (8, 1), (0, 4), (0, 10)]
"""(Retrace steps or 0 without Retrace, stacked seeds) of each variant."""
GROUP_S = 0.03
"""Seconds for which calls are timed in a row."""
PRODUCT = (5120, 256, 256)
SMALL_GOAL_MS = 1.2
STANDARD_GOAL = 1.3


def seconds_each(call: Callable[[], object], times: int) -> float:
    """Mean wall time of one call."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def medians(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of several calls that take turns."""
    for call in calls * 3:
        call()
    # Time them in groups: after a large product, the caches are cold for a small update.
    groups = [max(1, round(GROUP_S / seconds_each(call, 3))) for call in calls]
    groups[1:] = [min(group, groups[0]) for group in groups[1:]]
    turns = [
        [seconds_each(call, group) for call, group in zip(calls, groups, strict=True)]
        for _ in range(rounds)
    ]
    return [statistics.median(column) for column in zip(*turns, strict=True)]


def matrix_product() -> Callable[[], object]:
    """The product that defines the machine's rate."""
    rows, inner, columns = PRODUCT
    x, y, out = torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)
    return lambda: torch.mm(x, y, out=out)


def onednn_product() -> Callable[[], object]:
    """The same product in oneDNN, if `mpo.compute.matmul` would use it."""
    rows, inner, columns = PRODUCT
    x, y = torch.randn(1, rows, inner), torch.randn(1, inner, columns)
    return lambda: product(x, y)


def measure(rounds: int = 30) -> Iterator[Finding]:
    """Measures acting plus an update for every size and variant, with its references."""
    for name in SIZES:
        for steps, seeds in VARIANTS:
            yield from measure_variant(name, steps, seeds, rounds)


def measure_variant(name: str, steps: int, seeds: int, rounds: int) -> list[Finding]:
    """Measures one size and variant."""
    size = SIZES[name]
    config = hyperparameters(size, steps)
    made_up = windows(size, seeds, config.window)
    obs = np.zeros((seeds, size.obs), dtype=np.float32)

    cpu = torch.device("cpu")

    def agent(compiled: bool, some: int = seeds) -> Agent:
        made = range(some)
        return make_agent(size.obs, size.action, config, made, cpu, compile_on_cpu=compiled)

    ours: dict[str, Callable[[], object]] = {
        "": step(agent(compiled=False), made_up, obs),
        ", compiled": step(agent(compiled=True), made_up, obs),
    }
    references: dict[str, Callable[[], object]] = {"floor": matrix_product()}
    standard = size.widths == STANDARD
    if standard:
        references["floor at oneDNN's rate"] = onednn_product()
    if seeds == 1:
        plain = MPOAgent(size.obs, size.action, config, range(1), cpu)
        references["plain eager form"] = plain_update(plain, made_up, obs)
    else:
        one = {name: field[:1] for name, field in made_up.items()}
        references["one seed, compiled"] = step(agent(compiled=True, some=1), one, obs[:1])
    timed = iter(1e3 * s for s in medians([*ours.values(), *references.values()], rounds))
    spent = {how: next(timed) for how in ours}
    needed = dict(zip(references, timed, strict=True))
    counted = seeds * sum(flops(size, config).values())
    for against in needed:
        if against.startswith("floor"):
            needed[against] *= counted / (2 * np.prod(PRODUCT))
    goals = {"floor": STANDARD_GOAL} if standard else {f"{SMALL_GOAL_MS} ms": 1.0}
    headline = (steps, seeds) == (0, 1)
    if headline and not standard:
        needed[f"{SMALL_GOAL_MS} ms"] = SMALL_GOAL_MS
    case = f"{name}, {f'Retrace {steps}' if steps else 'TD'}, {seeds} seed{'s' * (seeds > 1)}"
    case += f", {counted / 1e9:.3g} GFLOP"
    return [
        Finding(
            "update",
            case + how,
            spent[how],
            against,
            reference,
            "ms",
            goals.get(against) if headline else None,
        )
        for how in ours
        for against, reference in needed.items()
    ]


def step(
    agent: Agent, made_up: Mapping[str, torch.Tensor], obs: np.ndarray
) -> Callable[[], object]:
    """One action and one update, as in a training."""

    def update() -> None:
        agent.act(obs)
        agent.update(made_up)

    return update


def plain_update(
    agent: MPOAgent, made_up: Mapping[str, torch.Tensor], obs: np.ndarray
) -> Callable[[], object]:
    """One action and one update in plain torch."""
    plain = PlainLearner(agent, lambda *shape: torch.randn(*shape, agent.action_dim))

    def update() -> None:
        with torch.no_grad():
            plain.policy(torch.from_numpy(obs[0]))
        plain.update(made_up)

    return update
