"""The signals by which people and schedulers ask a job to stop, taken at a moment that suits it."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from signal import Signals
from types import FrameType

STOPPING = (Signals.SIGTERM, Signals.SIGINT, Signals.SIGUSR1)
"""Ctrl-C, and what schedulers send some time before they kill."""

EXIT_CODE = 75
"""Of a job that was stopped and can go on: EX_TEMPFAIL, "try again"."""


class Interrupted(Exception):
    """A signal has stopped the job, which can be done again."""

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
    with _handled_by(request.note):
        yield request


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """Raises `Interrupted` when a signal of `STOPPING` comes, at once; main thread only."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(Signals(number), "it starts over next time")

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
