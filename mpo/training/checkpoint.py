"""The resumable state of a training on disk: a small checkpoint and a journal of what only grows.

A checkpoint holds networks, optimizers, random streams and counters. Transitions, rows of metrics
and policy snapshots are written once, in pieces between two checkpoints; a checkpoint names the
pieces that belong to it, with their checksums. Every file is written whole or not at all, the last
two checkpoints and all their pieces are kept, and reading runs no code.
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
"""Of the files: bump it with any change to what a state holds."""

_MAGIC = "mpo-checkpoint"
_SECONDS_BETWEEN_REMINDERS = 60.0


class DamagedFile(RuntimeError):
    """A file is not, or is no longer, what was written."""


class Resumed(NamedTuple):
    """What a resume directory held."""

    state: dict[str, Any]
    transitions: list[Any]
    """Pieces of the journal, oldest first."""
    records: list[Any]
    """Likewise."""


def peek(path: Path) -> dict[str, Any] | None:
    """The state of a directory's newest checkpoint, None where it has none that can be read.

    Without a lock, and its journal unread: what `load` finds may be another one.
    """
    try:
        newest = max(path.glob("checkpoint-*.pt"), default=None)
        return _read(newest)["state"] if newest else None
    except DamagedFile:
        return None


class ResumeDirectory:
    """One seed's resumable state, under an exclusive lock while it is entered."""

    def __init__(self, path: Path, identity: str, stop: StopRequest) -> None:
        """Touches nothing yet.

        Args:
            path: the directory, made where it is missing.
            identity: canonical JSON of all that shapes the training; another one's state is
                refused.
            stop: ends the waiting for the lock.
        """
        self.path = path
        self._identity = identity
        self._stop = stop
        self._pieces: list[dict[str, Any]] = []
        self._lock = filelock.FileLock(path / "lock")

    def __enter__(self) -> Self:
        """Waits for another process that trains the same, a job left behind by a dead controller.

        Raises:
            Interrupted: a signal came first.
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
                    logger.info("%s: waiting for %s, which trains the same run", self.path, who)
                    reminded = now
                if self._stop.signal is not None:
                    raise Interrupted(self._stop.signal, "it had not begun") from None
                time.sleep(0.2)
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        return self

    def __exit__(self, *error: object) -> None:
        """Lets the next one in."""
        self._lock.release()

    def load(self) -> Resumed | None:
        """The newest state that is whole, None where there is none; warns of each that is not.

        Raises:
            ConfigError: the state is another training's.
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
                logger.warning("%s: %s is left out", error, path.name)
                path.rename(path.with_suffix(".unusable"))
                continue
            self._pieces = content["pieces"]
            kinds = {
                kind: [piece for entry, piece in pieces if entry["kind"] == kind]
                for kind in ("transitions", "records")
            }
            return Resumed(content["state"], **kinds)
        if checkpoints:
            logger.warning("%s: no checkpoint can be used, training starts afresh", self.path)
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
        """Makes a state the one that `load` finds; until then it finds the one before.

        Args:
            env_step: environment steps so far, more than at the last call.
            state: what is written anew each time.
            transitions: what the replay gained since the last call or load.
            records: likewise of metrics and snapshots; None where there are no new ones.
            count: how many transitions.
            capacity: of the replay; older transitions are forgotten.
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
        """Forgets the state; the directory and its lock stay."""
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
            f"{key} is {found.get(key)!r} there and {wanted.get(key)!r} here"
            for key in sorted(found.keys() | wanted.keys())
            if found.get(key) != wanted.get(key)
        ]
        raise ConfigError(
            f"{path} is another training's: {'; '.join(differing)}. Remove {path.parent} to start "
            "afresh"
        )


def _leaves(value: Any, key: str = "") -> dict[str, Any]:
    """The values of nested mappings and lists by their dotted keys."""
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {k: v for name, part in items for k, v in _leaves(part, f"{key}.{name}").items()}
    return {key.removeprefix("."): value}


def _write(path: Path, content: Any) -> str:
    """Writes a header line with a checksum, then the content; returns the checksum."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(f"{_MAGIC} {SCHEMA_VERSION} {digest}\n".encode())
        file.write(buffer.getbuffer())
    return digest


def _read(path: Path, digest: str | None = None) -> Any:
    """What `_write` has written, with this checksum if one is given; tensors on the CPU.

    Raises:
        DamagedFile: it is anything else.
    """
    try:
        header, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        raise DamagedFile(f"{path} is missing") from None
    match = re.fullmatch(rf"{_MAGIC} (\d+) ([0-9a-f]{{64}})", header.decode(errors="replace"))
    if match is None:
        raise DamagedFile(f"{path} is not a file of this program")
    if int(match[1]) != SCHEMA_VERSION:
        raise DamagedFile(
            f"{path} has schema version {match[1]}, this program reads {SCHEMA_VERSION}"
        )
    if hashlib.sha256(body).hexdigest() != match[2] or digest not in (None, match[2]):
        raise DamagedFile(f"{path} is damaged: its checksum is wrong")
    try:
        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedFile(f"{path} holds more than data: {error}") from error
