"""Other people's scores: their means, the unpaired comparisons, and where both are shown."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mpo.analysis import intervals, tables
from mpo.analysis.others import compute
from mpo.report import paper_tables, summary
from mpo.report.figures import caption, learning_curves
from mpo.study.config import ConfigError
from mpo.study.plan import Study
from tests import synthetic
from tests.study.test_other_scores import BOUNDS, SPREAD, entry

WALKER = "dm_control/walker-walk-v0"
SCORES = pd.DataFrame(
    [
        ("Pendulum-v1", step, seed, -900.0 - 100 * seed + step / 100)
        for seed in range(4)
        for step in (0, 2500, 5000, 7777, 50_000)
    ],
    columns=["task", "step", "run", "score"],
)


def planned(tmp_path, *others, **options):
    """A study of 3 seeds with its tables, which compares with other people's files."""
    study = Study.parse(synthetic.config(**options) | {"others": list(others)})
    synthetic.write_runs(study, tmp_path)
    return study, synthetic.write_tables(study, tmp_path)


@pytest.fixture
def sac(tmp_path):
    SCORES.to_csv(tmp_path / "sac.csv", index=False)
    return entry(tmp_path / "sac.csv", step_factor=2, source="by hand", notes="in the rain")


def test_their_means_have_t_intervals_over_their_seeds(tmp_path, sac):
    _, folder = planned(tmp_path, sac)
    others = tables.read(folder, "others")
    assert others["env_step"].tolist() == [0, 5000, 10_000, 15_554, 100_000]
    row = others.iloc[2]
    expected = intervals.t_interval([-850, -950, -1050, -1150])
    assert row[["mean", "lo", "hi", "n"]].tolist() == pytest.approx(
        [expected.mean, expected.lo, expected.hi, 4]
    )
    assert (row["source"], row["notes"]) == ("by hand", "in the rain")


@pytest.mark.parametrize(
    ("columns", "spread"),
    [(SPREAD, {"sd": 20.0}), (BOUNDS, {"lo": 60.0, "hi": 120.0}), (BOUNDS, {"lo": "", "hi": ""})],
)
def test_a_mean_has_the_interval_of_its_file_or_that_of_its_spread(tmp_path, columns, spread):
    row = {"task": WALKER, "step": 10_000, "mean": 100, "n": 4} | spread
    pd.DataFrame([row]).to_csv(tmp_path / "a.csv", index=False)
    _, folder = planned(tmp_path, entry(tmp_path / "a.csv", columns))
    lo, hi = tables.read(folder, "others").loc[0, ["lo", "hi"]]
    half = stats.t.ppf(0.975, 3) * 20 / 2
    given = (spread.get(end) or np.nan for end in ("lo", "hi"))
    ends = (100 - half, 100 + half) if "sd" in spread else tuple(given)
    assert (lo, hi) == pytest.approx(ends, nan_ok=True)
    compared = tables.read(folder, "unpaired")
    assert compared["improvement"].isna().all() and len(compared) == 4
    assert compared["lo"].isna().all() == (spread.get("lo") == "")


def test_a_comparison_is_welchs_of_final_returns_after_the_last_common_step(tmp_path, sac):
    study, folder = planned(tmp_path, sac)
    found = tables.read(folder, "unpaired")
    finals = tables.read(folder, "finals").query("env == 'Pendulum-v1'")
    assert found["arm"].tolist() == finals["arm"].unique().tolist()
    assert set(found["env_step"]) == {10_000} and set(found["env"]) == {"Pendulum-v1"}
    theirs = [-850.0, -950.0, -1050.0, -1150.0]
    for row in found.to_dict("records"):
        ours = finals.loc[finals["arm"] == row["arm"], "return"].to_numpy()
        welch = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
        assert (row["lo"], row["hi"]) == pytest.approx((welch.low, welch.high))
        assert row["difference"] == pytest.approx(ours.mean() - np.mean(theirs))
        wins = np.mean([x > y for x in ours for y in theirs])
        assert row["improvement"] == pytest.approx(wins)
        assert row["improvement_lo"] <= wins <= row["improvement_hi"]
        assert (row["n"], row["n_other"]) == (3, 4)


def test_during_training_it_is_of_the_returns_there(tmp_path, sac):
    sac["step_factor"] = 1
    study, folder = planned(tmp_path, sac, total_steps=20_000, snapshots=8)
    found = tables.read(folder, "unpaired")
    assert set(found["env_step"]) == {5000}
    curves = tables.read(folder, "curves").query("env_step == 5000 and env == 'Pendulum-v1'")
    assert len(curves) == len(found)
    theirs = SCORES.loc[SCORES["step"] == 5000, "score"].mean()
    expected = curves.set_index("arm")["mean"] - theirs
    assert found.set_index("arm")["difference"].to_dict() == pytest.approx(expected.to_dict())


def test_other_tables_are_the_same_with_and_without_them(tmp_path, sac):
    with_them = planned(tmp_path / "a", sac)[1]
    without = planned(tmp_path / "b")[1]
    for name in ("scores", "improvements", "effects", "aggregates"):
        pd.testing.assert_frame_equal(tables.read(with_them, name), tables.read(without, name))
    assert tables.read(without, "others").empty and tables.read(without, "unpaired").empty


def test_a_parquet_file_is_read_and_checked_where_the_tables_are_made(tmp_path, sac):
    study, folder = planned(tmp_path, sac)
    SCORES.to_parquet(tmp_path / "sac.parquet")
    sac["path"] = str(tmp_path / "sac.parquet")
    again = Study.parse(synthetic.config() | {"others": [sac]})
    found = compute(again, folder)
    pd.testing.assert_frame_equal(found["others"], tables.read(folder, "others"))
    SCORES.assign(score="x").to_parquet(tmp_path / "sac.parquet")
    with pytest.raises(ConfigError, match=r"sac.parquet, row 1, score: .*received 'x'"):
        compute(again, folder)
    SCORES.drop(columns="run").to_parquet(tmp_path / "sac.parquet")
    with pytest.raises(ConfigError, match=r"sac.parquet: expected one column 'run'"):
        compute(again, folder)
    (tmp_path / "sac.parquet").write_text("no")
    with pytest.raises(ConfigError, match=r"sac.parquet cannot be read: "):
        compute(again, folder)


def test_learning_curves_show_them_up_to_the_budget(tmp_path, sac):
    study, folder = planned(tmp_path, sac)
    figure = learning_curves.draw(study, folder)
    axes = figure.axes[0]
    (line,) = [line for line in axes.lines if line.get_marker() == "."]
    assert line.get_xdata().tolist() == [0, 5000, 10_000]
    low, high = axes.get_ylim()
    assert all(low < value < high for value in line.get_ydata())
    assert axes.get_xlim()[1] < 12_000
    assert "SAC, others" in [text.get_text() for text in figure.legends[0].get_texts()]
    said = caption("learning_curves", study, folder)
    assert said.endswith("(tables/others): SAC, n = 4 seeds (exploratory).")


def test_final_scores_and_the_page_show_them_apart(tmp_path, sac):
    study, folder = planned(tmp_path, sac)
    table = paper_tables.final_scores(study, folder)
    row = table.frame.loc["SAC, others"]
    assert row["Pendulum-v1"].startswith("−1000 [") and row["Pendulum-v1"].endswith("] (n = 4)")
    assert row[WALKER] == "–" and not table.marked.loc["SAC, others"].any()
    summary.write(study, folder, [], tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    assert "**Unpaired, and from other implementations.**" in text
    assert "- SAC: by hand; in the rain\n" in text and "3 and 4 (exploratory)" in text
    answers = text.split("## Answers")[1].split("## Final scores")[0]
    assert "SAC" not in answers


def test_the_page_says_what_cannot_be_compared(tmp_path, sac):
    sac["step_factor"] = 1.5
    study, folder = planned(tmp_path, sac)
    assert tables.read(folder, "unpaired").empty
    summary.write(study, folder, [], tmp_path / "summary.md")
    said = "for want of a step that both were evaluated at: SAC in Pendulum-v1."
    assert said in (tmp_path / "summary.md").read_text()


def test_welchs_interval_needs_two_runs_of_both():
    one, two = intervals.t_interval([1.0]), intervals.t_interval([1.0, 3.0])
    assert intervals.welch_interval(two, one)[:2] == (3, 1.0)
    assert np.isnan(intervals.welch_interval(two, one)[2:]).all()
    same = intervals.t_interval([2.0, 2.0])
    assert intervals.welch_interval(same, same) == (4, 0.0, 0.0, 0.0)
