"""Runs one verb of the command line, and turns errors into exit codes."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mpo.jobs.cli.parser import parse
from mpo.study.config import ConfigError, JobFailed
from mpo.training.signals import EXIT_CODE, Interrupted

_PIPE_CLOSED = 128 + signal.SIGPIPE
"""The exit code of a program whose reader has gone, as a shell reports it."""


class _Quiet(logging.Handler):
    """A handler that prints no stack where it cannot write, as on a full disk.

    The job itself then fails at its next write, and its message must be seen.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _Stream(_Quiet, logging.StreamHandler):
    """Writes to stderr."""


class _File(_Quiet, logging.FileHandler):
    """Writes to a file."""


def _log_to(paths: Sequence[Path]) -> None:
    """Sends the log to stderr and to each of the files."""
    handlers: list[logging.Handler] = []
    if sys.stderr and (paths or not sys.stderr.isatty()):  # there is none where it was closed
        handlers.append(_Stream())
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_File(path, mode="w", encoding="utf-8"))
    logger = logging.getLogger("mpo")
    logger.setLevel(logging.INFO)
    # dm_control logs with absl, whose handler at the root logger would print each line again.
    logger.propagate = False
    # A caller in Python may run several verbs, each with its own log.
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns:
        The exit code: 0 on success, 2 if the config is wrong, 75 if a signal stopped a job that
        can be resumed, 141 if the reader of the output has gone, 1 after any other error.
    """
    try:
        args = parse(argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    refusal = args.log[0].with_suffix(".refused") if args.log else None
    if refusal and args.attempt > 1 and refusal.exists():
        print(f"refused before: {refusal.read_text(encoding='utf-8')}", file=sys.stderr)
        return 2
    try:
        _log_to(args.log)
        if refusal:
            refusal.unlink(missing_ok=True)
    except OSError as error:
        print(f"error: argument --log: {error}", file=sys.stderr)
        return 1
    try:
        args.function(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        if refusal:
            with contextlib.suppress(OSError):  # on a full disk the next attempt tries again
                refusal.write_text(str(error), encoding="utf-8")
        return 2
    except Interrupted as error:
        logging.getLogger("mpo").error("%s", error)
        return EXIT_CODE
    except BrokenPipeError:
        return _PIPE_CLOSED
    except (JobFailed, OSError) as error:
        logging.getLogger("mpo").error("failed: %s", error)
        return 1
    except Exception:
        logging.getLogger("mpo").exception("failed")
        return 1
    return 0


def run() -> NoReturn:
    """Runs the verb of the command line and ends the process with its exit code."""
    code = main()
    logging.shutdown()
    try:
        if sys.stdout:  # there is none where it was closed before the start
            sys.stdout.flush()
    except BrokenPipeError:  # `python -m mpo status | head`
        code = _PIPE_CLOSED
    # Everything is written. A regular exit would spend over a second tearing down torch's modules.
    os._exit(code)


if __name__ == "__main__":
    run()
