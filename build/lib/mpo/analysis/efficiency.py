"""Sample efficiency of learning curves; pure functions.

All runs are evaluated at the same T environment steps; learning curves are returns [..., T].
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import CensoredData, ecdf


class Crossings(NamedTuple):
    """When runs first reached a threshold; runs that did not are right-censored at the budget."""

    steps: np.ndarray
    """Environment step of the first evaluation at or above the threshold, else the last, [...]."""
    reached: np.ndarray
    """Whether the run reached the threshold, bool [...]."""


class Survival(NamedTuple):
    """Kaplan-Meier curve of the runs that have not yet reached a threshold, and its median."""

    steps: np.ndarray
    """Distinct crossing and censoring steps, ascending, [Q]; the curve is 1 before the first."""
    probability: np.ndarray
    """Estimated probability that a run needs more steps than these, [Q]."""
    lo: np.ndarray
    """Lower bound of the pointwise 95 % interval, [Q]."""
    hi: np.ndarray
    """Upper bound of the pointwise 95 % interval, [Q]."""
    median: float
    """Environment step by which half of the runs reached the threshold; inf if never."""
    median_lo: float
    median_hi: float
    n: int
    """Number of runs."""
    reached: int
    """Number of runs that reached the threshold."""


def area_under_curve(steps: ArrayLike, returns: ArrayLike) -> np.ndarray:
    """The trapezoidal area under each curve, divided by the range of the steps.

    The result has the unit of the returns; for a constant curve it is that constant.

    Args:
        steps: environment steps of the evaluations, ascending, [T] with T of 2 or more.
        returns: [..., T].

    Returns:
        [...].

    Raises:
        ValueError: steps that do not ascend, curves of another length, or a non-finite return. A
            run that is too short counts as missing; it is never extended.
    """
    grid, curves = _curves(steps, returns)
    return np.trapezoid(curves, grid, axis=-1) / (grid[-1] - grid[0])


def steps_to_threshold(steps: ArrayLike, returns: ArrayLike, threshold: float) -> Crossings:
    """Finds the first evaluation of each curve at or above a threshold.

    Args:
        steps: as in `area_under_curve`; the last one is the budget.
        returns: [..., T].
        threshold: in the unit of the returns.

    Raises:
        ValueError: as in `area_under_curve`, or a non-finite threshold.
    """
    grid, curves = _curves(steps, returns)
    if not np.isfinite(threshold):
        raise ValueError(f"expected a finite threshold, received {threshold}")
    above = curves >= threshold
    reached = above.any(-1)
    return Crossings(np.where(reached, grid[above.argmax(-1)], grid[-1]), np.asarray(reached))


def kaplan_meier(steps: ArrayLike, reached: ArrayLike) -> Survival:
    """The Kaplan-Meier estimate of the steps that a run needs to reach a threshold.

    The median is the first step at which the curve is at most one half. Its bounds are the first
    steps at which the curve's lower and upper bound are at most one half. Each is infinite ("not
    reached") if its curve stays above one half.

    The bounds of the curve are Greenwood's, on the log-log scale. They are undefined where the
    curve is 1 or 0. Where it is 1, both bounds are set to 1. Where it is 0, the lower one is 0 and
    the upper one is the exact binomial bound for 0 of the n runs that crossed, 1 - 0.025^(1/n).
    Without it, the median of runs that all cross at the same evaluation would have no upper bound,
    however many runs there are.

    Args:
        steps: the step at which each run crossed or was censored, [n]; 0 or more.
        reached: whether each run crossed, bool [n].

    Raises:
        ValueError: no runs, wrong shapes or types, or a step that is negative or not finite.

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
    at_half = curve <= 0.5 + 1e-9  # the curve is a product of fractions, so 0.5 may be rounded
    return float(grid[at_half.argmax()]) if at_half.any() else np.inf


def _curves(steps: ArrayLike, returns: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    grid, curves = np.asarray(steps, dtype=np.float64), np.asarray(returns, dtype=np.float64)
    if grid.ndim != 1 or grid.size < 2 or not np.isfinite(grid).all() or (np.diff(grid) <= 0).any():
        raise ValueError(f"expected two or more ascending steps, received {grid.tolist()}")
    if not curves.ndim or curves.shape[-1] != grid.size:
        raise ValueError(f"expected returns [..., {grid.size}], received {curves.shape}")
    if not np.isfinite(curves).all():
        count = np.sum(~np.isfinite(curves))
        raise ValueError(f"expected finite returns, received {count} non-finite")
    return grid, curves
