import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from mpo.stats import t_interval


def test_a_hand_computed_interval():
    # mean 2, s = 1, s / sqrt(3) = 0.57735, t(0.975, 2) = 4.302653
    n, mean, lo, hi = t_interval([1.0, 2.0, 3.0])
    assert (n, mean) == (3, 2.0)
    assert (lo, hi) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


def test_it_is_scipys_interval_in_any_order():
    x = np.random.default_rng(0).normal(5, 2, 9)
    expected = scipy_stats.t.interval(0.9, 8, x.mean(), scipy_stats.sem(x))
    for order in (x, x[::-1]):
        assert t_interval(order, 0.9)[2:] == pytest.approx(expected)


def test_it_covers_at_its_nominal_level_with_three_seeds():
    rng = np.random.default_rng(1)
    intervals = [t_interval(rng.normal(1.0, 3.0, 3)) for _ in range(4000)]
    covered = np.mean([i.lo <= 1.0 <= i.hi for i in intervals])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_one_value_has_no_bounds():
    n, mean, lo, hi = t_interval([4.0])
    assert (n, mean) == (1, 4.0) and math.isnan(lo) and math.isnan(hi)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [1.0, float("inf")], [[1.0, 2.0]]])
def test_values_that_cannot_be_averaged_are_refused(values):
    with pytest.raises(ValueError, match="finite values"):
        t_interval(values)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_is_a_probability(confidence):
    with pytest.raises(ValueError, match=f"received {confidence}"):
        t_interval([1.0, 2.0], confidence)
