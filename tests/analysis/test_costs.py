"""What training costs, against sums by hand."""

import functools

import numpy as np
import pandas as pd
import pytest

from mpo.analysis import costs, tables
from mpo.analysis.contrasts import POOLED
from tests import synthetic
from tests.analysis.test_answers import write_curve

SINGLE = {"retrace": [True], "optimizer": ["adam"]}


@pytest.fixture
def made(tmp_path):
    return functools.partial(synthetic.made, tmp_path)


def test_each_seed_is_read_off_its_own_clock_and_keeps_its_last_value():
    found = costs.at_costs(
        np.array([[0.0, 10.0, 20.0], [0.0, 2.0, 4.0]]),
        np.array([[0.0, 1.0, 3.0], [5.0, 6.0, 8.0]]),
        np.array([0.0, 3.0, 15.0]),
    )
    assert found == pytest.approx(np.array([[0.0, 0.3, 2.0], [5.0, 7.0, 8.0]]))


def two_seeds(root, second):
    study = synthetic.plan(environments=1, seeds=2, axes=SINGLE, snapshots=2)
    synthetic.write_runs(study, root)
    scores = {0: 0.0, 5000: 0.5, 10_000: 1.0}
    write_curve(study, root, study.runs[0], scores, {5000: 10, 10_000: 40})
    write_curve(study, root, study.runs[1], scores, second)
    folder = synthetic.write_tables(study, root)
    floor, gain = synthetic.scale(study, "Pendulum-v1")
    curve = tables.read(folder, "cost_curves")
    return folder, curve.assign(mean=(curve["mean"] - floor) / gain)


def test_a_curve_ends_where_the_cheapest_seed_does(tmp_path):
    folder, curve = two_seeds(tmp_path, {5000: 10, 10_000: 20})
    assert list(curve["cost"]) == pytest.approx([0, 10, 20])
    # The first seed has spent 10 of the 30 s between its last two evaluations: 0.5 + 0.5 / 3.
    assert list(curve["mean"]) == pytest.approx([0, 0.5, (0.5 + 0.5 / 3 + 1) / 2])
    assert (curve["n"] == 2).all() and (curve["unit"] == "core-seconds").all()
    # On a GPU, wall-clock time counts.
    runs, train = tables.read(folder, "runs"), tables.read(folder, "train")
    tables.write({"train": train.assign(wall_s=3 * train["cpu_s"])}, folder)
    tables.write({"runs": runs.assign(device="cuda")}, folder)
    found = pd.DataFrame(costs.curve_rows(folder))
    assert list(found["cost"]) == pytest.approx([0, 30, 60])
    assert (found["unit"] == "GPU-seconds").all()
    tables.write({"runs": runs.assign(device=["cpu", "cuda"])}, folder)
    assert {row["unit"] for row in costs.curve_rows(folder)} == {"seconds"}


def test_a_diverged_seed_ends_no_curve(tmp_path):
    folder, _ = two_seeds(tmp_path, {5000: 4})
    synthetic.change(folder, "runs", status=["ok", "diverged"])
    found = pd.DataFrame(costs.curve_rows(folder))
    assert list(found["cost"]) == pytest.approx([0, 20, 40])
    synthetic.change(folder, "runs", status=["diverged", "diverged"])
    assert pd.DataFrame(costs.curve_rows(folder))["cost"].max() == pytest.approx(4)


def test_a_ratio_is_geometric_paired_by_seed_and_per_step(made):
    study, folder = made(environments=2, seeds=2, axes={"retrace": [False, True]})
    # Off, then on, of the two seeds, in each environment. One run diverged at half of its budget.
    spent = [10.0, 20.0, 20.0, 45.0, 100.0, 100.0, 200.0, 100.0]
    steps = [10_000] * 7 + [5000]
    synthetic.change(folder, "runs", cpu_s=spent, env_steps=steps, stacked=1.0)
    found = pd.DataFrame(costs.ratio_rows(study, folder)).set_index("env")
    first, second = (found.loc[e.name] for e in study.environments)
    assert first["estimate"] == pytest.approx((2 * 2.25) ** 0.5)
    # With two seeds the half width is t(0.975, 1) = 12.7062 times half their distance.
    half = 12.7062 * abs(np.log(2) - np.log(2.25)) / 2
    assert first["hi"] / first["estimate"] == pytest.approx(np.exp(half), rel=1e-4)
    assert first["estimate"] / first["lo"] == pytest.approx(np.exp(half), rel=1e-4)
    assert tuple(second[["estimate", "lo", "hi", "n"]]) == pytest.approx((2, 2, 2, 2))
    pooled = found.loc[POOLED]
    assert pooled["estimate"] == pytest.approx((2 * 2.25) ** 0.25 * 2**0.5)
    assert (pooled["environments"], pooled["n"]) == (2, 4)


def test_seeds_that_share_a_process_are_one_timing(made):
    study, folder = made(environments=1, seeds=4, axes={"retrace": [False, True]})
    early, late = "2025-01-01T00:00:00+00:00", "2025-01-01T00:10:00+00:00"
    next_second = "2025-01-01T00:00:01+00:00"
    # Off: two processes of two seeds. On: each seed on its own, though two started at once.
    started = [early, next_second, late, late, early, early, late, late]
    columns = {"stacked": [2.0] * 4 + [1.0] * 4, "started": started}
    synthetic.change(folder, "runs", cpu_s=[10.0] * 4 + [20.0, 80.0, 20.0, 20.0], **columns)
    processes = costs.processes(tables.read(folder, "runs"))
    assert processes.nunique() == 6
    assert processes[0] == processes[1] != processes[2] == processes[3]
    pooled = list(costs.ratio_rows(study, folder))[-1]
    assert pooled["n"] == 2  # log-ratios: the mean of log 2 and log 8, and log 2
    assert pooled["estimate"] == pytest.approx((4 * 2) ** 0.5)
    synthetic.change(folder, "runs", started=early, stacked=4.0)
    pooled = list(costs.ratio_rows(study, folder))[-1]
    assert pooled["n"] == 1 and np.isnan(pooled["lo"]) and pooled["estimate"] > 0


def test_timings_join_seeds_that_any_cell_joins():
    process = np.array([[1.0, 5.0], [1.0, 6.0], [2.0, 6.0], [np.nan, 7.0]])
    values = np.array([[1.0, 2.0], [2.0, 4.0], [6.0, np.nan], [np.nan, 9.0]])
    found = costs.timings(values, process)
    assert found[0] == pytest.approx([3.0, 3.0])
    assert np.isnan(found[1, 0]) and found[1, 1] == 9.0 and len(found) == 2


def test_runs_that_are_missing_have_no_process_and_no_pair(tmp_path):
    study = synthetic.plan(environments=1, seeds=3, axes={"retrace": [False, True]})
    synthetic.write_runs(study, tmp_path)
    lost = synthetic.lose(study, tmp_path, [0])
    folder = synthetic.write_tables(lost, tmp_path)
    assert np.isnan(costs.processes(tables.read(folder, "runs"))[0])
    assert [row["n"] for row in costs.ratio_rows(lost, folder)] == [2, 2]
