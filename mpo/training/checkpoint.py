"""Saves and loads the state that a training resumes from: small checkpoints and a journal.

A checkpoint holds networks, optimizers, random streams and counters. Transitions, metric rows and
policy snapshots only accumulate, so they go to a journal: each save appends a piece with what is
new. A checkpoint lists the pieces it needs and their checksums. Files are written atomically. The
last two checkpoints are kept, with all their pieces. Loading never runs pickled code.
"""

import hashlib
import io
import itertools
import json
import logging
import os
import pickle
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import filelock
import torch

from mpo.study.config import ConfigError
from mpo.study.files import CHECKPOINTS, replacing
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

    Takes no lock and does not check the journal, so `load` may return an older state. The state has
    at least `env_steps` of the trainer and `diverged` of the recorder.
    """
    newest = max(path.glob(CHECKPOINTS), default=None)
    if newest is None:
        return None
    try:
        state = _read_checkpoint(newest)["state"]
        known = isinstance(state["trainer"]["env_steps"], int) and "diverged" in state["recorder"]
        return state if known else None
    except (DamagedFile, KeyError, TypeError):
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
        if os.path.lexists(self.path) and not self.path.is_dir():
            _set_aside(self.path, "a directory")
        self.path.mkdir(parents=True, exist_ok=True)
        owner = self.path / "owner"
        for path in (owner, self.path / "lock"):
            if os.path.lexists(path) and not path.is_file():
                _set_aside(path, "a file")
        reminded = -_SECONDS_BETWEEN_REMINDERS
        while True:
            try:
                self._lock.acquire(timeout=0)
                break
            except filelock.Timeout:
                now = time.monotonic()
                if now - reminded >= _SECONDS_BETWEEN_REMINDERS:
                    who = (
                        owner.read_text("utf-8", "replace").strip()
                        if owner.exists()
                        else "another process"
                    )
                    logger.info("%s: waiting for %s, which is training this run", self.path, who)
                    reminded = now
                if self._stop.signal is not None:
                    raise Interrupted(self._stop.signal, "training had not started") from None
                time.sleep(0.2)
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        """Releases the lock."""
        self._lock.release()

    def load(self, check: Callable[[Resumed], None] | None = None) -> Resumed | None:
        """Loads the newest undamaged state; None if there is none.

        Damaged checkpoints are logged as warnings and renamed to .unusable.

        Args:
            check: raises `DamagedFile` for a state that cannot be used.

        Raises:
            ConfigError: the state has another identity, so it belongs to another training.
        """
        checkpoints = sorted(self.path.glob(CHECKPOINTS), reverse=True)
        for path in checkpoints:
            try:
                content = _read_checkpoint(path)
                self._refuse_foreign(path, content["identity"])
                pieces = [
                    (entry, _read(self.path / entry["file"], entry["sha256"]))
                    for entry in content["pieces"]
                ]
                kinds = {
                    kind: [piece for entry, piece in pieces if entry["kind"] == kind]
                    for kind in ("transitions", "records")
                }
                found = Resumed(content["state"], **kinds)
                if check is not None:
                    check(found)
            except DamagedFile as error:
                logger.warning("%s; skipping %s", error, path.name)
                path.rename(_aside(path))
                continue
            self._pieces = content["pieces"]
            return found
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
        _write(self.path / CHECKPOINTS.replace("*", f"{env_step:012d}"), content)
        self._pieces = kept
        last_two = sorted(self.path.glob(CHECKPOINTS))[-2:]
        named = {path.name for path in last_two} | {piece["file"] for piece in (*before, *kept)}
        for path in self.path.iterdir():
            if path.suffix in (".pt", ".tmp") and path.name not in named and not _is_folder(path):
                path.unlink()

    def delete(self) -> None:
        """Deletes the saved state; keeps the directory and its lock."""
        for path in self.path.glob("*.pt"):
            if not _is_folder(path):
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
    if _is_folder(path):
        _set_aside(path, "a file")
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
    if not path.is_file():
        raise DamagedFile(f"{path} is {'not a file' if os.path.lexists(path) else 'missing'}")
    header, _, body = path.read_bytes().partition(b"\n")
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
    except Exception as error:
        # What torch raises for other archives, or for none, depends on the first wrong byte.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DamagedFile(f"{path} cannot be read ({reason})") from error


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint: its identity, the journal pieces that it needs, and the state.

    Raises:
        DamagedFile: see `_read`; or the file holds something else.
    """
    content = _read(path)
    try:
        whole = (
            isinstance(content, dict)
            and isinstance(json.loads(content["identity"]), dict)
            and isinstance(content["state"], dict)
            and all(
                entry["kind"] in ("transitions", "records")
                and Path(entry["file"]).name == entry["file"]
                and isinstance(entry["sha256"], str)
                and isinstance(entry["count"], int)
                for entry in content["pieces"]
            )
        )
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise DamagedFile(f"{path} does not contain a checkpoint")
    return content


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _aside(path: Path) -> Path:
    """Returns a free name for what cannot be used."""
    names = (path.with_suffix(f".unusable{n or ''}") for n in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


def _set_aside(path: Path, expected: str) -> None:
    aside = _aside(path)
    logger.warning("%s is not %s; it is now %s", path, expected, aside.name)
    path.rename(aside)
