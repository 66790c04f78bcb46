"""Targets of the critic: n-step TD and Retrace. Pure functions of tensors [..., T, B].

Sources: Retrace, Munos et al. 2016 (arXiv 1606.02647); time limits, Pardo et al. 2018 (1712.00378);
distributions on fixed atoms, Bellemare et al. 2017 (1707.06887).

A window holds T consecutive transitions. `discounts` is gamma * (1 - terminated): a time limit
still bootstraps. `cut` marks a transition after which the episode ended for either reason: a trace
never passes it.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class NStep(NamedTuple):
    """An n-step transition: what was gathered, and where and how much to bootstrap."""

    reward: Tensor
    """Discounted sum of the rewards up to the bootstrap, [..., B]."""
    discount: Tensor
    """Factor of the value at the bootstrap state, [..., B]."""
    last: Tensor
    """Index in the window of the transition whose successor is the bootstrap state, [..., B]."""


def n_step(rewards: Tensor, discounts: Tensor, cut: Tensor) -> NStep:
    """Folds a window into one transition that stops at the window's first cut.

    Args:
        rewards: [..., T, B].
        discounts: gamma * (1 - terminated), [..., T, B].
        cut: the episode ended after this transition, bool [..., T, B].

    Returns:
        The n-step transition from the window's first state; with T = 1 the transition itself.
    """
    steps = rewards.shape[-2]
    total, discount = rewards[..., 0, :], discounts[..., 0, :]
    last = torch.zeros_like(cut[..., 0, :], dtype=torch.long)
    alive = ~cut[..., 0, :]
    for t in range(1, steps):
        total = torch.where(alive, total + discount * rewards[..., t, :], total)
        discount = torch.where(alive, discount * discounts[..., t, :], discount)
        last = torch.where(alive, t, last)
        alive = alive & ~cut[..., t, :]
    return NStep(total, discount, last)


def retrace(
    rewards: Tensor,
    discounts: Tensor,
    values: Tensor,
    taken_values: Tensor,
    log_ratios: Tensor,
    cut: Tensor,
    lambda_: float,
) -> Tensor:
    """Retrace targets of every step of a window.

        y_t = r_t + d_t * [V(s'_t) + c_{t+1} * (y_{t+1} - Q(s_{t+1}, a_{t+1}))]
        c_t = lambda * min(1, pi(a_t|s_t) / b(a_t|s_t)), 0 where t - 1 is cut or the window's last

    Args:
        rewards: r_t, [..., T, B].
        discounts: d_t = gamma * (1 - terminated_t), [..., T, B].
        values: V(s'_t), the expected target value at the true successor of step t, [..., T, B].
        taken_values: Q(s_t, a_t) of the target critic, [..., T, B]; step 0 is never used.
        log_ratios: log pi(a_t|s_t) - log b(a_t|s_t), [..., T, B]; step 0 is never used.
        cut: the episode ended after this transition, bool [..., T, B].
        lambda_: trace decay in [0, 1]; 0 gives one-step TD.

    Returns:
        y, [..., T, B].
    """
    traces = lambda_ * log_ratios.clamp(max=0).exp()
    targets = rewards + discounts * values  # the window's last step is one-step TD
    steps = [targets[..., -1, :]]
    for t in range(rewards.shape[-2] - 2, -1, -1):
        correction = traces[..., t + 1, :] * (steps[0] - taken_values[..., t + 1, :])
        # A cut step's neighbour belongs to another episode: nothing of it may pass, not even a NaN.
        correction = torch.where(cut[..., t, :], 0.0, correction)
        steps.insert(0, targets[..., t, :] + discounts[..., t, :] * correction)
    return torch.stack(steps, dim=-2)


def project(probabilities: Tensor, atoms: Tensor, shift: Tensor, discount: Tensor) -> Tensor:
    """The distribution of shift + discount * Z, back on the atoms of Z (C51, eq. 7).

    Mass between two atoms is shared so that its mean stays; what lies beyond the ends goes there.

    Args:
        probabilities: of Z, [..., A].
        atoms: evenly spaced, ascending, [A].
        shift: [...].
        discount: [...].

    Returns:
        Probabilities, [..., A].
    """
    spacing = atoms[1] - atoms[0]
    moved = shift.unsqueeze(-1) + discount.unsqueeze(-1) * atoms
    moved = torch.minimum(torch.maximum(moved, atoms[0]), atoms[-1])
    # How near each moved atom, [..., A, 1], is to each fixed one: 1 at it, 0 from the next one on.
    near = (1 - (moved.unsqueeze(-1) - atoms).abs() / spacing).clamp(min=0)
    return (probabilities.unsqueeze(-1) * near).sum(-2)
