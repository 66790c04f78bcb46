"""Whether a finished file is still the one that its job wrote.

A job's record (run.json, evals.json, a random return's JSON) holds the size and the SHA-256 of each
file that the job wrote, and a SHA-256 of itself. Whoever reads a finished file goes through here.
Records of older versions have no checksums; their files are read unchecked.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpo.study.config import JobFailed, canonical_json

FILES, OWN = "files", "sha256"
"""The keys of a record that hold the checksums of the job's files, and its own."""


class Damaged(JobFailed):
    """A finished file that cannot be read, or is not the one that its job wrote."""

    def __init__(self, path: Path, reason: str) -> None:
        """Names the file, what is wrong with it, and what to do.

        Args:
            path: the file.
            reason: what is wrong with it.
        """
        super().__init__(
            f"{path}: {reason}. It was left as it is. Delete it, and the same command remakes it"
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


def read_record(path: Path) -> dict[str, Any]:
    """Reads a record.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is not a JSON object, or not the one that the job wrote.
    """
    with reading(path):
        record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise Damaged(path, f"expected a JSON object, found {type(record).__name__}")
    if OWN in record and record[OWN] != _digest(record):
        raise Damaged(path, "its content was changed after its job had written it")
    return record


def intact(path: Path, record: Mapping[str, Any]) -> Path:
    """Returns the path of a finished file, if the file is the one that the record tells of.

    Raises:
        Damaged: it is another one, or it is not there.
    """
    expected = record.get(FILES, {}).get(path.name)
    if not path.exists():
        raise Damaged(path, "it is missing")
    if expected is not None:
        with reading(path):
            found = _fingerprint(path)
        if found != expected:
            raise Damaged(
                path,
                f"it is not the file that its job wrote: {found['bytes']} bytes with SHA-256 "
                f"{found['sha256'][:12]}, expected {expected['bytes']} with "
                f"{expected['sha256'][:12]}",
            )
    return path


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever is raised while a file is read into `Damaged`, which names the file.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: it cannot be read.
    """
    try:
        yield
    except (FileNotFoundError, Damaged):
        raise
    except Exception as error:
        # Every library has errors of its own for a file that is cut, empty or of another kind.
        first = (str(error).splitlines() or [""])[0]
        raise Damaged(path, f"it cannot be read ({type(error).__name__}: {first})") from error


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _digest(record: Mapping[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != OWN}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
