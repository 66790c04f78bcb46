"""Primary contrasts: their tests, Holm's adjustment and their table, against other computations."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from mpo.analysis import answers, collect, tables
from mpo.analysis.intervals import holm, pooled_p_value, pooled_t_interval
from mpo.study.plan import Study
from tests import synthetic

NAN = math.nan
GAMMAS = {"axis": "gamma", "against": 0.95}
RETRACE = {"axis": "retrace", "level": True, "against": False}


def compute(study, root, references=None):
    tables.write(collect.collect(study, root), root / "tables")
    table, random = synthetic.write_scale(study, root / "scale")
    if references is not None:
        table.write_text(references)
    return answers.compute(study, root / "tables", table, random)


def config(named, environments=2, seeds=3):
    """A study of Retrace and three discounts."""
    axes = {"retrace": [False, True], "optimizer": ["adam"], "gamma": [0.9, 0.95, 0.99]}
    return synthetic.config(environments, seeds, axes, snapshots=2) | {"contrasts": named}


def made(root, *arguments, **options):
    """The study of `config` with the same arguments, with its runs."""
    study = Study.parse(config(*arguments, **options))
    synthetic.write_runs(study, root)
    return study


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        # Of four, the least times 4, the next times 3, then 2 and 1; none below the one before.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.04, NAN, 0.03], [0.06, NAN, 0.06]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.2], [0.2]),
        ([NAN, NAN], [NAN, NAN]),
        ([], []),
    ],
)
def test_holms_adjustment_by_hand(p, expected):
    assert holm(p) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("p", [[-0.1], [0.5, 1.1]])
def test_holm_takes_probabilities(p):
    with pytest.raises(ValueError, match="expected p-values from 0 to 1, received"):
        holm(p)


def test_holm_keeps_the_order_and_bounds_bonferroni():
    p = np.random.default_rng(0).uniform(0, 0.3, 9)
    found = holm(p)
    assert (np.diff(found[np.argsort(p)]) >= 0).all()
    assert (p <= found).all() and (found <= np.minimum(9 * p, 1)).all()


def test_the_p_value_is_that_of_scipys_test_in_one_environment():
    x = np.random.default_rng(1).normal(0.1, 0.2, 6)
    assert pooled_p_value([x]) == pytest.approx(scipy_stats.ttest_1samp(x, 0).pvalue)


def test_two_environments_are_half_of_welchs_test():
    """The mean of two means is half the difference of the first and the negated second."""
    x, y = np.random.default_rng(2).normal(0.1, [[0.1], [0.4]], (2, 5))
    expected = scipy_stats.ttest_ind(x, -y[:4], equal_var=False).pvalue
    assert pooled_p_value([x, y[:4]]) == pytest.approx(expected)


def test_the_p_value_says_whether_the_interval_excludes_zero():
    rng, below = np.random.default_rng(3), []
    for _ in range(200):
        samples = [rng.normal(0.1, 0.1, 4), rng.normal(0.1, 0.2, 3)]
        interval = pooled_t_interval(samples)
        below.append(pooled_p_value(samples) < 0.05)
        assert below[-1] == (interval.lo > 0 or interval.hi < 0)
    assert 20 < sum(below) < 180


def test_p_values_without_spread_or_with_one_seed():
    assert pooled_p_value([[1.0, 1.0], [2.0, 2.0]]) == 0
    assert pooled_p_value([[1.0, 1.0], [-1.0, -1.0]]) == 1
    assert math.isnan(pooled_p_value([[1.0, 2.0], [3.0]]))
    with pytest.raises(ValueError, match="one environment or more"):
        pooled_p_value([])


def test_each_contrast_is_paired_averaged_and_pooled(tmp_path):
    study = made(tmp_path, [GAMMAS, RETRACE])
    found = compute(study, tmp_path)
    rows = found["contrasts"].set_index(["factor", "level", "against"])
    assert list(rows.index) == [
        ("gamma", "gamma 0.9", "gamma 0.95"),
        ("gamma", "gamma 0.99", "gamma 0.95"),
        ("retrace", "Retrace on", "Retrace off"),
    ]
    scores = found["finals"].set_index(["env", "retrace", "gamma", "seed"])["score"]
    for level in (0.9, 0.99):
        row = rows.loc[("gamma", f"gamma {level}", "gamma 0.95")]
        change = scores.xs(level, level="gamma") - scores.xs(0.95, level="gamma")
        seeds = change.groupby(["env", "seed"]).mean()
        x, y = (part.to_numpy() for _, part in seeds.groupby("env"))
        test = scipy_stats.ttest_ind(x, -y, equal_var=False)
        assert row["p"] == pytest.approx(test.pvalue)
        assert row["estimate"] == pytest.approx((x.mean() + y.mean()) / 2)
        bounds = test.confidence_interval(0.95)
        assert (2 * row["lo"], 2 * row["hi"]) == pytest.approx((bounds.low, bounds.high))
        assert row["sd"] == pytest.approx(math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2))
    assert list(rows["p_holm"]) == pytest.approx(list(holm(rows["p"])))
    assert (rows["p_holm"] >= rows["p"]).all() and (rows["method"] == "student-t").all()
    assert (rows["environments"] == 2).all() and (rows["n"] == 6).all()


def test_a_contrast_with_the_first_level_is_the_pooled_effect(tmp_path):
    study = made(tmp_path, [RETRACE])
    found = compute(study, tmp_path)
    effects = found["effects"].query("factor == 'retrace' and env == 'pooled'")
    shared = ["level", "against", "estimate", "lo", "hi", "environments", "n", "sd", "correlation"]
    (effect,), (row,) = (f[shared].to_dict("records") for f in (effects, found["contrasts"]))
    assert row == effect
    assert found["contrasts"]["p_holm"].equals(found["contrasts"]["p"])  # one of one


def test_contrasts_change_no_other_table(tmp_path):
    study = made(tmp_path, [])
    plain = compute(study, tmp_path)
    assert plain["contrasts"].empty and "p_holm" in plain["contrasts"]
    named = compute(Study.parse(config([GAMMAS])), tmp_path)
    assert len(named["contrasts"]) == 2
    for name in plain.keys() - {"contrasts"}:
        pd.testing.assert_frame_equal(plain[name], named[name])


def test_only_environments_with_every_arm_are_pooled(tmp_path):
    study = made(tmp_path, [RETRACE], environments=3)
    lost = synthetic.lose(study, tmp_path, range(3))
    assert compute(lost, tmp_path)["contrasts"]["environments"].item() == 2


def test_a_contrast_that_cannot_be_estimated_is_still_told(tmp_path):
    study = made(tmp_path, [RETRACE, GAMMAS])
    found = compute(study, tmp_path, "env,reference,what,source\nElsewhere-v1,1,w,s\n")
    dropped = found["references"]["reference"].isna()
    assert len(found["contrasts"]) == 3 and dropped.sum() == 1  # dm_control is scored anyway
    assert (found["contrasts"]["environments"] == 1).all()
    alone = made(tmp_path / "alone", [RETRACE], environments=1)
    (row,) = compute(alone, tmp_path / "alone", "env,reference,what,source\n")["contrasts"].to_dict(
        "records"
    )
    assert (row["environments"], row["n"], row["level"]) == (0, 0, "Retrace on")
    assert all(math.isnan(row[key]) for key in ("estimate", "lo", "hi", "p", "p_holm", "sd"))


def test_one_seed_has_an_estimate_and_no_test(tmp_path):
    study = made(tmp_path, [RETRACE, GAMMAS], seeds=1)
    rows = compute(study, tmp_path)["contrasts"]
    assert rows["estimate"].notna().all() and (rows["n"] == 2).all()
    assert rows[["lo", "hi", "p", "p_holm"]].isna().all(axis=None)
