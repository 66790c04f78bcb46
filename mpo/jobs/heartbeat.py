"""Writes the status files of a job's runs, every few seconds and at the end.

It also ends the process if an environment hangs, which blocks the main thread.
"""

import faulthandler
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from mpo.environments.guard import current_call
from mpo.study.files import write_json
from mpo.training.signals import Interrupted, Signals

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
"""Seconds between two heartbeats."""


@dataclass
class _Word:
    """The progress of one run."""

    identity: str
    count: Callable[[], int] = lambda: 0
    per_s: float = 0.0
    last: tuple[int, float] | None = None
    """Count and time of the last measurement."""
    over: bool = False

    def measure(self) -> None:
        """Updates `per_s`, the rate since the last call."""
        count, now = self.count(), time.monotonic()
        if self.last is not None:
            before, at = self.last
            self.per_s = (count - before) / (now - at)
        self.last = count, now


class Heartbeat:
    """Keeps the status files of a job's runs up to date while the context is open."""

    def __init__(
        self,
        runs: Mapping[Path, str],
        phase: str,
        total: int,
        timeout_s: float,
        log: Path | None = None,
    ) -> None:
        """Stores the arguments; writes nothing until the context is entered.

        Args:
            runs: identity of each run, by its status file.
            phase: what the job does, `train` or `evaluate`.
            total: final value of the count that `watch` reads.
            timeout_s: seconds that an environment may take for one call before the job is ended.
            log: gets the stack trace if the job hangs without releasing the interpreter.
        """
        self._words = {path: _Word(identity) for path, identity in runs.items()}
        self._timeout_s = timeout_s
        self._interval_s = min(INTERVAL_S, timeout_s / 2)
        self._log = log
        self._facts = {
            "phase": phase,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "total": total,
        }
        self._stalled: tuple[str, float] | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def watch(self, paths: Iterable[Path], count: Callable[[], int]) -> None:
        """Sets the function that counts the progress of runs; another thread calls it."""
        for path in paths:
            self._words[path].count = count

    def end(self, path: Path, error: BaseException | None = None) -> None:
        """Writes how one run ended, before the job ends."""
        status = _status_after(error) if error else "ok"
        text = f"{type(error).__name__}: {error}" if error else None
        with self._lock:
            self._say(path, status, text)
            self._words[path].over = True

    def __enter__(self) -> Self:
        """Writes status `running` for all runs and starts the heartbeat."""
        self._dump = self._log.open("a", encoding="utf-8") if self._log else _standard_error()
        self._write("running", None)
        self._end_if_seized()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops the heartbeat and writes how the remaining runs ended."""
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if self._dump is not sys.stderr:
            self._dump.close()
        for path, word in self._words.items():
            if not word.over:
                self.end(path, error)

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            self._end_if_seized()
            for word in self._words.values():
                word.measure()
            self._write("running", None)
            self._end_if_stalled()

    def _end_if_seized(self) -> None:
        """Ends the process unless this is called again in time.

        If an environment never releases the GIL, the heartbeat's thread stops. This timer runs
        outside the interpreter; it then dumps the stack.
        """
        faulthandler.dump_traceback_later(
            self._timeout_s + 4 * self._interval_s, exit=True, file=self._dump
        )

    def _end_if_stalled(self) -> None:
        """Ends the process if two heartbeats find it in the same call beyond the timeout."""
        call = current_call()
        if call is None or time.monotonic() - call[1] < self._timeout_s:
            self._stalled = None
        elif call != self._stalled:
            # Wait for a second heartbeat: the whole process may just have been suspended.
            self._stalled = call
        else:
            text = f"{call[0]} has not answered for {self._timeout_s:g} s"
            stack = traceback.format_stack(
                sys._current_frames()[threading.main_thread().ident or 0]
            )
            logger.error("%s; it is in\n%s", text, "".join(stack[-3:]))
            self._write("timeout", text)
            logging.shutdown()
            os._exit(1)

    def _write(self, status: str, error: str | None) -> None:
        """Writes the same status for all runs that have not ended."""
        with self._lock:
            for path, word in self._words.items():
                if not word.over:
                    self._say(path, status, error)

    def _say(self, path: Path, status: str, error: str | None) -> None:
        word = self._words[path]
        content: dict[str, Any] = {
            "status": status,
            "error": error,
            "identity": word.identity,
            **self._facts,
            "count": word.count(),
            "per_s": round(word.per_s, 3),
            "heartbeat": time.time(),
        }
        try:
            write_json(path, content)
        except OSError as problem:
            # A full disk should fail the work itself, not its status file.
            logger.warning("cannot write the status file: %s", problem)


def _standard_error() -> TextIO:
    """Returns stderr, or the null device where there is none that has a descriptor."""
    try:
        sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return Path(os.devnull).open("w", encoding="utf-8")
    return sys.stderr


def _status_after(error: BaseException) -> str:
    """The status of a run whose job ended with this error."""
    if isinstance(error, KeyboardInterrupt):
        return "planned"
    if isinstance(error, Interrupted):
        return "planned" if error.signal is Signals.SIGINT else "timeout"
    return "failed"
