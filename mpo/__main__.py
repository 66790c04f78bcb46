"""The commands that the workflow's rules run: `mpo VERB`, or `python -m mpo VERB`."""

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mpo.jobs import arguments, cli
from mpo.report.figures import FIGURES, TUNING_FIGURES
from mpo.study.config import MAX_EPISODES, ConfigError, JobFailed
from mpo.study.files import RUN
from mpo.study.paths import Place
from mpo.study.specs import CellSpec, EvaluationSpec, RandomSpec
from mpo.training.signals import EXIT_CODE, Interrupted

_VERBS = (
    cli.train,
    cli.calibrate,
    cli.evaluate,
    cli.verify,
    cli.video,
    cli.events,
    cli.random,
    cli.collect,
    cli.statistics,
    cli.choose,
    cli.typeset,
    cli.figure,
    cli.summary,
    cli.pages,
    cli.merge,
    cli.archive,
    cli.check,
    cli.status,
    cli.failures,
)
_PIPE_CLOSED = 128 + signal.SIGPIPE
"""The exit code of a program whose reader has gone, as a shell reports it."""

_Parsers = dict[str, argparse.ArgumentParser]


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


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments; `main` ends with the code of a refusal."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mpo", description=__doc__, epilog="`mpo VERB --help` lists the options of a verb."
    )
    choices = parser.add_subparsers(required=True, metavar="VERB")
    sub: _Parsers = {}
    for function in _VERBS:
        name, text = function.__name__, function.__doc__
        sub[name] = choices.add_parser(name, help=text, description=text)
        sub[name].set_defaults(function=function)
        sub[name].add_argument(
            "--log",
            type=arguments.new_file(),
            nargs="+",
            default=[],
            help="also write progress and errors here",
        )
        sub[name].add_argument(
            "--attempt",
            type=arguments.positive,
            default=1,
            help="from 1; a job whose config was refused is not tried again",
        )
    _add_options_of_trainings(sub)
    _add_options_of_runs(sub)
    _add_options_of_studies(sub)
    _add_options_of_reports(sub)
    return parser


def _add_options_of_trainings(sub: _Parsers) -> None:
    options = sub["train"].add_argument
    text = "CellSpec as JSON: everything but the seeds"
    options("--cell", type=arguments.spec(CellSpec), required=True, help=text)
    options("--checkpoint-interval", type=arguments.seconds, default=60.0, help="in seconds")
    text = "environment steps of the cell's longest planned runs, by which auto decides"
    options("--planned-steps", type=arguments.positive, help=text)
    text = "delete a run's checkpoints when it is finished, to save disk space"
    options("--discard-resume-state", action="store_true", help=text)
    text = f"{RUN} of each run, in {Place.FORM}"
    options("--out", type=arguments.file_of_run, nargs="+", required=True, help=text)

    options = sub["calibrate"].add_argument
    text = "study.json of the stage of tuning, if there is one, and of the study"
    options("--study", type=arguments.existing_file, nargs="+", required=True, help=text)
    text = "seeds that a process trains together"
    options("--seeds-per-job", type=arguments.positive, default=1, help=text)
    text = "of learning, for each kind of run"
    options("--seconds", type=arguments.seconds, default=5.0, help=text)

    for name, default in (("train", "false"), ("calibrate", "auto")):
        options = sub[name].add_argument
        text = "use torch.compile on a CPU too; auto: as the cell's runs before, or where it pays"
        options("--compile-on-cpu", choices=("auto", "true", "false"), default=default, help=text)
        options("--no-cuda-graphs", action="store_true", help="launch GPU kernels one by one")


def _add_options_of_runs(sub: _Parsers) -> None:
    options = sub["verify"].add_argument
    text = "run directories"
    options("--runs", type=arguments.existing_folder, nargs="+", required=True, help=text)
    text = "environment steps to repeat"
    options("--steps", type=arguments.positive, required=True, help=text)
    options("--out", type=arguments.new_file(), required=True, help="Markdown file")

    for name in ("train", "calibrate", "verify"):
        options = sub[name].add_argument
        options("--device", choices=("auto", "cpu", "cuda"), default="auto")
        text = "processes that may share a GPU"
        options("--runs-per-gpu", type=arguments.positive, default=1, help=text)

    for name in ("train", "calibrate", "evaluate", "verify"):
        text = "CPU threads; train and evaluate may step environments in as many processes"
        options = sub[name].add_argument
        options("--threads", type=arguments.threads, default=1, help=text)

    options = sub["evaluate"].add_argument
    options("--run", type=arguments.finished_run, required=True, help="run directory")
    text = "EvaluationSpec as JSON"
    options("--config", type=arguments.spec(EvaluationSpec), required=True, help=text)

    for name in ("train", "calibrate", "evaluate", "random", "video", "verify"):
        text = "seconds that one call of an environment may take"
        options = sub[name].add_argument
        options("--environment-timeout", type=arguments.seconds, default=300.0, help=text)

    for name in ("video", "events"):
        options = sub[name].add_argument
        options("--run", type=arguments.existing_folder, required=True, help="run directory")
    options = sub["video"].add_argument
    text = "index in the final evaluation, from 0"
    options("--episode", type=arguments.whole(0, MAX_EPISODES - 1), default=0, help=text)
    film = arguments.new_file(".mp4", ".gif")
    options("--out", type=film, required=True, help=".mp4 or .gif file")
    text = "event file; its name must contain tfevents"
    sub["events"].add_argument("--out", type=arguments.new_file(), required=True, help=text)


def _add_options_of_studies(sub: _Parsers) -> None:
    options = sub["merge"].add_argument
    text = "results/STUDY of other machines, or results/reference/STUDY"
    options("sources", type=arguments.existing_folder, nargs="+", metavar="SOURCE", help=text)
    text = "results/STUDY here"
    options("--into", type=arguments.new_folder, required=True, help=text)
    text = "only what tables and figures are made of, of evaluated runs"
    options("--without-policies", action="store_true", help=text)

    options = sub["archive"].add_argument
    text = "who made the study"
    options("--author", nargs="+", default=[], metavar="NAME", help=text)
    text = "SPDX identifier of the results' licence"
    options("--license", type=arguments.spdx, default="MIT", help=text)
    text = "as 2027-01-31; default: the day on which the last run finished"
    options("--published", type=arguments.day, metavar="DAY", help=text)
    options("--out", type=arguments.new_file(".zip"), required=True, help=".zip file")
    text = "zip file, or the folder that it was unpacked to"
    sub["check"].add_argument("--archive", type=arguments.existing, required=True, help=text)

    options = sub["random"].add_argument
    text = "RandomSpec as JSON"
    options("--config", type=arguments.spec(RandomSpec), required=True, help=text)
    text = "steps of the longest training; an episode that outlasts it counts as endless"
    options("--budget", type=arguments.whole(0), default=0, help=text)
    text = "if the environment fails, write that, so that the study can do without its scores"
    options("--allow-missing", action="store_true", help=text)
    options("--out", type=arguments.new_file(), required=True, help="JSON file")

    text = "a study.json; default: every results/*/study.json"
    sub["status"].add_argument("--study", type=arguments.existing_file, help=text)


def _add_options_of_reports(sub: _Parsers) -> None:
    for name in ("statistics", "choose"):
        options = sub[name].add_argument
        options("--references", type=Path, required=True, help="CSV of reference returns")
        options("--random", type=Path, nargs="+", required=True, help="JSON files of `mpo random`")
    text = "CSV of published returns, optional"
    sub["statistics"].add_argument("--baselines", type=Path, nargs="?", help=text)
    sub["choose"].add_argument("--out", type=arguments.new_file(), required=True, help="JSON file")

    readers = (
        "collect",
        "statistics",
        "choose",
        "typeset",
        "figure",
        "summary",
        "pages",
        "failures",
    )
    for name in (*readers, "archive"):
        text = "study.json of the study"
        sub[name].add_argument("--study", type=arguments.existing_file, required=True, help=text)
    for name in ("statistics", "choose", "typeset", "figure", "summary", "pages"):
        text = "directory of the tables"
        sub[name].add_argument("--tables", type=arguments.existing_folder, required=True, help=text)
    text = "directory of the tables"
    sub["collect"].add_argument("--out", type=arguments.new_folder, required=True, help=text)
    sub["typeset"].add_argument("--out", type=arguments.new_folder, required=True, help="directory")
    options = sub["figure"].add_argument
    options("--name", choices=(*FIGURES, *TUNING_FIGURES), required=True, help="name of the figure")
    image = arguments.new_file(".pdf", ".svg", ".png")
    options("--out", type=image, nargs="+", required=True, help="image files")
    options("--caption", type=arguments.new_file(), required=True, help="text file")
    options = sub["summary"].add_argument
    picture = arguments.picture_of((*FIGURES, *TUNING_FIGURES))
    text = "directory of the tables of the tuning stage, if arms were tuned; of each rung in turn"
    options("--tuning", type=arguments.existing_folder, nargs="*", default=(), help=text)
    options("--figures", type=picture, nargs="+", required=True, help="PNG files")
    for name in ("summary", "failures"):
        options = sub[name].add_argument
        options("--out", type=arguments.new_file(), required=True, help="Markdown file")
    options = sub["pages"].add_argument
    options(
        "--summary", type=arguments.existing_file, required=True, help="summary.md of the study"
    )
    options("--films", type=Path, nargs="*", help="MP4 files")
    options("--out", type=arguments.new_folder, required=True, help="directory")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.function is cli.train and (wrong := arguments.repeated(args.out)):
        parser.error(f"argument --out: {wrong}")
    if wrong := arguments.overwritten(args):
        parser.error(wrong)
    return args


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
        args = _arguments(argv)
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
