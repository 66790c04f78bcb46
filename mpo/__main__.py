"""The verbs that rules call: `python -m mpo VERB --help` describes each.

Imports are late: a verb pays only for what it needs.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpo.config import CellSpec, ConfigError, EvaluationSpec, JobFailed, RunSpec
from mpo.files import RUN
from mpo.layout import Place
from mpo.signals import EXIT_CODE, Interrupted, stopped_at_once
from mpo.study import Study

if TYPE_CHECKING:
    import torch


def train(args: argparse.Namespace) -> None:
    """Trains runs of one cell to their budget; each goes on from where it was left."""
    spec = CellSpec.parse(args.cell)
    if len({place.total_steps for place in args.out}) > 1:
        raise ConfigError("--out: runs of one budget are trained together, received several")

    from mpo import gpus
    from mpo.heartbeat import Heartbeat

    total, timeout = args.out[0].total_steps, args.environment_timeout
    files = {place.status_file: spec.of_seed(place.seed).identity for place in args.out}
    beat = Heartbeat(files, "train", total, timeout, args.log[0] if args.log else None)
    with beat, contextlib.ExitStack() as stack:
        import torch

        from mpo.train import train as run

        if args.device != "cpu" and torch.backends.cuda.is_built():
            stack.enter_context(gpus.slot(args.runs_per_gpu))
        torch.set_num_threads(args.threads)
        run(
            spec,
            args.out,
            _device(args.device),
            beat,
            cuda_graphs=not args.no_cuda_graphs,
            checkpoint_interval_s=args.checkpoint_interval,
            keep_resume_state=not args.discard_resume_state,
        )


def evaluate(args: argparse.Namespace) -> None:
    """Evaluates the policy snapshots of a finished run."""
    config = EvaluationSpec.parse(args.config)

    from mpo import files
    from mpo.heartbeat import Heartbeat

    start = time.perf_counter()
    directory = args.run.directory
    run = json.loads((directory / files.RUN).read_text())
    spec = RunSpec.model_validate(run["spec"])
    status = {args.run.status_file: spec.identity}
    log = args.log[0] if args.log else None
    with Heartbeat(status, "evaluate", 0, args.environment_timeout, log), stopped_at_once():
        import torch

        from mpo import records
        from mpo.evaluate import evaluate as roll_out

        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        policies = records.read_policies(directory / files.POLICIES)
        rows = roll_out(spec, policies, config, run["total_steps"], args.run.run_id)
        records.write_rows(directory / files.EVALUATIONS, rows)
        seconds = time.perf_counter() - start
        records.write_json(directory / files.EVALUATION_COST, {"eval_s": seconds})


def verify(args: argparse.Namespace) -> None:
    """Trains the first steps of finished runs again and compares their metrics, bit for bit."""
    import torch

    from mpo import gpus
    from mpo import verify as verification

    with contextlib.ExitStack() as stack:
        if args.device != "cpu" and torch.backends.cuda.is_built():
            stack.enter_context(gpus.slot(args.runs_per_gpu))
        torch.set_num_threads(args.threads)
        device = _device(args.device)
        found = [verification.verify(run, args.steps, device) for run in args.runs]
    verification.write(found, args.out)


def video(args: argparse.Namespace) -> None:
    """Films an episode of a trained run's final policy, as it was scored."""
    import torch

    from mpo.video import record

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    film = record(args.run, args.out, args.episode)
    print(f"{args.out}: return {film.episode_return:.6g} in {film.length} steps")


def events(args: argparse.Namespace) -> None:
    """Writes a run's metrics and evaluations as a TensorBoard event file."""
    from mpo.events import write

    write(args.run, args.out)


def random(args: argparse.Namespace) -> None:
    """Measures the return of a random policy."""
    from mpo.evaluate import random_returns
    from mpo.records import write_json

    returns = random_returns(args.env, args.episodes)
    write_json(
        args.out, {"env_id": args.env, "mean": float(returns.mean()), "episodes": args.episodes}
    )


def collect(args: argparse.Namespace) -> None:
    """Gathers every run of a study into tables."""
    from mpo import tables

    tables.write(tables.collect(_study(args.study), Path()), args.out)


def statistics(args: argparse.Namespace) -> None:
    """Computes the study's statistics from its tables."""
    from mpo import baselines, tables
    from mpo import statistics as tables_of

    study = _study(args.study)
    published = baselines.read(study, args.baselines)
    found = tables_of.compute(study, args.tables, args.references, args.random)
    tables.write(found | {"baselines": published}, args.tables)


def typeset(args: argparse.Namespace) -> None:
    """Writes the main tables in LaTeX and in Markdown."""
    from mpo import publication

    publication.write(_study(args.study), args.tables, args.out)


def figure(args: argparse.Namespace) -> None:
    """Draws one figure from the tables."""
    from mpo import figures

    study = _study(args.study)
    figures.draw(args.name, study, args.tables, args.out)
    args.caption.write_text(figures.caption_rst(args.name, study, args.tables))


def summary(args: argparse.Namespace) -> None:
    """Writes the study's page: what it is, its figures and its tables."""
    from mpo import summary as page

    page.write(_study(args.study), args.tables, args.figures, args.out)


def pages(args: argparse.Namespace) -> None:
    """Writes the summary, the tables, the config and films as pages for a browser."""
    from mpo import files, page

    page.summary(args.summary, args.out / "summary.html")
    page.config(args.study, args.out / "config.html")
    for name in files.PAGES:
        page.table(args.tables, name, args.out / f"{name}.html")
    if args.films:
        page.films(args.films, args.out / "films.html")


def status(args: argparse.Namespace) -> None:
    """Shows how every run of a study stands, while it runs and after."""
    from mpo.status import overview

    found = [args.study] if args.study else sorted(Path("results").glob("*/study.json"))
    if not found:
        raise ConfigError("no study has been started here: there is no results/*/study.json")
    print("\n\n".join(overview(_study(path), Path()) for path in found))


def failures(args: argparse.Namespace) -> None:
    """Writes the page on every run that diverged or failed."""
    from mpo import status as page
    from mpo.files import replacing

    study = _study(args.study)
    text = page.failures(study, Path())
    with replacing(args.out) as temporary:
        temporary.write_text(text)


def _study(path: Path) -> Study:
    return Study.parse(json.loads(path.read_text()))


def _device(name: str) -> "torch.device":
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("execution.device: no CUDA device for 'cuda'; choose from auto, cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mpo", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    sub = {}
    by_run, by_study = (
        (train, evaluate, verify, video, events),
        (random, collect, statistics, typeset, figure, summary, pages),
    )
    for function in (*by_run, *by_study, status, failures):
        name, text = function.__name__, function.__doc__
        sub[name] = verbs.add_parser(name, help=text, description=text)
        sub[name].set_defaults(function=function)
        sub[name].add_argument(
            "--log", type=Path, nargs="+", default=[], help="write progress and errors here too"
        )

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

    options = sub["random"].add_argument
    options("--env", required=True, help="the environment's id")
    options("--episodes", type=int, required=True, help="how many to play")
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
    return parser


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
    _log_to(args.log)
    try:
        args.function(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
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
