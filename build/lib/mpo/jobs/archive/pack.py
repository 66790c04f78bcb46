"""Writes a study's archive: a zip file of its files and the list with their checksums."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

from mpo.jobs.archive import crate
from mpo.jobs.archive.check import METADATA, Checked
from mpo.jobs.archive.contents import Contents
from mpo.study.files import replacing

_CHUNK = 2**20
_PACKED = {".parquet", ".pdf", ".png", ".pt"}
"""Endings of files that deflating makes hardly any smaller."""


def pack(found: Contents, about: crate.About, out: Path) -> Checked:
    """Writes the archive, or leaves what is at its path as it was.

    The same study packed by the same code gives the same bytes: times are left out, and files are
    sorted.

    Args:
        found: the study.
        about: what only those who publish it know.
        out: the zip file; replaced if it is there.

    Raises:
        OSError: a file cannot be read, or the archive cannot be written.
    """
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        files = {name: _add(archive, found.folder / name, name) for name in found.files}
        metadata = crate.metadata(found, files, about)
        archive.writestr(_entry(METADATA, len(metadata)), metadata)
    return Checked(len(files), len(found.runs), hashlib.sha256(metadata).hexdigest())


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> dict[str, Any]:
    """Copies a file into the archive; returns the size and SHA-256 of what it copied."""
    digest, size = hashlib.sha256(), 0
    info = _entry(name, path.stat().st_size)
    with path.open("rb") as source, archive.open(info, "w") as target:
        while chunk := source.read(_CHUNK):
            target.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    """The head of a file, with nothing in it that depends on when or where it is written."""
    info = zipfile.ZipInfo(name)  # its date is the first that a zip file can have
    info.create_system = 3  # Unix, so that the rights count
    info.external_attr = 0o100644 << 16
    info.file_size = size  # beyond 2 GiB another format is needed
    info.compress_type = (
        zipfile.ZIP_STORED if Path(name).suffix in _PACKED else zipfile.ZIP_DEFLATED
    )
    return info
