"""The signals by which people and schedulers ask a job to stop, taken at a moment that suits it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals
from types import FrameType

STOPPING = (Signals.SIGTERM, Signals.SIGINT, Signals.SIGUSR1)
"""Ctrl-C, and what schedulers send some time before they kill."""

EXIT_CODE = 75
"""Of a job that was stopped and can go on: EX_TEMPFAIL, "try again"."""


class Interrupted(Exception):
    """A signal has stopped the job; what it had done is kept."""

    def __init__(self, number: Signals, text: str) -> None:
        """Takes the signal, and in words what became of the work."""
        super().__init__(f"stopped by {number.name}: {text}")
        self.signal = number


class StopRequest:
    """Whether a signal has come."""

    signal: Signals | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler."""
        self.signal = Signals(number)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Notes the signals of `STOPPING` instead of dying of them; main thread only."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
