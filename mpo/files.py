"""The files of a run, and how every file is written: whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

METRICS, POLICIES, RUN = "train.parquet", "policies.pt", "run.json"
"""What a training leaves in its run's directory."""

EVALUATIONS, EVALUATION_COST = "evals.parquet", "evals.json"
"""What an evaluation adds to it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes the place of `path` on success only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
