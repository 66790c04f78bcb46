"""Worker processes, in which some of a job's environments live, so that several step at a time.

Half of a step of a MuJoCo task is Python code that holds the interpreter's lock, so threads would
soon wait for each other. The parent decides everything: a worker calls what it is told to, one call
after another, and ends when its parent does.
"""

import contextlib
import logging
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from signal import Signals
from typing import Any, Protocol

from mpo.environments import guard
from mpo.environments.guard import EnvironmentFailed
from mpo.environments.serving import REPORTED, Usage

Finish = Callable[[], Any]
"""Waits for the end of a call that was begun, and returns what it returned."""

_START = "from mpo.environments.serving import serve; serve()"

_GRACE_S = 5.0
"""Seconds that a worker has to end by itself."""


_used: dict[int, Usage] = {}
"""What each worker of this process had used when it last answered, by process id."""


def usage() -> Usage:
    """Returns what this process and all its workers have used; the sum of their peaks in memory."""
    found = [Usage.of_this_process(), *_used.values()]
    return Usage(sum(each.cpu_s for each in found), sum(each.max_rss_mb for each in found))


class Share(Protocol):
    """An object that plays some of the environments, here or in a worker."""

    def begin(self, method: str, *args: Any, **kwargs: Any) -> Finish:
        """Begins a call of a method; one call of a worker's objects may be open at a time."""


class Here:
    """A share in this process, whose calls run when they are waited for."""

    def __init__(self, inner: Any) -> None:
        """Takes the object whose methods are called."""
        self.inner = inner

    def begin(self, method: str, *args: Any, **kwargs: Any) -> Finish:
        """See `Share`."""
        return lambda: getattr(self.inner, method)(*args, **kwargs)


class There:
    """A share in a worker."""

    def __init__(self, worker: "Worker", key: int, name: str) -> None:
        """Takes the number of the object in the worker, and the environment's name."""
        self._worker, self._key, self._name = worker, key, name

    def begin(self, method: str, *args: Any, **kwargs: Any) -> Finish:
        """See `Share`."""
        return self._worker.begin(self._name, self._key, method, args, kwargs)


def together(calls: Sequence[Finish]) -> list[Any]:
    """Waits for calls that were begun; the failure of one does not leave another open.

    Raises:
        JobFailed, ConfigError: the first failure of the calls.
    """
    found, failed = [], []
    for finish in calls:
        try:
            found.append(finish())
        except REPORTED as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return found


class Worker:
    """A process that keeps objects and calls their methods."""

    def __init__(self, blocked: Sequence[Signals], threads: int) -> None:
        """Starts the process.

        Args:
            blocked: signals that are none of its business, since its parent handles them.
            threads: CPU threads for environments that use torch, as in the parent.
        """
        ours, theirs = socket.socketpair()
        shared = os.memfd_create("call")
        os.truncate(shared, mmap.PAGESIZE)
        self._call = memoryview(mmap.mmap(shared, mmap.PAGESIZE)).cast("d")
        inherited, level = (theirs.fileno(), shared), logging.getLogger().level
        # A blocked signal stays blocked in the new process. To ignore it there would come too late:
        # a scheduler's signal may arrive while it is starting.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, *map(str, (*inherited, threads, level))],
                pass_fds=inherited,
                # With -P, its path is this process's, no more.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        os.close(shared)
        self._pipe = Connection(ours.detach())
        self._ready, self._made, self._name = False, 0, ""

    def make(self, name: str, factory: Callable[..., Any], *args: Any) -> tuple[There, Finish]:
        """Begins to make an object.

        Args:
            name: the environment's, for messages.
            factory: a function or class of a module.
            args: its arguments.

        Returns:
            The share, which can be used once the call is finished.
        """
        self._made += 1
        return There(self, self._made, name), self.begin(
            name, self._made, None, (factory, *args), {}
        )

    def begin(
        self, name: str, key: int, method: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Finish:
        """Begins a call; without a method, one that makes the object."""
        # Plain pickles: torch's own way through a connection shares memory, file by file.
        message = pickle.dumps((key, method, args, kwargs))
        with contextlib.suppress(EOFError, ConnectionError):  # then there is no answer either
            if not self._ready:  # its start is no call of an environment
                self._pipe.recv_bytes()
                self._ready = True
            self._pipe.send_bytes(message)
        return lambda: self._finish(name, method or "making it")

    def _finish(self, name: str, method: str) -> Any:
        self._name = name
        with self._failing(name), guard.waiting_for(self, method):
            value, error, used, records = pickle.loads(self._pipe.recv_bytes())
        _used[self._process.pid] = used
        for record in records:
            logging.getLogger(record.name).handle(record)
        if error is not None:
            raise error
        return value

    def progress(self, method: str, since: float) -> tuple[str, float]:
        """What the worker does now; see `guard.current_call`."""
        started, step = self._call[0], int(self._call[1])
        where = guard.place(self._name, step)
        return f"{where} ({method}, in process {self._process.pid})", max(since, started)

    @contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            code = self._process.wait()
            how = f"was killed by {Signals(-code).name}" if code < 0 else f"ended with code {code}"
            text = f"environment {name!r}: its process {self._process.pid} {how}"
            raise EnvironmentFailed(text) from error

    def close(self) -> None:
        """Ends the process, even if it hangs."""
        self._pipe.close()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def workers(count: int, blocked: Sequence[Signals], threads: int = 1) -> Iterator[list[Worker]]:
    """Starts worker processes, and ends them with the context; see `Worker`."""
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(count):
            started.append(Worker(blocked, threads))
            stack.callback(started[-1].close)
        yield started
