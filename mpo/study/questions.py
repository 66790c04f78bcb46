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

_SCALE = "references"
"""The reference return of each environment, which is recorded beside the sections."""

_SEAL = "seal"
"""The key of the SHA-256 of all others."""

References = Mapping[str, float | None]
"""The reference return of each environment by its name; None if it has none."""


def record(config: Mapping[str, Any], references: References, time: datetime) -> dict[str, Any]:
    """Returns what is written down of a study.

    Args:
        config: its config.
        references: its reference returns.
        time: with its time zone.

    Returns:
        The `time` in UTC, the sections and the references as they are `asked`, the `sha256` of
        their canonical JSON, and the `seal` of it all. The same questions have the same SHA-256 at
        any time.
    """
    asked = _asked(config, references)
    now = time.astimezone(UTC).isoformat(timespec="seconds")
    found = {"time": now, "sha256": _digest(asked), "asked": asked}
    return found | {_SEAL: _digest(found)}


def write_once(config: Mapping[str, Any], references: References, folder: Path) -> None:
    """Writes the questions of a study that has neither a record of them nor a run.

    Args:
        config: the study's config.
        references: its reference returns.
        folder: `results/STUDY`.
    """
    path, runs = folder / QUESTIONS, folder / "runs"
    if not (path.exists() or (runs.is_dir() and any(runs.iterdir()))):
        write_json(path, record(config, references, datetime.now(UTC)))


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
        unsealed = {key: value for key, value in found.items() if key != _SEAL}
        # A record that lacks the references is older than the seal.
        seal = _digest(unsealed) if _SCALE in found["asked"] else found.get(_SEAL)
        if found["sha256"] != _digest({**found["asked"]}) or found.get(_SEAL) != seal:
            raise Damaged(path, "its content was changed after it had been written")
    return found


def edited(
    recorded: Mapping[str, Any], config: Mapping[str, Any], references: References
) -> list[str]:
    """Returns what is not as it was recorded: sections in the order of `ASKED`, then references.

    References count as edited in environments that were there, and only if they were recorded.

    Args:
        recorded: see `record`.
        config: the study's config as it is now.
        references: its reference returns as they are now.
    """
    before, now = recorded["asked"], _asked(config, references)
    found = [key for key in ASKED if before.get(key) != now.get(key)]
    was = before.get(_SCALE, {})
    changed = any(was[env] != value for env, value in now[_SCALE].items() if env in was)
    return [*found, *([_SCALE] if changed else [])]


def _asked(config: Mapping[str, Any], references: References) -> dict[str, Any]:
    """The sections that say something; to leave a section out is to leave it empty."""
    sections = {key: config[key] for key in ASKED if config.get(key)}
    return {**sections, _SCALE: dict(references)}


def _digest(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()
