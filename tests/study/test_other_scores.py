"""Files of other people's scores: how a config names them, and how their rows are checked."""

import math
import re
import shutil

import pytest

from mpo.study import other_scores
from mpo.study.config import ConfigError
from mpo.study.plan import Study
from tests import pipeline
from tests.pipeline import ROOT, project
from tests.study import test_tuning
from tests.study.test_config_files import dry_run
from tests.study.test_plan import DEFAULT, SMALL, changed

SEEDS = {"env": "task", "env_step": "step", "seed": "run", "return": "score"}
MEANS = {"env": "task", "env_step": "step", "mean": "mean", "n": "n"}
NAMES = ("Pendulum-v1", "dm_control/walker-walk-v0")


def entry(path="a.csv", columns=SEEDS, **more):
    found = {"path": str(path), "algorithm": "SAC", "columns": columns, "source": "s"} | more
    return {key: value for key, value in found.items() if value is not None}


def parsed(path="a.csv", columns=SEEDS, **more):
    (found,) = Study.parse(changed("others", [entry(path, columns, **more)])).others
    return found


def rows(tmp_path, text, columns=SEEDS, **more):
    (tmp_path / "a.csv").write_text(text)
    return other_scores.of_csv(parsed(tmp_path / "a.csv", columns, **more), NAMES)


def test_a_row_is_the_score_of_a_seed_in_their_names_and_steps(tmp_path):
    text = "task,step,run,score,more\nwalker-walk,50,0,7.5,x\nPendulum-v1,50,0.1,-3,\nelse,1,0,y,\n"
    found = rows(
        tmp_path, text, environments={"walker-walk": "dm_control/walker-walk-v0"}, step_factor=2
    )
    key = {"algorithm": "SAC", "env_step": 100}
    assert found == [
        key | {"env": "dm_control/walker-walk-v0", "seed": "0", "return": 7.5},
        key | {"env": "Pendulum-v1", "seed": "0.1", "return": -3.0},
    ]


@pytest.mark.parametrize("spread", [("sd",), ("half_width",), ("lo", "hi")])
def test_a_row_can_be_a_mean_whose_spread_is_unknown_of_one_seed(tmp_path, spread):
    names = {**MEANS, **{key: f"the {key}" for key in spread}}
    head = ",".join(names.values())
    ends = ",".join(["3", "9"][-len(spread) :])
    text = f"{head}\nPendulum-v1,1e3,5,4,{ends}\nPendulum-v1,2000,5,1,{',' * (len(spread) - 1)}\n"
    first, second = rows(tmp_path, text, names)
    assert (first["env_step"], first["mean"], first["n"], first[spread[-1]]) == (1000, 5, 4, 9)
    assert all(math.isnan(second[key]) for key in spread)


def test_a_column_can_have_the_algorithm_and_the_entry_can_choose_one(tmp_path):
    text = "who,task,step,run,score\nSAC,Pendulum-v1,1,0,1\nTD3,Pendulum-v1,1,0,2\n"
    columns = SEEDS | {"algorithm": "who"}
    both = rows(tmp_path, text, columns, algorithm=None)
    assert [row["algorithm"] for row in both] == ["SAC", "TD3"]
    assert [row["return"] for row in rows(tmp_path, text, columns, algorithm="TD3")] == [2]
    with pytest.raises(ConfigError, match=r"in the column 'who' \(SAC, TD3\), received 'PPO'"):
        rows(tmp_path, text, columns, algorithm="PPO")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"columns": SEEDS | {"mean": "m"}}, "others.0: columns: expected env and .* mean, n and"),
        ({"columns": MEANS}, "received env, env_step, mean, n"),
        ({"columns": SEEDS | {"retrn": "r"}}, "unknown key 'retrn'.*did you mean 'return'"),
        ({"algorithm": None}, "expected algorithm, its name, or columns.algorithm"),
        ({"path": "a.txt"}, "others.0.path: .*received 'a.txt'"),
        ({"path": "{a}.csv"}, "others.0.path: .*received '{a}.csv'"),
        ({"step_factor": 0}, "others.0.step_factor: .*greater than 0, received 0"),
        ({"source": ""}, "others.0.source: .*received ''"),
        ({"sauce": "s"}, "unknown key 'sauce'"),
        ({"path": 300 * "a" + ".csv"}, "others.0.path: .*at most 255 bytes"),
        ({"columns": SEEDS | {"return": "run"}}, "each column once, received 'run' twice"),
        (
            {"environments": {"a": "Pendulum-v1", "b": "Pendulum-v1"}},
            "one name of the file for each environment, received two for 'Pendulum-v1'",
        ),
    ],
)
def test_a_wrong_entry_is_refused(more, message):
    with pytest.raises(ConfigError, match=message):
        Study.parse(changed("others", [entry(**more)]))


HEAD = "task,step,run,score\n"
GOOD = "Pendulum-v1,1,0,1\n"
SPREAD = MEANS | {"sd": "sd"}
BOUNDS = MEANS | {"lo": "lo", "hi": "hi"}


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("task,step,score\n", SEEDS, r"one column 'run' \(columns.seed\), received task, step, sc"),
        ("", SEEDS, r"one column 'task' \(columns.env\), received nothing"),
        (HEAD.replace("run", "step"), SEEDS, "one column 'step'"),
        (HEAD + GOOD + "Pendulum-v1,1,1\n", SEEDS, "line 3: expected 4 values, received 3"),
        (HEAD + "Pendulum-v1,1,0,NA\n", SEEDS, "line 2, score: .*finite number, received 'NA'"),
        (HEAD + "Pendulum-v1,1,0,\n", SEEDS, "line 2, score: .*finite number, received ''"),
        (HEAD + "Pendulum-v1,1,0,inf\n", SEEDS, "line 2, score: .*finite number, received 'inf'"),
        (HEAD + "Pendulum-v1,-1,0,1\n", SEEDS, "line 2, step: .*at least 0 .*received -1"),
        (HEAD + "Pendulum-v1,1e99,0,1\n", SEEDS, "line 2, step: .*at most 1e\\+15, received 1e"),
        (HEAD + "Pendulum-v1,1, ,1\n", SEEDS, "line 2, run: expected a name, received ' '"),
        (HEAD + ",1,0,1\n", SEEDS, "line 2, task: expected a name, received ''"),
        (HEAD + "Pendulum-v1,1,nan,1\n", SEEDS, "line 2, run: expected a seed, received 'nan'"),
        (HEAD + GOOD + "Pendulum-v1,1,0.0,2\n", SEEDS, "line 3: a second row for SAC, Pend.*, 0;"),
        (HEAD + GOOD + GOOD, SEEDS, "line 3: a second row for SAC, Pendulum-v1, 1, 0; .*line 2"),
        (
            HEAD + "pendulum,1,0,1\n",
            SEEDS,
            r"\(Pendulum-v1, dm_control/walker-walk-v0\), received pendulum in the column 'task'",
        ),
        (HEAD + 'Pendulum-v1,"', SEEDS, "line 2: unexpected end of data"),
        ("task,step,mean,n,sd\nPendulum-v1,1,2,0,1\n", SPREAD, "line 2, n: .*at least 1 and"),
        ("task,step,mean,n,sd\nPendulum-v1,1,2,2.5,1\n", SPREAD, "line 2, n: .*whole number"),
        ("task,step,mean,n,sd\nPendulum-v1,1,2,3,-1\n", SPREAD, "line 2, sd: .*received -1"),
        (
            "task,step,mean,n,lo,hi\nPendulum-v1,1,2,3,4,5\n",
            BOUNDS,
            "line 2: expected lo <= mean <= hi, received 4, 2, 5",
        ),
        (
            "task,step,mean,n,lo,hi\nPendulum-v1,1,2,3,1,\n",
            BOUNDS,
            "line 2: expected lo and hi, or neither, received 1 and nan",
        ),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_column(tmp_path, text, columns, message):
    with pytest.raises(ConfigError, match=message) as caught:
        rows(tmp_path, text, columns)
    assert str(tmp_path / "a.csv") in str(caught.value)


def test_a_name_that_the_file_lacks_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"column 'task' \(Pendulum-v1\), received 'pendulm'"):
        rows(tmp_path, HEAD + GOOD, environments={"pendulm": "Pendulum-v1"})


def test_an_environment_under_two_names_is_refused(tmp_path):
    """Both would be pooled as one."""
    message = "environments.easy: .*'task' does not name itself, received 'Pendulum-v1'"
    with pytest.raises(ConfigError, match=message):
        rows(tmp_path, HEAD + GOOD + "easy,1,1,2\n", environments={"easy": "Pendulum-v1"})


@pytest.mark.parametrize("file", ["a.csv", "a.parquet"])
@pytest.mark.parametrize(
    ("target", "hint"), [("Pendulum-v2", "did you mean 'Pendulum-v1'. "), ("x", "")]
)
def test_a_name_that_the_study_lacks_is_refused(tmp_path, file, target, hint):
    """Its rows would be left out without a word."""
    (tmp_path / file).write_text(HEAD + "pendulum,1,0,1\nwalker,1,0,1\n")
    given = {"pendulum": target, "walker": "dm_control/walker-walk-v0"}
    message = (
        f"{file}: environments.pendulum: {hint}expected an .*Pendulum-v1.*, received '{target}"
    )
    with pytest.raises(ConfigError, match=message):
        other_scores.check([parsed(tmp_path / file, environments=given)], NAMES)


def test_two_files_cannot_have_scores_of_the_same(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(HEAD + GOOD)
    first, second = parsed(tmp_path / "a.csv"), parsed(tmp_path / "b.csv")
    with pytest.raises(ConfigError, match=r"b.csv: .*received SAC in Pendulum-v1 .* in .*a.csv"):
        other_scores.check([first, second], NAMES)
    other_scores.check([first, parsed(tmp_path / "b.csv", algorithm="TD3")], NAMES)
    with pytest.raises(ConfigError, match=r"c.parquet cannot be read: .*received none"):
        other_scores.check([parsed(tmp_path / "c.parquet")], NAMES)


def test_they_are_no_part_of_any_identity_nor_of_tuning():
    plain, other = Study.parse(SMALL), Study.parse(changed("others", [entry()]))
    assert plain.runs == other.runs and plain.evaluation_spec == other.evaluation_spec
    assert "others" not in DEFAULT
    tuned = test_tuning.config()
    assert test_tuning.stage(tuned | {"others": [entry()]}) == test_tuning.stage(tuned)


@pytest.mark.slow
def test_they_are_refused_before_any_job_and_are_inputs_of_the_statistics(tmp_path):
    folder = project(tmp_path)
    shutil.copy(ROOT / "config/tiny.yaml", folder / "study.yaml")
    with (folder / "study.yaml").open("a") as file:
        file.write(f"\nothers: [{entry('mine.csv')}]\n".replace("'", '"'))
    said = dry_run(folder, "--configfile", "study.yaml")
    assert "mine.csv cannot be read" in said
    (folder / "mine.csv").write_text(HEAD + "Pendulum-v1,1,0,many\n")
    said = dry_run(folder, "--configfile", "study.yaml")
    assert "mine.csv, line 2, score: expected a finite number, received 'many'" in said
    (folder / "mine.csv").write_text(HEAD + GOOD)
    done = pipeline.dry_run(folder, "-n", "--configfile", "study.yaml")
    assert done.returncode == 0, done.stderr
    (statistics,) = re.findall(r"^rule statistics:\n +input: (.*)$", done.stdout, re.M)
    assert "mine.csv" in statistics.split(", ") and done.stdout.count("mine.csv, ") == 1
