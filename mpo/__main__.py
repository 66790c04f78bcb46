"""The verbs that rules call: `python -m mpo VERB --help` describes each."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

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
_Parsers = dict[str, argparse.ArgumentParser]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mpo", description=__doc__)
    choices = parser.add_subparsers(required=True, metavar="VERB")
    sub: _Parsers = {}
    for function in _VERBS:
        name, text = function.__name__, function.__doc__
        sub[name] = choices.add_parser(name, help=text, description=text)
        sub[name].set_defaults(function=function)
        sub[name].add_argument(
            "--log", type=Path, nargs="+", default=[], help="write progress and errors here too"
        )
        sub[name].add_argument(
            "--attempt", type=int, default=1, help="a retry of a refused job ends at once"
        )
    _add_options_of_runs(sub)
    _add_options_of_studies(sub)
    return parser


def _add_options_of_runs(sub: _Parsers) -> None:
    options = sub["train"].add_argument
    options("--cell", required=True, help="a CellSpec as JSON: what the runs share")
    options("--checkpoint-interval", type=float, default=60.0, help="seconds")
    options("--no-cuda-graphs", action="store_true", help="launch a GPU's kernels one by one")
    options("--discard-resume-state", action="store_true", help="at the end: saves disk")
    text = f"each run's {RUN}, in {Place.FORM}"
    options("--out", type=_place_of_file, nargs="+", required=True, help=text)

    options = sub["verify"].add_argument
    options("--runs", type=Path, nargs="+", required=True, help="directories of finished runs")
    options("--steps", type=int, required=True, help="environment steps to train again")
    options("--out", type=Path, required=True, help="the page")

    for name in ("train", "verify"):
        options = sub[name].add_argument
        options("--device", choices=("auto", "cpu", "cuda"), default="auto")
        options("--threads", type=int, default=1, help="CPU threads of the networks")
        options("--compile-on-cpu", action="store_true", help="learn in compiled code there, too")
        options("--runs-per-gpu", type=int, default=1, help="runs that may share a GPU")

    sub["evaluate"].add_argument("--run", type=_place, required=True, help="a trained run")
    sub["evaluate"].add_argument("--config", required=True, help="an EvaluationSpec as JSON")

    for name in ("train", "evaluate"):
        sub[name].add_argument(
            "--environment-timeout", type=float, default=300.0, help="seconds for one step"
        )
    options = sub["video"].add_argument
    options("--run", type=Path, required=True, help="a trained run")
    options("--episode", type=int, default=0, help="of the final evaluation, from 0")
    options("--out", type=Path, required=True, help="an .mp4 or a .gif")

    sub["events"].add_argument("--run", type=Path, required=True, help="an evaluated run")
    sub["events"].add_argument("--out", type=Path, required=True, help="its name holds tfevents")


def _add_options_of_studies(sub: _Parsers) -> None:
    options = sub["random"].add_argument
    options("--config", required=True, help="a RandomSpec as JSON")
    options("--out", type=Path, required=True, help="a JSON file")

    options = sub["statistics"].add_argument
    options("--references", type=Path, required=True, help="csv of the environments' references")
    options("--baselines", type=Path, nargs="?", help="csv of published returns, if there is one")
    options("--random", type=Path, nargs="+", required=True, help="what `random` has measured")

    for name in ("collect", "statistics", "typeset", "figure", "summary", "pages", "failures"):
        sub[name].add_argument("--study", type=Path, required=True, help="the study's study.json")
    sub["status"].add_argument("--study", type=Path, help="a study.json; all in results/ else")
    for name in ("statistics", "typeset", "figure", "summary", "pages"):
        sub[name].add_argument("--tables", type=Path, required=True, help="the tables' directory")
    sub["collect"].add_argument("--out", type=Path, required=True, help="the tables' directory")
    sub["typeset"].add_argument("--out", type=Path, required=True, help="a directory")
    sub["figure"].add_argument("--name", required=True, help="which figure")
    sub["figure"].add_argument("--out", type=Path, nargs="+", required=True, help="image files")
    sub["figure"].add_argument("--caption", type=Path, required=True, help="a text file")
    sub["summary"].add_argument("--figures", type=Path, nargs="+", required=True, help="PNG files")
    for name in ("summary", "failures"):
        sub[name].add_argument("--out", type=Path, required=True, help="the page")
    sub["pages"].add_argument("--summary", type=Path, required=True, help="its summary.md")
    sub["pages"].add_argument("--films", type=Path, nargs="*", help="mp4 files")
    sub["pages"].add_argument("--out", type=Path, required=True, help="a directory")


def _place(directory: str) -> Place:
    try:
        return Place.parse(Path(directory))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _place_of_file(path: str) -> Place:
    return _place(os.path.dirname(path))


def _log_to(paths: Sequence[Path]) -> None:
    """Sends the log to stderr, and to each of the files."""
    handlers: list[logging.Handler] = []
    if paths or not sys.stderr.isatty():
        handlers.append(logging.StreamHandler())
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w"))
    logger = logging.getLogger("mpo")
    logger.setLevel(logging.INFO)
    # dm_control logs with absl, which gives the root a handler that would print all of it again.
    logger.propagate = False
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns:
        The exit code: 2 where the config is at fault, 75 where a signal stopped what can go on, 1
        where anything else is wrong.
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
    except (JobFailed, OSError) as error:
        logging.getLogger("mpo").error("failed: %s", error)
        return 1
    except Exception:
        logging.getLogger("mpo").exception("failed")
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # All is written. Python would take over a second to take torch's modules down, in every job.
    os._exit(code)
