"""Whether a finished file is still the one that its job wrote.

A job's record (run.json, evals.json, a random return's JSON) holds the size and the SHA-256 of each
file that the job wrote, and a SHA-256 of itself. Whoever reads a finished file goes through here.
Records of older versions have no checksums; their files are read unchecked. A record that tells
its environment is not one of these.
"""

import errno
import hashlib
import json
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpo.study.config import JobFailed, canonical_json
from mpo.study.files import EVALUATION_COST, POLICIES, RUN
from mpo.study.specs import RunSpec

FILES, OWN = "files", "sha256"
"""The keys of a record that hold the checksums of the job's files, and its own."""

_YOUNGER = "environment"
"""A key that no record had before all of them had checksums."""

_OF_THE_FILE = (None, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
"""Errors of an `OSError` that are the file's fault. The others are of the disk or of its rights,
and deleting the file is no remedy. Libraries raise their own kinds of `OSError` without a number.
"""


class Damaged(JobFailed):
    """A finished file that cannot be read, or is not the one that its job wrote."""

    def __init__(self, path: Path, reason: str) -> None:
        """Names the file, what is wrong with it, and what to do.

        Args:
            path: the file.
            reason: what is wrong with it.
        """
        # Nothing that collects the runs asks for the policies, so their job would not run again.
        what = f"it and {RUN} beside it" if path.name == POLICIES else "it"
        super().__init__(
            f"{path}: {reason}. It was left as it is. Delete {what}, and the same command makes it "
            "again"
        )
        self.path = path


def sealed(record: Mapping[str, Any], files: Iterable[Path] = ()) -> dict[str, Any]:
    """Returns a record with the checksums of its job's files and its own.

    Args:
        record: what the job says of its work; JSON values. Checksums in it are kept.
        files: what the job wrote, in the record's folder.
    """
    written = {path.name: _fingerprint(path) for path in files}
    full = {**record, FILES: record.get(FILES, {}) | written}
    return full | {OWN: _digest(full)}


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object, without looking at its checksum.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it cannot be read, or is something else.
    """
    with reading(path):
        record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise Damaged(path, f"expected a JSON object, found {type(record).__name__}")
    return record


def read_record(path: Path) -> dict[str, Any]:
    """Reads a record.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it cannot be read, or is not the one that the job wrote.
    """
    record = read_object(path)
    with reading(path):
        changed = OWN in record and record[OWN] != _digest(record)
    if changed:
        raise Damaged(path, "its content was changed after its job had written it")
    if OWN not in record and _YOUNGER in record:
        raise Damaged(path, "its checksums were removed after its job had written it")
    return record


def read_run(directory: Path) -> tuple[dict[str, Any], RunSpec]:
    """Reads the record of a training, and the spec in it.

    Raises:
        FileNotFoundError: there is none.
        Damaged: see `read_record`; or it holds no spec, or one of another version of the code.
    """
    path = directory / RUN
    record = read_record(path)
    with reading(path):
        return record, RunSpec.parse(json.dumps(record["spec"]))


def read_evaluation(directory: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the record of an evaluation.

    Args:
        directory: of the run.
        run: the record of its training.

    Raises:
        FileNotFoundError: there is none.
        Damaged: see `read_record`; or other policies were evaluated than the training wrote.
    """
    path = directory / EVALUATION_COST
    record = read_record(path)
    if "eval_s" not in record:
        raise Damaged(path, "it is not the record of an evaluation")
    evaluated, trained = record.get("policies"), expected(directory / POLICIES, run)
    if None not in (evaluated, trained) and evaluated != trained:
        raise Damaged(path, "it is the evaluation of other policies than the run's")
    return record


def intact(path: Path, record: Mapping[str, Any]) -> Path:
    """Returns the path of a finished file, if the file is the one that the record tells of.

    Raises:
        FileNotFoundError: it is not there.
        Damaged: it is another one.
    """
    check_size(path, record)
    wanted = expected(path, record)
    if wanted is not None:
        with reading(path):
            found = _fingerprint(path)
        if found != wanted:
            raise Damaged(
                path,
                f"it is not the file that its job wrote: its SHA-256 is {found['sha256'][:12]}, "
                f"expected {str(wanted['sha256'])[:12]}",
            )
    return path


def check_size(path: Path, record: Mapping[str, Any]) -> None:
    """Checks a finished file without reading it.

    Raises:
        FileNotFoundError: it is not there.
        Damaged: it is no file, or of another size than the record says.
    """
    if not path.is_file():
        if not os.path.lexists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        raise Damaged(path, "it is not a file")
    wanted, found = expected(path, record), path.stat().st_size
    if wanted is not None and found != wanted["bytes"]:
        text = f"{found} bytes, expected {wanted['bytes']}"
        raise Damaged(path, f"it is not the file that its job wrote: {text}")


def expected(path: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns size and SHA-256 of a file as a record has them; None if it has not."""
    files = record.get(FILES)
    found = files.get(path.name) if isinstance(files, dict) else None
    return found if isinstance(found, dict) and {"bytes", "sha256"} <= found.keys() else None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever is raised while a file is read into `Damaged`, which names the file.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the disk or its rights do not allow it.
        Damaged: it cannot be read, or lacks what is looked for.
    """
    try:
        yield
    except (FileNotFoundError, Damaged):
        raise
    except Exception as error:
        # Every library has errors of its own for a file that is cut, empty or of another kind.
        if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
            raise
        text = textwrap.shorten(str(error), 200)
        raise Damaged(path, f"it cannot be read ({type(error).__name__}: {text})") from error


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _digest(record: Mapping[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != OWN}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
