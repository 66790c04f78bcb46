"""What a worker process does: it keeps objects and calls their methods, as its parent tells it."""

import contextlib
import ctypes
import logging
import mmap
import pickle
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from mpo.environments import guard
from mpo.study.config import ConfigError, JobFailed

REPORTED = JobFailed, ConfigError
"""Errors that a worker reports and lives on."""


class Usage(NamedTuple):
    """What processes have used so far."""

    cpu_s: float
    max_rss_mb: float

    @classmethod
    def of_this_process(cls) -> "Usage":
        """Returns what this process alone has used."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return cls(time.process_time(), peak / 1024)


class _Kept(logging.Handler):
    """Keeps what is logged, for the parent to log."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = self.format(record), None
        record.exc_info = record.exc_text = record.stack_info = None
        self.records.append(record)

    def take(self) -> list[logging.LogRecord]:
        taken, self.records = self.records, []
        return taken


def _answer(pipe: Connection, shared: int) -> None:
    """Calls what the parent asks for, until it closes the pipe."""
    guard.share_calls(memoryview(mmap.mmap(shared, mmap.PAGESIZE)).cast("d"))
    kept = _Kept()
    logging.getLogger().addHandler(kept)
    objects: dict[int, Any] = {}
    pipe.send_bytes(b"ready")
    while True:
        try:
            key, method, args, kwargs = pickle.loads(pipe.recv_bytes())
        except (EOFError, ConnectionError):
            return
        value, failed = None, None
        try:
            if method is None:
                factory, *rest = args
                objects[key] = factory(*rest)
            elif method == "close":
                objects.pop(key).close()
            else:
                value = getattr(objects[key], method)(*args, **kwargs)
        except REPORTED as error:
            failed = error
        answer = value, failed, Usage.of_this_process(), kept.take()
        # Its parent is gone if this fails.
        with contextlib.suppress(ConnectionError):
            pipe.send_bytes(pickle.dumps(answer))


def serve() -> None:
    """Serves as a worker; the arguments are two descriptors, threads and the level of logging."""
    pipe, shared, threads, level = map(int, sys.argv[1:])
    # Die with the parent, also in the midst of an environment's endless step.
    die_with_parent = 1
    ctypes.CDLL(None).prctl(die_with_parent, signal.SIGKILL)

    import torch

    torch.set_num_threads(threads)
    # As in the jobs that start workers: the last digits of physics may depend on it.
    torch.set_flush_denormal(True)
    logging.getLogger().setLevel(level)
    _answer(Connection(pipe), shared)
