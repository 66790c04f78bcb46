"""The commands that the workflow's rules run: `mpo VERB`, or `python -m mpo VERB`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mpo.jobs.cli import arguments, run_verbs, study_verbs
from mpo.report.figures import FIGURES, TUNING_FIGURES
from mpo.study.config import MAX_EPISODES, ConfigError
from mpo.study.files import RUN
from mpo.study.paths import Place
from mpo.study.specs import CellSpec, EvaluationSpec, RandomSpec

_VERBS = (
    run_verbs.train,
    run_verbs.calibrate,
    run_verbs.evaluate,
    run_verbs.verify,
    run_verbs.video,
    run_verbs.events,
    run_verbs.random,
    study_verbs.collect,
    study_verbs.statistics,
    study_verbs.choose,
    study_verbs.typeset,
    study_verbs.figure,
    study_verbs.summary,
    study_verbs.pages,
    study_verbs.merge,
    study_verbs.archive,
    study_verbs.check,
    study_verbs.status,
    study_verbs.failures,
)
_Parsers = dict[str, argparse.ArgumentParser]


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
    text = "CSV of reference returns; this environment's must be above the random return"
    options("--references", type=arguments.existing_file, help=text)
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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the checked arguments; `function` is the verb.

    Raises:
        ConfigError: an argument is wrong, or would overwrite another.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.function is run_verbs.train and (wrong := arguments.repeated(args.out)):
        parser.error(f"argument --out: {wrong}")
    if wrong := arguments.overwritten(args):
        parser.error(wrong)
    return args
