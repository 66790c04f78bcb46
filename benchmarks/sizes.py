"""The sizes of tasks and networks to measure, and synthetic data for them."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mpo.study.hyperparameters import Hyperparameters

SAMPLES, LATER_SAMPLES = 20, 8


class Size(NamedTuple):
    """The dimensions of a task and its networks."""

    env_id: str
    obs: int
    action: int
    widths: tuple[int, ...]
    """Units of each hidden layer, of policy and critic."""
    batch: int


SMALL, STANDARD = (64, 64), (256, 256, 256)
SIZES = {
    "Pendulum": Size("Pendulum-v1", 3, 1, SMALL, 64),
    "InvertedDoublePendulum": Size("InvertedDoublePendulum-v5", 9, 1, SMALL, 64),
    "Reacher": Size("Reacher-v5", 10, 2, SMALL, 64),
    "HalfCheetah": Size("HalfCheetah-v5", 17, 6, STANDARD, 256),
    "Humanoid": Size("Humanoid-v5", 348, 17, STANDARD, 256),
}


def hyperparameters(size: Size, steps: int, replay_size: int = 1000) -> Hyperparameters:
    """The hyperparameters for a size; `steps` is the length of Retrace, 0 without Retrace."""
    return Hyperparameters(
        policy_layer_sizes=size.widths,
        critic_layer_sizes=size.widths,
        replay_size=replay_size,
        action_samples=SAMPLES,
        retrace=steps > 0,
        retrace_steps=max(steps, 2),
        retrace_mc_actions=LATER_SAMPLES,
        regressed="all",
        max_grad_norm=40.0,
    )


def windows(size: Size, seeds: int, steps: int) -> dict[str, Tensor]:
    """Synthetic windows [S, T, B], see `Replay.sample`; drawn from torch's global generator."""
    shape = (seeds, steps, size.batch)
    states = torch.rand(seeds, steps + 1, size.batch, size.obs)
    actions = torch.rand(*shape, size.action)
    return {
        "obs": states[:, :-1].clone(),
        "next_obs": states[:, 1:].clone(),
        "first_obs": torch.rand(*shape, size.obs),
        "action": actions,
        "action_raw": actions,
        "reward": torch.rand(shape),
        "behaviour_logp": torch.rand(shape),
        "terminated": torch.zeros(shape),
        "truncated": torch.zeros(shape),
        "age": torch.rand(shape),
    }


def flops(size: Size, config: Hyperparameters) -> dict[str, int]:
    """Floating-point operations of the matrix products in one seed's update, by part.

    The policy learns in it, in one M-step. The units of the hidden layers are those of `config`.
    """
    steps, fitted = config.window, min(size.batch, config.critic_batch_size or size.batch)
    samples, few = config.action_samples, config.retrace_mc_actions
    critics = 1 if config.critics == "one" else 2
    outputs = config.critic_atoms if config.critic == "categorical" else 1

    first = size.obs * config.policy_layer_sizes[0]
    policy = _hidden(config.policy_layer_sizes) + config.policy_layer_sizes[-1] * 2 * size.action
    policy += first
    *_, last = widths = config.critic_layer_sizes
    shared, of_sample = size.obs * widths[0], size.action * widths[0]
    rest = of_sample + _hidden(widths) + last * outputs

    # Later states of a window: where targets bootstrap, and whose recorded actions are evaluated.
    if steps > 1 and not config.retrace and config.regressed == "first":
        later, taken = fitted, 0
    else:
        samples, later = max(samples, few), (steps - 1) * fitted
        taken = later if config.retrace and config.corrections in ("retrace", "uncorrected") else 0
    evaluated = size.batch * samples + later * few + taken
    regressed = fitted * (steps if config.regressed == "all" else 1)
    # Backward: gradients of all weights, and of the inputs of all layers except the first.
    return {
        "target policy": 2 * (size.batch + later) * policy,
        "target critic": 2 * critics * ((size.batch + later + taken) * shared + evaluated * rest),
        "critic": 2 * critics * regressed * (3 * (shared + rest) - shared - of_sample),
        "diagnostics": 2 * critics * min(regressed, 64) ** 2 * last,
        "policy": 2 * size.batch * (3 * policy - first),
    }


def _hidden(widths: Sequence[int]) -> int:
    """Weights between hidden layers."""
    return sum(a * b for a, b in itertools.pairwise(widths))
