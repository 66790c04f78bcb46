"""What each lever and the diagnostics cost in time per update, on one CPU thread.

An update with a lever and one without it take turns, with the networks of the preset `fast`. So do
an update and the same without its diagnostics. Each is measured uncompiled and compiled; the time
to compile is excluded. Times are medians.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.findings import Finding
from benchmarks.sizes import Size, hyperparameters, windows
from benchmarks.update import medians, step
from mpo.algorithm import critics, returns, update
from mpo.algorithm.agent import MPOAgent
from mpo.compute.ahead_of_time import Compiled

FAST = Size("HalfCheetah-v5", 17, 6, (128, 128), 128)
"""The networks and the batch of the preset `fast`."""
LEVERS: dict[str, dict[str, Any]] = {
    "layer_norm all": {"layer_norm": "all"},
    "critics mean": {"critics": "mean"},
    "critics minimum": {"critics": "minimum"},
    "weight_decay 0.1": {"weight_decay": 0.1},
    "optimizer_reset moments": {"optimizer_reset": "moments"},
    "warmup_updates": {"warmup_updates": 10**9},
    "action_noise pink": {"action_noise": "pink"},
    "normalize_observations": {"normalize_observations": True},
    "observation_bound squash": {"normalize_observations": True, "observation_bound": "squash"},
    "policy_update_period 2": {"policy_update_period": 2},
    "n_step 3": {"n_step": 3, "regressed": "first"},
    "n_step 3, all pairs": {"n_step": 3},
    "Retrace 3": {"retrace": True, "retrace_steps": 3, "regressed": "first"},
    "Retrace 3, all pairs": {"retrace": True, "retrace_steps": 3},
    "lion": {"optimizer": "lion"},
}
"""Settings of each lever; `sizes.hyperparameters` regresses all pairs."""
DIAGNOSED = {name: LEVERS[name] for name in ("n_step 3", "Retrace 3, all pairs")}
DIAGNOSTICS_GOAL = 1.03


def measure(rounds: int = 30) -> Iterator[Finding]:
    """Measures every lever, and the diagnostics of TD and of Retrace."""
    for compiled in (False, True):
        how = ", compiled" * compiled
        base = _call({}, compiled)
        for name, settings in LEVERS.items():
            spent, without = _milliseconds([_call(settings, compiled), base], rounds)
            yield Finding("levers", name + how, spent, "an update without it", without, "ms")
        for name, settings in DIAGNOSED.items():
            with _removable_diagnostics() as removed:
                bare = partial(removed, removed(partial(_call, settings, compiled)))
                spent, without = _milliseconds([_call(settings, compiled), bare], rounds)
            case, against = f"{name}, with diagnostics{how}", "an update without them"
            yield Finding("levers", case, spent, against, without, "ms", DIAGNOSTICS_GOAL)


def _call(settings: dict[str, Any], compiled: bool) -> Callable[[], object]:
    """Makes one action and one update, as in a training; it has been called, and so compiled."""
    base = hyperparameters(FAST, 0)
    config = base.model_validate(base.model_dump() | settings)
    cpu = torch.device("cpu")
    agent = MPOAgent(
        FAST.obs, FAST.action, config, (0,), cpu, compile_on_cpu=compiled, episode_steps=1000
    )
    obs = np.zeros((1, FAST.obs), dtype=np.float32)
    call = step(agent, windows(FAST, 1, config.window), obs)
    call()
    return call


def _milliseconds(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    return [1e3 * seconds for seconds in medians(calls, rounds)]


T = TypeVar("T")


@contextmanager
def _removable_diagnostics() -> Iterator[Callable[[Callable[[], T]], T]]:
    """Makes the diagnostics of an update removable.

    Yields:
        A function that calls another one while they are removed.
    """
    kept = True
    rank, traces, lengths = critics.effective_rank, returns.trace_metrics, MPOAgent._step_lengths

    def removed(call: Callable[[], T]) -> T:
        nonlocal kept
        kept = False
        try:
            return call()
        finally:
            kept = True

    def rank_of(features: Tensor) -> Tensor:
        return rank(features) if kept else features.new_zeros(len(features))

    def traces_of(*args: Tensor) -> dict[str, Tensor]:
        return traces(*args) if kept else {}

    def lengths_of(agent: MPOAgent, with_policy: bool) -> AbstractContextManager[Any]:
        return lengths(agent, with_policy) if kept else nullcontext({})

    with (
        patch.object(update, "effective_rank", rank_of),
        patch.object(returns, "trace_metrics", traces_of),
        patch.object(MPOAgent, "_step_lengths", lengths_of),
        # Code that is kept was made with all diagnostics.
        patch.object(Compiled, "_find", lambda self, layout, given: self._compile(given)),
    ):
        yield removed
