"""Aggregates of an arm's scores over all environments, with bootstrap intervals; pure functions.

The unit is a seed, as in `mpo.analysis.intervals`: one score per run. Scores are given as one array
[n_e] per environment; lengths may differ. Environments always have equal weight.

Source: Agarwal et al. 2021 (arXiv 2108.13264).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import block_diag

from mpo.analysis.bootstrap import (
    Pool,
    bootstrap,
    bounds,
    chunks,
    finite_vector,
    resample,
    sorted_runs,
)


class Estimate(NamedTuple):
    """An estimate over environments and its 95 % bootstrap bounds, in the unit of the scores."""

    estimate: float
    lo: float
    hi: float
    n: tuple[int, ...]
    """Number of runs in each environment."""
    replicates: int


class Aggregates(NamedTuple):
    """The aggregates of one arm, all computed on the same resamples."""

    iqm: Estimate
    mean: Estimate
    median: Estimate
    optimality_gap: Estimate


METRIC_TITLES = dict(
    zip(Aggregates._fields, ("IQM", "Mean", "Median", "Optimality gap"), strict=True)
)
"""What each aggregate is called in tables and figures."""


class Profile(NamedTuple):
    """A performance profile and its pointwise 95 % bootstrap band."""

    taus: np.ndarray
    """Score thresholds, [T]."""
    estimate: np.ndarray
    """F(tau), the fraction of runs above each threshold, [T]."""
    lo: np.ndarray
    hi: np.ndarray
    n: tuple[int, ...]
    """Number of runs in each environment."""
    replicates: int


class Improvement(NamedTuple):
    """The probability that a run of x scores above a run of y, with 95 % bootstrap bounds."""

    estimate: float
    lo: float
    hi: float
    n_x: tuple[int, ...]
    """Number of runs of x in each environment."""
    n_y: tuple[int, ...]
    """Number of runs of y in each environment."""
    replicates: int


def iqm(scores: Sequence[ArrayLike]) -> float:
    """The interquartile mean of an arm's runs, with equal weight for every environment.

    The N runs of all K environments are pooled and sorted. A run has weight N / (K n_e), where n_e
    is the number of runs in its environment. A total weight of floor(N / 4) is cut off at each end;
    a run on a cut keeps the part of its weight inside. With equal n_e every weight is 1, and the
    result equals `scipy.stats.trim_mean(pool, 0.25)`.

    Args:
        scores: one array [n_e] per environment.

    Raises:
        ValueError: no environments, an environment without runs, an array that is not
            one-dimensional, or a non-finite score.

    Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
        arXiv 2108.13264, section 4.3; the weights extend it to unequal n.
    """
    pool = Pool.of(scores)
    return float(_iqm(pool.weights, pool))


def mean(scores: Sequence[ArrayLike]) -> float:
    """The mean over environments of each environment's mean; arguments and errors as in `iqm`."""
    pool = Pool.of(scores)
    return float(_means(pool.weights, pool).mean())


def median(scores: Sequence[ArrayLike]) -> float:
    """The median over environments of each environment's mean, as in arXiv 2108.13264.

    It is not the median of the pooled runs. Arguments and errors as in `iqm`.
    """
    pool = Pool.of(scores)
    return float(np.median(_means(pool.weights, pool)))


def optimality_gap(scores: Sequence[ArrayLike], gamma: float = 1.0) -> float:
    """How far the runs fall short of gamma: gamma - mean(min(x, gamma)); 0 if all reach it.

    Environments have equal weight. Errors and source as in `iqm`.

    Args:
        scores: one array [n_e] per environment.
        gamma: the score that counts as solved.
    """
    pool = Pool.of(scores)
    return float(_gap(pool.weights, pool, gamma))


def aggregates(
    scores: Sequence[ArrayLike],
    rng: np.random.Generator,
    gamma: float = 1.0,
    replicates: int = 50_000,
) -> Aggregates:
    """IQM, mean, median and optimality gap of one arm, with stratified bootstrap intervals.

    A replicate resamples the n_e runs of each environment with replacement; environments are never
    resampled. The bounds are the 2.5 and 97.5 percentiles of the replicates.

    Args:
        scores: normalised scores, one array [n_e] per environment.
        rng: draws the resamples. The bounds depend on its state, not on the order of the seeds.
        gamma: the score that counts as solved, for the optimality gap.
        replicates: number of resamples.

    Returns:
        The estimates. Bounds are NaN if no environment has two runs, because every resample then
        equals the data.

    Raises:
        ValueError: as in `iqm`, or fewer than one replicate.

    Source: arXiv 2108.13264, section 4.1.
    """
    pool = Pool.of(scores)

    def statistic(weights: np.ndarray) -> np.ndarray:
        means = _means(weights, pool)
        gap = _gap(weights, pool, gamma)
        four = (_iqm(weights, pool), means.mean(-1), np.median(means, axis=-1), gap)
        return np.stack(four, axis=-1)

    lo, hi = bootstrap(pool, statistic, replicates, rng)
    bounded = np.stack((statistic(pool.weights), lo, hi), axis=-1).tolist()
    return Aggregates(*(Estimate(v, lo, hi, pool.n, replicates) for v, lo, hi in bounded))


def performance_profile(
    scores: Sequence[ArrayLike],
    taus: ArrayLike,
    rng: np.random.Generator,
    replicates: int = 2_000,
) -> Profile:
    """F(tau), the fraction of runs that score above tau, with a pointwise bootstrap band.

    Args:
        scores: as in `aggregates`; environments have equal weight.
        taus: thresholds, [T].
        rng: draws the resamples.
        replicates: number of resamples.

    Raises:
        ValueError: as in `aggregates`, or `taus` is empty or not finite.

    Source: arXiv 2108.13264, section 4.2 (run-score distributions).
    """
    pool, taus = Pool.of(scores), finite_vector(taus, "taus")
    above = pool.x[:, None] > taus

    def statistic(weights: np.ndarray) -> np.ndarray:
        return weights @ above / pool.x.size

    lo, hi = bootstrap(pool, statistic, replicates, rng)
    return Profile(taus, statistic(pool.weights), lo, hi, pool.n, replicates)


def probability_of_improvement(
    x: Sequence[ArrayLike],
    y: Sequence[ArrayLike],
    rng: np.random.Generator,
    replicates: int = 50_000,
) -> Improvement:
    """P(X > Y): mean over environments of 1/(n m) sum_ij (1[x_i > y_j] + 1[x_i = y_j] / 2).

    In each environment, with n runs of x and m of y, this is the Mann-Whitney U of x divided by
    n m. The bootstrap resamples x and y independently within each environment.

    Args:
        x: one array [n_e] per environment.
        y: one array [m_e] per environment, with the environments in the same order.
        rng: draws the resamples.
        replicates: number of resamples.

    Raises:
        ValueError: as in `aggregates`, or x and y have different numbers of environments.

    Source: arXiv 2108.13264, section 4.3 (average probability of improvement).
    """
    xs, ys = sorted_runs(x), sorted_runs(y)
    if len(xs) != len(ys):
        raise ValueError(f"x has {len(xs)} environments, y has {len(ys)}")
    n_x, n_y = tuple(v.size for v in xs), tuple(v.size for v in ys)
    blocks = [np.sign(a[:, None] - b) / 2 + 0.5 for a, b in zip(xs, ys, strict=True)]
    wins = block_diag(*(block / (block.size * len(xs)) for block in blocks))
    draws = [
        (resample(n_x, rows, rng) @ wins * resample(n_y, rows, rng)).sum(1)
        for rows in chunks(replicates, max(wins.shape))
    ]
    lo, hi = bounds(np.concatenate(draws), n_x + n_y)
    return Improvement(float(wins.sum()), float(lo), float(hi), n_x, n_y, replicates)


def _iqm(weights: np.ndarray, pool: Pool) -> np.ndarray:
    size, cut = pool.x.size, pool.x.size // 4
    # The weight of runs 1..i between the two cuts. With equal n_e these are integers, so exact.
    inside = np.clip(np.cumsum(weights, axis=-1), cut, size - cut)
    return np.diff(inside, axis=-1, prepend=cut) @ pool.x / (size - 2 * cut)


def _means(weights: np.ndarray, pool: Pool) -> np.ndarray:
    """The mean of each environment, [..., K]."""
    return weights @ (pool.x[:, None] * pool.member) * (len(pool.n) / pool.x.size)


def _gap(weights: np.ndarray, pool: Pool, gamma: float) -> np.ndarray:
    return gamma - weights @ np.minimum(pool.x, gamma) / pool.x.size
