"""What a resume directory returns after crashes, damage and mix-ups."""

import hashlib
import io
import json
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch

from mpo.study.config import ConfigError
from mpo.training import checkpoint
from mpo.training.checkpoint import ResumeDirectory, peek
from mpo.training.signals import Interrupted, Signals, StopRequest

IDENTITY = json.dumps({"algorithm_version": 1, "seeds": [0], "training": {"gamma": 0.99}})


def directory(path, identity=IDENTITY):
    return ResumeDirectory(path, identity, StopRequest())


def save(resume, step, before=0, capacity=25):
    """Saves the state of a step, with one transition per step."""
    transitions = torch.arange(max(before, step - capacity), step)
    resume.save(step, {"step": step}, transitions, [f"row {step}"], step - before, capacity)


def load(path, identity=IDENTITY):
    """Returns the step that is found, its transitions and its records."""
    with directory(path, identity) as resume:
        found = resume.load()
    if found is None:
        return None
    return found.state["step"], torch.cat(found.transitions).tolist(), found.records


@pytest.fixture
def two(tmp_path):
    """A directory with the checkpoints of steps 10 and 20."""
    with directory(tmp_path) as resume:
        assert resume.load() is None
        save(resume, 10)
        save(resume, 20, before=10)
    return tmp_path


AFTER_10 = 10, list(range(10)), [["row 10"]]
AFTER_20 = 20, list(range(20)), [["row 10"], ["row 20"]]


def test_the_newest_state_comes_back_with_its_journal(two):
    assert load(two) == AFTER_20


def test_transitions_that_the_replay_forgot_are_dropped_and_records_are_not(tmp_path):
    with directory(tmp_path) as resume:
        for step in range(10, 101, 10):
            save(resume, step, before=step - 10)
    step, transitions, records = load(tmp_path)
    assert (step, len(records)) == (100, 10)
    assert transitions == list(range(70, 100))  # whole files that hold the last 25
    pieces = sorted(path.name for path in tmp_path.glob("transitions-*"))
    assert len(pieces) == 4  # those of the previous checkpoint are kept too


def damage(kind):
    def truncate(path):
        path.write_bytes(path.read_bytes()[:-7])

    def flip(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    def empty(path):
        path.write_bytes(b"")

    def other(path):
        torch.save({"step": 20}, path)

    def newer(path):
        magic, _, rest = path.read_bytes().split(b" ", 2)
        path.write_bytes(b" ".join([magic, b"99", rest]))

    return locals()[kind]


@pytest.mark.parametrize("kind", ["truncate", "flip", "empty", "other", "newer"])
@pytest.mark.parametrize("file", ["checkpoint", "transitions", "records"])
def test_damage_is_reported_and_the_state_before_is_used(two, caplog, kind, file):
    path = two / f"{file}-000000000020.pt"
    damage(kind)(path)
    assert load(two) == AFTER_10
    assert path.name in caplog.text and "skipping checkpoint-000000000020.pt" in caplog.text
    caplog.clear()
    assert load(two) == AFTER_10 and not caplog.text  # it is reported once
    with directory(two) as resume:
        resume.load()
        save(resume, 15, before=10)
    assert load(two)[0] == 15


def test_a_missing_piece_is_damage(two, caplog):
    (two / "transitions-000000000020.pt").unlink()
    assert load(two) == AFTER_10
    assert "transitions-000000000020.pt is missing" in caplog.text


def test_where_nothing_can_be_used_training_starts_afresh_with_a_warning(two, caplog):
    for path in two.glob("checkpoint-*"):
        path.write_bytes(b"")
    assert load(two) is None
    assert "training starts from step 0" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"gamma": 0.5}}, "training.gamma is 0.5 in the checkpoint, 0.99 in this run"),
        ({"seeds": [7]}, "seeds.0 is 7 in the checkpoint, 0 in this run"),
        ({"algorithm_version": 2}, "algorithm_version is 2 in the checkpoint, 1 in this run"),
    ],
)
def test_another_trainings_state_is_refused_by_name_and_left_alone(tmp_path, change, message):
    other = json.dumps(json.loads(IDENTITY) | change)
    with directory(tmp_path, other) as resume:
        save(resume, 10)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)
    assert load(tmp_path, other) == AFTER_10


def archive(content):
    """A file of this program's format, with a right checksum, of any content."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return stamped(buffer.getvalue())


def stamped(body):
    digest = hashlib.sha256(body).hexdigest()
    return f"mpo-checkpoint {checkpoint.SCHEMA_VERSION} {digest}\n".encode() + body


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def pickled(content):
    return stamped(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("form", [pickled, archive])
def test_reading_runs_no_code(two, caplog, form):
    (two / "checkpoint-000000000030.pt").write_bytes(form(Trap(two / "sprung")))
    assert load(two) == AFTER_20
    assert "checkpoint-000000000030.pt contains more than plain data" in caplog.text
    assert not (two / "sprung").exists()


def without(key):
    content = {"identity": IDENTITY, "pieces": [], "state": {"step": 20}}
    del content[key]
    return archive(content)


def with_piece(**changed):
    piece = {"kind": "records", "file": "records-000000000010.pt", "sha256": "0" * 64, "count": 0}
    pieces = [piece | changed]
    return archive({"identity": IDENTITY, "pieces": pieces, "state": {"step": 20}})


WRONG = {
    "another archive": archive({"weights": torch.ones(3)}),
    "cut": stamped(archive({"a": torch.ones(300)}).partition(b"\n")[2][:-40]),
    "empty": stamped(b""),
    "text": stamped(b"no archive"),
    "a list": archive([1, 2]),
    "a tensor": archive(torch.ones(3)),
    "without identity": without("identity"),
    "without pieces": without("pieces"),
    "without state": without("state"),
    "an identity that is no JSON": archive({"identity": "{", "pieces": [], "state": {}}),
    "an identity of another kind": archive({"identity": "[1]", "pieces": [], "state": {}}),
    "pieces of another kind": archive({"identity": IDENTITY, "pieces": [1], "state": {}}),
    "a piece elsewhere": with_piece(file="../lock"),
    "a piece without a name": with_piece(file=None),
    "a state of another kind": archive({"identity": IDENTITY, "pieces": [], "state": [1]}),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_body_under_a_right_checksum_is_damage(two, caplog, kind):
    path = two / "checkpoint-000000000020.pt"
    path.write_bytes(WRONG[kind])
    assert peek(two) is None
    assert load(two) == AFTER_10
    assert path.name in caplog.text and "skipping checkpoint-000000000020.pt" in caplog.text


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_bodies_alone_start_the_training_afresh(two, caplog, kind):
    for path in two.glob("checkpoint-*"):
        path.write_bytes(WRONG[kind])
    assert load(two) is None
    assert "training starts from step 0" in caplog.text
    with directory(two) as resume:
        save(resume, 10)
        save(resume, 20, before=10)
    assert load(two) == AFTER_20


def folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "file").touch()


def endless_link(path):
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [folder, endless_link])
@pytest.mark.parametrize("file", ["checkpoint", "transitions", "records"])
def test_what_is_no_file_is_damage(two, caplog, file, make):
    name = f"{file}-000000000020.pt"
    make(two / name)
    assert load(two) == AFTER_10
    assert f"{name} is not a file" in caplog.text
    with directory(two) as resume:
        resume.load()
        save(resume, 20, before=10)
    assert load(two) == AFTER_20
    with directory(two) as resume:
        resume.delete()
    assert load(two) is None


@pytest.mark.parametrize("make", [folder, endless_link])
@pytest.mark.parametrize("name", ["lock", "owner"])
def test_a_lock_that_is_no_file_is_set_aside(two, caplog, name, make):
    make(two / name)
    assert load(two) == AFTER_20
    assert f"{two / name} is not a file" in caplog.text and (two / name).is_file()


@pytest.mark.parametrize("make", [Path.touch, endless_link])
def test_a_resume_directory_that_is_none_is_set_aside(tmp_path, caplog, make):
    make(tmp_path / "seed0")
    assert load(tmp_path / "seed0") is None
    assert f"{tmp_path / 'seed0'} is not a directory" in caplog.text


def test_folders_that_nobody_knows_do_not_stop_a_save(two):
    folder(two / "other.pt")
    folder(two / "checkpoint-000000000030.unusable")
    with directory(two) as resume:
        resume.load()
        save(resume, 30, before=20)
        folder(two / "checkpoint-000000000040.pt")
    assert load(two)[0] == 30
    assert (two / "other.pt").is_dir()


def test_a_state_may_be_refused_by_whoever_would_use_it(two, caplog):
    def usable(found):
        if found.state["step"] == 20:
            raise checkpoint.DamagedFile("it is of no use")

    with directory(two) as resume:
        assert resume.load(usable).state == {"step": 10}
    assert "it is of no use; skipping checkpoint-000000000020.pt" in caplog.text


class Crash(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("call", ["replace", "fsync", "open"])
def test_a_crash_at_any_moment_of_a_save_leaves_a_whole_state(tmp_path, monkeypatch, call):
    """The process ends before the first system call of a save, before the second, and so on."""
    outcomes = []
    for last in range(100):
        path = tmp_path / f"{call}{last}"
        with directory(path) as resume:
            save(resume, 10)
            left = last
            real = getattr(os, call)

            def crash(*args, real=real, **kwargs):
                nonlocal left
                if left == 0:
                    raise Crash
                left -= 1
                return real(*args, **kwargs)

            monkeypatch.setattr(os, call, crash)
            try:
                save(resume, 20, before=10)
                crashed = False
            except Crash:
                crashed = True
            monkeypatch.undo()
        outcomes.append(load(path))
        if not crashed:
            break
    assert not crashed and outcomes[-1] == AFTER_20
    assert len(outcomes) > 3 and outcomes[0] == AFTER_10
    assert all(outcome in (AFTER_10, AFTER_20) for outcome in outcomes)


def test_a_file_is_on_the_disk_before_it_replaces_another_and_its_name_after_it(
    tmp_path, monkeypatch
):
    """A power cut may lose what was not flushed, a name or its content."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor):
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def replaced(source, target):
        calls.append((Path(source), Path(target)))
        replace(source, target)

    with directory(tmp_path) as resume:
        monkeypatch.setattr(os, "fsync", flushed)
        monkeypatch.setattr(os, "replace", replaced)
        save(resume, 10)
    files = {*tmp_path.glob("*.pt")}
    assert len(files) == 3 and len(calls) == 9
    for file, (temporary, target), folder in zip(*[iter(calls)] * 3, strict=True):
        assert (file, folder) == (temporary, tmp_path)
        files.remove(target)


def test_a_second_process_waits_and_a_signal_ends_the_waiting(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    stop = StopRequest()
    stop.signal = Signals.SIGTERM
    with directory(tmp_path):
        second = ResumeDirectory(tmp_path, IDENTITY, stop)
        with pytest.raises(Interrupted, match="SIGTERM"), second:
            pass
    assert f"waiting for process {os.getpid()} on " in caplog.text
    with second:
        pass


def test_the_files_are_where_the_format_says(two):
    assert (two / "checkpoint-000000000020.pt").read_bytes().startswith(b"mpo-checkpoint 4 ")
    assert checkpoint.SCHEMA_VERSION == 4
