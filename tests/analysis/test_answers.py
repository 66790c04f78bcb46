import numpy as np
import pandas as pd
import pytest

from mpo.analysis import answers, baselines, collect, contrasts, others, references, tables
from mpo.analysis.aggregates import iqm
from mpo.analysis.intervals import t_interval
from mpo.report import summary
from mpo.study.config import ConfigError
from tests import synthetic


def compute(study, root):
    synthetic.write_runs(study, root)
    return again(study, root)


def again(study, root):
    tables.write(collect.collect(study, root), root / "tables")
    scale = synthetic.write_scale(study, root / "scale")
    return answers.compute(study, root / "tables", *scale)


def score(study, finals, env, retrace, optimizer, seed):
    """The normalised score of one run, computed from its return."""
    rows = finals.query("env == @env and retrace == @retrace and optimizer == @optimizer")
    floor, gain = synthetic.scale(study, env)
    return (rows[rows["seed"] == seed]["return"].item() - floor) / gain


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    study = synthetic.plan(environments=3)
    return study, compute(study, tmp_path_factory.mktemp("usual"))


def test_scores_are_zero_at_random_and_one_at_the_reference(usual):
    study, found = usual
    for row in found["finals"].itertuples():
        expected = score(study, found["finals"], row.env, row.retrace, row.optimizer, row.seed)
        assert row.score == pytest.approx(expected)
    assert len(found["finals"]) == 36 and found["references"]["random_episodes"].eq(20).all()


def test_aggregates_are_those_of_each_arms_scores(usual):
    _, found = usual
    shown = found["aggregates"].set_index(["arm", "metric"])["estimate"]
    for arm, rows in found["finals"].groupby("arm"):
        runs = [part["score"].to_numpy() for _, part in rows.groupby("env", sort=False)]
        assert shown[arm, "iqm"] == pytest.approx(iqm(runs))
    assert (found["aggregates"]["n"] == 9).all() and len(found["aggregates"]) == 16


def test_an_effect_pairs_runs_of_the_same_seed_and_other_factors(usual):
    study, found = usual
    effects = found["effects"].query("factor == 'retrace' and unit == 'score'").set_index("env")
    means = []
    for environment in study.environments:
        cells = [
            [
                score(study, found["finals"], environment.id, True, optimizer, seed)
                - score(study, found["finals"], environment.id, False, optimizer, seed)
                for optimizer in ("adam", "sgd")
            ]
            for seed in study.seeds
        ]
        expected = t_interval(np.mean(cells, axis=1))
        shown = effects.loc[environment.id]
        assert tuple(shown[["n", "estimate", "lo", "hi"]]) == pytest.approx(expected)
        means.append(expected.mean)
        dots = found["differences"].query(
            "factor == 'retrace' and unit == 'score' and env == @environment.id"
        )
        assert sorted(dots["difference"]) == pytest.approx(sorted(np.mean(cells, axis=1)))
    pooled = effects.loc[contrasts.POOLED]
    assert pooled["estimate"] == pytest.approx(np.mean(means))
    assert (pooled["environments"], pooled["n"], pooled["method"]) == (3, 9, "student-t")


def test_an_interaction_is_the_difference_of_differences(usual):
    study, found = usual
    rows = found["effects"].query("factor == 'retrace x optimizer' and unit == 'score'")
    assert {*rows["level"]} == {"Retrace on and sgd"}
    rows = rows.set_index("env")

    def cell(*names):
        return score(study, found["finals"], *names)

    expected = [
        (cell(e.id, True, "sgd", s) - cell(e.id, False, "sgd", s))
        - (cell(e.id, True, "adam", s) - cell(e.id, False, "adam", s))
        for e in study.environments
        for s in study.seeds
    ]
    assert rows.loc[contrasts.POOLED, "estimate"] == pytest.approx(np.mean(expected))
    for environment, own in zip(study.environments, np.reshape(expected, (3, -1)), strict=True):
        shown = rows.loc[environment.id, ["n", "estimate", "lo", "hi"]]
        assert tuple(shown) == pytest.approx(t_interval(own))
        dots = found["differences"].query(
            "factor == 'retrace x optimizer' and unit == 'score' and env == @environment.id"
        )
        assert sorted(dots["difference"]) == pytest.approx(sorted(own))


def test_equal_tables_give_equal_statistics_and_another_seed_other_bounds(tmp_path):
    study = synthetic.plan()
    first, second = compute(study, tmp_path), again(study, tmp_path)
    for name in first:
        pd.testing.assert_frame_equal(first[name], second[name])
    other = study.model_copy(update={"statistics": study.statistics.model_copy(update={"seed": 1})})
    third = again(other, tmp_path)["aggregates"]
    assert third["estimate"].equals(first["aggregates"]["estimate"])
    assert not third["lo"].equals(first["aggregates"]["lo"])


def test_an_environment_that_lacks_an_arm_is_not_pooled_and_its_pairs_are_kept(tmp_path):
    study = synthetic.plan(environments=3)
    synthetic.write_runs(study, tmp_path)
    found = again(synthetic.lose(study, tmp_path, [0, 3, 4, 5]), tmp_path)
    assert (found["aggregates"]["environments"] == 2).all()
    effects = found["effects"].query("factor == 'retrace' and unit == 'score'").set_index("env")
    assert effects.loc["Pendulum-v1", "n"] == 2  # adam's seeds 1 and 2; sgd has no pair
    assert effects.loc[contrasts.POOLED, "environments"] == 2


def write_curve(study, root, run, scores, seconds):
    """Sets the scores of a run's evaluations and its training seconds, by environment step."""
    directory = root / run.directory
    floor, gain = synthetic.scale(study, run.spec.env_id)
    evals = pd.read_parquet(directory / "evals.parquet")
    online = evals["phase"] == "online"
    evals.loc[online, "return"] = floor + gain * evals.loc[online, "env_step"].map(scores)
    evals.to_parquet(directory / "evals.parquet")
    train = pd.DataFrame({"env_step": list(seconds), "wall_s": list(map(float, seconds.values()))})
    train.assign(cpu_s=train["wall_s"]).to_parquet(directory / "train.parquet")


def test_sample_efficiency_is_on_the_grid_of_fewest_snapshots(tmp_path):
    environments = [
        {"id": "A-v0", "total_steps": 9000, "snapshot_interval": 3000, "log_interval": 3000},
        {"id": "B-v0", "total_steps": 5000, "snapshot_interval": 2500, "log_interval": 2500},
    ]
    axes = {"retrace": [True], "optimizer": ["adam"]}
    study = synthetic.plan(environments=environments, seeds=2, axes=axes)
    synthetic.write_runs(study, tmp_path)
    curves = [
        ({0: 0.0, 3000: 0.2, 6000: 0.6, 9000: 1.0}, {3000: 30, 6000: 90, 9000: 100}),
        ({0: 0.1, 3000: 0.3, 6000: 0.7, 9000: 0.9}, {3000: 10, 6000: 20, 9000: 60}),
        ({0: 0.0, 2500: 0.4, 5000: 0.8}, {2500: 8, 5000: 16}),
        ({0: 0.2, 2500: 0.5, 5000: 0.7}, {2500: 12, 5000: 20}),
    ]
    for run, (scores, wall_s) in zip(study.runs, curves, strict=True):
        write_curve(study, tmp_path, run, scores, wall_s)
    found = again(study, tmp_path)["sample_efficiency"]
    assert list(found["share"]) == [0.0, 0.5, 1.0]
    # The IQM of four runs is the mean of the middle two: 0 and 0.1 of (0, 0.1, 0, 0.2); 0.4 and 0.5
    # of (0.4, 0.5, 0.4, 0.5), where A is interpolated; 0.8 and 0.9 of (1, 0.9, 0.8, 0.7).
    assert list(found["estimate"]) == pytest.approx([0.05, 0.45, 0.85])
    # At half the budget, the clocks show 60 and 15 s in A, 8 and 12 s in B.
    assert list(found["wall_s"]) == pytest.approx([0, (37.5 + 10) / 2, (80 + 18) / 2])
    assert list(found["cost"]) == pytest.approx(list(found["wall_s"]))
    assert found["env_step"].isna().all()  # the budgets differ
    assert (found["environments"] == 2).all() and (found["n"] == 4).all()
    assert (found["replicates"] == 2000).all()
    assert (found["lo"] < found["estimate"]).all() and (found["estimate"] < found["hi"]).all()


def test_sample_efficiency_of_one_budget_is_at_its_snapshots(usual):
    study, found = usual
    curves = found["sample_efficiency"].groupby("arm", sort=False)
    assert list(curves.groups) == list(found["aggregates"]["arm"].unique())
    for _, curve in curves:
        assert list(curve["env_step"]) == list(range(0, 10_001, 1000))
        assert list(curve["wall_s"]) == pytest.approx(list(curve["env_step"] / 500))
        assert list(curve["cost"]) == pytest.approx(list(curve["env_step"] / 480))
        assert (curve["unit"] == "core-seconds").all()
        assert curve["estimate"].iloc[0] == pytest.approx(0, abs=0.05)
        assert curve["estimate"].iloc[-1] > 0.5 and (curve["n"] == 9).all()


def test_environments_that_lack_an_arm_are_not_in_the_sample_efficiency(tmp_path):
    study = synthetic.plan(environments=2, seeds=2)
    synthetic.write_runs(study, tmp_path)
    found = again(synthetic.lose(study, tmp_path, [0, 2, 3, 8]), tmp_path)["sample_efficiency"]
    assert (found["environments"] == 1).all()
    assert found.groupby("arm", sort=False)["n"].first().tolist() == [1, 2, 2, 2]


def test_the_clock_of_a_diverged_run_stands_still(tmp_path):
    axes = {"retrace": [True], "optimizer": ["adam"]}
    study = synthetic.plan(environments=1, seeds=2, axes=axes)
    synthetic.write_runs(study, tmp_path)
    steps = range(0, 10_001, 1000)
    scores = {step: min(step, 4000) / 10_000 for step in steps}
    write_curve(study, tmp_path, study.runs[0], scores, {2000: 5, 4500: 11})
    write_curve(study, tmp_path, study.runs[1], scores, {10_000: 40})
    found = again(study, tmp_path)["sample_efficiency"].set_index("env_step")
    assert found["wall_s"][4000] == pytest.approx((5 + 6 * 2000 / 2500 + 16) / 2)
    assert found["wall_s"][10_000] == pytest.approx((11 + 40) / 2)
    assert found["estimate"][10_000] == pytest.approx(0.4)


def test_without_a_reference_returns_are_compared_and_nothing_is_pooled(tmp_path):
    study = synthetic.plan(environments=1)
    synthetic.write_runs(study, tmp_path)
    tables.write(collect.collect(study, tmp_path), tmp_path / "tables")
    table, random = synthetic.write_scale(study, tmp_path / "scale")
    table.write_text("env,reference,what,source\n")
    found = answers.compute(study, tmp_path / "tables", table, random)
    assert found["finals"]["score"].isna().all() and found["references"]["reference"].isna().all()
    assert found["aggregates"].empty and found["power"].empty and found["profiles"].empty
    assert found["sample_efficiency"].empty
    assert set(found["effects"]["unit"]) == {"return"} and len(found["effects"]) == 3
    assert found["efficiency"]["area"].notna().all() and found["efficiency"]["reached"].isna().all()
    assert contrasts.POOLED not in set(found["effects"]["env"])


def test_one_arm_has_aggregates_and_no_effects(tmp_path):
    axes = {"retrace": [True], "optimizer": ["adam"]}
    study = synthetic.plan(environments=1, seeds=1, axes=axes)
    found = compute(study, tmp_path)
    assert len(found["aggregates"]) == 4 and found["aggregates"]["lo"].isna().all()
    curve = found["sample_efficiency"]
    assert len(curve) == 11 and curve["estimate"].notna().all() and curve["lo"].isna().all()
    for name in ("effects", "differences", "improvements", "power"):
        assert found[name].empty and len(found[name].columns) > 3
    tables.write(found, tmp_path / "written")
    assert tables.read(tmp_path / "written", "effects").empty


def test_power_falls_with_the_effect(usual):
    _, found = usual
    for (_, _, env), rows in found["power"].groupby(["factor", "level", "env"]):
        assert list(rows["effect"]) == [0.05, 0.1, 0.2]
        assert rows["seeds"].is_monotonic_decreasing and (rows["seeds"] >= 2).all()
        assert (rows["environments"] == (3 if env == contrasts.POOLED else 1)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env,reference,what,source\nPendulum-v1,-2000,w,s", "Pendulum-v1 must be above.*-2000"),
        ("env,value\nPendulum-v1,1", "expected the columns env, reference, what, source"),
        (
            "env,reference,what,source\nA-v0,1,w,s\nA-v0,2,w,s",
            "line 3: a second row for A-v0; the first is in line 2",
        ),
    ],
)
def test_a_bad_table_of_references_is_refused(tmp_path, text, message):
    study = synthetic.plan(environments=1)
    table, random = synthetic.write_scale(study, tmp_path)
    table.write_text(text)
    with pytest.raises(ConfigError, match=message):
        references.read(study, table, random)


def test_dm_control_is_scored_out_of_a_thousand(tmp_path):
    study = synthetic.plan(environments=["dm_control/walker-walk-v0"])
    table, random = synthetic.write_scale(study, tmp_path)
    table.write_text("env,reference,what,source\n")
    (row,) = references.read(study, table, random).to_dict("records")
    assert row["reference"] == 1000 and "arXiv" in row["source"]


def test_an_environment_without_any_run_needs_no_random_return(tmp_path):
    study = synthetic.plan(environments=3)
    synthetic.write_runs(study, tmp_path)
    whole = again(study, tmp_path)
    lost = synthetic.lose(study, tmp_path, range(12, 24))
    tables.write(collect.collect(lost, tmp_path), tmp_path / "tables")
    table, random = synthetic.write_scale(study, tmp_path / "scale")
    found = answers.compute(lost, tmp_path / "tables", table, [random[0], random[2]])
    row = found["references"].iloc[1]
    assert row[["random", "reference"]].isna().all() and row["random_episodes"] == 0
    own = found["finals"]["env"] == study.environments[1].id
    assert found["finals"].loc[own, "score"].isna().all()
    kept = ["run_id", "return", "score"]
    rest = found["finals"].loc[~own, kept], whole["finals"].loc[~own, kept]
    pd.testing.assert_frame_equal(*rest)
    assert (found["aggregates"]["environments"] == 2).all()
    assert study.environments[1].id not in set(found["effects"]["env"])
    with pytest.raises(ConfigError, match=f"random return of {study.environments[2].id} was not"):
        answers.compute(lost, tmp_path / "tables", table, random[:1])
    found |= {"baselines": baselines.read(study, None)}
    found |= others.compute(lost, tmp_path / "tables")
    tables.write(found, tmp_path / "tables")
    summary.write(lost, tmp_path / "tables", [], tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert f"no reference score: {study.environments[1].id}." in text


def test_the_projects_own_references_are_named_and_sourced():
    found = pd.read_csv("config/references.csv")
    assert found.notna().all(axis=None) and not found["env"].duplicated().any()
    assert {"Pendulum-v1", "InvertedDoublePendulum-v5", "Reacher-v5"} <= set(found["env"])


def test_variants_of_an_environment_are_environments_of_their_own(tmp_path):
    variant = {"id": "Pendulum-v1", "kwargs": {"g": 9.81}}
    study = synthetic.plan(environments=["Pendulum-v1", variant])
    found = compute(study, tmp_path)
    names = ["Pendulum-v1", "Pendulum-v1_g-9.81"]
    for unit in ("return", "score"):
        rows = found["effects"].query(f"factor == 'retrace' and unit == '{unit}'").set_index("env")
        assert [name for name in rows.index if name != contrasts.POOLED] == names
        assert rows.loc[names[0], "estimate"] != rows.loc[names[1], "estimate"]
    pooled = rows.loc[contrasts.POOLED]
    assert pooled["estimate"] == pytest.approx(rows.loc[names, "estimate"].mean())
    assert (pooled["environments"], pooled["n"]) == (2, 6)
    shown = found["aggregates"].set_index(["arm", "metric"])["estimate"]
    for arm, rows in found["finals"].groupby("arm"):
        runs = [part["score"].to_numpy() for _, part in rows.groupby("env", sort=False)]
        assert len(runs) == 2 and shown[arm, "iqm"] == pytest.approx(iqm(runs))
    assert not found["sample_efficiency"].empty
