"""Targets of the critic: n-step TD, Retrace and its controls. Pure functions of [..., T, B].

Sources: Retrace, Munos et al. 2016 (arXiv 1606.02647); Q(lambda) without its cuts, Harutyunyan et
al. 2016 (1602.04951); time limits, Pardo et al. 2018 (1712.00378); distributions on fixed atoms,
Bellemare et al. 2017 (1707.06887).

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


def multi_step(
    rewards: Tensor,
    discounts: Tensor,
    values: Tensor,
    traces: Tensor,
    baselines: Tensor,
    cut: Tensor,
) -> Tensor:
    """Computes the multi-step target of every step of a window.

        y_t = r_t + d_t * [V(s'_t) + c_{t+1} * (y_{t+1} - baseline_{t+1})]

    c_{t+1} is 0 if transition t is cut or the window's last. Traces and baselines name the target:

        target                       c_t                         baseline_t
        Retrace (1606.02647)         lambda min(1, pi / b)       Q(s_t, a_t)
        uncorrected (1602.04951)     lambda                      Q(s_t, a_t)
        Peng's Q(lambda)             lambda                      V(s_t)
        one-step TD                  0

    Peng's Q(lambda) is the lambda-mixture of n-step returns (Kozuno et al. 2021, 2103.00107).
    With lambda = 1 it is the n-step return to the end of the window.

    Args:
        rewards: r_t, [..., T, B].
        discounts: d_t = gamma * (1 - terminated_t), [..., T, B].
        values: V(s'_t), the expected target value at the next state of step t, before any reset,
            [..., T, B].
        traces: c_1 ... c_{T-1}, in [0, 1], [..., T-1, B].
        baselines: at steps 1 ... T-1, [..., T-1, B].
        cut: whether the episode ended with this transition, bool [..., T, B].

    Returns:
        y_t, [..., T, B].
    """
    targets = rewards + discounts * values  # one-step TD, which is final for the last step
    steps = [targets[..., -1, :]]
    for t in range(rewards.shape[-2] - 2, -1, -1):
        correction = traces[..., t, :] * (steps[0] - baselines[..., t, :])
        # After a cut the next step belongs to another episode. `where` also stops its NaNs, which
        # a multiplication by 0 would not.
        correction = torch.where(cut[..., t, :], 0.0, correction)
        steps.insert(0, targets[..., t, :] + discounts[..., t, :] * correction)
    return torch.stack(steps, dim=-2)


def trace_length(traces: Tensor, cut: Tensor) -> Tensor:
    """Computes how many steps of a window its first target reaches, 1 + c_1 + c_1 c_2 + ...

    Args:
        traces: see `multi_step`, [..., T-1, B].
        cut: see `multi_step`, [..., T, B].

    Returns:
        Between 1 and T, [..., B].
    """
    reach = torch.where(cut[..., :-1, :], 0.0, traces).cumprod(-2)
    return 1 + reach.sum(-2)


def trace_metrics(traces: Tensor, cut: Tensor, age: Tensor) -> dict[str, Tensor]:
    """Computes what is left of the traces, over all windows and by their age.

    Args:
        traces: see `multi_step`, [..., T-1, B].
        cut: see `multi_step`, [..., T, B].
        age: of the windows, [..., B].

    Returns:
        `trace_coefficient`, the mean c_t where no episode ends, and `trace_length`, the mean
        `trace_length`, [...] each; both also for the windows that are younger (`_new`) and older
        (`_old`) than the batch's mean.
    """
    joined = (~cut[..., :-1, :]).to(traces.dtype)
    old = (age > age.mean(-1, keepdim=True)).to(traces.dtype)
    count, total = joined.sum(-2), torch.where(cut[..., :-1, :], 0.0, traces).sum(-2)
    length = trace_length(traces, cut)
    metrics = {}
    for name, weight in (("", torch.ones_like(old)), ("_new", 1 - old), ("_old", old)):
        coefficient = (total * weight).sum(-1) / (count * weight).sum(-1).clamp(min=1)
        metrics[f"trace_coefficient{name}"] = coefficient
        metrics[f"trace_length{name}"] = (length * weight).sum(-1) / weight.sum(-1).clamp(min=1)
    return metrics


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
