"""The losses of MPO. Pure functions over trailing axes; any leading axes are independent learners.

Sources: E-step and temperature, Abdolmaleki et al. 2018a (arXiv 1806.06920); decoupled M-step with
a bound per dimension, 2018b (1812.02256); action penalty, MO-MPO 2020 (2005.07513).

Letters: N action samples, B states, D action dimensions. Actions are a = mean' + stddev' * noise
from the target policy (primed).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class EStep(NamedTuple):
    """The improved sample distribution and the loss of its temperature."""

    weights: Tensor
    """softmax over N of values / temperature, without gradient, [..., N, B]."""
    loss: Tensor
    """Dual of the temperature (2018a, eq. 8), gradient to the temperature alone, [...]."""
    kl: Tensor
    """KL of the weights from the uniform ones, mean over B, in nats, [...]."""


def e_step(values: Tensor, temperature: Tensor, epsilon: float) -> EStep:
    """Weights of the sampled actions, and the dual whose minimum over the temperature bounds them.

    Args:
        values: Q or a negative cost, [..., N, B].
        temperature: eta > 0, [...].
        epsilon: bound on the KL from the sampling distribution, in nats.
    """
    samples = values.shape[-2]
    with torch.no_grad():
        # Dividing values of hundreds by a small temperature costs float32 its digits; less their
        # maximum the dual is the same: eta * lse(Q / eta) = max Q + eta * lse((Q - max Q) / eta).
        best = values.amax(-2, keepdim=True)
        scaled = (values - best) / temperature[..., None, None]
        log_normalizer = torch.logsumexp(scaled, dim=-2)  # [..., B]
        log_weights = scaled - log_normalizer.unsqueeze(-2)
        weights = log_weights.exp()
        log_samples = math.log(samples)
        kl = (weights * log_weights).sum(-2).mean(-1) + log_samples
        log_mean = log_normalizer.mean(-1) - log_samples
        dual = temperature * (epsilon + log_mean) + best.mean((-2, -1))
    # The dual's derivative is epsilon - kl in closed form: no graph over the samples is needed.
    loss = dual + (temperature - temperature.detach()) * (epsilon - kl)
    return EStep(weights, loss, kl)


def out_of_bounds_cost(actions: Tensor) -> Tensor:
    """Negative distance of [..., D] actions from the box [-1, 1], [...] (MO-MPO's penalty)."""
    return -torch.linalg.vector_norm(actions - actions.clamp(-1, 1), dim=-1)


class Moments(NamedTuple):
    """Weighted moments of the noise over N: all that the M-step needs of the samples."""

    zeroth: Tensor
    """sum w, [..., B, 1]."""
    first: Tensor
    """sum w * noise, [..., B, D]."""
    second: Tensor
    """sum w * noise^2, [..., B, D]."""


def noise_moments(weights: Tensor, noise: Tensor) -> Moments:
    """Folds weights [..., N, B] and noise [..., N, B, D] over N."""
    w = weights.unsqueeze(-1)
    weighted = w * noise
    return Moments(w.sum(-3), weighted.sum(-3), (weighted * noise).sum(-3))


class MStep(NamedTuple):
    """The parts of the decoupled M-step; gradients reach the online mean and stddev alone."""

    loss_mean: Tensor
    """Weighted negative log-likelihood under (online mean, target stddev), mean over B, [...]."""
    loss_stddev: Tensor
    """Likewise under (target mean, online stddev), [...]."""
    kl_mean: Tensor
    """KL(target || online) of the means alone, mean over B, in nats, [..., D]."""
    kl_stddev: Tensor
    """KL(target || online) of the standard deviations alone, [..., D]."""


def m_step(
    moments: Moments,
    target_mean: Tensor,
    target_stddev: Tensor,
    mean: Tensor,
    stddev: Tensor,
) -> MStep:
    """Fits the online Gaussian to the weighted samples, mean and stddev apart (2018b, sec. 4.2).

    The samples enter through the moments m0, m1, m2 of their noise alone:
    sum w ((a - m) / s)^2 = (m2 + 2 m1 x + m0 x^2) (stddev' / s)^2 with x = (mean' - m) / stddev'.

    Args:
        moments: of the noise, see `noise_moments`.
        target_mean: [..., B, D], like the next three.
        target_stddev: positive.
        mean: online.
        stddev: online, positive.
    """
    shift = (target_mean - mean) / target_stddev
    ratio = target_stddev / stddev
    square_mean = moments.second + shift * (2 * moments.first + shift * moments.zeroth)
    square_stddev = moments.second * ratio.square()
    half_log_2pi = 0.5 * math.log(2 * math.pi)
    nll_mean = 0.5 * square_mean + moments.zeroth * (target_stddev.log() + half_log_2pi)
    nll_stddev = 0.5 * square_stddev + moments.zeroth * (stddev.log() + half_log_2pi)
    kl_mean = 0.5 * shift.square()
    kl_stddev = 0.5 * (ratio.square() - 1) - ratio.log()
    return MStep(
        nll_mean.sum(-1).mean(-1),
        nll_stddev.sum(-1).mean(-1),
        kl_mean.mean(-2),
        kl_stddev.mean(-2),
    )


class KLPenalty(NamedTuple):
    """The two halves of a Lagrangian: one pulls the policy, the other moves the multipliers."""

    policy: Tensor
    """sum over D of alpha * KL, gradient to the policy alone, [...]."""
    dual: Tensor
    """sum over D of alpha * (epsilon - KL), gradient to the multipliers alone, [...]."""


def kl_penalty(kl: Tensor, alpha: Tensor, epsilon: float) -> KLPenalty:
    """Holds each dimension's KL [..., D] to epsilon nats by multipliers alpha [..., D]."""
    return KLPenalty((alpha.detach() * kl).sum(-1), (alpha * (epsilon - kl.detach())).sum(-1))


def gaussian_log_prob(x: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    """Log-density of [..., D] under a diagonal Gaussian, summed over D, in nats, [...]."""
    z = (x - mean) / stddev
    return -(0.5 * z.square() + stddev.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
