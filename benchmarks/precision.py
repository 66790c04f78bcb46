"""What `target_precision` changes: errors of the targets and the E-step, and the time of an update.

Errors are those of one pass of the target networks against the same pass in float64, of a learner
with networks of 256 units after some updates on synthetic windows: 2-norm of the difference by the
2-norm. Those with bfloat16 are laid beside those with float32. How far rounding moves the target
policy is a KL divergence, and is laid beside the bound of the M-step in the default study. Updates
in bfloat16 and in float32 take turns; times are medians, without the time to compile.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.findings import Finding
from benchmarks.sizes import SIZES, Size, hyperparameters, windows
from benchmarks.update import medians, step
from mpo.algorithm import losses
from mpo.algorithm.agent import MPOAgent
from mpo.algorithm.targets import TargetPass

NAME = "HalfCheetah"
CPU = torch.device("cpu")
KL_BOUNDS = {"mean": 1e-2, "stddev": 1e-5}
"""Bounds of the M-step in the default study, nats per action dimension."""


class Pass(NamedTuple):
    """Results of one pass of the target networks."""

    targets: Tensor
    weights: Tensor
    mean: Tensor
    stddev: Tensor


def measure(rounds: int = 30, updates: int = 400) -> Iterator[Finding]:
    """Measures the errors, then the times, uncompiled and compiled."""
    size = SIZES[NAME]
    yield from errors(size, updates)
    for how, compiled in (("", False), (", compiled", True)):
        calls = [update(size, precision, compiled) for precision in ("bfloat16", "float32")]
        reduced, plain = (1e3 * seconds for seconds in medians(calls, rounds))
        case = f"{size.env_id}, an update in bfloat16{how}"
        yield Finding("precision", case, reduced, "float32", plain, "ms")


def update(size: Size, precision: str, compiled: bool) -> Callable[[], object]:
    """Makes one action and one update, as in a training; it has been called, and so compiled."""
    call = step(
        agent_of(size, precision, compiled),
        windows(size, 1, 1),
        np.zeros((1, size.obs), dtype=np.float32),
    )
    call()
    return call


def agent_of(size: Size, precision: str = "float32", compiled: bool = False) -> MPOAgent:
    """Makes a learner of one seed."""
    config = hyperparameters(size, 0).model_copy(update={"target_precision": precision})
    return MPOAgent(size.obs, size.action, config, (0,), CPU, compile_on_cpu=compiled)


def errors(size: Size, updates: int) -> list[Finding]:
    """Measures the errors of a learner after some updates."""
    torch.manual_seed(0)
    agent = agent_of(size)
    for _ in range(updates):
        agent.update(rewarded(size))
    made_up = rewarded(size)
    noise = [torch.randn(1, *s, size.action) for s in agent._update.targets.noise_shapes(made_up)]
    exact, plain, reduced = (
        evaluate(agent, made_up, noise, precision)
        for precision in ("float64", "float32", "bfloat16")
    )
    case = f"{size.env_id}, {{}} in bfloat16 after {updates} updates"
    found = []
    for name, what in (("targets", "targets"), ("weights", "weights of the E-step")):
        error, reference = (
            relative(getattr(each, name), getattr(exact, name)) for each in (reduced, plain)
        )
        text = case.format(f"error of {what}")
        found.append(Finding("precision", text, error, "float32", reference, "relative"))
    kls = gaussian_kls(exact, reduced)
    for (name, bound), kl in zip(KL_BOUNDS.items(), kls, strict=True):
        what = case.format(f"KL of the target policy's {name}")
        found.append(Finding("precision", what, kl, "bound", bound, "nats"))
    return found


def rewarded(size: Size) -> dict[str, Tensor]:
    """Draws windows in which the best action is in the observation."""
    drawn = windows(size, 1, 1)
    apart = drawn["action"] - drawn["obs"][..., : size.action]
    return drawn | {"reward": -apart.square().sum(-1)}


def evaluate(
    agent: MPOAgent, made_up: Mapping[str, Tensor], noise: list[Tensor], precision: str
) -> Pass:
    """Makes a pass of copies of the target networks."""
    policy, critic = map(
        copy.deepcopy, (agent.learners.target_policy, agent.learners.target_critic)
    )
    for network in (policy, critic):
        torso = network.torso
        torso.precision = "float32" if precision == "float64" else precision
    kind = torch.float64 if precision == "float64" else torch.float32
    both = TargetPass(agent.config, policy.to(kind), critic.to(kind))
    found = both.compute({k: x.to(kind) for k, x in made_up.items()}, [x.to(kind) for x in noise])
    samples, learners = found.samples, agent.learners
    assert samples is not None
    temperatures, epsilons = learners.temperatures.value[:, :1], learners.estep_epsilons[:1]
    fit = losses.e_step(samples.values.unsqueeze(1), temperatures.to(kind), epsilons.to(kind))
    return Pass(found.regression.target, fit.weights, samples.mean, samples.stddev)


def relative(found: Tensor, exact: Tensor) -> float:
    """Computes the 2-norm of the error by that of the exact values."""
    return float((found.double() - exact).norm() / exact.norm())


def gaussian_kls(exact: Pass, reduced: Pass) -> tuple[float, float]:
    """Computes the KLs that the M-step bounds, of the exact from the rounded policy.

    Returns:
        For means and for standard deviations, nats per action dimension, means over the states; of
        the dimension where it is largest.
    """
    apart = (exact.mean - reduced.mean.double()) / exact.stddev
    ratio = exact.stddev / reduced.stddev.double()
    of_mean, of_stddev = apart.square() / 2, (ratio.square() - 1) / 2 - ratio.log()
    return float(of_mean.mean((0, 1)).max()), float(of_stddev.mean((0, 1)).max())
