"""The files of a run, and how every file is written: whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

METRICS, POLICIES, RUN = "train.parquet", "policies.pt", "run.json"
"""What a training leaves in its run's directory."""

EVALUATIONS, EVALUATION_COST = "evals.parquet", "evals.json"
"""What an evaluation adds to it."""

TYPESET = ("final_scores", "aggregates", "effects", "costs")
"""The tables that a study has in LaTeX and in Markdown, too."""

PAGES = (
    *("runs", "scores", "effects", "power", "aggregates", "improvements"),
    *("efficiency", "references", "baselines"),
)
"""The tables that a study has as pages for a browser."""

TABLED = (RUN, METRICS, EVALUATIONS, EVALUATION_COST)
"""Of a run, what tables are made of."""

RUN_FILES = (*TABLED, POLICIES)
"""Of a finished run."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes the place of `path` on success only.

    What has taken its place is on the disk, also after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
