"""Effects of a study's factors, paired by seed; pure functions.

Scores are given as one array [n_e, L_1, L_2, ...] per environment: n_e seeds, then one axis per
factor with its L levels; NaN marks a missing run. Level 0 is the baseline, unless another one is
named. All arms of a row share the seed, so differences between arms are paired.

The unit is a seed: its differences are first averaged over the other factors, and intervals reflect
only the spread over seeds.

Source: Patterson et al., "Empirical Design in Reinforcement Learning", arXiv 2304.01315.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import nctdtr, stdtrit  # noncentral t: CDF at (df, ncp, t); t: its quantile

from mpo.analysis.intervals import Interval, pooled_p_value, pooled_t_interval, t_interval

MAX_SEEDS = 1000
"""The largest number of seeds that `power_table` tries."""


class EnvironmentEffect(NamedTuple):
    """A paired effect in one environment, in the unit of the scores."""

    interval: Interval
    """Mean difference over seeds and its 95 % Student-t interval."""
    pairs: int
    """Number of complete pairs: at most seeds times combinations of the other factors' levels."""
    sd: float
    """Standard deviation of the differences over seeds; NaN for one seed."""
    correlation: float
    """Pearson correlation of the two sides over seeds; near 0, pairing gains nothing."""
    effective_environments: float
    """1, as in an `Effect` of this environment alone."""
    differences: np.ndarray
    """The difference of each seed, [n]."""


class Effect(NamedTuple):
    """A paired effect over environments, in the unit of the scores."""

    pooled: Interval
    """Mean over environments, equally weighted, and its 95 % Welch-t interval."""
    p: float
    """Two-sided p-value of the test behind the interval; NaN where there is no interval."""
    sd: float
    """Standard deviation of the differences over seeds, pooled within environments."""
    correlation: float
    """Correlation of the two sides over seeds, pooled within environments."""
    effective_environments: float
    """(Σ s²)² / Σ s⁴ of the environments' standard deviations s: their number if all are equal,
    near 1 if one is far above the others; NaN if one is unknown. See `power_table`."""
    environments: tuple[EnvironmentEffect, ...]


def main_effect(scores: Sequence[ArrayLike], factor: int, level: int, baseline: int = 0) -> Effect:
    """The effect of `level` of a factor over `baseline`, averaged over the other factors.

        d[seed, others] = x[level, seed, others] - x[baseline, seed, others]

    Pairs with a missing side are dropped, and seeds without a complete pair.

    Args:
        scores: one array [n_e, levels of factor 0, levels of factor 1, ...] per environment.
        factor: index of the factor.
        level: index of the level.
        baseline: index of another level.

    Raises:
        ValueError: no such factor or level, the same level twice, arrays with different axes, an
            infinite score, or an environment without a complete pair.
    """
    cells = _cells(scores)
    _check_level(cells, factor, level, baseline)
    axis = factor + 1
    return _paired([(x.take(baseline, axis), x.take(level, axis)) for x in cells])


def interaction(
    scores: Sequence[ArrayLike], factors: tuple[int, int], levels: tuple[int, int]
) -> Effect:
    """How the effect of one factor changes with the level of another.

    With d of the first factor as in `main_effect`, this is

        d[seed, others] at the second factor's level - d[seed, others] at its level 0

    It needs all four cells of a seed. The two sides of its correlation are the two d.

    Args:
        scores: as in `main_effect`.
        factors: indices of two different factors; the effect is symmetric in them.
        levels: level of each factor, 1 or more.

    Raises:
        ValueError: as in `main_effect`, or the same factor twice.
    """
    cells = _cells(scores)
    if factors[0] == factors[1]:
        raise ValueError(f"an interaction needs two different factors, received {factors}")
    for factor, level in zip(factors, levels, strict=True):
        _check_level(cells, factor, level)
    # Move the two factors to the front: x[first, second, seed, others].
    fronted = [np.moveaxis(x, (factors[0] + 1, factors[1] + 1), (0, 1)) for x in cells]
    i, j = levels
    return _paired([(x[i, 0] - x[0, 0], x[i, j] - x[0, j]) for x in fronted])


def power_table(
    sd: float,
    deltas: Sequence[float] = (0.05, 0.1, 0.2),
    environments: int = 1,
    effective: float | None = None,
) -> dict[float, int | None]:
    """The smallest number of seeds at which the pooled t-test detects an effect with 80 % power.

    The test is two-sided at the 5 % level, for one effect: no adjustment for several is included.
    It tests the mean over E environments, with Welch's degrees of freedom. With n seeds per
    environment its power is P(T > t(.975, f)), where T has a noncentral t distribution with
    noncentrality delta sqrt(E n) / sd and f = (n - 1) (Σ s²)² / Σ s⁴ degrees of freedom, for the
    standard deviations s of the environments. Rejections in the wrong direction are not counted; at
    80 % power their probability is below 1e-6.

    The test estimates f from the data. In simulations with three to ten environments, equal and
    very unequal s, the power is at most 0.1 below this from three seeds on, and far below it with
    two. So several environments need three seeds or more.

    Args:
        sd: observed standard deviation of the differences over seeds, pooled within environments;
            0 gives the fewest seeds.
        deltas: effects to detect, above 0, in the unit of the scores.
        environments: E.
        effective: (Σ s²)² / Σ s⁴, from 1 to E, see `Effect.effective_environments`; E if not given.

    Returns:
        Seeds per environment for each effect; None if `MAX_SEEDS` are not enough.

    Raises:
        ValueError: a negative or infinite sd, an effect of 0 or less, no environments, or an
            effective number of them outside of 1 to E.

    Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences" (1988), chapter 2, with
        the degrees of freedom of Welch, Biometrika 34 (1947).
    """
    effective = environments if effective is None else effective
    if not (np.isfinite(sd) and sd >= 0):
        raise ValueError(f"expected a standard deviation of 0 or more, received {sd}")
    if not all(delta > 0 for delta in deltas):
        raise ValueError(f"expected effects above 0, received {list(deltas)}")
    if environments < 1:
        raise ValueError(f"expected one environment or more, received {environments}")
    if not 1 - 1e-9 <= effective <= environments * (1 + 1e-9):
        raise ValueError(f"expected from 1 to {environments} environments, received {effective}")
    fewest = 2 if environments == 1 else 3
    return {
        delta: _seeds(delta / sd, environments, effective, fewest) if sd else fewest
        for delta in deltas
    }


def _seeds(ratio: float, environments: int, effective: float, fewest: int) -> int | None:
    """The smallest number of seeds for an effect of `ratio` standard deviations, or None."""
    for n in range(fewest, MAX_SEEDS + 1):
        freedom, noncentrality = effective * (n - 1), ratio * np.sqrt(environments * n)
        if 1 - nctdtr(freedom, noncentrality, stdtrit(freedom, 0.975)) >= 0.8:
            return n
    return None


def _paired(sides: Sequence[tuple[np.ndarray, np.ndarray]]) -> Effect:
    """The effect of the second side over the first; sides are [n_e, ...] for each environment."""
    seeds, environments = [], []
    for e, (first, second) in enumerate(sides):
        complete = ~np.isnan(second - first).reshape(len(first), -1)
        if not complete.any():
            raise ValueError(f"environment {e}: no complete pair in cells of shape {first.shape}")
        a, b = _seed_means(first, complete), _seed_means(second, complete)
        interval, spread = t_interval(b - a), _spread([(a, b)])
        environments.append(EnvironmentEffect(interval, int(complete.sum()), *spread, 1.0, b - a))
        seeds.append((a, b))
    differences = [e.differences for e in environments]
    pooled, p = pooled_t_interval(differences), pooled_p_value(differences)
    effective = _effective([e.sd for e in environments])
    return Effect(pooled, p, *_spread(seeds), effective, tuple(environments))


def _effective(deviations: Sequence[float]) -> float:
    """The effective number of environments, see `Effect`; without any spread their number."""
    variances = np.square(deviations)
    if not variances.any():
        return float(len(variances))
    return float(variances.sum() ** 2 / np.square(variances).sum())


def _seed_means(side: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """The mean of each seed over its complete pairs, [seeds with a complete pair]."""
    total = np.where(complete, side.reshape(complete.shape), 0).sum(1)
    has = complete.any(1)
    return total[has] / complete.sum(1)[has]


def _spread(seeds: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Standard deviation of b - a and correlation of a and b, pooled within environments.

    Both are NaN if no environment has two seeds; the correlation also if a side is constant.
    """
    a = np.concatenate([_centred(first) for first, _ in seeds])
    b = np.concatenate([_centred(second) for _, second in seeds])
    freedom = a.size - len(seeds)
    sd = np.sqrt(np.sum((b - a) ** 2) / freedom) if freedom else np.nan
    norm = np.sqrt(np.sum(a**2) * np.sum(b**2))
    return float(sd), float(np.sum(a * b) / norm) if norm else np.nan


def _centred(x: np.ndarray) -> np.ndarray:
    # The mean of equal values may differ from them by rounding, which is not spread.
    return x - x.mean() if np.ptp(x) else np.zeros_like(x)


def _check_level(cells: list[np.ndarray], factor: int, level: int, baseline: int = 0) -> None:
    shape = cells[0].shape[1:]
    if not 0 <= factor < len(shape):
        raise ValueError(f"expected a factor below {len(shape)}, received {factor}")
    count = shape[factor]
    if not (0 <= level < count and 0 <= baseline < count and level != baseline):
        raise ValueError(
            f"factor {factor}: expected two different levels below {count}, received {level} and "
            f"{baseline}"
        )


def _cells(scores: Sequence[ArrayLike]) -> list[np.ndarray]:
    cells = [np.asarray(x, dtype=np.float64) for x in scores]
    if not cells:
        raise ValueError("expected one array of cells per environment, received no environments")
    for e, x in enumerate(cells):
        if x.ndim < 2 or not x.size or x.shape[1:] != cells[0].shape[1:]:
            shapes = f"{x.shape}, environment 0 {cells[0].shape}"
            raise ValueError(f"environment {e}: expected [seeds, levels, ...], received {shapes}")
        if np.isinf(x).any():
            raise ValueError(
                f"environment {e}: expected finite scores or NaN, received {x.tolist()}"
            )
    return cells
