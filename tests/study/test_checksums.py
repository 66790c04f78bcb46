import json
import os

import pytest

from mpo.study.checksums import (
    Damaged,
    check_size,
    intact,
    read_object,
    read_record,
    read_run,
    reading,
    sealed,
)
from tests import synthetic


@pytest.fixture
def record(tmp_path):
    """A record of one file, as it is read back from disk."""
    (tmp_path / "data.bin").write_bytes(b"0123456789")
    path = tmp_path / "record.json"
    path.write_text(json.dumps(sealed({"loss": 0.1, "note": "−"}, [tmp_path / "data.bin"])))
    return path


def test_a_record_reads_back_and_its_files_are_its_own(record, tmp_path):
    found = read_record(record)
    assert (found["loss"], found["note"]) == (0.1, "−") and list(found)[:2] == ["loss", "note"]
    assert found["files"]["data.bin"]["bytes"] == 10
    assert intact(tmp_path / "data.bin", found) == tmp_path / "data.bin"


def test_a_record_can_be_extended(record, tmp_path):
    before = read_record(record)
    (tmp_path / "more.bin").write_bytes(b"more")
    (tmp_path / "data.bin").write_bytes(b"edited")
    found = sealed(before, [tmp_path / "more.bin"])
    assert found["files"]["data.bin"] == before["files"]["data.bin"]
    assert intact(tmp_path / "more.bin", found) and found["sha256"] != before["sha256"]


def test_a_record_may_be_laid_out_anew_but_not_changed(record):
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content, indent=4, sort_keys=True))
    assert read_record(record) == content
    record.write_text(json.dumps(content | {"loss": 0.2}))
    with pytest.raises(Damaged, match=r"record.json: its content was changed .* Delete it, and"):
        read_record(record)
    assert read_object(record)["loss"] == 0.2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0123456780", "SHA-256 is .*, expected "),
        (b"012345678", "9 bytes, expected 10"),
        (b"", "0 bytes, expected 10"),
    ],
)
def test_another_file_is_refused_by_name(record, tmp_path, content, message):
    (tmp_path / "data.bin").write_bytes(content)
    with pytest.raises(Damaged, match=f"data.bin: it is not the file that its job .*{message}"):
        intact(tmp_path / "data.bin", read_record(record))


def test_what_is_missing_or_no_file_is_refused_by_name(record, tmp_path):
    found, path = read_record(record), tmp_path / "data.bin"
    path.unlink()
    with pytest.raises(FileNotFoundError, match="data.bin"):
        intact(path, found)
    path.mkdir()
    with pytest.raises(Damaged, match="data.bin: it is not a file"):
        check_size(path, found)
    path.rmdir()
    path.symlink_to("data.bin")
    with pytest.raises(Damaged, match="data.bin: it is not a file"):
        intact(path, found)


def test_records_of_older_versions_are_read_unchecked(tmp_path):
    (tmp_path / "run.json").write_text('{"status": "ok"}')
    (tmp_path / "data.bin").write_bytes(b"any")
    assert intact(tmp_path / "data.bin", read_record(tmp_path / "run.json"))


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"no json", b"[1]", b"null", b"\xff\xfe\x00"])
def test_what_is_no_json_object_is_damage(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(Damaged, match="run.json: "):
        read_record(tmp_path / "run.json")


@pytest.mark.parametrize("content", ["{}", '{"spec": 1}', '{"spec": {"env_id": "A"}}'])
def test_a_record_without_a_spec_of_this_version_is_no_run(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(Damaged, match="run.json: it cannot be read"):
        read_run(tmp_path)


def test_a_run_has_its_spec(tmp_path):
    spec = synthetic.plan().runs[0].spec
    (tmp_path / "run.json").write_text(json.dumps(sealed({"spec": spec.model_dump(mode="json")})))
    assert read_run(tmp_path)[1] == spec


def test_only_the_files_own_faults_are_damage(tmp_path):
    path = tmp_path / "run.json"
    with pytest.raises(FileNotFoundError):
        read_record(path)
    for error in (PermissionError(13, "Permission denied", path), OSError(5, "I/O error", path)):
        with pytest.raises(type(error), match=str(error.strerror)), reading(path):
            raise error
    with pytest.raises(Damaged, match="run.json: it cannot be read .KeyError: 'x'"), reading(path):
        {}["x"]
    os.symlink("run.json", path)
    with pytest.raises(Damaged, match="run.json: it cannot be read .OSError"):
        read_record(path)


def test_damaged_policies_are_made_again_by_the_training(tmp_path):
    assert "Delete it and run.json beside it, and the" in str(Damaged(tmp_path / "policies.pt", ""))
