"""The losses of MPO and their gradients in closed form.

Pure functions of tensors; any leading axes [...] are independent learners.

Sources: E-step and temperature, Abdolmaleki et al. 2018a (arXiv 1806.06920); decoupled M-step with
a KL bound per dimension, Abdolmaleki et al. 2018b (1812.02256); action penalty, MO-MPO,
Abdolmaleki et al. 2020 (2005.07513).

Letters: N action samples, B states, D action dimensions, A atoms. Primes mark the target policy,
from which actions are sampled: a = mean' + stddev' * noise.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_NEARLY_FLAT = 0.5
"""Largest distance of a scaled value from their mean at which the weights are nearly uniform."""
_NEARLY_ZERO = 0.01
"""Arguments below which a function with a double zero at 0 is computed by its Taylor series. There
the series is exact to 1e-12, and the function itself to 1e-5 in float32."""


class Fit(NamedTuple):
    """The critic's loss and its gradient."""

    loss: Tensor
    """Mean over B, [...]."""
    gradient: Tensor
    """With respect to the fitted values or logits, of the same shape."""


def regression(values: Tensor, targets: Tensor) -> Fit:
    """Computes half the mean squared error between values and targets, [..., B] each."""
    error = values - targets
    gradient = error / values.shape[-1]
    return Fit(0.5 * (error * gradient).sum(-1), gradient)


def cross_entropy(logits: Tensor, targets: Tensor) -> Fit:
    """Computes the cross-entropy from target probabilities to logits, [..., B, A] each.

    It differs from the KL divergence that C51 minimises (Bellemare et al. 2017, arXiv 1707.06887,
    algorithm 1) only by the entropy of the targets. The gradient with respect to the logits is
    (softmax - targets) / B.
    """
    states = logits.shape[-2]
    log_probabilities = torch.log_softmax(logits, dim=-1)
    loss = -(targets * log_probabilities).sum((-2, -1)) / states
    return Fit(loss, (log_probabilities.exp() - targets) / states)


class EStep(NamedTuple):
    """The weights of the sampled actions and the loss of the temperature."""

    weights: Tensor
    """softmax(values / temperature) over N, [..., N, B]."""
    loss: Tensor
    """Dual function of the temperature (2018a, eq. 8), [...]."""
    gradient: Tensor
    """Of the loss with respect to the temperature, [...]."""
    kl: Tensor
    """KL(weights || uniform weights), mean over B, in nats, [...]."""


def e_step(values: Tensor, temperature: Tensor, epsilon: float | Tensor) -> EStep:
    """Weighs the sampled actions by their values, and computes the temperature's dual function.

    At the dual's minimum over the temperature, the KL of the weights equals the bound.

    Args:
        values: Q values or negative costs, [..., N, B].
        temperature: eta > 0, [...].
        epsilon: bound on the KL from the sampling distribution, in nats; broadcasts to [...].
    """
    samples, states = values.shape[-2:]
    # Large values over a small temperature lose digits in float32. Subtracting the maximum does
    # not change the dual: eta * lse(Q / eta) = max Q + eta * lse((Q - max Q) / eta).
    best = values.amax(-2, keepdim=True)
    scaled = (values - best) / temperature[..., None, None]
    log_weights = torch.log_softmax(scaled, dim=-2)
    weights = log_weights.exp()
    kl = _kl_from_uniform(scaled, log_weights).sum(-1) / states
    # The largest log-weight is minus the log-normaliser, since its value minus the maximum is 0.
    normalizers = best.sum((-2, -1)) - temperature * log_weights.amax(-2).sum(-1)
    loss = temperature * (epsilon - math.log(samples)) + normalizers / states
    return EStep(weights, loss, epsilon - kl, kl)


def _kl_from_uniform(scaled: Tensor, log_weights: Tensor) -> Tensor:
    """Computes KL(softmax(scaled) || uniform) over N, in nats: [..., N, B] -> [..., B].

    With u = log(N w) for the weights w, it is the mean over N of u exp(u) - expm1(u), which is
    never negative. In the sum of w log w, terms of both signs cancel where the weights are nearly
    uniform, and float32 leaves no digit of a KL below 1e-6.
    """
    centred = scaled - scaled.mean(-2, keepdim=True)
    flat = centred.abs().amax(-2, keepdim=True) < _NEARLY_FLAT
    # `log_weights` + log N is rounded as log N is, so u is computed anew where it is small.
    small = torch.where(flat, centred, 0.0)
    small = small - small.expm1().mean(-2, keepdim=True).log1p()
    u = torch.where(flat, small, log_weights + math.log(scaled.shape[-2]))
    series = u.square() * (1 / 2 + u * (1 / 3 + u * (1 / 8 + u * (1 / 30 + u / 144))))
    phi = torch.where(u.abs() < _NEARLY_ZERO, series, u * u.exp() - u.expm1())
    return phi.mean(-2)


def out_of_bounds_cost(actions: Tensor) -> Tensor:
    """Computes minus the Euclidean distance of actions [..., D] from the box [-1, 1], [...].

    This is the second objective of MO-MPO's action penalty.
    """
    outside = torch.linalg.vector_norm(actions - actions.clamp(-1, 1), dim=-1)
    return -outside.view(
        actions.shape[:-1]
    )  # compiled by torch 2.11, the norm keeps an axis of size 1


class Moments(NamedTuple):
    """Weighted moments of the noise over N; the M-step depends on the samples only through them."""

    zeroth: Tensor
    """sum w, [..., B, 1]."""
    first: Tensor
    """sum w * noise, [..., B, D]."""
    second: Tensor
    """sum w * noise^2, [..., B, D]."""


def noise_moments(weights: Tensor, noise: Tensor) -> Moments:
    """Sums weights [..., N, B] times powers of the noise [..., N, B, D] over N."""
    w = weights.unsqueeze(-1)
    weighted = w * noise
    return Moments(w.sum(-3), weighted.sum(-3), (weighted * noise).sum(-3))


class MStep(NamedTuple):
    """The Lagrangian of the decoupled M-step and its gradients."""

    loss: Tensor
    """The sum of two weighted negative log-likelihoods, under (online mean, target stddev) and
    under (target mean, online stddev), mean over B, plus the KLs times their multipliers, summed
    over D, [...]."""
    kl: Tensor
    """KL(target || online), mean over B, in nats, [..., 2, D]: first with only the means differing,
    then with only the standard deviations differing."""
    grad_mean: Tensor
    """Of the loss with respect to the online mean, [..., B, D]."""
    grad_stddev: Tensor
    """Of the loss with respect to the online standard deviation, [..., B, D]."""


def m_step(
    moments: Moments,
    target_mean: Tensor,
    target_stddev: Tensor,
    mean: Tensor,
    stddev: Tensor,
    alphas: Tensor,
) -> MStep:
    """Fits the online mean and stddev separately to the weighted samples (2018b, sec. 4.2).

    The loss depends on the samples only through the moments m0, m1, m2 of their noise. With the
    online mean m and stddev s, x = (mean' - m) / stddev' and r = stddev' / s, each state and
    dimension contributes

        (m2 + 2 m1 x + m0 x^2) / 2 + m2 r^2 / 2 + m0 (log stddev' + log s + log 2 pi)
        + alpha_mean x^2 / 2 + alpha_stddev ((r^2 - 1) / 2 - log r)

    Its derivatives are -(m1 + m0 x + alpha_mean x) / stddev' with respect to m, and
    (m0 - m2 r^2 - alpha_stddev (r^2 - 1)) / s with respect to s.

    Args:
        moments: moments of the noise, from `noise_moments`.
        target_mean: [..., B, D].
        target_stddev: positive, [..., B, D].
        mean: online mean, [..., B, D].
        stddev: online standard deviation, positive, [..., B, D].
        alphas: KL multipliers for the means, then for the standard deviations, [..., 2, D] or
            [..., 2, 1].
    """
    zeroth, first, second = moments
    states = mean.shape[-2]
    shift = (target_mean - mean) / target_stddev
    # r is nearly 1, so its logarithm and r^2 - 1 are computed from the difference of the stddevs.
    log_ratio = ((target_stddev - stddev) / stddev).log1p()
    excess = (2 * log_ratio).expm1()
    square = excess + 1
    pull = torch.addcmul(first, zeroth, shift)
    squares = torch.addcmul(second, second, square) + shift * (first + pull)
    logs = (target_stddev * stddev).log() + math.log(2 * math.pi)
    likelihoods = (0.5 * squares + zeroth * logs).sum((-2, -1)) / states
    kls = torch.stack([0.5 * shift.square(), _stddev_kl(log_ratio, excess)], dim=-3)
    kl = kls.sum(-2) / states
    penalties = (alphas * kl).sum((-2, -1))
    alpha_mean, alpha_stddev = alphas.split(1, dim=-2)
    # r^2 - 1 is multiplied by alpha as a whole: expanding the product would lose the digits of the
    # other terms for r near 1 and an alpha of thousands.
    spread = torch.addcmul(zeroth - second * square, alpha_stddev, excess, value=-1)
    return MStep(
        likelihoods + penalties,
        kl,
        torch.addcmul(pull, alpha_mean, shift) / (target_stddev * -states),
        spread / (stddev * states),
    )


def _stddev_kl(log_ratio: Tensor, excess: Tensor) -> Tensor:
    """Computes (r^2 - 1) / 2 - log r from log r and r^2 - 1, both accurate.

    Their difference loses its digits near r = 1, where both are nearly equal.
    """
    x = log_ratio
    series = x.square() * (1 + x * (2 / 3 + x * (1 / 3 + x * (2 / 15 + x * (2 / 45)))))
    return torch.where(x.abs() < _NEARLY_ZERO, series, 0.5 * excess - x)


def gaussian_log_prob(x: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    """Computes the log-density of x [..., D] under a diagonal Gaussian, in nats, [...]."""
    z = (x - mean) / stddev
    return -(0.5 * z.square() + stddev.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
