"""The losses of MPO and their gradients in closed form.

Pure functions over trailing axes; any leading axes are independent learners.

Sources: E-step and temperature, Abdolmaleki et al. 2018a (arXiv 1806.06920); decoupled M-step with
a bound per dimension, 2018b (1812.02256); action penalty, MO-MPO 2020 (2005.07513).

Letters: N action samples, B states, D action dimensions. Actions are a = mean' + stddev' * noise
from the target policy (primed).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Fit(NamedTuple):
    """The critic's loss."""

    loss: Tensor
    """Mean over B, [...]."""
    gradient: Tensor
    """By what is fitted, of its shape."""


def regression(values: Tensor, targets: Tensor) -> Fit:
    """Half the mean squared error of values [..., B] to targets."""
    error = values - targets
    gradient = error / values.shape[-1]
    return Fit(0.5 * (error * gradient).sum(-1), gradient)


def cross_entropy(logits: Tensor, targets: Tensor) -> Fit:
    """Cross-entropy of the categorical distributions of logits [..., B, A] to target ones.

    Up to the targets' own entropy it is the KL divergence that C51 minimises (Bellemare et al.
    2017, arXiv 1707.06887, algorithm 1); its gradient by the logits is their softmax less the
    targets, over B.
    """
    states = logits.shape[-2]
    log_probabilities = torch.log_softmax(logits, dim=-1)
    loss = -(targets * log_probabilities).sum((-2, -1)) / states
    return Fit(loss, (log_probabilities.exp() - targets) / states)


class EStep(NamedTuple):
    """The improved sample distribution and the loss of its temperature."""

    weights: Tensor
    """softmax over N of values / temperature, [..., N, B]."""
    loss: Tensor
    """Dual of the temperature (2018a, eq. 8), [...]."""
    gradient: Tensor
    """Of the loss by the temperature, [...]."""
    kl: Tensor
    """KL of the weights from the uniform ones, mean over B, in nats, [...]."""


def e_step(values: Tensor, temperature: Tensor, epsilon: float | Tensor) -> EStep:
    """Weights of the sampled actions, and the dual whose minimum over the temperature bounds them.

    Args:
        values: Q or a negative cost, [..., N, B].
        temperature: eta > 0, [...].
        epsilon: bound on the KL from the sampling distribution, in nats; [...] where it differs.
    """
    samples, states = values.shape[-2:]
    # Dividing values of hundreds by a small temperature costs float32 its digits; less their
    # maximum the dual is the same: eta * lse(Q / eta) = max Q + eta * lse((Q - max Q) / eta).
    best = values.amax(-2, keepdim=True)
    log_weights = torch.log_softmax((values - best) / temperature[..., None, None], dim=-2)
    weights = log_weights.exp()
    kl = (weights * log_weights).sum((-2, -1)) / states + math.log(samples)
    # The best sample's log-weight is minus the log-normaliser.
    normalizers = best.sum((-2, -1)) - temperature * log_weights.amax(-2).sum(-1)
    loss = temperature * (epsilon - math.log(samples)) + normalizers / states
    return EStep(weights, loss, epsilon - kl, kl)


def out_of_bounds_cost(actions: Tensor) -> Tensor:
    """Negative distance of [..., D] actions from the box [-1, 1], [...] (MO-MPO's penalty)."""
    outside = torch.linalg.vector_norm(actions - actions.clamp(-1, 1), dim=-1)
    return -outside.view(actions.shape[:-1])  # torch 2.11's compiler keeps a last axis of one


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
    """The Lagrangian of the decoupled M-step."""

    loss: Tensor
    """Weighted negative log-likelihoods under (online mean, target stddev) and under (target mean,
    online stddev), mean over B, and the KLs times their multipliers, summed over D, [...]."""
    kl: Tensor
    """KL(target || online) of the means alone, then of the standard deviations alone, mean over B,
    in nats, [..., 2, D]."""
    grad_mean: Tensor
    """Of the loss by the online mean, [..., B, D]."""
    grad_stddev: Tensor
    """Of the loss by the online standard deviation, [..., B, D]."""


def m_step(
    moments: Moments,
    target_mean: Tensor,
    target_stddev: Tensor,
    mean: Tensor,
    stddev: Tensor,
    alphas: Tensor,
) -> MStep:
    """Fits the online Gaussian to the weighted samples, mean and stddev apart (2018b, sec. 4.2).

    The samples enter through the moments m0, m1, m2 of their noise alone: with
    x = (mean' - m) / stddev' and r = stddev' / s, a state and dimension adds to the loss

        (m2 + 2 m1 x + m0 x^2) / 2 + m2 r^2 / 2 + m0 (log stddev' + log s + log 2 pi)
        + alpha_mean x^2 / 2 + alpha_stddev ((r^2 - 1) / 2 - log r)

    whose gradient is -(m1 + m0 x + alpha_mean x) / stddev' by m, and by s
    (m0 - m2 r^2 - alpha_stddev (r^2 - 1)) / s.

    Args:
        moments: of the noise, see `noise_moments`.
        target_mean: [..., B, D], like the next three.
        target_stddev: positive.
        mean: online.
        stddev: online, positive.
        alphas: multipliers of the KLs of the means, then of the standard deviations, [..., 2, D].
    """
    zeroth, first, second = moments
    states = mean.shape[-2]
    shift = (target_mean - mean) / target_stddev
    ratio = target_stddev / stddev
    square = ratio.square()
    excess = square - 1
    pull = torch.addcmul(first, zeroth, shift)
    squares = torch.addcmul(second, second, square) + shift * (first + pull)
    logs = (target_stddev * stddev).log() + math.log(2 * math.pi)
    likelihoods = (0.5 * squares + zeroth * logs).sum((-2, -1)) / states
    kls = torch.stack([0.5 * shift.square(), 0.5 * excess - ratio.log()], dim=-3)
    kl = kls.sum(-2) / states
    penalties = (alphas * kl).sum((-2, -1))
    alpha_mean, alpha_stddev = alphas.split(1, dim=-2)
    # Summed in this order, lest a multiplier of thousands cost the rest its digits where r is 1.
    spread = torch.addcmul(zeroth - second * square, alpha_stddev, excess, value=-1)
    return MStep(
        likelihoods + penalties,
        kl,
        torch.addcmul(pull, alpha_mean, shift) / (target_stddev * -states),
        spread / (stddev * states),
    )


def gaussian_log_prob(x: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    """Log-density of [..., D] under a diagonal Gaussian, summed over D, in nats, [...]."""
    z = (x - mean) / stddev
    return -(0.5 * z.square() + stddev.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
