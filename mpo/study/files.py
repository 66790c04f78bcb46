"""Names of a study's files, and how files are written: completely or not at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

METRICS, POLICIES, RUN = "train.parquet", "policies.pt", "run.json"
"""Files that training writes to the run's directory."""

EVALUATIONS, EVALUATION_COST = "evals.parquet", "evals.json"
"""Files that evaluation adds to it."""

TABLES = ("runs", "evals", "train", "curves", "scores")
"""The tables that `collect` makes from the runs."""

ANSWERS = (
    *("finals", "references", "aggregates", "profiles", "improvements", "effects"),
    *("differences", "contrasts", "robustness", "efficiency", "power", "baselines"),
    *("sample_efficiency", "cost_curves", "cost_ratios", "others", "unpaired"),
)
"""The tables that `statistics` makes from those."""

TUNED = ("candidates", "choices", "best_of", "sensitivity")
"""The tables that the stage of tuning adds to its own."""

CHOICE = "chosen.json"
"""What tuning has chosen for the arms of a study."""

QUESTIONS = "questions.json"
"""What a study asks, written down before its first run."""

KEPT = tuple(name for name in (*TABLES, *ANSWERS) if name not in ("evals", "train", "profiles"))
"""The tables that are small enough to be kept with the code, see `make reference`."""

TABLE_KINDS = ("parquet", "csv")
"""How each table is written, as the endings of its files."""

TYPESET = ("final_scores", "aggregates", "effects", "costs")
"""Tables that are also written as LaTeX and Markdown."""

TABLE_CHECKSUMS = ".checksums.json"
"""The record of the tables' checksums, beside them."""

PAGES = (
    *("runs", "scores", "contrasts", "effects", "robustness", "power", "aggregates"),
    *("improvements", "efficiency", "cost_ratios", "references", "baselines", "unpaired"),
)
"""Tables that are also written as HTML pages."""

TABLED = (RUN, METRICS, EVALUATIONS, EVALUATION_COST)
"""Files of a run that the study's tables are built from."""

DAMAGE = "damaged.json"
"""The runs of a study whose files `collect` could not use."""

CALIBRATION = "calibration.json"
"""What `mpo calibrate` has measured of a study's runs."""

RUN_FILES = (*TABLED, POLICIES)
"""All files of a finished run. What was evaluated can do without its policies, see `is_trained`."""


CHECKPOINTS = "checkpoint-*.pt"
"""Files of the state that a training resumes from; the star is the environment step."""


def is_evaluated(directory: Path) -> bool:
    """Returns whether a run's directory has what its evaluation made."""
    return all((directory / name).exists() for name in (EVALUATIONS, EVALUATION_COST))


def is_trained(directory: Path) -> bool:
    """Returns whether a run's directory has what its training made.

    An evaluated run can do without its policies, the largest file: tables and figures need none.
    Kept runs lack them, see `mpo merge --without-policies`.
    """
    needed = (METRICS, RUN) if is_evaluated(directory) else (METRICS, RUN, POLICIES)
    return all((directory / name).exists() for name in needed)


def is_finished(directory: Path) -> bool:
    """Returns whether a run's directory has all that tables are made of."""
    return all((directory / name).exists() for name in TABLED)


@contextmanager
def replacing(path: Path, writer: str = "") -> Iterator[Path]:
    """Yields a temporary path in the same folder, which replaces `path` on success only.

    Both the file and the replacement are flushed to disk, so they survive a power cut.

    Args:
        path: the file to replace.
        writer: a name for whoever writes, where several jobs may write the same file at once. Each
            needs a temporary file of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{writer}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, writer: str = "") -> None:
    """Writes text as UTF-8; for `writer` see `replacing`."""
    with replacing(path, writer) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any], writer: str = "") -> None:
    """Writes indented JSON, with keys in the given order; for `writer` see `replacing`."""
    write_text(path, json.dumps(value, indent=2) + "\n", writer)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
