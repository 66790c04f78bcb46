"""Finished files that are cut, empty, foreign or altered: every reader names them, none crashes."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from mpo.__main__ import main
from mpo.study.config import canonical_json
from mpo.study.plan import Study
from mpo.study.specs import EvaluationSpec, RandomSpec
from tests import synthetic
from tests.cases import first_of
from tests.pipeline import ROOT

CONFIG = synthetic.config(["Pendulum-v1"], 2, {}, 200, 1, 2, 2) | {"study": "small"}
CONFIG["training"] = {"policy_layer_sizes": [8], "critic_layer_sizes": [8], "replay_size": 300}
CONFIG["training"] |= {"update_after": 100, "batch_size": 8}
STUDY = Study.parse(CONFIG)
RUN, OTHER = STUDY.runs
HOME = f"results/{STUDY.study}"
PLAN, TABLES = f"{HOME}/study.json", f"{HOME}/tables"
RANDOM = f"{HOME}/random/Pendulum-v1.json"


def call(*arguments):
    """Runs a verb in this process; returns its exit code."""
    logger = logging.getLogger("mpo")
    before, level, propagate = [*logger.handlers], logger.level, logger.propagate
    try:
        return main([*map(str, arguments)])
    finally:
        logger.handlers[:], logger.propagate = before, propagate
        logger.setLevel(level)


def evaluation(run):
    config = EvaluationSpec(**STUDY.evaluation.model_dump()).identity
    return "evaluate", "--run", run.directory, "--config", config


def with_tables(*verb):
    return *verb, "--study", PLAN, "--tables", TABLES


COLLECT = "collect", "--study", PLAN, "--out", TABLES
STATISTICS = (*with_tables("statistics", "--references", "references.csv"), "--random", RANDOM)
RANDOM_RETURNS = "random", "--config", RandomSpec(env_id="Pendulum-v1", episodes=2).identity
READERS = {
    "collect": COLLECT,
    "evaluate": evaluation(RUN),
    "verify": (*("verify", "--runs", RUN.directory, "--device", "cpu"), "--steps", 50),
    "video": ("video", "--run", RUN.directory),
    "events": ("events", "--run", RUN.directory),
    "statistics": STATISTICS,
    "typeset": with_tables("typeset"),
    "figure": with_tables("figure", "--name", "learning_curves", "--caption", "caption.rst"),
    "summary": with_tables("summary", "--figures", "learning_curves.png"),
    "pages": with_tables("pages", "--summary", "summary.md"),
    "status": ("status",),
    "failures": ("failures", "--study", PLAN),
}
OUT = {"verify": "page.md", "video": "film.gif", "events": "tfevents", "typeset": "typeset"}
OUT |= {"figure": "figure.png", "summary": "page.md", "pages": "pages", "failures": "page.md"}


def read(reader, capfd):
    """Runs a reader; returns its exit code and all that it said or wrote to its page."""
    out = ["--out", OUT[reader]] if reader in OUT else []
    code = call(*READERS[reader], *out)
    said = "".join(capfd.readouterr())
    if reader == "failures" and code == 0:
        said += Path("page.md").read_text(encoding="utf-8")
    return code, said


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished study of two runs, made by its own verbs."""
    folder, before = tmp_path_factory.mktemp("small"), os.getcwd()
    os.chdir(folder)
    try:
        os.makedirs(HOME)
        Path(PLAN).write_text(canonical_json(CONFIG), encoding="utf-8")
        rows = [{"env": "Pendulum-v1", "reference": -100.0, "what": "w", "source": "s"}]
        pd.DataFrame(rows).to_csv("references.csv", index=False)
        for run in STUDY.runs:
            cell = run.spec.cell.identity
            out = run.directory / "run.json"
            assert call("train", "--device", "cpu", "--cell", cell, "--out", out) == 0
            assert call(*evaluation(run)) == 0
        assert call(*RANDOM_RETURNS, "--out", RANDOM) == 0
        assert (call(*COLLECT), call(*STATISTICS)) == (0, 0)
        shutil.rmtree("results/.resume")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def study(made, tmp_path, monkeypatch):
    """A copy of that study, which is the current folder."""
    shutil.copytree(made, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    (tmp_path / "study/summary.md").write_text("# Summary\n")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return tmp_path / "study"


def without_checksums(folder):
    """Makes the files of a study those of an older version."""
    for path in folder.rglob("*.json"):
        record = json.loads(path.read_text())
        for key in ("files", "sha256", "policies", "environment"):
            record.pop(key, None)
        path.write_text(json.dumps(record))
    for path in folder.rglob(".checksums.json"):
        path.unlink()


def damage(path, kind):
    """Damages a file in a way that any reader can tell without a checksum."""
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[:-40])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no such thing")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif path.suffix == ".parquet":
        pd.DataFrame({"a": ["foreign"]}).to_parquet(path)
    elif path.suffix == ".pt":
        torch.save({"a": torch.ones(3)}, path)
    else:
        path.write_text(json.dumps({"a": "foreign"}))


READ = {
    "train.parquet": ("collect", "verify", "events"),
    "evals.parquet": ("collect", "video", "events"),
    "policies.pt": ("evaluate", "video"),
    "run.json": ("collect", "evaluate", "verify", "video", "events", "status", "failures"),
    "evals.json": ("collect", "video", "events", "status", "failures"),
}
OF_RUNS = [(name, reader) for name, readers in READ.items() for reader in readers]
OF_TABLES = [
    (f"{TABLES}/{table}.parquet", reader)
    for table, readers in {
        "runs": ("statistics", "typeset", "figure", "summary", "pages"),
        "evals": ("statistics", "figure"),
        "references": ("summary", "pages"),
    }.items()
    for reader in readers
]
DAMAGE = ("cut", "empty", "text", "folder", "foreign")


def refused(said, path):
    """Whether what was said names a file and what to delete, without a stack."""
    assert str(path) in said and "Delete it" in said, said
    return "Traceback" not in said


@pytest.mark.parametrize("older", [False, True], ids=["checked", "older"])
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize(("name", "reader"), OF_RUNS)
def test_a_damaged_file_of_a_run_is_named(study, capfd, name, reader, kind, older):
    if older:
        without_checksums(study)
    damage(study / RUN.directory / name, kind)
    code, said = read(reader, capfd)
    assert refused(said, RUN.directory / name)
    if reader in ("status", "failures"):
        assert code == 0 and "1 ok, 1 damaged" in said
    else:
        assert code == 1


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("reader", ["status", "failures"])
@pytest.mark.parametrize("name", ["train.parquet", "evals.parquet", "policies.pt"])
def test_the_status_sees_another_size(study, capfd, name, reader, kind):
    damage(study / RUN.directory / name, kind)
    code, said = read(reader, capfd)
    assert code == 0 and "1 ok, 1 damaged" in said and refused(said, RUN.directory / name)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize(("path", "reader"), [*OF_TABLES, (RANDOM, "statistics")])
def test_a_damaged_file_of_a_study_is_named(study, capfd, path, reader, kind):
    damage(study / path, kind)
    code, said = read(reader, capfd)
    assert code == 1 and refused(said, path)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("reader", ["collect", "statistics", "figure", "summary", "failures"])
def test_a_damaged_plan_is_named(study, capfd, reader, kind):
    damage(study / PLAN, kind)
    code, said = read(reader, capfd)
    if kind == "folder":  # the arguments are checked first
        assert code == 2 and PLAN in said and "Traceback" not in said
    else:
        assert code == 1 and refused(said, PLAN)


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_status_goes_on_where_a_plan_is_damaged(study, capfd, kind):
    shutil.copytree(study / HOME, study / "results/bad")
    damage(study / "results/bad/study.json", kind)
    code, said = read("status", capfd)
    assert code == 0 and "2 runs of study small: 2 ok." in said
    assert refused(said, "results/bad/study.json")


def test_the_status_tells_a_plan_of_another_study(study, capfd):
    shutil.copytree(study / HOME, study / "results/copy")
    code, said = read("status", capfd)
    assert code == 0 and said.count("2 runs of study small: 2 ok.") == 1
    assert "results/copy/study.json: it is the plan of study small" in said


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("reader", ["status", "failures"])
def test_a_damaged_status_file_is_named(study, capfd, reader, kind):
    (study / RUN.directory / "run.json").unlink()
    damage(study / RUN.status_file, kind)
    code, said = read(reader, capfd)
    assert code == 0 and "1 ok, 1 damaged" in said and refused(said, RUN.status_file)


def test_a_log_that_is_no_text_is_shown_as_far_as_it_is(study, capfd):
    (study / RUN.directory / "run.json").unlink()
    synthetic.write_status(RUN, study)
    log = study / RUN.log("train")
    log.parent.mkdir(parents=True)
    log.write_bytes(b"\xff\xfe\x00 broken\nlast words\n")
    assert "last words" in read("failures", capfd)[1]
    log.unlink()
    log.mkdir()
    code, said = read("failures", capfd)
    assert code == 0 and f"{RUN.run_id}: failed" in said


def swap(study, *names):
    """Takes files of the other run, and their checksums stay those of this one."""
    for name in names:
        shutil.copy(study / OTHER.directory / name, study / RUN.directory / name)


def edit_return(study):
    path = study / RUN.directory / "evals.parquet"
    rows = pd.read_parquet(path)
    rows.loc[0, "return"] += 1.0
    rows.to_parquet(path)


def drop_row(study):
    path = study / RUN.directory / "train.parquet"
    pd.read_parquet(path).iloc[:-1].to_parquet(path)


def zero_policies(study):
    path = study / RUN.directory / "policies.pt"
    content = torch.load(path, weights_only=True)
    torch.save(
        content | {"policy": {k: v * 0 for k, v in content["policy"].items()}},
        path,
    )


def flip(study):
    path = study / RUN.directory / "policies.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_record(study, name):
    path = study / RUN.directory / name
    record = json.loads(path.read_text())
    key = "wall_s" if name == "run.json" else "eval_s"
    path.write_text(json.dumps(record | {key: record[key] + 1}))


ALTERED = {
    "metrics of another seed": (lambda s: swap(s, "train.parquet"), "train.parquet"),
    "episodes of another seed": (lambda s: swap(s, "evals.parquet"), "evals.parquet"),
    "the evaluation of another seed": (
        lambda s: swap(s, "evals.parquet", "evals.json"),
        "evals.json",
    ),
    "policies of another seed": (lambda s: swap(s, "policies.pt"), "policies.pt"),
    "an edited return": (edit_return, "evals.parquet"),
    "a removed row": (drop_row, "train.parquet"),
    "policies of zeros": (zero_policies, "policies.pt"),
    "a flipped bit": (flip, "policies.pt"),
    "an edited run.json": (lambda s: edit_record(s, "run.json"), "run.json"),
    "an edited evals.json": (lambda s: edit_record(s, "evals.json"), "evals.json"),
}


REFUSED = [
    (what, reader)
    for reader in ("collect", "evaluate", "verify", "video", "events")
    for what, (_, name) in ALTERED.items()
    if reader == "collect" or reader in READ[name]
]
"""`collect` checks every file of a run, those that it does not read as well."""


@pytest.mark.parametrize(("what", "reader"), REFUSED)
def test_a_file_that_its_job_did_not_write_is_refused(study, capfd, what, reader):
    """It could be read, and would change the tables without a word."""
    change, name = ALTERED[what]
    change(study)
    code, said = read(reader, capfd)
    assert code == 1 and refused(said, RUN.directory / name)


@pytest.mark.parametrize("reader", ["collect", "evaluate", "status"])
def test_a_record_without_its_checksums_is_refused(study, capfd, reader):
    path = study / RUN.directory / "run.json"
    record = json.loads(path.read_text())
    del record["files"], record["sha256"]
    path.write_text(json.dumps(record | {"wall_s": 1.0}))
    code, said = read(reader, capfd)
    assert code == (reader != "status") and refused(said, RUN.directory / "run.json")
    assert "its checksums were removed" in said


def edit(path, column):
    """Changes a number of a table and keeps all that the table says of itself."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    frame = table.to_pandas()
    frame.loc[0, column] += 1
    edited = type(table).from_pandas(frame, preserve_index=False)
    pq.write_table(edited.replace_schema_metadata(table.schema.metadata), path)


@pytest.mark.parametrize(
    ("table", "column", "readers"),
    [
        ("evals", "return", ("statistics", "figure")),
        ("runs", "wall_s", ("statistics", "typeset", "summary", "pages")),
        ("scores", "mean", ("summary", "pages")),
        ("references", "reference", ("summary", "pages")),
    ],
)
def test_an_edited_table_is_refused(study, capfd, table, column, readers):
    path = f"{TABLES}/{table}.parquet"
    edit(study / path, column)
    for reader in readers:
        code, said = read(reader, capfd)
        assert code == 1 and refused(said, path)
    assert (call(*COLLECT), call(*STATISTICS)) == (0, 0)  # as after the table is deleted
    assert read("typeset", capfd)[0] == 0


@pytest.mark.parametrize("reader", ["statistics", "typeset", "figure", "summary", "pages"])
@pytest.mark.parametrize("changed", [{"seeds": [0, 1, 2]}, {"environments": ["Reacher-v5"]}])
def test_tables_of_another_plan_are_refused(study, capfd, reader, changed):
    (study / PLAN).write_text(canonical_json(CONFIG | changed))
    code, said = read(reader, capfd)
    assert code == 1 and f"the tables in {TABLES} are not those of the plan" in said
    assert "Traceback" not in said and not Path(OUT.get(reader, "nothing")).exists()


def test_runs_and_random_returns_tell_the_same_version_of_the_environment(made):
    runs = pd.read_parquet(made / TABLES / "runs.parquet")["environment_version"]
    random = pd.read_parquet(made / TABLES / "references.parquet")["environment_version"]
    assert {*runs} == {*random} and runs.notna().all()


def test_an_edited_random_return_is_refused(study, capfd):
    record = json.loads((study / RANDOM).read_text())
    (study / RANDOM).write_text(json.dumps(record | {"mean": record["mean"] - 50}))
    code, said = read("statistics", capfd)
    assert code == 1 and refused(said, RANDOM)


def test_the_random_return_of_another_environment_is_refused(study, capfd):
    config = RandomSpec(env_id="MountainCarContinuous-v0", episodes=2).identity
    assert call("random", "--config", config, "--out", RANDOM) == 0
    code, said = read("statistics", capfd)
    assert code == 1 and refused(said, RANDOM) and "MountainCarContinuous-v0" in said


def test_a_damaged_run_is_named_wherever_failures_are(study, capfd):
    """Its size is right, so that only `collect` can tell."""
    flip(study)
    before = (study / RUN.directory / "policies.pt").read_bytes()
    code, said = read("collect", capfd)
    assert code == 1 and "the files of 1 of 2 runs cannot be used" in said
    for reader in ("status", "failures"):
        _, said = read(reader, capfd)
        assert "1 ok, 1 damaged" in said and refused(said, RUN.directory / "policies.pt")
    (study / PLAN).write_text(canonical_json(CONFIG | {"allow_missing": True}))
    assert (call(*COLLECT), call(*STATISTICS)) == (0, 0)
    assert refused("".join(capfd.readouterr()), RUN.directory / "policies.pt")
    for reader in ("figure", "summary", "failures"):
        assert read(reader, capfd)[0] == 0
    assert "1 ok, 1 damaged" in read("failures", capfd)[1]
    assert (study / RUN.directory / "policies.pt").read_bytes() == before


def test_the_note_on_a_damaged_run_ends_with_the_damage(study, capfd):
    flip(study)
    call(*COLLECT)
    assert "1 ok, 1 damaged" in read("status", capfd)[1]
    for name in ("policies.pt", "run.json"):  # made again
        shutil.copy(study / RUN.directory / name, study / "copy")
        shutil.copy(study / "copy", study / RUN.directory / name)
    assert "2 ok" in read("status", capfd)[1]


def test_the_summary_names_a_damaged_run(study, capfd):
    drop_row(study)
    (study / PLAN).write_text(canonical_json(CONFIG | {"allow_missing": True}))
    assert (call(*COLLECT), call(*STATISTICS), read("summary", capfd)[0]) == (0, 0, 0)
    text = Path("page.md").read_text(encoding="utf-8")
    assert f"{RUN.run_id} (damaged)" in text and OTHER.run_id not in text


def test_runs_of_an_older_version_are_collected_and_counted(study, capfd):
    before = {p.name: pd.read_csv(p) for p in (study / TABLES).glob("*.csv")}
    without_checksums(study)
    code, said = read("collect", capfd)
    assert code == 0 and "2 of 2 runs have no checksums" in said
    before["runs.csv"]["environment_version"] = float("nan")  # these runs do not tell it
    for table in ("runs.csv", "evals.csv", "train.csv", "curves.csv", "scores.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(study / TABLES / table), before[table])


def test_records_say_what_was_made_and_how(made):
    record = json.loads((made / RUN.directory / "run.json").read_text())
    assert set(record["files"]) == {"train.parquet", "policies.pt"}
    assert list(record)[-2:] == ["files", "sha256"]
    found = json.loads((made / RUN.directory / "evals.json").read_text())
    assert set(found["files"]) == {"evals.parquet"} and found["eval_s"] > 0
    config = EvaluationSpec(**STUDY.evaluation.model_dump())
    assert found["spec"] == config.model_dump(mode="json")
    assert found["policies"] == record["files"]["policies.pt"]
    found = json.loads((made / RANDOM).read_text())
    assert found["spec"] == {"env_id": "Pendulum-v1", "episodes": 2} | found["spec"]


@pytest.mark.parametrize(
    ("name", "reader"), first_of([("policies.pt", "evaluate"), ("train.parquet", "verify")])
)
def test_the_command_line_says_the_same(study, name, reader):
    damage(study / RUN.directory / name, "cut")
    out = ["--out", OUT[reader]] if reader in OUT else []
    command = [sys.executable, "-m", "mpo", *map(str, READERS[reader]), *out]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and refused(done.stderr, RUN.directory / name)
