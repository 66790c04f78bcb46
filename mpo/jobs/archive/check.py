"""Compares the files of an archive with the list in it. Nothing is unpacked.

An archive may come from anybody. Only files that are in it are read, none by a name from its list.
"""

import hashlib
import io
import json
import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import unquote

from mpo.study.config import JobFailed

METADATA = "ro-crate-metadata.json"
"""The file of an archive that lists the others."""

_MAX_METADATA = 2**28
"""Bytes; the list of ten thousand runs has 36 million."""

_LEADS_OUT = re.compile(r"^/|\\|^[A-Za-z]:|(^|/)\.\.(/|$)")  # on any system
_RECORD = re.compile(r"runs/.+/run\.json")


class Checked(NamedTuple):
    """What an archive holds, all as it was packed."""

    files: int
    """Number of files beside the list."""
    runs: int
    """Number of finished runs."""
    digest: str
    """SHA-256 of the list, which holds those of all files."""

    def __str__(self) -> str:
        """As text, the SHA-256 in full: it is what a paper can quote."""
        return f"{self.files} files, {self.runs} runs. SHA-256 of {METADATA}: {self.digest}"


class _Entry(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    wrong: str | None
    """Why it is no plain file."""


class _Listed(NamedTuple):
    """What the list says of a file."""

    size: int
    sha256: str


def check(path: Path) -> Checked:
    """Reads all files of an archive.

    Args:
        path: a zip file, or the folder that it was unpacked to.

    Raises:
        JobFailed: it is not an archive; or files are missing, were added or altered, and the
            message names all of them.
    """
    if path.is_dir():
        return _compare(path, list(_in_folder(path)))
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # a crafted file makes zipfile raise almost anything
        raise JobFailed(f"{path}: it cannot be read as a zip file ({_words(error)})") from error
    with archive:
        return _compare(path, list(_in_zip(archive)))


def _compare(path: Path, entries: list[_Entry]) -> Checked:
    found = {entry.name: entry for entry in entries}
    content = _read_list(path, found)
    listed = _parse(path, content)
    counts = Counter(entry.name for entry in entries)
    problems = [f"twice: {_shown(name)}" for name, count in counts.items() if count > 1]
    problems += [f"missing: {_shown(name)}" for name in listed if name not in found]
    for entry in entries:
        if entry.name == METADATA:
            continue
        name = _shown(entry.name)
        if reason := entry.wrong or _outside(entry.name):
            problems.append(f"refused: {name} ({reason})")
        elif entry.name not in listed:
            problems.append(f"added: {name}")
        elif reason := _difference(entry, listed[entry.name]):
            problems.append(f"altered: {name} ({reason})")
    digest = hashlib.sha256(content).hexdigest()
    if problems:
        count = "1 file is" if len(problems) == 1 else f"{len(problems)} files are"
        raise JobFailed(
            f"{path}: {count} not as they were packed. {METADATA} has SHA-256 {digest}:\n  "
            + "\n  ".join(problems)
        )
    return Checked(len(listed), sum(bool(_RECORD.fullmatch(name)) for name in listed), digest)


def _in_zip(archive: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if info.is_dir() and not stat.S_ISLNK(mode) and not _outside(info.filename):
            continue
        yield _Entry(info.filename, info.file_size, partial(archive.open, info), _wrong(mode))


def _in_folder(folder: Path) -> Iterator[_Entry]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        for path in (Path(parent, name) for name in (*folders, *names)):
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode):
                name, wrong = path.relative_to(folder).as_posix(), _wrong(found.st_mode)
                yield _Entry(name, found.st_size, partial(io.FileIO, path), wrong)


def _read_list(path: Path, found: Mapping[str, _Entry]) -> bytes:
    """The content of the list, in bytes."""
    entry = found.get(METADATA)
    if entry is None or entry.wrong:
        raise JobFailed(f"{path}: it has no {METADATA}, so it is not an archive of a study")
    if entry.size > _MAX_METADATA:
        raise JobFailed(
            f"{path}: {METADATA} has {entry.size} bytes, expected at most {_MAX_METADATA}"
        )
    try:
        with entry.open() as file:
            return file.read()
    except Exception as error:
        raise JobFailed(f"{path}: {METADATA} cannot be read ({_words(error)})") from error


def _parse(path: Path, content: bytes) -> dict[str, _Listed]:
    """The files in the list, by their paths in the archive."""
    try:
        graph = json.loads(content)["@graph"]
        files = [entity for entity in graph if "File" in _types(entity)]
        listed = {
            unquote(file["@id"]): _Listed(int(file["contentSize"]), str(file["sha256"]))
            for file in files
        }
        if len(listed) < len(files) or METADATA in listed:
            raise ValueError("it lists a file twice, or itself")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JobFailed(
            f"{path}: {METADATA} is not the list of an archive ({_words(error)})"
        ) from error
    return listed


def _types(entity: Mapping[str, Any]) -> list[Any]:
    found = entity["@type"]
    return found if isinstance(found, list) else [found]


def _difference(entry: _Entry, wanted: _Listed) -> str | None:
    """How a file differs from what the list says of it, or None."""
    if entry.size != wanted.size:
        return f"{entry.size} bytes, expected {wanted.size}"
    try:
        with entry.open() as file:
            # `IO` lacks `readinto`, which every binary file has.
            found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except Exception as error:  # encrypted, cut, compressed in an unknown way, not to be read
        return f"it cannot be read: {_words(error)}"
    if found != wanted.sha256:
        return f"its SHA-256 is {found[:12]}, expected {wanted.sha256[:12]}"
    return None


def _wrong(mode: int) -> str | None:
    """What is wrong with a file of this mode, which is 0 where a zip file does not tell it."""
    if stat.S_ISLNK(mode):
        return "a link"
    return None if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "no plain file"


def _outside(name: str) -> str | None:
    return "its name leads out of the archive" if _LEADS_OUT.search(name) else None


def _shown(name: str) -> str:
    """A name that cannot write to the terminal anything but itself."""
    return name if name.isprintable() else ascii(name)


def _words(error: Exception) -> str:
    text = _shown(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
