import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from mpo.analysis.efficiency import area_under_curve, kaplan_meier, steps_to_threshold

GRID = [0, 10, 30, 40]


def test_hand_computed_areas():
    # 10 * 1 + 20 * 3 + 10 * 3 = 100 over 40 steps; a constant curve gives its constant.
    returns = [[0.0, 2.0, 4.0, 2.0], [5.0, 5.0, 5.0, 5.0]]
    assert area_under_curve(GRID, returns) == pytest.approx([2.5, 5.0])


def test_a_grid_that_starts_late_keeps_the_unit():
    assert area_under_curve([100, 200, 300], [3.0, 3.0, 3.0]) == pytest.approx(3.0)


def test_areas_of_stacked_curves_are_those_of_each():
    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    areas = area_under_curve(GRID, x)
    assert areas.shape == (3, 2)
    assert areas[2, 1] == pytest.approx(np.trapezoid(x[2, 1], GRID) / 40)


def test_the_first_evaluation_at_or_above_the_threshold_counts():
    returns = [
        [0.0, 1.0, 5.0, 9.0],  # crosses between 10 and 30: counts at 30
        [0.0, 3.0, 1.0, 1.0],  # equals the threshold, then falls back: counts at 10
        [7.0, 1.0, 1.0, 1.0],  # above from the start
        [0.0, 1.0, 1.0, 3.0],  # crosses at the budget: still reached
        [0.0, 1.0, 2.9, 2.9],  # never reaches it
    ]
    steps, reached = steps_to_threshold(GRID, returns, 3.0)
    assert steps.tolist() == [30, 10, 0, 40, 40]
    assert reached.tolist() == [True, True, True, True, False]


def test_crossings_have_the_shape_of_the_runs():
    steps, reached = steps_to_threshold(GRID, np.zeros((2, 3, 4)), 1.0)
    assert steps.shape == reached.shape == (2, 3)
    assert not reached.any() and (steps == 40).all()


@pytest.mark.parametrize(
    ("steps", "returns", "message"),
    [
        ([0, 10], [1.0, 2.0, 3.0], r"expected returns \[..., 2\], received \(3,\)"),
        ([0, 10], [[1.0], [2.0]], r"expected returns \[..., 2\], received \(2, 1\)"),
        ([0, 10], 1.0, r"expected returns \[..., 2\], received \(\)"),
        ([0, 10, 10], [1.0, 2.0, 3.0], r"ascending steps, received \[0.0, 10.0, 10.0\]"),
        ([0], [1.0], r"two or more ascending steps, received \[0.0\]"),
        ([[0, 10]], [[1.0, 2.0]], "two or more ascending steps"),
        ([0, math.nan], [1.0, 2.0], "two or more ascending steps"),
        ([0, 10, 20], [1.0, math.nan, math.nan], "finite returns, received 2 non-finite"),
    ],
)
def test_curves_off_the_grid_are_refused(steps, returns, message):
    with pytest.raises(ValueError, match=message):
        area_under_curve(steps, returns)
    with pytest.raises(ValueError, match=message):
        steps_to_threshold(steps, returns, 0.0)


def test_a_threshold_is_finite():
    with pytest.raises(ValueError, match="finite threshold, received nan"):
        steps_to_threshold([0, 1], [0.0, 1.0], math.nan)


def test_a_hand_computed_survival_curve():
    # Five runs cross at 2, 4 and 6; two are censored at 9. The curve is 4/5, 3/5, 2/5 and stays.
    curve = kaplan_meier([9, 4, 2, 9, 6], [False, True, True, False, True])
    assert curve.steps.tolist() == [2, 4, 6, 9]
    assert curve.probability == pytest.approx([0.8, 0.6, 0.4, 0.4])
    assert (curve.n, curve.reached, curve.median) == (5, 3, 6)
    # Greenwood at 4: 1/(5*4) + 1/(4*3) = 2/15, divided by log(.6)^2. On the scale log(-log p) the
    # half-width is 1.96 * .71483 = 1.40105, so the bounds are .6 ** exp(+-1.40105).
    half = math.exp(1.959964 * math.sqrt(2 / 15) / -math.log(0.6))
    assert curve.lo[1] == pytest.approx(0.6**half, abs=1e-6)
    assert curve.hi[1] == pytest.approx(0.6 ** (1 / half), abs=1e-6)
    # The lower bound is .20 at the first step, the upper bound .75 at the last.
    assert (curve.median_lo, curve.median_hi) == (2, math.inf)


def test_a_run_censored_early_leaves_the_risk_set():
    # One of four crosses at 3, one is censored at 5, one of the two left crosses at 7: 3/4 and 3/8.
    curve = kaplan_meier([3, 5, 7, 8], [True, False, True, False])
    assert curve.probability == pytest.approx([3 / 4, 3 / 4, 3 / 8, 3 / 8])
    assert curve.median == 7


def test_the_curve_is_scipys_in_any_order():
    rng = np.random.default_rng(1)
    steps, reached = rng.integers(1, 12, 30).astype(float), rng.random(30) < 0.6
    steps[-1], reached[-1] = 12, False
    data = scipy_stats.CensoredData.right_censored(steps, ~reached)
    expected = scipy_stats.ecdf(data).sf
    bounds = expected.confidence_interval(method="log-log")
    order = rng.permutation(30)
    for curve in (kaplan_meier(steps, reached), kaplan_meier(steps[order], reached[order])):
        assert curve.steps.tolist() == expected.quantiles.tolist()
        assert curve.probability == pytest.approx(expected.probabilities)
        inner = curve.probability < 1
        assert curve.lo[inner] == pytest.approx(bounds.low.probabilities[inner])
        assert curve.hi[inner] == pytest.approx(bounds.high.probabilities[inner])


def test_without_censoring_the_curve_is_the_empirical_one():
    steps = np.array([10.0, 20, 20, 30, 40, 40])
    curve = kaplan_meier(steps, np.ones(6, bool))
    assert curve.probability == pytest.approx([5 / 6, 3 / 6, 2 / 6, 0])
    assert curve.median == 20  # half of the runs have crossed by then


@pytest.mark.parametrize("n", range(2, 61, 2))
def test_one_half_is_reached_whatever_the_rounding(n):
    """The product of 23/24, 22/23, ... 12/13 is not exactly 1/2."""
    steps, reached = np.arange(1.0, n + 1), np.ones(n, bool)
    reached[-1] = False
    assert kaplan_meier(steps, reached).median == n / 2


def test_a_median_that_is_not_reached_is_infinite():
    curve = kaplan_meier([40, 40, 40, 10], [False, False, False, True])
    assert (curve.reached, curve.median, curve.median_hi) == (1, math.inf, math.inf)
    never = kaplan_meier([40, 40], [False, False])
    assert (never.reached, never.probability.tolist()) == (0, [1.0])
    assert (never.lo.tolist(), never.hi.tolist()) == ([1.0], [1.0])
    assert (never.median, never.median_lo, never.median_hi) == (math.inf,) * 3


@pytest.mark.parametrize(("n", "bounded"), [(5, False), (6, True)])
def test_runs_that_cross_together_bound_the_median_from_six_on(n, bounded):
    """P(no run of n below the median) = 1 / 2^n is below 2.5 % from n = 6 on."""
    curve = kaplan_meier([30.0] * n, [True] * n)
    assert (curve.median, curve.median_lo) == (30, 30)
    assert curve.hi == pytest.approx([1 - 0.025 ** (1 / n)])
    assert curve.median_hi == (30 if bounded else math.inf)


def test_the_medians_interval_covers():
    """Ten runs, evaluated on a grid, a third of them censored; the true median is 7."""
    rng, grid, covered = np.random.default_rng(2), np.arange(11.0), []
    for _ in range(400):
        # Geometric crossing times 1, 2, ...: P(later than t) = .9^t, and .9^7 = .478.
        crossing = rng.geometric(0.1, 10)
        curve = kaplan_meier(*steps_to_threshold(grid, grid >= crossing[:, None], 0.5))
        covered.append(curve.median_lo <= 7 <= curve.median_hi)
    # At least the nominal level; on a grid the coverage of a median is higher.
    assert np.mean(covered) > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400)
    assert np.mean(covered) < 1


@pytest.mark.parametrize(
    ("steps", "reached", "message"),
    [
        ([], [], r"received \(0,\) and \(0,\)"),
        ([1.0, 2.0], [True], r"received \(2,\) and \(1,\)"),
        ([[1.0]], [[True]], r"received \(1, 1\) and \(1, 1\)"),
        ([1.0], [1], "booleans in reached, received int64"),
        ([math.inf], [False], r"finite steps of 0 or more, received \[inf\]"),
        ([-1.0], [True], "finite steps of 0 or more"),
    ],
)
def test_what_is_no_crossing_is_refused(steps, reached, message):
    with pytest.raises(ValueError, match=message):
        kaplan_meier(steps, reached)
