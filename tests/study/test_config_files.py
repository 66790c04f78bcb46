"""Config files that cannot be read, and keys that are given twice."""

import shutil
import subprocess
import sys

import pytest
import yaml

from mpo.study import config_files
from mpo.study.config import ConfigError
from tests.pipeline import ROOT, project

FILES = [ROOT / "config.yaml", *sorted((ROOT / "config").rglob("*.yaml"))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [0]\nstudy: a\nseeds: [1]\n", "line 3: the key 'seeds' .* in line 1; keep one"),
        ("a: {b: 1}\n'a': {c: 2}\n", "line 2: the key 'a' was already given in line 1"),
        ("training:\n  gamma: 0.9\n  gamma: 0.8\n", "line 3: the key 'training.gamma' .* line 2"),
        ("environments:\n  - {id: A-v0, gamma: 1, gamma: 0}\n", "line 2.*'environments.0.gamma'"),
        ("axes: {retrace: [false], n_step: [1], retrace: [true]}\n", "line 1.*'axes.retrace'"),
        ('{\n\t"seeds": [0],\n\t"seeds": [1]\n}\n', "line 3: the key 'seeds' .* line 2"),
        ("1: a\n1: b\n", "line 2: the key '1'"),
    ],
)
def test_a_key_given_twice_is_refused_with_its_lines(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        config_files.refuse_duplicate_keys(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: !!set {0, 1}", r"seeds: expected .* a list or a mapping, received {"),
        ("study: 2026-11-29", r"study: expected text, .*received datetime.date\(2026, 11, 29\)"),
        ("axes: {gamma: [!!binary aGk=]}", r"axes.gamma.0: expected text, .*received b'hi'"),
    ],
)
def test_what_json_lacks_is_refused_with_its_place(text, message):
    with pytest.raises(ConfigError, match=message):
        config_files.refuse_other_types(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "base: &base {gamma: 0.9}\ntraining: {<<: *base, gamma: 0.8}\nother: *base\n",
        "a: &a [*a]\n",
        "axes: {retrace: [1, 1]}\n",
        '{\n\t"seeds": [0]\n}\n',
    ],
)
def test_an_override_of_a_merge_and_an_alias_are_no_duplicates(tmp_path, text):
    (tmp_path / "study.yaml").write_text(text)
    config_files.refuse_duplicate_keys(tmp_path / "study.yaml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_projects_own_files_have_none(path):
    config_files.refuse_duplicate_keys(path)
    assert config_files.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"study: [\n", "is not YAML: "),
        (b"study: {}}\n", "is not YAML: "),
        (b"a:\n\t- b\n", "is not YAML: "),
        (b"seeds: [" + b"1" * 5000 + b"]\n", "is not YAML: .*digits"),
        (b"", "expected keys and their values, received nothing"),
        (b"# nothing\n", "expected keys and their values, received nothing"),
        (b"- a\n- b\n", "expected keys and their values, received a list"),
        (b"hello\n", "expected keys and their values, received a str"),
        (b"\x89PNG\r\n\x1a\n\x00", "expected text in UTF-8, received the byte 0x89 at position 0"),
        (b"\x00\x01\x02", "is not YAML: "),
        ("study: é\n".encode("latin-1"), "expected text in UTF-8, received the byte 0xe9"),
        (None, "cannot be read: Is a directory"),
        ("missing", "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_holds_no_config_is_named(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    if content is None:
        path.mkdir()
    elif content != "missing":
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        config_files.read(path)
    assert str(path) in str(caught.value)


def dry_run(folder, *arguments):
    """Plans the study in a folder with Snakemake, which must refuse it without a traceback."""
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said, said
    return said


@pytest.mark.slow
def test_snakemake_refuses_a_key_given_twice_and_a_default_study_that_is_none(tmp_path):
    folder = project(tmp_path)
    shutil.copy(ROOT / "config/tiny.yaml", folder / "first.yaml")
    (folder / "second.yaml").write_text("seeds: [0]\nextras: {videos: true}\nseeds: [1]\n")
    said = dry_run(folder, "--configfile", "first.yaml", "second.yaml")
    assert "second.yaml, line 3: the key 'seeds' was already given in line 1" in said
    (folder / "config.yaml").write_bytes("study: é\n".encode("latin-1"))
    said = dry_run(folder, "--configfile", "first.yaml")
    assert "config.yaml: expected text in UTF-8, received the byte 0xe9" in said
