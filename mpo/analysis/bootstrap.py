"""The stratified bootstrap: runs are drawn anew inside each environment, environments never are.

Letters: K environment, n_e runs of one of them, N runs of all, R resample.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Pool(NamedTuple):
    """The N runs of K environments in ascending order of their scores."""

    x: np.ndarray
    """Scores, [N]."""
    member: np.ndarray
    """1 where the run belongs to the environment, else 0, [N, K]."""
    weights: np.ndarray
    """N / (K n_e), [N]: in units of a run, so that equal n gives every run exactly 1."""
    order: np.ndarray
    """Position of each run when the environments stand one after another, [N]."""
    n: tuple[int, ...]
    """Runs of each environment."""

    @classmethod
    def of(cls, scores: Sequence[ArrayLike]) -> "Pool":
        """Of one array [n_e] per environment; raises as `sorted_runs`."""
        runs = sorted_runs(scores)
        n = tuple(x.size for x in runs)
        environment = np.repeat(np.arange(len(n)), n)
        x = np.concatenate(runs)
        order = np.argsort(x, kind="stable")
        member = np.eye(len(n))[environment[order]]
        weights = (x.size / (len(n) * np.array(n)))[environment[order]]
        return cls(x[order], member, weights, order, n)


Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps weights [..., N] of a pool's runs, which sum to N, to statistics [..., S]."""


def bootstrap(
    pool: Pool, statistic: Statistic, replicates: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The bounds [S], [S] of the statistics. A replicate is how often it drew each run."""
    draws = [
        statistic(resample(pool.n, rows, rng)[:, pool.order] * pool.weights)
        for rows in chunks(replicates, pool.x.size)
    ]
    return bounds(np.concatenate(draws), pool.n)


def chunks(replicates: int, runs: int) -> list[int]:
    """Splits the replicates so that an array [replicates, runs] of a chunk takes about 1 MiB.

    Raises:
        ValueError: fewer than one replicate.
    """
    if replicates < 1:
        raise ValueError(f"expected one or more replicates, received {replicates}")
    rows = max(1, 2**17 // runs)
    return [min(rows, replicates - start) for start in range(0, replicates, rows)]


def resample(n: Sequence[int], rows: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `rows` resamples drew each run, [R, N], environment by environment."""
    first = np.cumsum([0, *n])
    drawn = [
        k + rng.integers(size, size=(rows, size)) for k, size in zip(first[:-1], n, strict=True)
    ]
    flat = np.concatenate(drawn, axis=1) + first[-1] * np.arange(rows)[:, None]
    return np.bincount(flat.ravel(), minlength=flat.size).reshape(rows, -1).astype(np.float64)


def bounds(draws: np.ndarray, n: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The 2.5 and 97.5 percentiles over the first axis; NaN where no environment has two runs."""
    lo, hi = np.percentile(draws, (2.5, 97.5), axis=0)
    return (lo, hi) if max(n) > 1 else (lo * np.nan, hi * np.nan)


def sorted_runs(scores: Sequence[ArrayLike]) -> list[np.ndarray]:
    """The environments' runs, each sorted, so that no bound depends on the order of the seeds.

    Raises:
        ValueError: no environment, or as `finite_vector`.
    """
    if not len(scores):
        raise ValueError("expected one array of runs per environment, received no environment")
    return [np.sort(finite_vector(x, f"environment {e}")) for e, x in enumerate(scores)]


def finite_vector(values: ArrayLike, name: str) -> np.ndarray:
    """The values as float64, [n].

    Raises:
        ValueError: there are none, they have another shape, or one is not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"{name}: expected one or more values on one axis, received {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name}: expected finite values, received {x.tolist()}")
    return x
