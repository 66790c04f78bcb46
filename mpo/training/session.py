"""A training in one process: taken up where it was left, saved now and then, stopped when asked."""

import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from mpo.study.config import JobFailed
from mpo.training.checkpoint import Resumed, ResumeDirectory
from mpo.training.recorder import Recorder
from mpo.training.signals import Interrupted, StopRequest, stop_request
from mpo.training.stack import Stack

logger = logging.getLogger(__name__)


class CheckpointFailed(JobFailed):
    """A checkpoint cannot be written; the one before it is as it was."""


class Session:
    """Brings a stack, its recorder and each seed's state on disk together.

    A seed's state is the one that it would have alone, so whatever stack comes next can take it up.
    """

    def __init__(
        self,
        stack: Stack,
        recorder: Recorder,
        directories: Sequence[ResumeDirectory] = (),
        resumed: Sequence[Resumed | None] = (),
        stop: StopRequest | None = None,
        interval_s: float = 60.0,
    ) -> None:
        """Takes up what was found, all of one step; without directories nothing is kept.

        Args:
            stack: becomes what it was when it was saved last.
            recorder: likewise.
            directories: of each seed, their locks held.
            resumed: what each of them holds.
            stop: ends the training between two steps.
            interval_s: seconds between checkpoints.
        """
        self._stack = stack
        self._recorder = recorder
        self._directories = directories
        self._stop = stop
        self._interval_s = interval_s
        self._saved_at = time.monotonic()
        self._saved_step: int | None = None
        found = [state for state in resumed if state is not None]
        if not found:
            return
        stack.load_state_dict(
            [state.state["trainer"] for state in found], [state.transitions for state in found]
        )
        recorder.load_state_dict(
            [state.state["recorder"] for state in found], [state.records for state in found]
        )
        self._saved_step = stack.env_steps
        for record in recorder.of:
            record.resumed.append(
                {
                    "env_step": stack.env_steps,
                    "host": socket.gethostname(),
                    "at": datetime.now(UTC).isoformat(timespec="seconds"),
                }
            )
        logger.info("resumed at step %d", stack.env_steps)

    def tick(self) -> None:
        """To be called between two steps: saves when it is time to.

        Raises:
            Interrupted: a signal came; the state is saved.
        """
        if not self._directories:
            return
        signal = self._stop.signal if self._stop else None
        if signal is not None or time.monotonic() - self._saved_at >= self._interval_s:
            self.save()
        if signal is not None:
            raise Interrupted(signal, f"its state at step {self._saved_step} is kept")

    def save(self) -> None:
        """Saves each seed's state, unless it is saved already.

        Raises:
            CheckpointFailed: with the reason, and which state is kept.
        """
        step, before = self._stack.env_steps, self._saved_step
        if not self._directories or step == before:
            return
        try:
            for index, directory in enumerate(self._directories):
                self._save_seed(index, directory, before)
        except OSError as error:
            kept = f"that of step {before}" if before is not None else "none"
            raise CheckpointFailed(
                f"the checkpoint of step {step} cannot be written: {error}; {kept} is kept, and "
                "the same command goes on from it once that is cured"
            ) from error
        self._saved_step, self._saved_at = step, time.monotonic()

    def _save_seed(self, index: int, directory: ResumeDirectory, before: int | None) -> None:
        step, capacity = self._stack.env_steps, self._stack.config.replay_size
        new = self._stack.newest_transitions(index, capacity if before is None else step - before)
        directory.save(
            step,
            {
                "trainer": self._stack.state_dict(index),
                "recorder": self._recorder.state_dict(index),
            },
            transitions=new,
            records=self._recorder.of[index].take_new(),
            count=len(new["rows"]),
            capacity=capacity,
        )

    def delete(self) -> None:
        """Forgets the state on disk."""
        for directory in self._directories:
            directory.delete()


@contextmanager
def open_directories(
    paths: Sequence[Path], identities: Sequence[str]
) -> Iterator[tuple[list[ResumeDirectory], StopRequest]]:
    """Resume directories with all their locks held, and the stopping signals noted.

    Args:
        paths: of each seed; for none no signal is noted.
        identities: of each seed, see `ResumeDirectory`.
    """
    with ExitStack() as stack:
        stop = stack.enter_context(stop_request()) if paths else StopRequest()
        directories = [
            ResumeDirectory(path, identity, stop)
            for path, identity in zip(paths, identities, strict=True)
        ]
        # In one order everywhere, lest two processes wait for each other.
        for directory in sorted(directories, key=lambda directory: directory.path):
            stack.enter_context(directory)
        yield directories, stop
