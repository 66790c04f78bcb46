"""Handles the signals with which users and schedulers stop a job."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from signal import Signals
from types import FrameType

STOPPING = (Signals.SIGTERM, Signals.SIGINT, Signals.SIGUSR1)
"""Ctrl-C, and the signals that schedulers send some time before they kill a job."""

EXIT_CODE = 75
"""Exit code of a stopped job that can be run again: EX_TEMPFAIL of sysexits.h."""


class Interrupted(BaseException):
    """A signal stopped the job; running it again completes it."""

    def __init__(self, number: Signals, text: str) -> None:
        """Takes the signal and a text that says what happened to the work."""
        super().__init__(f"stopped by {number.name}: {text}")
        self.signal = number


class StopRequest:
    """Holds the last stop signal received, or None."""

    signal: Signals | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: stores the signal."""
        self.signal = Signals(number)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Records the signals in `STOPPING` instead of ending the process; main thread only."""
    request = StopRequest()
    with _handled_by(request.note):
        yield request


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """Raises `Interrupted` as soon as a signal in `STOPPING` arrives; main thread only."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(Signals(number), "it starts again from the beginning next time")

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in STOPPING}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
