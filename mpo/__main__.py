"""The commands that the workflow's rules run: `mpo VERB`, or `python -m mpo VERB`."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mpo.jobs import cli
from mpo.study.config import ConfigError, JobFailed
from mpo.study.files import RUN
from mpo.study.paths import Place
from mpo.training.signals import EXIT_CODE, Interrupted

_VERBS = (
    cli.train,
    cli.evaluate,
    cli.verify,
    cli.video,
    cli.events,
    cli.random,
    cli.collect,
    cli.statistics,
    cli.typeset,
    cli.figure,
    cli.summary,
    cli.pages,
    cli.status,
    cli.failures,
)
_PIPE_CLOSED = 128 + signal.SIGPIPE
"""The exit code of a program whose reader has gone, as a shell reports it."""

_Parsers = dict[str, argparse.ArgumentParser]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mpo", description=__doc__, epilog="`mpo VERB --help` lists the options of a verb."
    )
    choices = parser.add_subparsers(required=True, metavar="VERB")
    sub: _Parsers = {}
    for function in _VERBS:
        name, text = function.__name__, function.__doc__
        sub[name] = choices.add_parser(name, help=text, description=text)
        sub[name].set_defaults(function=function)
        sub[name].add_argument(
            "--log", type=Path, nargs="+", default=[], help="also write progress and errors here"
        )
        sub[name].add_argument(
            "--attempt",
            type=int,
            default=1,
            help="from 1; a job whose config was refused is not tried again",
        )
    _add_options_of_runs(sub)
    _add_options_of_studies(sub)
    return parser


def _add_options_of_runs(sub: _Parsers) -> None:
    options = sub["train"].add_argument
    options("--cell", required=True, help="CellSpec as JSON: everything but the seeds")
    options("--checkpoint-interval", type=float, default=60.0, help="in seconds")
    options("--no-cuda-graphs", action="store_true", help="launch GPU kernels one by one")
    text = "delete a run's checkpoints when it is finished, to save disk space"
    options("--discard-resume-state", action="store_true", help=text)
    text = f"{RUN} of each run, in {Place.FORM}"
    options("--out", type=_place_of_file, nargs="+", required=True, help=text)

    options = sub["verify"].add_argument
    options("--runs", type=Path, nargs="+", required=True, help="run directories")
    options("--steps", type=int, required=True, help="environment steps to repeat")
    options("--out", type=Path, required=True, help="Markdown file")

    for name in ("train", "verify"):
        options = sub[name].add_argument
        options("--device", choices=("auto", "cpu", "cuda"), default="auto")
        options("--threads", type=int, default=1, help="CPU threads for the networks")
        options("--compile-on-cpu", action="store_true", help="use torch.compile on a CPU too")
        options("--runs-per-gpu", type=int, default=1, help="processes that may share a GPU")

    sub["evaluate"].add_argument("--run", type=_place, required=True, help="run directory")
    sub["evaluate"].add_argument("--config", required=True, help="EvaluationSpec as JSON")

    for name in ("train", "evaluate"):
        text = "seconds that one call of an environment may take"
        sub[name].add_argument("--environment-timeout", type=float, default=300.0, help=text)
    options = sub["video"].add_argument
    options("--run", type=Path, required=True, help="run directory")
    options("--episode", type=int, default=0, help="index in the final evaluation, from 0")
    options("--out", type=Path, required=True, help=".mp4 or .gif file")

    sub["events"].add_argument("--run", type=Path, required=True, help="run directory")
    sub["events"].add_argument(
        "--out", type=Path, required=True, help="event file; its name must contain tfevents"
    )


def _add_options_of_studies(sub: _Parsers) -> None:
    options = sub["random"].add_argument
    options("--config", required=True, help="RandomSpec as JSON")
    text = "steps of the longest training; an episode that outlasts it counts as endless"
    options("--budget", type=int, default=0, help=text)
    options("--out", type=Path, required=True, help="JSON file")

    options = sub["statistics"].add_argument
    options("--references", type=Path, required=True, help="CSV of reference returns")
    options("--baselines", type=Path, nargs="?", help="CSV of published returns, optional")
    options("--random", type=Path, nargs="+", required=True, help="JSON files of `mpo random`")

    for name in ("collect", "statistics", "typeset", "figure", "summary", "pages", "failures"):
        sub[name].add_argument("--study", type=Path, required=True, help="study.json of the study")
    sub["status"].add_argument(
        "--study", type=Path, help="a study.json; default: every results/*/study.json"
    )
    for name in ("statistics", "typeset", "figure", "summary", "pages"):
        sub[name].add_argument("--tables", type=Path, required=True, help="directory of the tables")
    sub["collect"].add_argument("--out", type=Path, required=True, help="directory of the tables")
    sub["typeset"].add_argument("--out", type=Path, required=True, help="directory")
    sub["figure"].add_argument("--name", required=True, help="name of the figure")
    sub["figure"].add_argument("--out", type=Path, nargs="+", required=True, help="image files")
    sub["figure"].add_argument("--caption", type=Path, required=True, help="text file")
    sub["summary"].add_argument("--figures", type=Path, nargs="+", required=True, help="PNG files")
    for name in ("summary", "failures"):
        sub[name].add_argument("--out", type=Path, required=True, help="Markdown file")
    sub["pages"].add_argument("--summary", type=Path, required=True, help="summary.md of the study")
    sub["pages"].add_argument("--films", type=Path, nargs="*", help="MP4 files")
    sub["pages"].add_argument("--out", type=Path, required=True, help="directory")


def _place(directory: str) -> Place:
    try:
        return Place.parse(Path(directory))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _place_of_file(path: str) -> Place:
    return _place(os.path.dirname(path))


def _log_to(paths: Sequence[Path]) -> None:
    """Sends the log to stderr and to each of the files."""
    handlers: list[logging.Handler] = []
    if paths or not sys.stderr.isatty():
        handlers.append(logging.StreamHandler())
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w"))
    logger = logging.getLogger("mpo")
    logger.setLevel(logging.INFO)
    # dm_control logs with absl, whose handler at the root logger would print each line again.
    logger.propagate = False
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns:
        The exit code: 0 on success, 2 if the config is wrong, 75 if a signal stopped a job that
        can be resumed, 141 if the reader of the output has gone, 1 after any other error.
    """
    args = _parser().parse_args(argv)
    refusal = args.log[0].with_suffix(".refused") if args.log else None
    if refusal and args.attempt > 1 and refusal.exists():
        print(f"refused before: {refusal.read_text()}", file=sys.stderr)
        return 2
    _log_to(args.log)
    if refusal:
        refusal.unlink(missing_ok=True)
    try:
        args.function(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        if refusal:
            refusal.write_text(str(error))
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
