"""The tables that users edit are checked while a study is planned."""

import shutil
from pathlib import Path

import pytest

from mpo.study import user_tables
from mpo.study.config import ConfigError
from mpo.study.plan import Study
from tests.pipeline import ROOT, project
from tests.study.test_config_files import dry_run
from tests.study.test_plan import DEFAULT, SMALL, changed

HEAD = "env,reference,what,source\n"


def test_values_may_be_empty_quoted_and_behind_a_mark_of_the_encoding(tmp_path):
    table = tmp_path / "references.csv"
    text = HEAD + 'A-v0,-1.5,"by hand,\nin two lines",\n\nB-v0,,,s\n'
    table.write_text(text, encoding="utf-8-sig")
    first, second = user_tables.references(table)
    assert (first.env, first.reference, first.source) == ("A-v0", -1.5, None)
    assert (second.env, second.reference, second.source) == ("B-v0", None, "s")


def test_spaces_around_a_name_are_no_part_of_it(tmp_path):
    """They would make it that of another environment, without a word."""
    (tmp_path / "references.csv").write_text(HEAD + " A-v0 , 1 ,w,s\nB-v0\t,2,w,s\n")
    found = user_tables.references(tmp_path / "references.csv")
    assert [(row.env, row.reference) for row in found] == [("A-v0", 1), ("B-v0", 2)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD + "A-v0,1,w,s\nB-v0,n.a.,w,s\n", "line 3, reference: .*number.*, received 'n.a.'"),
        (HEAD + "A-v0,NA,w,s\n", "line 2, reference: .*number.*, received 'NA'"),
        (HEAD + "A-v0,inf,w,s\n", "line 2, reference: .*finite number, received 'inf'"),
        (HEAD + 'A-v0,1,"w\nw",s\nB-v0,x,w,s\n', "line 4, reference: .*received 'x'"),
        (HEAD + ",1,w,s\n", "line 2, env: .*at least 1 character, received ''"),
        (HEAD + " ,1,w,s\n", "line 2, env: .*at least 1 character, received ' '"),
        (HEAD + "A-v0,1,w,s\nA-v0 ,1,w,s\n", "line 3: a second row for A-v0; the first is in line"),
        (HEAD + "A-v0,1,w\n", "line 2: expected 4 values, received 3: A-v0, 1, w"),
        (
            HEAD + "A-v0,1,w,s\nA-v0,1,w,s\n",
            "line 3: a second row for A-v0; the first is in line 2",
        ),
        (HEAD + 'A-v0,1,"w,s\n', "line 2: unexpected end of data"),
        ("env;reference;what;source\nA-v0;1;w;s\n", "columns env, .*received env;reference;what"),
        (HEAD.encode() + "A-v0,1,é,s\n".encode("latin-1"), "expected text in UTF-8, received 0xe9"),
        (b"\x89PNG\r\n", "expected text in UTF-8, received 0x89"),
        (b"", "received nothing"),
        (None, "cannot be read: No such file"),
        (Path(), "cannot be read: Is a directory"),
    ],
)
def test_a_wrong_value_is_named_by_file_line_and_column(tmp_path, content, message):
    table = tmp_path / "references.csv"
    if isinstance(content, Path):
        table.mkdir()
    elif content is not None:
        table.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=message) as caught:
        user_tables.references(table)
    assert str(table) in str(caught.value)


def test_which_tables_are_read_is_no_part_of_any_identity():
    plain, other = Study.parse(SMALL), Study.parse(changed("tables.references", "mine.csv"))
    assert plain.tables.references == "config/references.csv"
    assert other.tables.baselines == "config/baselines.csv"
    assert plain.runs == other.runs and plain.evaluation_spec == other.evaluation_spec
    with pytest.raises(ConfigError, match=r"tables.references: .*received '\{env\}.csv'"):
        Study.parse(changed("tables.references", "{env}.csv"))


@pytest.mark.slow
def test_they_are_refused_before_any_job_and_can_be_other_files(tmp_path):
    folder = project(tmp_path)
    shutil.copy(ROOT / "config/tiny.yaml", folder / "study.yaml")
    (folder / "mine.csv").write_text(HEAD + "Pendulum-v1,n.a.,w,s\n")
    mine = ("--config", "tables={references: mine.csv}")
    said = dry_run(folder, "--configfile", "study.yaml", *mine)
    assert "mine.csv, line 2, reference: " in said and "received 'n.a.'" in said
    (folder / "config/baselines.csv").write_text("Results of others.\n")
    said = dry_run(folder, "--configfile", "study.yaml")
    assert "config/baselines.csv: expected the columns env, algorithm, steps" in said
    said = dry_run(folder, "--configfile", "study.yaml", "--config", "tables={baselines: no.csv}")
    assert "no.csv cannot be read: No such file or directory" in said


def test_the_default_study_names_none_of_them():
    """So that `study.json` of finished studies stays as it is."""
    assert "tables" not in DEFAULT
