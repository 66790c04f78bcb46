"""Resumes a training, checkpoints it at intervals and stops it on a signal."""

import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from mpo.study.config import ConfigError, JobFailed
from mpo.training.checkpoint import Resumed, ResumeDirectory
from mpo.training.recorder import Recorder
from mpo.training.signals import Interrupted, StopRequest, stop_request
from mpo.training.stack import Stack

logger = logging.getLogger(__name__)


class CheckpointFailed(JobFailed):
    """A checkpoint cannot be written; the previous one is intact."""


class Session:
    """Connects a stack and its recorder to each seed's resume directory.

    A seed's saved state does not depend on its stack, so it can be resumed in any other stack.
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
        """Restores the saved states, if there are any.

        Args:
            stack: restored in place.
            recorder: restored in place.
            directories: resume directory of each seed, with its lock held; empty to save nothing.
            resumed: the content of each directory; None for each, or all of the same step.
            stop: a stop request ends the training between two steps.
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
        """Saves a checkpoint if one is due; call it after every environment step.

        Raises:
            Interrupted: a stop signal arrived; the state is saved.
            CheckpointFailed: see `save`.
        """
        if not self._directories:
            return
        signal = self._stop.signal if self._stop else None
        if signal is not None or time.monotonic() - self._saved_at >= self._interval_s:
            self.save()
        if signal is not None:
            raise Interrupted(signal, f"saved at step {self._saved_step}")

    def save(self) -> None:
        """Saves each seed's state, unless the current step is already saved.

        Raises:
            CheckpointFailed: a file cannot be written. The message names the reason and the step
                of the checkpoint that is kept.
        """
        step, before = self._stack.env_steps, self._saved_step
        if not self._directories or step == before:
            return
        try:
            for index, directory in enumerate(self._directories):
                self._save_seed(index, directory, before)
        except OSError as error:
            kept = "step 0" if before is None else f"the checkpoint of step {before}"
            raise CheckpointFailed(
                f"the checkpoint of step {step} cannot be written: {error}; once this is fixed, "
                f"the same command continues from {kept}"
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
                "device": self._stack.device.type,
                **self._stack.made_of,
            },
            transitions=new,
            records=self._recorder.of[index].take_new(),
            count=len(new["rows"]),
            capacity=capacity,
        )

    def delete(self) -> None:
        """Deletes the saved state of every seed."""
        for directory in self._directories:
            directory.delete()


@contextmanager
def open_directories(
    paths: Sequence[Path], identities: Sequence[str]
) -> Iterator[tuple[list[ResumeDirectory], StopRequest]]:
    """Opens and locks the resume directories, and catches stop signals while they are open.

    Args:
        paths: resume directory of each seed; if empty, signals are not caught.
        identities: identity of each seed's training, see `ResumeDirectory`.

    Yields:
        The directories in the order of `paths`, and the stop request that the signals set.

    Raises:
        ConfigError: two seeds have the same directory, so that one would wait for the other's lock.
        Interrupted: a stop signal arrived during the wait for a lock.
    """
    resolved = [path.resolve() for path in paths]
    for path, real in zip(paths, resolved, strict=True):
        if resolved.count(real) > 1:
            raise ConfigError(f"expected a resume directory for each seed, received {path} twice")
    with ExitStack() as stack:
        stop = stack.enter_context(stop_request()) if paths else StopRequest()
        directories = [
            ResumeDirectory(path, identity, stop)
            for path, identity in zip(paths, identities, strict=True)
        ]
        # Every process locks in the same order, so two of them cannot deadlock.
        for directory in sorted(directories, key=lambda directory: directory.path):
            stack.enter_context(directory)
        yield directories, stop
