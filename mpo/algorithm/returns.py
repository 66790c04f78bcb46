"""Targets of the critic: n-step TD and Retrace. Pure functions of tensors [..., T, B].

Sources: Retrace, Munos et al. 2016 (arXiv 1606.02647); time limits, Pardo et al. 2018 (1712.00378);
distributions on fixed atoms, Bellemare et al. 2017 (1707.06887).

A window holds T consecutive transitions. `discounts` is gamma * (1 - terminated), so the target
still bootstraps after a truncation (time limit). `cut` marks transitions that end an episode, by
termination or truncation; no trace passes them.

Letters: T window, B batch, A atoms.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class NStep(NamedTuple):
    """An n-step transition; its target is reward + discount * value at the bootstrap state."""

    reward: Tensor
    """Discounted sum of rewards up to the bootstrap state, [..., B]."""
    discount: Tensor
    """Factor of the bootstrap value, [..., B]; 0 after a termination."""
    last: Tensor
    """Index in the window of the last transition; the bootstrap state is its next state, [..., B].
    """


def n_step(rewards: Tensor, discounts: Tensor, cut: Tensor) -> NStep:
    """Combines a window into one n-step transition, which ends at the window's first cut, if any.

    Args:
        rewards: [..., T, B].
        discounts: gamma * (1 - terminated), [..., T, B].
        cut: whether the episode ended with this transition, bool [..., T, B].

    Returns:
        The n-step transition from the window's first state, with n <= T.
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
    """Computes the Retrace target of every step of a window (Munos et al. 2016).

        y_t = r_t + d_t * [V(s'_t) + c_{t+1} * (y_{t+1} - Q(s_{t+1}, a_{t+1}))]
        c_t = lambda * min(1, pi(a_t|s_t) / b(a_t|s_t))

    c_{t+1} is 0 if transition t is cut or the window's last.

    Args:
        rewards: r_t, [..., T, B].
        discounts: d_t = gamma * (1 - terminated_t), [..., T, B].
        values: V(s'_t), the expected target value at the next state of step t, before any reset,
            [..., T, B].
        taken_values: Q(s_t, a_t) of the target critic, [..., T, B]; step 0 is not used.
        log_ratios: log pi(a_t|s_t) - log b(a_t|s_t) for the target policy pi and the behaviour
            policy b, in nats, [..., T, B]; step 0 is not used.
        cut: whether the episode ended with this transition, bool [..., T, B].
        lambda_: trace decay in [0, 1]; 0 gives one-step TD.

    Returns:
        y_t, [..., T, B].
    """
    traces = lambda_ * log_ratios.clamp(max=0).exp()
    targets = rewards + discounts * values  # one-step TD, which is final for the last step
    steps = [targets[..., -1, :]]
    for t in range(rewards.shape[-2] - 2, -1, -1):
        correction = traces[..., t + 1, :] * (steps[0] - taken_values[..., t + 1, :])
        # After a cut the next step belongs to another episode. `where` also stops its NaNs, which
        # a multiplication by 0 would not.
        correction = torch.where(cut[..., t, :], 0.0, correction)
        steps.insert(0, targets[..., t, :] + discounts[..., t, :] * correction)
    return torch.stack(steps, dim=-2)


def project(probabilities: Tensor, atoms: Tensor, shift: Tensor, discount: Tensor) -> Tensor:
    """Projects the distribution of shift + discount * Z onto the atoms of Z (C51, eq. 7).

    Mass between two atoms is split between them so that its mean is kept. Mass beyond the first or
    last atom is moved to that atom.

    Args:
        probabilities: distribution of Z, [..., A].
        atoms: evenly spaced, ascending, [A].
        shift: [...].
        discount: [...].

    Returns:
        Probabilities, [..., A].
    """
    spacing = atoms[1] - atoms[0]
    moved = shift.unsqueeze(-1) + discount.unsqueeze(-1) * atoms
    moved = torch.minimum(torch.maximum(moved, atoms[0]), atoms[-1])
    # Share of each moved atom [..., A, 1] that goes to each fixed one: 1 at distance 0, falling
    # linearly to 0 at one spacing.
    near = (1 - (moved.unsqueeze(-1) - atoms).abs() / spacing).clamp(min=0)
    return (probabilities.unsqueeze(-1) * near).sum(-2)
