"""A training in one process: taken up where it was left, saved now and then, stopped when asked."""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mpo.checkpoint import ResumeDirectory
from mpo.config import JobFailed
from mpo.recorder import Recorder
from mpo.signals import Interrupted, StopRequest, stop_request

if TYPE_CHECKING:
    from mpo.trainer import MPOTrainer

logger = logging.getLogger(__name__)


class CheckpointFailed(JobFailed):
    """A checkpoint cannot be written; the one before it is as it was."""


class Session:
    """Brings a trainer, its recorder and their state on disk together; without a disk, nothing."""

    def __init__(
        self,
        trainer: "MPOTrainer",
        recorder: Recorder,
        directory: ResumeDirectory | None,
        stop: StopRequest,
    ) -> None:
        """Takes up what the directory holds."""
        self._trainer = trainer
        self._recorder = recorder
        self._directory = directory
        self._stop = stop
        self._saved_at = time.monotonic()
        self._saved_step: int | None = None
        resumed = directory.load() if directory else None
        if resumed is None:
            return
        trainer.load_state_dict(resumed.state["trainer"], resumed.transitions)
        recorder.load_state_dict(resumed.state["recorder"], resumed.records)
        self._saved_step = trainer.env_steps
        recorder.resumed.append(
            {
                "env_step": trainer.env_steps,
                "host": socket.gethostname(),
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        logger.info("resumed at step %d", trainer.env_steps)

    def tick(self, interval_s: float) -> None:
        """To be called between two steps: saves when it is time to.

        Raises:
            Interrupted: a signal came; the state is saved.
        """
        if self._directory is None:
            return
        signal = self._stop.signal
        if signal is not None or time.monotonic() - self._saved_at >= interval_s:
            self.save()
        if signal is not None:
            raise Interrupted(signal, f"its state at step {self._saved_step} is kept")

    def save(self) -> None:
        """Saves the state, unless it is saved already.

        Raises:
            CheckpointFailed: with the reason, and which state is kept.
        """
        step, before = self._trainer.env_steps, self._saved_step
        if self._directory is None or step == before:
            return
        capacity = self._trainer.config.replay_size
        new = self._trainer.newest_transitions(capacity if before is None else step - before)
        state = {
            "trainer": self._trainer.state_dict(),
            "recorder": self._recorder.state_dict(),
        }
        try:
            self._directory.save(
                step,
                state,
                transitions=new,
                records=self._recorder.take_new(),
                count=min(len(transitions["rows"]) for transitions in new),
                capacity=capacity,
            )
        except OSError as error:
            kept = f"that of step {before}" if before is not None else "none"
            raise CheckpointFailed(
                f"the checkpoint of step {step} cannot be written: {error}; {kept} is kept, and "
                "the same command goes on from it once that is cured"
            ) from error
        self._saved_step, self._saved_at = step, time.monotonic()

    def delete(self) -> None:
        """Forgets the state on disk."""
        if self._directory is not None:
            self._directory.delete()


@contextmanager
def open_session(
    resume_dir: str | None, identity: str, trainer: "MPOTrainer", recorder: Recorder
) -> Iterator[Session]:
    """A session over a resume directory, its lock held and the stopping signals noted.

    Args:
        resume_dir: None for a training that leaves no state and heeds no signal.
        identity: see `ResumeDirectory`.
        trainer: becomes what it was when it was saved last.
        recorder: likewise.
    """
    if resume_dir is None:
        yield Session(trainer, recorder, None, StopRequest())
        return
    with (
        stop_request() as stop,
        ResumeDirectory(Path(resume_dir), identity, stop) as directory,
    ):
        yield Session(trainer, recorder, directory, stop)
