"""Sample efficiency of learning curves; pure functions of numbers.

All runs share one grid of environment steps, [T]; their curves are returns [..., T].
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import CensoredData, ecdf


class Crossings(NamedTuple):
    """When runs first reached a threshold; a run that did not is right-censored at its budget."""

    steps: np.ndarray
    """Environment steps of the first evaluation at or above it, else of the last one, [...]."""
    reached: np.ndarray
    """Bool, [...]."""


class Survival(NamedTuple):
    """The Kaplan-Meier curve of runs that have not reached a threshold, and its median."""

    steps: np.ndarray
    """Distinct crossing and censoring steps, ascending, [Q]; before the first, the curve is 1."""
    probability: np.ndarray
    """Estimated probability that a run needs more than these steps, [Q]."""
    lo: np.ndarray
    """Pointwise 95 % bounds, [Q]."""
    hi: np.ndarray
    median: float
    """Environment steps at which half of the runs have reached it; infinite: not reached."""
    median_lo: float
    median_hi: float
    n: int
    reached: int


def area_under_curve(steps: ArrayLike, returns: ArrayLike) -> np.ndarray:
    """The trapezoid area under each curve, divided by the span of the grid.

    Its unit is that of the returns: a constant curve has its own value.

    Args:
        steps: environment steps of the evaluations, ascending, [T] with T of 2 or more.
        returns: [..., T].

    Returns:
        [...].

    Raises:
        ValueError: a grid that does not ascend, curves of another length, or a return that is not
            finite (a short run is missing, never stretched).
    """
    grid, curves = _curves(steps, returns)
    return np.trapezoid(curves, grid, axis=-1) / (grid[-1] - grid[0])


def steps_to_threshold(steps: ArrayLike, returns: ArrayLike, threshold: float) -> Crossings:
    """The first evaluation of each curve at or above a threshold.

    Args:
        steps: as for `area_under_curve`; the last is the budget.
        returns: [..., T].
        threshold: in the unit of the returns.

    Raises:
        ValueError: as `area_under_curve`, or a threshold that is not finite.
    """
    grid, curves = _curves(steps, returns)
    if not np.isfinite(threshold):
        raise ValueError(f"expected a finite threshold, received {threshold}")
    above = curves >= threshold
    reached = above.any(-1)
    return Crossings(np.where(reached, grid[above.argmax(-1)], grid[-1]), np.asarray(reached))


def kaplan_meier(steps: ArrayLike, reached: ArrayLike) -> Survival:
    """The Kaplan-Meier estimate of the steps that a run needs to reach a threshold.

    The median is the first step where the curve is at one half or below; its bounds are the first
    steps where the lower and the upper bound of the curve are. Each is infinite ("not reached")
    where its curve stays above one half.

    The bounds are Greenwood's on the log-log scale, which are undefined where the curve is 1 or 0.
    Where it is 1, they are 1. Where it is 0, the upper one is the exact binomial bound of 0 in the
    n runs that crossed, 1 - 0.025^(1/n); else the median of runs that cross at one evaluation would
    have no upper bound however many they are.

    Args:
        steps: a run's crossing, or where it was censored, [n]; 0 or more.
        reached: whether it crossed, bool [n].

    Raises:
        ValueError: no runs, other shapes or types, or steps that are not finite and 0 or more.

    Sources: Kaplan and Meier 1958, JASA 53; the median's interval: Brookmeyer and Crowley 1982,
        Biometrics 38; the exact bound: Clopper and Pearson 1934, Biometrika 26.
    """
    times, events = np.asarray(steps, dtype=np.float64), np.asarray(reached)
    if times.ndim != 1 or not times.size or times.shape != events.shape:
        raise ValueError(
            f"expected steps [n] and reached [n], received {times.shape} and {events.shape}"
        )
    if events.dtype != np.bool_:
        raise ValueError(f"expected booleans in reached, received {events.dtype}")
    if not (np.isfinite(times) & (times >= 0)).all():
        raise ValueError(f"expected finite steps of 0 or more, received {times.tolist()}")
    survival = ecdf(CensoredData.right_censored(times, ~events)).sf
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # undefined at 0 and 1
        bounds = survival.confidence_interval(0.95, method="log-log")
    grid, p = survival.quantiles, survival.probabilities
    crossed = int(events.sum())
    lo = np.where(p == 1, 1.0, np.where(p == 0, 0.0, bounds.low.probabilities))
    exact = 1 - 0.025 ** (1 / max(crossed, 1))
    hi = np.where(p == 1, 1.0, np.where(p == 0, exact, bounds.high.probabilities))
    median, median_lo, median_hi = (_first_at_half(grid, curve) for curve in (p, lo, hi))
    return Survival(grid, p, lo, hi, median, median_lo, median_hi, times.size, crossed)


def _first_at_half(grid: np.ndarray, curve: np.ndarray) -> float:
    at_half = curve <= 0.5 + 1e-9  # a curve at one half is a product of rounded fractions
    return float(grid[at_half.argmax()]) if at_half.any() else np.inf


def _curves(steps: ArrayLike, returns: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    grid, curves = np.asarray(steps, dtype=np.float64), np.asarray(returns, dtype=np.float64)
    if grid.ndim != 1 or grid.size < 2 or not np.isfinite(grid).all() or (np.diff(grid) <= 0).any():
        raise ValueError(f"expected two or more ascending steps, received {grid.tolist()}")
    if not curves.ndim or curves.shape[-1] != grid.size:
        raise ValueError(f"expected returns [..., {grid.size}], received {curves.shape}")
    if not np.isfinite(curves).all():
        raise ValueError(f"expected finite returns, received {np.sum(~np.isfinite(curves))} others")
    return grid, curves
