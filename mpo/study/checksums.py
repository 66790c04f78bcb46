"""Whether a finished file is still the one that its job wrote.

A job's record (run.json, evals.json, a random return's JSON) holds the size and the SHA-256 of each
file that the job wrote, and a SHA-256 of itself. Whoever reads a finished file goes through here.
Records of older versions have no checksums; their files are read unchecked.
"""

import errno
import hashlib
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpo.study.config import JobFailed, canonical_json
from mpo.study.files import POLICIES, RUN
from mpo.study.specs import RunSpec

FILES, OWN = "files", "sha256"
"""The keys of a record that hold the checksums of the job's files, and its own."""

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
        record: what the job says of its work; JSON values.
        files: what the job wrote, in the record's folder.
    """
    full = {**record, FILES: {path.name: _fingerprint(path) for path in files}}
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


def intact(path: Path, record: Mapping[str, Any]) -> Path:
    """Returns the path of a finished file, if the file is the one that the record tells of.

    Raises:
        Damaged: it is another one, or it is not there.
    """
    check_size(path, record)
    expected = _expected(path, record)
    if expected is not None:
        with reading(path):
            found = _fingerprint(path)
        if found != expected:
            raise Damaged(
                path,
                f"it is not the file that its job wrote: its SHA-256 is {found['sha256'][:12]}, "
                f"expected {str(expected['sha256'])[:12]}",
            )
    return path


def check_size(path: Path, record: Mapping[str, Any]) -> None:
    """Checks a finished file without reading it.

    Raises:
        Damaged: it is missing, no file, or of another size than the record says.
    """
    if not path.is_file():
        there = path.exists() or path.is_symlink()
        raise Damaged(path, "it is not a file" if there else "it is missing")
    expected, found = _expected(path, record), path.stat().st_size
    if expected is not None and found != expected["bytes"]:
        text = f"{found} bytes, expected {expected['bytes']}"
        raise Damaged(path, f"it is not the file that its job wrote: {text}")


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


def _expected(path: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a record says of a file; None if it says nothing."""
    files = record.get(FILES)
    found = files.get(path.name) if isinstance(files, dict) else None
    return found if isinstance(found, dict) and {"bytes", "sha256"} <= found.keys() else None


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _digest(record: Mapping[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != OWN}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
