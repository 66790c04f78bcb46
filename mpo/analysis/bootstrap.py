"""The stratified bootstrap: resamples the runs within each environment, never the environments.

Letters: K environments, n_e runs in environment e, N runs in all, R resamples, S statistics.

Source: Agarwal et al. 2021 (arXiv 2108.13264), section 4.1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Pool(NamedTuple):
    """The N runs of K environments, sorted by score in ascending order."""

    x: np.ndarray
    """Scores, [N]."""
    member: np.ndarray
    """1 if the run belongs to the environment, else 0, [N, K]."""
    weights: np.ndarray
    """N / (K n_e), [N]: environments weigh the same; with equal n_e every weight is exactly 1."""
    order: np.ndarray
    """Index of each run when the environments are concatenated, [N]."""
    n: tuple[int, ...]
    """Number of runs in each environment."""

    @classmethod
    def of(cls, scores: Sequence[ArrayLike]) -> "Pool":
        """Builds a pool from one array [n_e] per environment; errors as in `sorted_runs`."""
        runs = sorted_runs(scores)
        n = tuple(x.size for x in runs)
        environment = np.repeat(np.arange(len(n)), n)
        x = np.concatenate(runs)
        order = np.argsort(x, kind="stable")
        member = np.eye(len(n))[environment[order]]
        weights = (x.size / (len(n) * np.array(n)))[environment[order]]
        return cls(x[order], member, weights, order, n)


Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps weights of a pool's runs, [..., N], which sum to N, to statistics, [..., S]."""


def bootstrap(
    pool: Pool, statistic: Statistic, replicates: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lower and upper 95 % bounds of the statistics, [S] each.

    A resample only changes the weights: each run counts as often as it was drawn.
    """
    draws = [
        statistic(resample(pool.n, rows, rng)[:, pool.order] * pool.weights)
        for rows in chunks(replicates, pool.x.size)
    ]
    return bounds(np.concatenate(draws), pool.n)


def chunks(replicates: int, runs: int) -> list[int]:
    """Splits the replicates into chunks; an array [chunk, runs] then takes about 1 MiB.

    Raises:
        ValueError: fewer than one replicate.
    """
    if replicates < 1:
        raise ValueError(f"expected one or more replicates, received {replicates}")
    rows = max(1, 2**17 // runs)
    return [min(rows, replicates - start) for start in range(0, replicates, rows)]


def resample(n: Sequence[int], rows: int, rng: np.random.Generator) -> np.ndarray:
    """Counts how often each of R = `rows` resamples draws each run, [R, N].

    The runs are in the order of the environments, which have `n` runs each.
    """
    first = np.cumsum([0, *n])
    drawn = [
        k + rng.integers(size, size=(rows, size)) for k, size in zip(first[:-1], n, strict=True)
    ]
    flat = np.concatenate(drawn, axis=1) + first[-1] * np.arange(rows)[:, None]
    return np.bincount(flat.ravel(), minlength=flat.size).reshape(rows, -1).astype(np.float64)


def bounds(draws: np.ndarray, n: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The 2.5 and 97.5 percentiles along the first axis; NaN if an environment has a single run.

    The spread of a single run is unknown: its resamples are all the same.
    """
    lo, hi = np.percentile(draws, (2.5, 97.5), axis=0)
    return (lo, hi) if min(n) > 1 else (lo * np.nan, hi * np.nan)


def sorted_runs(scores: Sequence[ArrayLike]) -> list[np.ndarray]:
    """Sorts the runs of each environment, so that bounds do not depend on the order of the seeds.

    Raises:
        ValueError: no environments, or as in `finite_vector`.
    """
    if not len(scores):
        raise ValueError("expected one array of runs per environment, received no environments")
    return [np.sort(finite_vector(x, f"environment {e}")) for e, x in enumerate(scores)]


def finite_vector(values: ArrayLike, name: str) -> np.ndarray:
    """Converts values to float64, [n].

    Raises:
        ValueError: no values, not one-dimensional, or a non-finite value.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"{name}: expected a non-empty vector, received shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name}: expected finite values, received {x.tolist()}")
    return x
