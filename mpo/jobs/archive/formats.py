"""What each file of an archive is."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from mpo.study.files import (
    CHOICE,
    EVALUATION_COST,
    EVALUATIONS,
    METRICS,
    POLICIES,
    QUESTIONS,
    RUN,
    TABLE_CHECKSUMS,
)

_TYPES = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".pt": "application/octet-stream",
    ".rst": "text/x-rst",
    ".svg": "image/svg+xml",
    ".tex": "text/x-tex",
}
"""Media types, by the endings of names."""

_FILES = {
    "study.json": "The config of the study",
    QUESTIONS: "What the study asked, written down before its first run",
    CHOICE: "What tuning chose for the arms: the settings that the runs were trained with",
    "summary.md": "The summary of the study",
    "failures.md": "The runs that diverged or failed",
    TABLE_CHECKSUMS: "Checksums of the tables",
    "verification.md": "Whether runs were reproduced bit for bit",
    RUN: "Record of a training: its spec, costs and provenance",
    METRICS: "Metrics of a training, a row per logging interval",
    POLICIES: "Policy snapshots of a training, readable by torch.load",
    EVALUATIONS: "Evaluation of a run, a row per episode",
    EVALUATION_COST: "Record of an evaluation: its spec and cost",
}
_FOLDERS = {
    "random": "Mean return of a uniformly random policy",
    "tables": "Table of the study",
    "figures": "Figure of the study, or its caption",
    "typeset": "Table of the study for a paper",
    "pages": "Web page of the study",
}
"""Descriptions of files, by their names, else by their folders."""


def described(name: str, checksum: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the list of an archive says of a file.

    Args:
        name: its path in the archive.
        checksum: its `bytes` and its `sha256`.
    """
    path = PurePosixPath(name)
    return {
        "name": name,
        "description": _FILES.get(path.name) or _FOLDERS[path.parts[0]],
        "encodingFormat": _TYPES[path.suffix],
        "contentSize": str(checksum["bytes"]),
        "sha256": checksum["sha256"],
    }
