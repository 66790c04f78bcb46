import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from mpo.analysis.aggregates import mean
from mpo.analysis.effects import interaction, main_effect, power_table
from mpo.analysis.intervals import pooled_t_interval
from tests.cases import first_of

NAN = math.nan


def study(seed, *counts, levels=(2, 2), noise=0.1):
    """Scores where each seed adds the same value to all its arms, plus noise."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(e, 0.3, (n,) + (1,) * len(levels)) + rng.normal(0, noise, (n, *levels))
        for e, n in enumerate(counts)
    ]


def test_a_hand_computed_main_effect():
    # One factor. The differences are 1, 2, 3 in environment 0 and 0, 4 in environment 1.
    scores = [[[1.0, 2.0], [5.0, 7.0], [0.0, 3.0]], [[2.0, 2.0], [1.0, 5.0]]]
    effect = main_effect(scores, 0, 1)
    first, second = effect.environments
    assert first.differences.tolist() == [1, 2, 3] and second.differences.tolist() == [0, 4]
    assert (first.interval.n, first.pairs, first.interval.mean, first.sd) == (3, 3, 2, 1)
    # t(.975, 2) = 4.302653 and s / sqrt(3) = 0.57735
    assert first.interval[2:] == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert (second.interval.mean, second.sd) == pytest.approx((2, math.sqrt(8)))
    # Baselines 1 5 0 against 2 7 3, centred -1 3 -2 and -2 3 -1: 13 / sqrt(14 * 14).
    assert first.correlation == pytest.approx(13 / 14)
    # Centred 0.5 -0.5 and -1.5 1.5: correlation -1.
    assert second.correlation == pytest.approx(-1)
    assert (effect.pooled.n, effect.pooled.mean) == (5, 2)
    # Variances of the means 1/3 and 8/2; degrees of freedom (13/3)^2 / (1/18 + 16) = 1.1695.
    half = scipy_stats.t.ppf(0.975, 1.169550) * math.sqrt(13 / 3) / 2
    assert effect.pooled[2:] == pytest.approx((2 - half, 2 + half), rel=1e-4)
    # Two-sided, at t = 2 / (sqrt(13/3) / 2) = 1.92154.
    assert effect.p == pytest.approx(2 * scipy_stats.t.sf(1.921538, 1.169550), rel=1e-5)
    # Pooled within environments: variance (2 + 8) / (2 + 1); correlation
    # (13 - 1.5) / sqrt((14 + .5) (14 + 4.5)).
    assert effect.sd == pytest.approx(math.sqrt(10 / 3))
    assert effect.correlation == pytest.approx(11.5 / math.sqrt(14.5 * 18.5))


def test_a_hand_computed_two_by_two_study():
    # [seed, retrace, optimizer]: retrace adds 2 and 4 in seed 0, 1 and 1 in seed 1.
    scores = [[[[0.0, 1.0], [2.0, 5.0]], [[3.0, 3.0], [4.0, 4.0]]]]
    retrace = main_effect(scores, 0, 1)
    assert retrace.environments[0].differences.tolist() == [3, 1]
    assert (retrace.environments[0].interval.n, retrace.environments[0].pairs) == (2, 4)
    optimizer = main_effect(scores, 1, 1)
    assert optimizer.environments[0].differences.tolist() == [2, 0]
    both = interaction(scores, (0, 1), (1, 1))
    assert both.environments[0].differences.tolist() == [2, 0]  # 4 - 2 and 1 - 1
    assert both.pooled.mean == 1
    assert both.environments[0].correlation == pytest.approx(1)  # 2 1 against 4 1


def test_the_interval_is_that_of_scipys_paired_test():
    x = study(1, 7, levels=(2,))[0]
    test = scipy_stats.ttest_rel(x[:, 1], x[:, 0])
    expected = test.confidence_interval(0.95)
    effect = main_effect([x], 0, 1)
    (environment,) = effect.environments
    assert effect.p == pytest.approx(test.pvalue)
    assert environment.interval[2:] == pytest.approx((expected.low, expected.high))
    assert environment.correlation == pytest.approx(scipy_stats.pearsonr(x[:, 0], x[:, 1])[0])
    assert environment.sd == pytest.approx(np.std(x[:, 1] - x[:, 0], ddof=1))


def test_seeds_are_the_units_whatever_else_is_crossed():
    """Ten copies of each seed along another factor do not narrow the interval."""
    x = study(2, 4, 6, levels=(2,))
    one = main_effect(x, 0, 1)
    ten = main_effect([np.repeat(v[:, :, None], 10, axis=2) for v in x], 0, 1)
    assert ten.pooled == pytest.approx(one.pooled) and one.pooled.n == 10
    assert [e.pairs for e in ten.environments] == [40, 60]
    for a, b in zip(one.environments, ten.environments, strict=True):
        assert b.interval == pytest.approx(a.interval)
    assert (ten.sd, ten.correlation) == pytest.approx((one.sd, one.correlation))


def test_pairing_removes_what_the_seeds_share():
    """Unpaired, the standard deviation would be .3 sqrt(2)."""
    effect = main_effect(study(3, 40, 40, levels=(2,)), 0, 1)
    assert effect.correlation == pytest.approx(0.09 / 0.1, abs=0.06)
    assert effect.sd == pytest.approx(0.1 * math.sqrt(2), rel=0.2)
    for environment in effect.environments:
        assert environment.correlation == pytest.approx(0.9, abs=0.1)


def test_the_pooled_correlation_ignores_what_environments_differ_in():
    """Otherwise the environments' means, 0 and 100 here, would dominate the correlation."""
    rng = np.random.default_rng(4)
    scores = [rng.normal(m, 1, (200, 2)) for m in (0, 100)]
    effect = main_effect(scores, 0, 1)
    assert effect.correlation == pytest.approx(0, abs=0.15)


def test_environments_weigh_equally():
    x = [np.array([[0.0, 1.0]] * 9), np.array([[0.0, 3.0], [0.0, 5.0]])]
    pooled = main_effect(x, 0, 1).pooled
    assert pooled.mean == pytest.approx((1 + 4) / 2)
    # The first environment has no spread; the second alone would have the bounds 4 +- t(.975, 1).
    half = scipy_stats.t.ppf(0.975, 1) / 2
    assert (pooled.lo, pooled.hi) == pytest.approx((2.5 - half, 2.5 + half))


def test_one_environment_is_pooled_into_its_own_interval():
    effect = main_effect(study(13, 6), 0, 1)
    assert effect.pooled == pytest.approx(effect.environments[0].interval)


def test_every_level_is_compared_with_the_first():
    x = study(5, 5, 3, levels=(2, 3))
    for level in (1, 2):
        effect = main_effect(x, 1, level)
        expected = [(v[:, :, level] - v[:, :, 0]).mean(1) for v in x]
        assert effect.pooled.mean == pytest.approx(mean(expected))
        both = interaction(x, (0, 1), (1, level))
        change = [(v[:, 1, level] - v[:, 0, level]) - (v[:, 1, 0] - v[:, 0, 0]) for v in x]
        assert both.pooled.mean == pytest.approx(mean(change))


def test_any_level_can_be_the_baseline():
    x = study(15, 5, 3, levels=(2, 3))
    effect, back = main_effect(x, 1, 2, 1), main_effect(x, 1, 1, 2)
    expected = [(v[:, :, 2] - v[:, :, 1]).mean(1) for v in x]
    for environment, differences in zip(effect.environments, expected, strict=True):
        assert environment.differences == pytest.approx(differences)
    assert effect.pooled == pytest.approx(pooled_t_interval(expected))
    assert back.pooled.mean == pytest.approx(-effect.pooled.mean)
    assert (back.p, back.sd) == pytest.approx((effect.p, effect.sd))
    assert main_effect(x, 1, 0, 1).pooled.mean == pytest.approx(-main_effect(x, 1, 1).pooled.mean)


def test_an_interaction_is_the_same_in_either_order_of_the_factors():
    x = study(6, 5, 4, levels=(2, 2, 3))
    one = interaction(x, (0, 2), (1, 2))
    other = interaction(x, (2, 0), (2, 1))
    assert other.pooled == pytest.approx(one.pooled)
    assert other.sd == pytest.approx(one.sd)
    expected = [(v[:, 1] - v[:, 0])[..., 2] - (v[:, 1] - v[:, 0])[..., 0] for v in x]
    assert one.environments[1].differences == pytest.approx(expected[1].mean(1))


def test_additive_factors_do_not_interact():
    x = [0.3 * np.arange(4.0)[:, None, None] + np.array([[0.0, 0.5], [0.2, 0.7]])]
    effect = interaction(x, (0, 1), (1, 1))
    assert effect.environments[0].differences == pytest.approx(np.zeros(4), abs=1e-12)


def test_a_pair_with_a_missing_side_is_dropped_and_n_shows_it():
    # Seed 0 has one of two pairs, seed 1 has both, seed 2 has none.
    scores = [[[[0.0, NAN], [2.0, 9.0]], [[1.0, 3.0], [2.0, 8.0]], [[NAN, NAN], [7.0, 7.0]]]]
    (environment,) = main_effect(scores, 0, 1).environments
    assert environment.differences.tolist() == [2, 3]  # 2 - 0; the mean of 2 - 1 and 8 - 3
    assert (environment.interval.n, environment.pairs) == (2, 3)
    assert environment.correlation == pytest.approx(1)  # 0 2 against 2 5
    # The interaction needs all four cells of a seed; only seed 1 has them.
    effect = interaction(scores, (0, 1), (1, 1))
    assert effect.environments[0].differences.tolist() == [5 - 1]
    assert effect.pooled.n == 1


def test_one_seed_has_an_effect_without_bounds():
    effect = main_effect([[[1.0, 3.0]], [[2.0, 3.0]]], 0, 1)
    assert effect.pooled.mean == 1.5
    unknown = [effect.pooled.lo, effect.pooled.hi, effect.p, effect.sd, effect.correlation]
    for environment in effect.environments:
        unknown += [*environment.interval[2:], environment.sd, environment.correlation]
    assert all(math.isnan(value) for value in unknown)


def test_a_constant_side_has_no_correlation():
    # In floating point, the mean of 0.1, 0.1, 0.1 is not 0.1.
    effect = main_effect([[[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]]], 0, 1)
    assert math.isnan(effect.correlation) and effect.sd > 1


def test_the_order_of_seeds_and_environments_does_not_matter():
    x = study(7, 5, 4, 6)
    one = main_effect(x, 0, 1)
    seeds = main_effect([v[::-1] for v in x], 0, 1)
    environments = main_effect(x[::-1], 0, 1)
    for other in (seeds, environments):
        assert other.pooled == pytest.approx(one.pooled)
        assert (other.sd, other.correlation) == pytest.approx((one.sd, one.correlation))
    assert environments.environments[0].interval == pytest.approx(one.environments[2].interval)


@pytest.mark.parametrize("seeds", first_of([3, 5, 10]))
def test_the_pooled_interval_covers(seeds):
    """Six environments with different spreads."""
    rng, covered = np.random.default_rng(9), []
    spread = np.array([0.05, 0.05, 0.1, 0.1, 0.2, 0.2])[:, None, None]
    for _ in range(2000):
        x = rng.normal(0, 0.3, (6, seeds, 1)) + rng.normal(0, spread, (6, seeds, 2)) + [0, 0.25]
        pooled = main_effect(x, 0, 1).pooled
        covered.append(pooled.lo <= 0.25 <= pooled.hi)
    assert np.mean(covered) == pytest.approx(0.955, abs=3 * math.sqrt(0.95 * 0.05 / 2000))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "received no environments"),
        ([[1.0, 2.0]], r"environment 0: expected \[seeds, levels, ...\], received \(2,\)"),
        ([[[1.0, 2.0]], [[1.0, 2.0, 3.0]]], r"environment 1: .* \(1, 3\), environment 0 \(1, 2\)"),
        ([np.ones((0, 2))], r"environment 0: .* received \(0, 2\)"),
        ([[[1.0, math.inf]]], "environment 0: expected finite scores or NaN"),
        ([[[1.0, 2.0]], [[NAN, 2.0], [1.0, NAN]]], "environment 1: no complete pair"),
    ],
)
def test_scores_that_cannot_be_paired_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        main_effect(scores, 0, 1)


@pytest.mark.parametrize(("factor", "level"), [(2, 1), (-1, 1), (0, 0), (0, 2), (1, -1)])
def test_factors_and_levels_are_those_of_the_scores(factor, level):
    x = study(10, 3)
    with pytest.raises(
        ValueError, match=r"expected (a factor below 2|two different levels below 2)"
    ):
        main_effect(x, factor, level)
    with pytest.raises(
        ValueError, match=r"expected a factor below 2|two different (levels|factors)"
    ):
        interaction(x, (1, factor), (1, level))


@pytest.mark.parametrize("baseline", [1, 2, -1])
def test_a_baseline_is_another_level(baseline):
    with pytest.raises(ValueError, match=f"levels below 2, received 1 and {baseline}"):
        main_effect(study(10, 3), 0, 1, baseline)


def test_an_interaction_takes_two_factors():
    with pytest.raises(ValueError, match=r"two different factors, received \(1, 1\)"):
        interaction(study(11, 3), (1, 1), (1, 1))


def test_published_numbers_of_seeds():
    """Effects of .2, .5, .8 and 1 standard deviations need 199, 34, 15 and 10 seeds (G*Power 3)."""
    assert power_table(1.0, (0.2, 0.5, 0.8, 1.0)) == {0.2: 199, 0.5: 34, 0.8: 15, 1.0: 10}
    assert power_table(0.1) == {0.05: 34, 0.1: 10, 0.2: 5}


def test_the_power_is_reached_and_not_one_seed_earlier():
    for delta, n in power_table(0.17).items():
        power = []
        for seeds in (n, n - 1):
            noncentral = scipy_stats.nct(seeds - 1, delta / 0.17 * math.sqrt(seeds))
            power.append(noncentral.sf(scipy_stats.t.ppf(0.975, seeds - 1)))
        assert power[0] >= 0.8 > power[1]


def test_simulated_tests_detect_the_effect():
    n = power_table(0.1, [0.12])[0.12]
    x = np.random.default_rng(12).normal(0.12, 0.1, (4000, n))
    detected = np.mean(scipy_stats.ttest_1samp(x, 0, axis=1).pvalue < 0.05)
    assert 0.8 - 4 * math.sqrt(0.16 / 4000) < detected < 0.88


def test_simulated_pooled_effects_are_detected():
    n = power_table(0.1, [0.06], environments=3)[0.06]
    assert n < power_table(0.1, [0.06])[0.06]
    x = np.random.default_rng(14).normal(0.06, 0.1, (2000, 3, n))
    detected = np.mean([pooled_t_interval(list(study)).lo > 0 for study in x])
    assert 0.8 - 4 * math.sqrt(0.16 / 2000) < detected < 0.88


@pytest.mark.parametrize("spreads", [(1, 1, 1), (1, 1, 10), (1, 2, 3), (1, 5)])
@pytest.mark.parametrize("delta", [0.05, 0.1])
def test_simulated_pooled_effects_of_unequal_spread_are_detected(spreads, delta):
    """Against Welch's test as it is applied, whose degrees of freedom are estimated."""
    sds = 0.057 * np.sqrt(len(spreads)) * np.array(spreads) / np.linalg.norm(spreads)
    sd, effective = np.sqrt(np.mean(sds**2)), np.sum(sds**2) ** 2 / np.sum(sds**4)
    n = power_table(sd, [delta], len(sds), effective)[delta]

    def detected(seeds):
        x = np.random.default_rng(15).normal(delta, sds[:, None], (2000, len(sds), seeds))
        return np.mean([pooled_t_interval(list(study)).lo > 0 for study in x])

    assert detected(n) > 0.75
    assert n == 3 or detected(n - 1) < 0.82


def test_the_effective_number_of_environments_is_welchs():
    equal, one_alone = np.array([[0.0, 1.0], [0.0, 3.0]]), np.zeros((2, 2))
    assert main_effect([equal.copy(), equal.copy() + 5], 0, 1).effective_environments == 2
    assert main_effect([equal, one_alone], 0, 1).effective_environments == 1
    assert main_effect([one_alone, one_alone], 0, 1).effective_environments == 2
    three = [equal, 2 * equal, np.array([[0.0, 1.0]])]
    assert math.isnan(main_effect(three, 0, 1).effective_environments)
    assert main_effect(three[:2], 0, 1).effective_environments == pytest.approx(25 / 17)


def test_effects_too_small_or_certain():
    assert power_table(1.0, [0.01]) == {0.01: None}
    assert power_table(0.0, [0.01]) == {0.01: 2}
    assert power_table(1e-9, [0.1]) == {0.1: 2}
    assert power_table(0.0, [0.01], 3) == power_table(1e-9, [0.01], 3) == {0.01: 3}


def test_arguments_of_the_power_table_are_checked():
    for sd in (NAN, -0.1, math.inf):
        with pytest.raises(ValueError, match="standard deviation of 0 or more"):
            power_table(sd)
    with pytest.raises(ValueError, match="effects above 0, received"):
        power_table(0.1, [0.1, 0])
    with pytest.raises(ValueError, match="one environment or more, received 0"):
        power_table(0.1, environments=0)
    for effective in (0.5, 3.1, NAN):
        with pytest.raises(ValueError, match=f"from 1 to 3 environments, received {effective}"):
            power_table(0.1, environments=3, effective=effective)
