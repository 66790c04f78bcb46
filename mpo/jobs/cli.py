"""What each verb of `python -m mpo` does; the docstrings are its help texts.

Imports are late, so that a verb loads only what it needs.
"""

import contextlib
import json
import logging
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mpo.study import checksums
from mpo.study.choice import read_choice
from mpo.study.config import ConfigError
from mpo.study.files import CHOICE, replacing, write_json
from mpo.study.plan import Study
from mpo.study.specs import CellSpec, EnvironmentSpec, EvaluationSpec, RandomSpec
from mpo.training.signals import STOPPING, stopped_at_once

if TYPE_CHECKING:
    import torch

    from mpo.environments.workers import Worker

logger = logging.getLogger(__name__)


def train(args: Namespace) -> None:
    """Trains runs of one cell to their budget, resuming each from its last checkpoint."""
    spec = CellSpec.parse(args.cell)
    if len({place.total_steps for place in args.out}) > 1:
        raise ConfigError("--out: runs trained together need the same budget, received several")

    from mpo.jobs.heartbeat import Heartbeat

    total, timeout = args.out[0].total_steps, args.environment_timeout
    files = {place.status_file: spec.of_seed(place.seed).identity for place in args.out}
    beat = Heartbeat(files, "train", total, timeout, args.log[0] if args.log else None)
    with beat, _device(args) as device, _workers(args, spec.environment, len(args.out)) as workers:
        from mpo.jobs.compiling import compiled
        from mpo.jobs.train import train as run

        run(
            spec,
            args.out,
            device,
            beat,
            cuda_graphs=not args.no_cuda_graphs,
            compile_on_cpu=device.type == "cpu"
            and compiled(spec, args.out[0], args.planned_steps or total, args.compile_on_cpu),
            checkpoint_interval_s=args.checkpoint_interval,
            keep_resume_state=not args.discard_resume_state,
            workers=workers,
        )


def evaluate(args: Namespace) -> None:
    """Evaluates the policy snapshots of a finished run."""
    config = EvaluationSpec.parse(args.config)

    from mpo.jobs.heartbeat import Heartbeat
    from mpo.study import files

    start = time.perf_counter()
    directory = args.run.directory
    run, spec = checksums.read_run(directory)
    status = {args.run.status_file: spec.identity}
    log = args.log[0] if args.log else None
    beat = Heartbeat(status, "evaluate", 0, args.environment_timeout, log)
    with beat, stopped_at_once(), _workers(args, spec.environment) as workers:
        import torch

        from mpo.environments import fingerprint
        from mpo.environments.rollouts import Step
        from mpo.jobs import q_bias
        from mpo.jobs.evaluate import evaluate as roll_out
        from mpo.training import artifacts

        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        environment = fingerprint.present(spec.environment)
        remedy = (
            f"Delete {directory} and {args.run.resume_directory(spec.cell.identity)} to train again"
        )
        what = f"the training of {args.run.run_id}"
        fingerprint.refuse_change(run.get("environment"), environment, what, remedy)
        path = checksums.intact(directory / files.POLICIES, run)
        policies = artifacts.read_policies(path)
        critic = artifacts.read_critic(path)
        steps: list[list[Step]] | None = None if critic is None else []
        rows = roll_out(
            spec, policies, config, args.run.total_steps, args.run.run_id, steps, workers
        )
        error = q_bias.measure(spec.training, policies[-1][1], critic, steps or ())
        artifacts.write_rows(directory / files.EVALUATIONS, rows)
        record = {
            "eval_s": time.perf_counter() - start,
            "spec": config.model_dump(mode="json"),
            "policies": checksums.expected(path, run),
            "environment": environment,
            **(error._asdict() if error else {}),
        }
        record = checksums.sealed(record, [directory / files.EVALUATIONS])
        write_json(directory / files.EVALUATION_COST, record)


def calibrate(args: Namespace) -> None:
    """Trains every kind of run for some seconds and prints what the study will cost."""
    from mpo.jobs.calibrate import calibrate as measure
    from mpo.jobs.heartbeat import Heartbeat
    from mpo.study import calibration

    log = args.log[0] if args.log else None
    beat = Heartbeat({}, "calibrate", 0, args.environment_timeout, log)
    with beat, _device(args) as device:
        options = {"cuda_graphs": not args.no_cuda_graphs, "compile_on_cpu": args.compile_on_cpu}
        for path in args.study:
            study = _study(path)
            found = measure(study, args.seeds_per_job, args.seconds, device, **options)
            calibration.write(study, _root(path), found)
    status(Namespace(study=args.study[-1]))


def verify(args: Namespace) -> None:
    """Repeats the first steps of finished runs and compares the metrics bit for bit."""
    from mpo.jobs import verify as verification
    from mpo.jobs.heartbeat import Heartbeat

    log = args.log[0] if args.log else None
    beat = Heartbeat({}, "verify", 0, args.environment_timeout, log)
    with beat, _device(args) as device:
        found = [verification.verify(run, args.steps, device) for run in args.runs]
    verification.write(found, args.out)


def video(args: Namespace) -> None:
    """Records a video of one episode of a run's final evaluation."""
    import torch

    from mpo.jobs.heartbeat import Heartbeat
    from mpo.jobs.video import record

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with Heartbeat({}, "video", 0, args.environment_timeout, args.log[0] if args.log else None):
        film = record(args.run, args.out, args.episode)
    print(f"{args.out}: return {film.episode_return:.6g} in {film.length} steps")


def events(args: Namespace) -> None:
    """Writes a run's metrics and evaluations as a TensorBoard event file."""
    from mpo.jobs.events import write

    write(args.run, args.out)


def random(args: Namespace) -> None:
    """Measures the mean return of a uniformly random policy."""
    config = RandomSpec.parse(args.config)

    from mpo.environments import fingerprint
    from mpo.environments.guard import EnvironmentFailed
    from mpo.jobs.evaluate import random_returns
    from mpo.jobs.heartbeat import Heartbeat

    log = args.log[0] if args.log else None
    with Heartbeat({}, "random", 0, args.environment_timeout, log), stopped_at_once():
        try:
            returns = random_returns(
                config.environment, config.episodes, config.max_episode_steps, args.budget
            )
            outcome: dict[str, object] = {"mean": float(returns.mean())}
        except EnvironmentFailed as error:
            if not args.allow_missing:
                raise
            logger.warning("no random return: %s", error)
            outcome = {"error": str(error)}
        environment = fingerprint.present(config.environment)
    found = {"env_id": config.env_name, **outcome, "episodes": config.episodes}
    found |= {"spec": config.model_dump(mode="json"), "environment": environment}
    write_json(args.out, checksums.sealed(found))


def collect(args: Namespace) -> None:
    """Collects all runs of a study in tables."""
    from mpo.analysis import collect, tables
    from mpo.study.status import write_damage

    study, root = _study(args.study), _root(args.study)
    try:
        found = collect.collect(study, root)
    except collect.DamagedRuns as error:
        write_damage(study, root, error.errors)
        raise
    damaged = found["runs"].query("status == 'damaged'")
    write_damage(study, root, dict(zip(damaged["run_id"], damaged["error"], strict=True)))
    tables.write(found, args.out)


def statistics(args: Namespace) -> None:
    """Computes the statistics of a study from its tables."""
    from mpo.analysis import answers, baselines, others, tables

    study = _study_of_tables(args)
    published = baselines.read(study, args.baselines)
    found = answers.compute(study, args.tables, args.references, args.random)
    found |= {"baselines": published, **others.compute(study, args.tables)}
    tables.write(found, args.tables)


def choose(args: Namespace) -> None:
    """Compares the candidates of a tuning stage, and chooses for each arm."""
    from mpo.analysis import references, tables, tuning

    study = _study_of_tables(args)
    if study.stage != "tuning":
        raise ConfigError(f"--study: expected the study of a tuning stage, received {args.study}")
    scale = references.read(study, args.references, args.random)
    found, record = tuning.compute(study, args.tables, scale)
    tables.write(found, args.tables)
    write_json(args.out, checksums.sealed(record))


def typeset(args: Namespace) -> None:
    """Writes the main tables as LaTeX and Markdown."""
    from mpo.report import paper_tables

    paper_tables.write(_study_of_tables(args), args.tables, args.out)


def figure(args: Namespace) -> None:
    """Draws one figure from the tables and writes its caption."""
    from mpo.report import figures

    study = _study_of_tables(args)
    figures.draw(args.name, study, args.tables, args.out)
    caption = figures.caption_rst(args.name, study, args.tables)
    args.caption.write_text(caption, encoding="utf-8")


def summary(args: Namespace) -> None:
    """Writes the summary of a study, with its figures and tables."""
    from mpo.report import summary as report

    study = _study_of_tables(args)
    report.write(study, args.tables, args.figures, args.out, args.tuning, args.study)


def pages(args: Namespace) -> None:
    """Writes the summary, tables, config and videos as HTML pages."""
    from mpo.report import html
    from mpo.study import files

    _study_of_tables(args)
    html.summary(args.summary, args.out / "summary.html")
    html.config(args.study, args.out / "config.html")
    for name in files.PAGES:
        html.table(args.tables, name, args.out / f"{name}.html")
    if args.films:
        html.films(args.films, args.out / "films.html")


def merge(args: Namespace) -> None:
    """Copies runs of the same study from other machines into this one."""
    from mpo.jobs import merge as module

    found = module.merge(args.sources, args.into, policies=not args.without_policies)
    print(f"{args.into}: {len(found.taken)} runs taken, {len(found.present)} were there already")


def archive(args: Namespace) -> None:
    """Packs a finished study into one file, with the checksums of all that is in it."""
    from mpo.jobs.archive import contents, crate, pack

    study, root = _study(args.study), _root(args.study)
    found = contents.contents(study, root)
    if not args.study.samefile(found.folder / "study.json"):
        raise ConfigError(f"--study: expected {found.folder}/study.json, received {args.study}")
    about = crate.About(args.author, args.license, args.published)
    done = pack.pack(found, about, args.out)
    missing = f" Missing runs: {len(found.missing)}." if found.missing else ""
    tuned = f" Tuned in study {found.tuned_in}, which is not packed." if found.tuned_in else ""
    print(f"{args.out}: {done}.{missing}{tuned}")


def check(args: Namespace) -> None:
    """Compares all files of an archive with the checksums in it."""
    from mpo.jobs.archive.check import check as compare

    print(f"{args.archive}: all as it was packed: {compare(args.archive)}.")


def status(args: Namespace) -> None:
    """Prints the status of every run, during and after the workflow, and what is left to do."""
    from mpo.study.overview import overview

    found = [args.study] if args.study else sorted(Path("results").glob("*/study.json"))
    if not found:
        raise ConfigError("no study has been started here: no file matches results/*/study.json")
    parts = []
    for path in found:
        try:
            study = _study(path)
            parts.append(overview(study, _root(path), _stages(path, study)))
        except (checksums.Damaged, OSError) as error:
            if args.study:
                raise
            parts.append(str(error))
    print("\n\n".join(parts))


def failures(args: Namespace) -> None:
    """Writes a page about the runs that diverged or failed."""
    from mpo.study import overview

    study = _study(args.study)
    text = overview.failures(study, _root(args.study))
    with replacing(args.out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _root(study: Path) -> Path:
    """The directory that contains `results/`: that of the study's file, wherever a user is."""
    return study.parents[2] if study.parts[-3:-2] == ("results",) else Path()


def _study_of_tables(args: Namespace) -> Study:
    """Reads the plan of a study, whose runs must be those of the tables."""
    from mpo.analysis import tables

    study = _study(args.study)
    tables.refuse_other_runs(study, args.tables)
    return study


def _study(path: Path) -> Study:
    own = path.name == "study.json"
    try:
        with checksums.reading(path):
            config = json.loads(path.read_text(encoding="utf-8"))
            study = Study.parse(config, read_choice(path.with_name(CHOICE)))
    except checksums.Damaged as error:
        if own:
            raise
        # It may be any file of the user's, which nobody should delete.
        text = f"expected the study.json of a study, received {path}: {error.__cause__}"
        raise ConfigError(text) from error
    if own and path.parts[-3:-2] == ("results",) and path.parts[-2] != study.study:
        raise checksums.Damaged(path, f"it is the plan of study {study.study}")
    return study


def _stages(path: Path, study: Study) -> list[Study]:
    """The studies that tune the arms of the one in a file, if they are tuned."""
    results = _root(path) / "results"
    return [
        Study.parse(config, read_choice(results / config["study"] / CHOICE))
        for config in study.tuning_stages(json.loads(path.read_text(encoding="utf-8")))
    ]


@contextlib.contextmanager
def _workers(
    args: Namespace, environment: EnvironmentSpec, count: int | None = None
) -> Iterator[list["Worker"]]:
    """Starts processes for environments where they pay; with this one, at most one per thread."""
    from mpo.environments.parallel import useful_workers
    from mpo.environments.rollouts import MAX_PARALLEL
    from mpo.environments.workers import workers

    found = useful_workers(environment, count or MAX_PARALLEL, args.threads)
    with workers(found, STOPPING, args.threads) as started:
        yield started


@contextlib.contextmanager
def _device(args: Namespace) -> Iterator["torch.device"]:
    """Waits for a share of a GPU, if one may be used; gives the device to train on."""
    import torch

    from mpo.jobs import gpus

    with contextlib.ExitStack() as stack:
        if args.device != "cpu" and torch.backends.cuda.is_built():
            stack.enter_context(gpus.slot(args.runs_per_gpu))
        torch.set_num_threads(args.threads)
        name = args.device
        if name == "cuda" and not torch.cuda.is_available():
            raise ConfigError("execution.device: no CUDA device for 'cuda'; choose from auto, cpu")
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        yield torch.device(name)
