"""Saves and loads the state that a training resumes from: small checkpoints and a journal.

A checkpoint holds networks, optimizers, random streams and counters. Transitions, metric rows and
policy snapshots only accumulate, so they go to a journal: each save appends a piece with what is
new. A checkpoint lists the pieces it needs and their checksums. Files are written atomically. The
last two checkpoints are kept, with all their pieces. Loading never runs pickled code.
"""

import hashlib
import io
import json
import logging
import os
import pickle
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import filelock
import torch

from mpo.study.config import ConfigError
from mpo.study.files import replacing
from mpo.training.signals import Interrupted, StopRequest

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 4
"""Version of the file format; bump it whenever the content of a state changes."""

_MAGIC = "mpo-checkpoint"
_SECONDS_BETWEEN_REMINDERS = 60.0


class DamagedFile(RuntimeError):
    """A file is missing, corrupt, or was not written by this program."""


class Resumed(NamedTuple):
    """What `ResumeDirectory.load` found."""

    state: dict[str, Any]
    transitions: list[Any]
    """Journal pieces with transitions, oldest first."""
    records: list[Any]
    """Journal pieces with metric rows and policy snapshots, oldest first."""


def peek(path: Path) -> dict[str, Any] | None:
    """Returns the state in a directory's newest checkpoint, or None if it cannot be read.

    Takes no lock and does not check the journal, so `load` may return an older state.
    """
    try:
        newest = max(path.glob("checkpoint-*.pt"), default=None)
        return _read(newest)["state"] if newest else None
    except DamagedFile:
        return None


class ResumeDirectory:
    """One seed's resume state on disk; entering it as a context takes an exclusive lock."""

    def __init__(self, path: Path, identity: str, stop: StopRequest) -> None:
        """Stores the arguments; the disk is untouched until the context is entered.

        Args:
            path: the directory; created on entry if it does not exist.
            identity: canonical JSON of everything that shapes the training. `load` refuses a state
                with another identity.
            stop: a stop request ends the wait for the lock.
        """
        self.path = path
        self._identity = identity
        self._stop = stop
        self._pieces: list[dict[str, Any]] = []
        self._lock = filelock.FileLock(path / "lock")

    def __enter__(self) -> Self:
        """Takes the lock, waiting while another process holds it.

        Another process trains the same run if a controller died and left its job running.

        Raises:
            Interrupted: a stop signal arrived during the wait.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        owner = self.path / "owner"
        reminded = -_SECONDS_BETWEEN_REMINDERS
        while True:
            try:
                self._lock.acquire(timeout=0)
                break
            except filelock.Timeout:
                now = time.monotonic()
                if now - reminded >= _SECONDS_BETWEEN_REMINDERS:
                    who = owner.read_text().strip() if owner.exists() else "another process"
                    logger.info("%s: waiting for %s, which is training this run", self.path, who)
                    reminded = now
                if self._stop.signal is not None:
                    raise Interrupted(self._stop.signal, "training had not started") from None
                time.sleep(0.2)
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        return self

    def __exit__(self, *error: object) -> None:
        """Releases the lock."""
        self._lock.release()

    def load(self) -> Resumed | None:
        """Loads the newest undamaged state; None if there is none.

        Damaged checkpoints are logged as warnings and renamed to .unusable.

        Raises:
            ConfigError: the state has another identity, so it belongs to another training.
        """
        checkpoints = sorted(self.path.glob("checkpoint-*.pt"), reverse=True)
        for path in checkpoints:
            try:
                content = _read(path)
                self._refuse_foreign(path, content["identity"])
                pieces = [
                    (entry, _read(self.path / entry["file"], entry["sha256"]))
                    for entry in content["pieces"]
                ]
            except DamagedFile as error:
                logger.warning("%s; skipping %s", error, path.name)
                path.rename(path.with_suffix(".unusable"))
                continue
            self._pieces = content["pieces"]
            kinds = {
                kind: [piece for entry, piece in pieces if entry["kind"] == kind]
                for kind in ("transitions", "records")
            }
            return Resumed(content["state"], **kinds)
        if checkpoints:
            logger.warning("%s: no usable checkpoint; training starts from step 0", self.path)
        return None

    def save(
        self,
        env_step: int,
        state: Mapping[str, Any],
        transitions: Any,
        records: Any,
        count: int,
        capacity: int,
    ) -> None:
        """Saves a state atomically: `load` returns the previous one until this call completes.

        Args:
            env_step: environment steps so far; must be larger than in the previous call.
            state: the part that is rewritten in full at every save.
            transitions: transitions added to the replay since the last save or load.
            records: metric rows and policy snapshots since then; None if there are none.
            count: number of transitions in `transitions`.
            capacity: capacity of the replay; pieces with only older transitions are dropped.
        """
        before = self._pieces
        new = [self._write_piece("transitions", env_step, transitions, count)]
        if records is not None:
            new.append(self._write_piece("records", env_step, records, 0))
        kept, held = [], 0
        for piece in reversed([*before, *new]):
            if piece["kind"] == "records" or held < capacity:
                kept.append(piece)
            held += piece["count"]
        kept.reverse()
        content = {"identity": self._identity, "pieces": kept, "state": dict(state)}
        _write(self.path / f"checkpoint-{env_step:012d}.pt", content)
        self._pieces = kept
        last_two = sorted(self.path.glob("checkpoint-*.pt"))[-2:]
        named = {path.name for path in last_two} | {piece["file"] for piece in (*before, *kept)}
        for path in self.path.iterdir():
            if path.suffix in (".pt", ".tmp") and path.name not in named:
                path.unlink()

    def delete(self) -> None:
        """Deletes the saved state; keeps the directory and its lock."""
        for path in self.path.glob("*.pt"):
            path.unlink()
        self._pieces = []

    def _write_piece(self, kind: str, env_step: int, content: Any, count: int) -> dict[str, Any]:
        file = f"{kind}-{env_step:012d}.pt"
        digest = _write(self.path / file, content)
        return {"kind": kind, "file": file, "sha256": digest, "count": count}

    def _refuse_foreign(self, path: Path, identity: str) -> None:
        if identity == self._identity:
            return
        found, wanted = (_leaves(json.loads(text)) for text in (identity, self._identity))
        differing = [
            f"{key} is {found.get(key)!r} in the checkpoint, {wanted.get(key)!r} in this run"
            for key in sorted(found.keys() | wanted.keys())
            if found.get(key) != wanted.get(key)
        ]
        raise ConfigError(
            f"{path} belongs to a training with other settings: {'; '.join(differing)}. Delete "
            f"{path.parent} to start from step 0"
        )


def _leaves(value: Any, key: str = "") -> dict[str, Any]:
    """Flattens nested mappings and lists to {dotted key: value}."""
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {k: v for name, part in items for k, v in _leaves(part, f"{key}.{name}").items()}
    return {key.removeprefix("."): value}


def _write(path: Path, content: Any) -> str:
    """Writes a header line with a SHA-256 checksum, then the content; returns the checksum."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(f"{_MAGIC} {SCHEMA_VERSION} {digest}\n".encode())
        file.write(buffer.getbuffer())
    return digest


def _read(path: Path, digest: str | None = None) -> Any:
    """Reads a file that `_write` wrote; tensors are loaded on the CPU.

    Raises:
        DamagedFile: the file is missing or invalid, or its checksum is not `digest`, if given.
    """
    try:
        header, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        raise DamagedFile(f"{path} is missing") from None
    match = re.fullmatch(rf"{_MAGIC} (\d+) ([0-9a-f]{{64}})", header.decode(errors="replace"))
    if match is None:
        raise DamagedFile(f"{path} is not an MPO checkpoint file")
    if int(match[1]) != SCHEMA_VERSION:
        raise DamagedFile(
            f"{path} has schema version {match[1]}; this version reads only {SCHEMA_VERSION}"
        )
    if hashlib.sha256(body).hexdigest() != match[2] or digest not in (None, match[2]):
        raise DamagedFile(f"{path} is damaged: its checksum does not match")
    try:
        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedFile(f"{path} contains more than plain data: {error}") from error
