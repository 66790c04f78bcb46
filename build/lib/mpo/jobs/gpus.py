"""Shares this machine's GPUs among runs, by slots; a file lock frees a slot if its process dies."""

import getpass
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

logger = logging.getLogger(__name__)

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_POLL_S = 0.5


@contextmanager
def slot(runs_per_gpu: int) -> Iterator[str | None]:
    """Waits for a free slot on one of the visible GPUs and hides the other GPUs.

    Enter it before CUDA is used. On a GPU that a scheduler assigned to this job, a slot is free, so
    there is no wait.

    Args:
        runs_per_gpu: number of slots on each GPU.

    Yields:
        The GPU as CUDA_VISIBLE_DEVICES names it; None if there is no GPU.
    """
    devices = _visible()
    if not devices:
        yield None
        return
    lock, device = _acquire(devices, runs_per_gpu)
    os.environ[_VARIABLE] = device
    try:
        yield device
    finally:
        lock.release()


def _acquire(devices: dict[str, str], runs_per_gpu: int) -> tuple[filelock.BaseFileLock, str]:
    """Acquires a free slot; the first slots of all GPUs come before any second slot."""
    folder = Path(tempfile.gettempdir(), f"mpo-gpus-{getpass.getuser()}")
    folder.mkdir(exist_ok=True)
    waiting = False
    while True:
        for number in range(runs_per_gpu):
            for device, unique in devices.items():
                lock = filelock.FileLock(folder / f"{unique}.{number}.lock")
                try:
                    lock.acquire(blocking=False)
                except filelock.Timeout:
                    continue
                logger.info("GPU %s, slot %d of %d", device, number + 1, runs_per_gpu)
                return lock, device
        if not waiting:
            logger.info("waiting for one of GPU %s", ", ".join(devices))
            waiting = True
        time.sleep(_POLL_S)


def _visible() -> dict[str, str]:
    """The GPUs that this process may use, each mapped to a name that all processes agree on."""
    unique = _unique_names()
    chosen = os.environ.get(_VARIABLE)
    if chosen is None:
        return unique
    names = [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return {name: unique.get(name, name) for name in names}


def _unique_names() -> dict[str, str]:
    """Index -> UUID of all GPUs; UUIDs are needed because a container may renumber the GPUs."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(line.replace(" ", "").split(",", 1) for line in text.splitlines())
