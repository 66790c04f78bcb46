import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from mpo.analysis import aggregates as module
from mpo.analysis import bootstrap
from mpo.analysis.aggregates import (
    aggregates,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)
from mpo.analysis.intervals import pooled_t_interval, t_interval

RAGGED = [[0.1, 0.5, 0.9, 0.4], [0.7, 0.2], [1.3, 0.6, 0.8]]


def runs(seed, *counts):
    rng = np.random.default_rng(seed)
    return [rng.normal(0.2 * (e + 1), 0.2, n) for e, n in enumerate(counts)]


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


@pytest.mark.parametrize(("n", "coverage"), [(3, 0.96), (5, 0.95), (10, 0.95), (20, 0.96)])
def test_it_covers_at_its_nominal_level_from_three_seeds_on(n, coverage):
    rng = np.random.default_rng(1)
    intervals = [t_interval(rng.normal(1.0, 3.0, n)) for _ in range(4000)]
    covered = np.mean([i.lo <= 1.0 <= i.hi for i in intervals])
    assert covered == pytest.approx(coverage, abs=monte_carlo(coverage, 4000))


def monte_carlo(coverage, simulations):
    """Tolerance of a simulated coverage: three standard errors plus 1.5 percentage points."""
    return 3 * math.sqrt(coverage * (1 - coverage) / simulations) + 0.015


def test_one_value_has_no_bounds():
    n, mean, lo, hi = t_interval([4.0])
    assert (n, mean) == (1, 4.0) and math.isnan(lo) and math.isnan(hi)


def test_two_environments_pool_as_in_welchs_test():
    """The mean of x and y is half the difference of x and -y, which scipy can test."""
    x, y = runs(20, 4, 9)
    expected = scipy_stats.ttest_ind(x, -y, equal_var=False).confidence_interval(0.9)
    found = pooled_t_interval([x, y], 0.9)
    assert found == pytest.approx((13, (x.mean() + y.mean()) / 2, expected[0] / 2, expected[1] / 2))
    assert pooled_t_interval([x], 0.9) == t_interval(x, 0.9)
    assert pooled_t_interval([[1, 1], [3, 3]])[1:] == (2, 2, 2)


def test_a_pool_with_a_single_seed_has_no_bounds():
    n, mean, lo, hi = pooled_t_interval([[1.0, 2.0], [3.0]])
    assert (n, mean) == (3, 2.25) and math.isnan(lo) and math.isnan(hi)
    with pytest.raises(ValueError, match="one environment or more, received none"):
        pooled_t_interval([])


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [1.0, float("inf")], [[1.0, 2.0]]])
def test_values_that_cannot_be_averaged_are_refused(values):
    with pytest.raises(ValueError, match="finite values"):
        t_interval(values)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_is_a_probability(confidence):
    with pytest.raises(ValueError, match=f"received {confidence}"):
        t_interval([1.0, 2.0], confidence)


def test_hand_computed_aggregates():
    # Means 2, 6 and 13/3; pool 1 2 2 3 3 4 6 7 9: n = 9, two dropped at each end: 2 3 3 4 6.
    scores = [[1.0, 2.0, 3.0], [2.0, 7.0, 9.0], [3.0, 4.0, 6.0]]
    assert iqm(scores) == pytest.approx((2 + 3 + 3 + 4 + 6) / 5)
    assert mean(scores) == pytest.approx((2 + 6 + 13 / 3) / 3)
    assert median(scores) == pytest.approx(13 / 3)  # of the means 2, 13/3, 6; the pool's is 3
    assert optimality_gap(scores, gamma=5) == pytest.approx(5 - (6 + 12 + 12) / 9)
    assert optimality_gap([[0.5, 2.0]]) == pytest.approx(0.25)


def test_hand_computed_aggregates_of_unequal_n():
    # N = 6, K = 2: the four runs of the first environment weigh 6 / 8 = 0.75 each, the two of the
    # second 1.5. The sorted pool 0 1 2 3 10 20 has the cumulative weights .75 1.5 2.25 3 4.5 6.
    # floor(6 / 4) = 1 is cut off at each end. What stays has weight 4 in all: .5 of the 1, .75 of
    # 2 and 3, 1.5 of the 10 and .5 of the 20.
    scores = [[3.0, 0.0, 2.0, 1.0], [20.0, 10.0]]
    assert iqm(scores) == pytest.approx((0.5 * 1 + 0.75 * 2 + 0.75 * 3 + 1.5 * 10 + 0.5 * 20) / 4)
    assert mean(scores) == pytest.approx((1.5 + 15) / 2)
    assert median(scores) == pytest.approx((1.5 + 15) / 2)
    assert optimality_gap(scores, gamma=2) == pytest.approx(2 - (1.25 + 2) / 2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3), (3, 5), (6, 10), (7, 9)])
def test_with_equal_n_the_iqm_is_scipys_trimmed_mean(shape):
    x = np.random.default_rng(2).standard_cauchy(shape)
    assert iqm(x) == pytest.approx(scipy_stats.trim_mean(x, 0.25, axis=None), rel=1e-12)


def test_the_iqm_of_repeated_runs_is_that_of_weighted_ones():
    # Repeating the runs to 12 per environment gives the environments the same shares as weights.
    x = runs(3, 12, 4)
    assert iqm(x) == pytest.approx(iqm([x[0], np.repeat(x[1], 3)]))


@pytest.mark.parametrize("aggregate", [iqm, mean, median, optimality_gap])
def test_the_order_of_seeds_and_environments_does_not_matter(aggregate):
    x = runs(4, 5, 3, 8)
    assert aggregate([v[::-1] for v in x[::-1]]) == pytest.approx(aggregate(x), rel=1e-12)


def test_the_bootstrap_returns_the_aggregates_and_encloses_them():
    result = aggregates(RAGGED, np.random.default_rng(5), gamma=0.8, replicates=2000)
    expected = (iqm(RAGGED), mean(RAGGED), median(RAGGED), optimality_gap(RAGGED, 0.8))
    assert [e.estimate for e in result] == pytest.approx(expected)
    assert all(e.lo < e.estimate < e.hi for e in result)
    assert all(e.n == (4, 2, 3) and e.replicates == 2000 for e in result)


def test_the_bootstrap_is_that_of_resampled_runs():
    """Bounds from the public estimators, with runs drawn one resample at a time."""
    x, rng = runs(6, 6, 3, 9), np.random.default_rng(7)
    drawn = [[rng.choice(v, v.size) for v in x] for _ in range(4000)]
    result = aggregates(x, np.random.default_rng(8))
    for name in ("iqm", "mean", "median", "optimality_gap"):
        lo, hi = np.percentile([getattr(module, name)(sample) for sample in drawn], (2.5, 97.5))
        assert getattr(result, name)[1:3] == pytest.approx((lo, hi), abs=0.008), name


def test_equal_generators_give_equal_bounds_in_any_order_of_the_seeds():
    def results(x, seed):
        rng = np.random.default_rng(seed)
        return [
            *aggregates(x, rng, replicates=500),
            probability_of_improvement(x, x[::-1], rng, replicates=500),
            *performance_profile(x, [0.3, 0.6], rng, replicates=500)[2:4],
        ]

    x = runs(9, 5, 5, 4)
    first, again, other = results(x, 1), results([v[::-1] for v in x], 1), results(x, 2)
    assert str(first) == str(again)
    assert str(first) != str(other)


def test_the_bounds_barely_depend_on_the_order_of_the_environments():
    x = runs(10, 5, 3, 8)
    one = aggregates(x, np.random.default_rng(0))
    other = aggregates(x[::-1], np.random.default_rng(0))
    assert np.array([e[:3] for e in one]) == pytest.approx(
        np.array([e[:3] for e in other]), abs=0.004
    )


def test_more_replicates_than_a_chunk_holds_are_all_drawn(monkeypatch):
    x, sizes = runs(11, 5, 5), []
    resample = bootstrap.resample

    def counting(n, rows, rng):
        sizes.append(rows)
        return resample(n, rows, rng)

    monkeypatch.setattr(bootstrap, "resample", counting)
    aggregates(x, np.random.default_rng(0), replicates=30_000)
    assert sum(sizes) == 30_000 and len(sizes) > 1
    assert max(sizes) * 10 <= 2**17


def test_a_resample_draws_every_environment_at_its_own_n():
    counts = bootstrap.resample((2, 5), 1000, np.random.default_rng(0))
    assert counts.shape == (1000, 7)
    assert (counts[:, :2].sum(1) == 2).all() and (counts[:, 2:].sum(1) == 5).all()
    # Each run is drawn once on average, with a standard error below sqrt(1 / 1000).
    assert counts.mean(0) == pytest.approx(np.ones(7), abs=4 * math.sqrt(1 / 1000))


@pytest.mark.parametrize(("n", "coverage"), [(3, 0.87), (5, 0.93), (10, 0.91), (20, 0.95)])
def test_coverage_of_the_iqm_over_six_tasks(n, coverage):
    """Environments differ in difficulty; resampling across them would widen the interval."""
    rng = np.random.default_rng(n)
    means = np.array([0.1, 0.3, 0.4, 0.6, 0.7, 0.9])[:, None]  # symmetric, so the true IQM is 0.5
    covered = []
    for _ in range(800):
        estimate = aggregates(rng.normal(means, 0.2, (6, n)), rng, replicates=300).iqm
        covered.append(estimate.lo <= 0.5 <= estimate.hi)
    assert np.mean(covered) == pytest.approx(coverage, abs=monte_carlo(coverage, 800))


@pytest.mark.parametrize("second", [[0.4], [0.3, 0.5]])
def test_single_runs_have_no_bounds(second):
    result = aggregates([[0.2], second], np.random.default_rng(0), replicates=10)
    assert result.mean.estimate == pytest.approx(0.3)
    assert all(math.isnan(e.lo) and math.isnan(e.hi) for e in result)


def test_a_hand_computed_profile():
    # Above 0.5 are 1 of 4, 1 of 2 and 3 of 3. The run at 0.9 is not strictly above 0.9.
    profile = performance_profile(RAGGED, [0.0, 0.5, 0.9, 2.0], np.random.default_rng(0))
    expected = [1, (1 / 4 + 1 / 2 + 1) / 3, (0 + 0 + 1 / 3) / 3, 0]
    assert profile.estimate == pytest.approx(expected)
    assert (profile.n, profile.replicates) == ((4, 2, 3), 2000)
    # At both ends the profile is certain. At 0.5, no draw of the first two environments is above
    # with probability .75^4 * .5^2 = .079 > .025; all of the third are. So lo = (0 + 0 + 1) / 3.
    assert profile.lo[[0, 1, 3]] == pytest.approx([1, 1 / 3, 0])
    assert profile.hi[[0, 3]] == pytest.approx([1, 0])


def test_a_profile_counts_equal_n_like_a_pool():
    x, taus = np.random.default_rng(12).normal(0.5, 0.3, (6, 10)), np.linspace(0, 1, 21)
    profile = performance_profile(x, taus, np.random.default_rng(0))
    assert profile.estimate == pytest.approx((x.ravel() > taus[:, None]).mean(1))
    assert (profile.lo <= profile.estimate).all() and (profile.estimate <= profile.hi).all()
    # At each tau, the number of runs above it is a sum of binomials over the environments.
    fractions = (x[:, :, None] > taus).mean(1)
    sd = np.sqrt((fractions * (1 - fractions) / 10).sum(0)) / 6
    assert (profile.hi - profile.lo) == pytest.approx(2 * 1.96 * sd, abs=0.035)


def test_a_hand_computed_probability_of_improvement():
    # Environment 0: 3 beats 1 and 2, 2 beats 1 and ties: 3.5 of 4. Environment 1: 0 of 6.
    result = probability_of_improvement(
        [[3.0, 2.0], [0.0, 0.0]], [[1.0, 2.0], [5.0, 6.0, 7.0]], np.random.default_rng(0)
    )
    assert result.estimate == pytest.approx((3.5 / 4 + 0) / 2)
    assert (result.n_x, result.n_y, result.replicates) == ((2, 2), (2, 3), 50_000)
    # Environment 1 gives 0 in every draw. Environment 0 gives 1/2 with P(x = 2 2, y = 2 2) = 1/16,
    # else more.
    assert (result.lo, result.hi) == pytest.approx((0.25, 0.5))


def test_a_single_run_on_one_side_leaves_no_bounds():
    others = np.random.default_rng(3).normal(size=10)
    for x, y in (([[5.0]], [others]), ([others], [[5.0]])):
        result = probability_of_improvement(x, y, np.random.default_rng(0), replicates=10)
        assert result.estimate in (0, 1) and math.isnan(result.lo) and math.isnan(result.hi)


def test_in_one_environment_it_is_mann_whitneys_u():
    rng = np.random.default_rng(13)
    x, y = rng.integers(0, 6, 9).astype(float), rng.integers(0, 6, 7).astype(float)
    u = scipy_stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement([x], [y], rng).estimate == pytest.approx(u / 63)


def test_exchanging_the_sides_gives_the_complement():
    x, y = runs(14, 5, 8), runs(15, 6, 3)
    one = probability_of_improvement(x, y, np.random.default_rng(0))
    other = probability_of_improvement(y, x, np.random.default_rng(1))
    assert one.estimate == pytest.approx(1 - other.estimate)
    assert (one.lo, one.hi) == pytest.approx((1 - other.hi, 1 - other.lo), abs=0.02)
    assert one.lo < one.estimate < one.hi


def test_its_bootstrap_resamples_both_sides():
    x, y, rng = runs(16, 6, 4), runs(17, 5, 7), np.random.default_rng(18)
    drawn = []
    for _ in range(4000):
        pairs = [
            (rng.choice(a, a.size)[:, None], rng.choice(b, b.size))
            for a, b in zip(x, y, strict=True)
        ]
        drawn.append(np.mean([np.mean((a > b) + (a == b) / 2) for a, b in pairs]))
    result = probability_of_improvement(x, y, np.random.default_rng(19))
    assert result[1:3] == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.02)


def test_both_sides_need_the_same_environments():
    with pytest.raises(ValueError, match="x has 2 environments, y has 1"):
        probability_of_improvement([[1.0], [2.0]], [[1.0]], np.random.default_rng(0))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "received no environments"),
        ([[1.0], []], r"environment 1: expected a non-empty vector, received shape \(0,\)"),
        ([1.0, 2.0], r"environment 0: .* received shape \(\)"),
        (np.ones((2, 3, 4)), r"environment 0: .* received shape \(3, 4\)"),
        ([[1.0], [2.0, math.nan]], r"environment 1: expected finite values, received \[2.0, nan\]"),
        ([[math.inf]], "environment 0: expected finite values"),
    ],
)
def test_scores_that_cannot_be_aggregated_are_refused(scores, message):
    rng = np.random.default_rng(0)
    for estimator in (
        iqm,
        mean,
        median,
        optimality_gap,
        lambda x: aggregates(x, rng),
        lambda x: performance_profile(x, [0.5], rng),
        lambda x: probability_of_improvement(x, x, rng),
    ):
        with pytest.raises(ValueError, match=message):
            estimator(scores)


def test_other_arguments_are_checked():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="one or more replicates, received 0"):
        aggregates(RAGGED, rng, replicates=0)
    with pytest.raises(ValueError, match=r"taus: .* received shape \(1, 2\)"):
        performance_profile(RAGGED, [[0.1, 0.2]], rng)
