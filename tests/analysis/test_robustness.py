"""Effects with sampled actions and at each level of other factors, against sums by hand."""

import numpy as np
import pytest

from mpo.analysis import contrasts, tables
from mpo.analysis.intervals import pooled_t_interval, t_interval
from mpo.analysis.tables import seed_means
from tests import synthetic
from tests.analysis.test_answers import compute


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    study = synthetic.plan(environments=2)
    return study, compute(study, root)


def rows(found, where, level):
    table = found["robustness"]
    return table[(table["where"] == where) & (table["level"] == level)].set_index("env")


def test_an_effect_at_one_level_of_another_factor_is_of_those_runs_alone(made):
    study, found = made
    finals = found["finals"].set_index(["env", "retrace", "optimizer", "seed"])["score"]
    for optimizer in ("adam", "sgd"):
        shown = rows(found, f"with {optimizer}", "Retrace on")
        each = [
            [finals[e.id, True, optimizer, s] - finals[e.id, False, optimizer, s] for s in range(3)]
            for e in study.environments
        ]
        for environment, differences in zip(study.environments, each, strict=True):
            got = shown.loc[environment.id, ["n", "estimate", "lo", "hi"]]
            assert tuple(got) == pytest.approx(t_interval(differences))
        got = shown.loc[contrasts.POOLED, ["n", "estimate", "lo", "hi"]]
        assert tuple(got) == pytest.approx(pooled_t_interval(each))
    both = [
        rows(found, f"with {name}", "Retrace on").loc["pooled", "estimate"]
        for name in ("adam", "sgd")
    ]
    (main,) = found["effects"].query("env == 'pooled' and factor == 'retrace'")["estimate"]
    assert np.mean(both) == pytest.approx(main)


def test_sampled_actions_have_the_same_pairs_and_other_returns(made, tmp_path):
    study, found = made
    synthetic.write_runs(study, tmp_path)
    synthetic.write_tables(study, tmp_path)
    means = seed_means(tables.read(tmp_path / "tables", "evals")).query("policy == 'sample'")
    of = means.set_index("run_id")["return"]
    env = study.environments[0].id
    _, gain = synthetic.scale(study, env)
    runs = {
        (r.arm["retrace"], r.arm["optimizer"], r.seed): r
        for r in study.runs
        if r.spec.env_name == env
    }
    differences = [
        np.mean(
            [of[runs[r, "sgd", s].run_id] - of[runs[r, "adam", s].run_id] for r in (False, True)]
        )
        for s in range(3)
    ]
    shown = rows(found, "sampled actions", "sgd").loc[env, ["n", "estimate", "lo", "hi"]]
    assert tuple(shown) == pytest.approx(t_interval(np.array(differences) / gain))


def test_without_another_factor_there_are_sampled_actions_alone(tmp_path):
    study = synthetic.plan(environments=1, axes={"retrace": [False, True]})
    assert {*compute(study, tmp_path)["robustness"]["where"]} == {"sampled actions"}
    alone = synthetic.plan(environments=1, axes={})
    assert compute(alone, tmp_path / "alone")["robustness"].empty
