"""What a study asks, written down before its first run, so that a later edit can be told."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mpo.study.checksums import Damaged, read_object, reading
from mpo.study.config import canonical_json
from mpo.study.files import QUESTIONS, write_json

ASKED = (
    *("environments", "seeds", "axes", "bundles", "optimizers", "training", "schedule"),
    *("evaluation", "statistics", "contrasts", "tuning"),
)
"""The sections of a config that say what is asked and how it is answered."""


def record(config: Mapping[str, Any], time: datetime) -> dict[str, Any]:
    """Returns what is written down of a config.

    Args:
        config: the study's config.
        time: with its time zone.

    Returns:
        The `time` in UTC, the sections as they are `asked`, and the `sha256` of their canonical
        JSON. The same questions have the same SHA-256 at any time.
    """
    asked = _asked(config)
    now = time.astimezone(UTC).isoformat(timespec="seconds")
    return {"time": now, "sha256": _digest(asked), "asked": asked}


def write_once(config: Mapping[str, Any], folder: Path) -> None:
    """Writes the questions of a study that has neither a record of them nor a run.

    Args:
        config: the study's config.
        folder: `results/STUDY`.
    """
    path, runs = folder / QUESTIONS, folder / "runs"
    if not (path.exists() or (runs.is_dir() and any(runs.iterdir()))):
        write_json(path, record(config, datetime.now(UTC)))


def read(path: Path) -> dict[str, Any] | None:
    """Reads what `write_once` wrote; None if it wrote nothing.

    Raises:
        Damaged: the file cannot be read, or is not the one that was written.
    """
    try:
        found = read_object(path)
    except FileNotFoundError:
        return None
    with reading(path):
        datetime.fromisoformat(found["time"])
        if found["sha256"] != _digest({**found["asked"]}):
            raise Damaged(path, "its content was changed after it had been written")
    return found


def edited(recorded: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Returns the sections of a config that are not as they were recorded, in the order of `ASKED`.

    Args:
        recorded: see `record`.
        config: the study's config as it is now.
    """
    before, now = recorded["asked"], _asked(config)
    return [key for key in ASKED if before.get(key) != now.get(key)]


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that say something; to leave a section out is to leave it empty."""
    return {key: config[key] for key in ASKED if config.get(key)}


def _digest(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()
