import re
from pathlib import Path

import pytest

from mpo.analysis import baselines
from mpo.environments import envs
from mpo.report import paper_tables, summary
from mpo.report.figures import caption, learning_curves
from mpo.study import user_tables
from mpo.study.cells import Environment
from mpo.study.config import ConfigError
from tests import synthetic

WALKER = "dm_control/walker-walk-v0"
HEAD = "env,algorithm,steps,mean,lo,hi,n,source\n"
SOME = HEAD + (
    "dm_control/walker-walk-v0,MPO,5000,100,,,10,s\n"
    "dm_control/walker-walk-v0,MPO,10000,200,150.5,250,10,s\n"
    "dm_control/walker-walk-v0,MPO,20000,300,,,10,s\n"
    "dm_control/walker-walk-v0,SAC,50000,400,,,,s\n"
    "dm_control/walker-walk-v0,SAC,90000,500,,,,s\n"
    "Pendulum-v1,TD3,20000,-150,,,1,s\n"
    "Hopper-v5,TD3,20000,600,,,10,s\n"
)


@pytest.fixture
def some(tmp_path):
    (tmp_path / "baselines.csv").write_text(SOME)
    return tmp_path / "baselines.csv"


def test_rows_are_those_of_the_studys_environments_in_its_order(some):
    found = baselines.read(synthetic.plan(), some)
    assert list(found["env"]) == ["Pendulum-v1"] + 5 * ["dm_control/walker-walk-v0"]
    assert found["steps"].tolist() == [20000, 5000, 10000, 20000, 50000, 90000]
    assert found.loc[2, ["lo", "hi", "n"]].tolist() == [150.5, 250, 10]
    assert found.loc[5, ["lo", "hi", "n"]].isna().all()


def test_a_variant_has_published_returns_only_under_its_own_name(some):
    variant = {"id": "Pendulum-v1", "kwargs": {"g": 9.81}}
    study = synthetic.plan(environments=["Pendulum-v1", variant])
    assert baselines.read(study, some)["env"].tolist() == ["Pendulum-v1"]
    with some.open("a") as file:
        file.write("Pendulum-v1_g-9.81,TD3,20000,-90,,,1,s\n")
    assert baselines.read(study, some)["mean"].tolist() == [-150, -90]


def test_the_row_to_compare_with_is_the_last_within_the_budget_or_else_the_first(some):
    found = baselines.read(synthetic.plan(), some)
    for budget, expected in ((4000, [5000, 50000]), (15_000, [10_000, 50_000]), (10**6, None)):
        walker = baselines.nearest(found[found["env"] != "Pendulum-v1"], budget)
        assert walker["steps"].tolist() == (expected or [20_000, 90_000])
        assert walker["algorithm"].tolist() == ["MPO", "SAC"]


def test_without_a_table_there_are_none():
    found = baselines.read(synthetic.plan(), None)
    assert found.empty and list(found.columns) == [*HEAD.strip().split(","), "notes"]


def test_notes_are_a_column_that_may_be_left_out(tmp_path, some):
    assert baselines.read(synthetic.plan(), some)["notes"].isna().all()
    (tmp_path / "noted.csv").write_text(
        f"{HEAD.strip()},notes\nPendulum-v1,TD3,1,2,,,,s,by hand\nPendulum-v1,SAC,1,2,,,,s,\n"
    )
    found = baselines.read(synthetic.plan(), tmp_path / "noted.csv")
    assert found["notes"].fillna("").tolist() == ["by hand", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "env,algorithm,steps\nA-v0,TD3,1\n",
            "columns env, .* mean, .*received env, algorithm, st",
        ),
        (HEAD + "A-v0,TD3,1,2,,,,s,more\n", "line 2: expected 8 values, received 9: .*more"),
        (HEAD + "A-v0,TD3,1\n", "line 2: expected 8 values, received 3: A-v0, TD3, 1"),
        (
            HEAD.replace("mean", "meen") + "A-v0,TD3,1,2,,,,s\n",
            "columns .* mean, .*received .* meen",
        ),
        (
            HEAD.replace("source", "source,notes,notes") + "A-v0,TD3,1,2,,,,s,,\n",
            r"\(and notes, which may be left out\) in the first line, received .* notes, notes",
        ),
        (HEAD + "A-v0,TD3,1,2,,,,s\nA-v0,TD3,many,2,,,,s\n", "line 3, steps: .*integer.*'many'"),
        (HEAD + "A-v0,TD3,1,nan,,,,s\n", "line 2, mean: .*finite number, received 'nan'"),
        (HEAD + "A-v0,TD3,1,,,,,s\n", "line 2, mean: .*number.*, received ''"),
        (
            HEAD + "A-v0,TD3,1,2,3,4,,s\n",
            "line 2, expected lo <= mean <= hi, received 3.0, 2.0, 4.0",
        ),
        (HEAD + "A-v0,TD3,1,2,1,,,s\n", "expected lo <= mean <= hi, received 1.0, 2.0, None"),
        (HEAD + "A-v0,TD3,1,2,,,,\n", "line 2, source: .*at least 1 character, received ''"),
        (HEAD + 2 * "A-v0,TD3,1,2,,,,s\n", "line 3: a second row for A-v0, TD3, 1; .* in line 2"),
        ("Results of others will be added here.\n", "received Results of others will be added"),
        ("", "received nothing"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, message):
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        baselines.read(synthetic.plan(), tmp_path / "b.csv")


def test_the_projects_own_baselines_hold_the_environments_of_its_study():
    table = Path(__file__).parents[2] / "config/baselines.csv"
    study = synthetic.plan(environments=["Pendulum-v1", "Reacher-v5", "dm_control/walker-walk-v0"])
    found = baselines.read(study, table)
    assert set(found["env"]) == {e.id for e in study.environments}
    mpo = found[(found["algorithm"] == "MPO") & (found["steps"] == 500_000)]
    assert mpo["mean"].tolist() == [941] and found["source"].str.len().min() > 10


def test_the_projects_own_baselines_are_of_todays_agents_and_say_how_they_came_about():
    found = user_tables.baselines(Path(__file__).parents[2] / "config/baselines.csv")
    cheetah = {row.algorithm for row in found if row.env == "dm_control/cheetah-run-v0"}
    assert cheetah >= {"MPO", "DMPO", "D4PG", "SAC", "MR.Q", "SimBa", "SimbaV2", "BRO", "XQC"}
    for row in found:
        if row.env != "Pendulum-v1":
            assert (
                row.notes and ("action repeat" if "/" in row.env else "environment v") in row.notes
            )


def test_the_projects_own_baselines_are_of_environments_that_there_are():
    found = user_tables.baselines(Path(__file__).parents[2] / "config/baselines.csv")
    for env in {row.env for row in found}:
        envs.check(Environment(id=env))


def test_learning_curves_show_them_and_say_when(tmp_path, some):
    study = synthetic.plan()
    synthetic.write_runs(study, tmp_path)
    tables = synthetic.write_tables(study, tmp_path, some)
    figure = learning_curves.draw(study, tables)
    lines = {
        axes.get_title(): {line.get_ydata()[0] for line in axes.lines if line.get_color() == "0.25"}
        for axes in figure.axes
    }
    assert lines == {"Pendulum-v1": {-150}, "dm_control/walker-walk-v0": {200, 400}}
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert all(low < value < high for value in lines[axes.get_title()])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-3:] == ["TD3, published", "MPO, published", "SAC, published"]
    said = caption("learning_curves", study, tables)
    assert "MPO after 10000 steps, SAC after 50000 steps" in said


@pytest.mark.parametrize("count", [12, 13])
def test_up_to_twelve_algorithms_can_be_told_apart(tmp_path, count):
    rows = [f"Pendulum-v1,Other{n},5000,{-200 - n},,,1,s\n" for n in range(count)]
    (tmp_path / "many.csv").write_text(HEAD + "".join(rows))
    study = synthetic.plan(environments=1, seeds=1)
    synthetic.write_runs(study, tmp_path)
    figure = learning_curves.draw(
        study, synthetic.write_tables(study, tmp_path, tmp_path / "many.csv")
    )
    lines = [line for line in figure.axes[0].lines if line.get_zorder() == 1]
    looks = {(line.get_color(), str(line._dash_pattern)) for line in lines}
    assert (len(lines), len(looks)) == (count, 12)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("Dotted: looks repeat after 12" in labels) is (count > 12)


def test_final_scores_stand_beside_them(tmp_path, some):
    study = synthetic.plan()
    synthetic.write_runs(study, tmp_path)
    tables = synthetic.write_tables(study, tmp_path, some)
    table = paper_tables.final_scores(study, tables)
    assert table.frame.tail(3).to_dict("index") == {
        "TD3, published": {"Pendulum-v1": "−150 (after 20000 steps)", WALKER: "–"},
        "MPO, published": {"Pendulum-v1": "–", WALKER: "200 [150.5, 250]"},
        "SAC, published": {"Pendulum-v1": "–", WALKER: "400 (after 50000 steps)"},
    }
    assert not table.marked.tail(3).any(axis=None)
    ours = paper_tables.final_scores(study, synthetic.write_tables(study, tmp_path))
    assert table.frame[:-3].equals(ours.frame) and table.marked[:-3].equals(ours.marked)
    assert "in tables/baselines" in table.note and "ublished" not in ours.note


def test_the_page_lists_those_to_compare_with_their_source_and_notes(tmp_path, some):
    noted = SOME.replace(",s\n", ",s,in the rain\n").replace("source\n", "source,notes\n")
    some.write_text(noted)
    study = synthetic.plan()
    synthetic.write_runs(study, tmp_path)
    for published, shown in ((some, True), (None, False)):
        tables = synthetic.write_tables(study, tmp_path, published)
        summary.write(study, tables, [], tmp_path / "summary.md")
        text = (tmp_path / "summary.md").read_text()
        assert ("## Published returns" in text) is shown
        row = r"\| MPO +\| 10000 +\| 200 \[150.5, 250\] +\| 10 +\| s +\| in the rain +\|"
        assert bool(re.search(row, text)) is shown
        assert len(re.findall(r"\| MPO +\| \d+ +\|", text)) == shown
