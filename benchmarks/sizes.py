"""The sizes of tasks and networks to measure, and synthetic data for them."""

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


def flops(size: Size, steps: int) -> dict[str, int]:
    """Floating-point operations of the matrix products in one seed's update, by part."""
    batch, later = size.batch, max(steps - 1, 0) * size.batch
    hidden = sum(a * b for a, b in zip(size.widths, size.widths[1:], strict=False))
    policy = size.obs * size.widths[0] + hidden + size.widths[-1] * 2 * size.action
    shared, of_sample = size.obs * size.widths[0], size.action * size.widths[0]
    rest = of_sample + hidden + size.widths[-1]
    samples = batch * SAMPLES + later * LATER_SAMPLES + later
    regressed = batch * max(steps, 1)
    # Backward: gradients of all weights, and of the inputs of all layers except the first.
    return {
        "target policy": 2 * (batch + later) * policy,
        "target critic": 2 * ((batch + 2 * later) * shared + samples * rest),
        "critic": 2 * regressed * (3 * (shared + rest) - shared - of_sample),
        "diagnostics": 2 * min(regressed, 64) ** 2 * size.widths[-1],
        "policy": 2 * batch * (3 * policy - shared),
    }
