"""A job's word on itself: a status file written every few seconds, and at its end.

It also ends a job whose environment hangs: nothing else in the process could.
"""

import faulthandler
import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mpo.envs import current_call
from mpo.files import replacing
from mpo.signals import Interrupted, Signals

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
"""Between two beats."""


class Heartbeat:
    """Keeps a status file while it is entered."""

    def __init__(
        self,
        path: Path | None,
        phase: str,
        identity: str,
        total: int,
        timeout_s: float,
        log: Path | None = None,
    ) -> None:
        """Writes nothing yet.

        Args:
            path: the status file; None for none.
            phase: what the job does, `train` or `evaluate`.
            identity: of the run.
            total: of what `count` counts.
            timeout_s: an environment that takes longer for one call ends the job.
            log: gets the job's stack when it hangs beyond help.
        """
        self.count: Callable[[], int] = lambda: 0
        """How far the job is; called from another thread."""
        self._path = path
        self._timeout_s = timeout_s
        self._interval_s = min(INTERVAL_S, timeout_s / 2)
        self._log = log
        self._facts = {
            "phase": phase,
            "identity": identity,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "total": total,
        }
        self._speed = 0.0
        self._last: tuple[int, float] | None = None
        self._stalled: tuple[str, float] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Says that the job runs."""
        self._dump = self._log.open("a") if self._log else sys.stderr
        self._write("running", None)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Says how the job ended."""
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if self._log:
            self._dump.close()
        if error is None:
            self._write("ok", None)
        else:
            self._write(_status_after(error), f"{type(error).__name__}: {error}")

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            # Where an environment never lets go of the interpreter, this thread does not get here
            # again and the C library's timer ends the process.
            faulthandler.dump_traceback_later(
                self._timeout_s + 4 * self._interval_s, exit=True, file=self._dump
            )
            self._measure()
            self._write("running", None)
            self._end_if_stalled()

    def _measure(self) -> None:
        count, now = self.count(), time.monotonic()
        if self._last is not None:
            before, at = self._last
            self._speed = (count - before) / (now - at)
        self._last = count, now

    def _end_if_stalled(self) -> None:
        """Ends the process where two beats find it in the same call, too long."""
        call = current_call()
        if call is None or time.monotonic() - call[1] < self._timeout_s:
            self._stalled = None
        elif call != self._stalled:
            # Once more: the process itself may have been stopped meanwhile.
            self._stalled = call
        else:
            text = f"{call[0]} has not answered for {self._timeout_s:g} s"
            stack = traceback.format_stack(
                sys._current_frames()[threading.main_thread().ident or 0]
            )
            logger.error("%s; it was in\n%s", text, "".join(stack[-3:]))
            self._write("timeout", text)
            logging.shutdown()
            os._exit(1)

    def _write(self, status: str, error: str | None) -> None:
        if self._path is None:
            return
        content: dict[str, Any] = {
            "status": status,
            "error": error,
            **self._facts,
            "count": self.count(),
            "per_s": round(self._speed, 3),
            "heartbeat": time.time(),
        }
        try:
            with replacing(self._path) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n")
        except OSError as problem:
            # A full disk shall fail the work that needs it, not this.
            logger.warning("status not written: %s", problem)


def _status_after(error: BaseException) -> str:
    """The status of a run whose job ended so."""
    if isinstance(error, KeyboardInterrupt):
        return "planned"
    if isinstance(error, Interrupted):
        return "planned" if error.signal is Signals.SIGINT else "timeout"
    return "failed"
