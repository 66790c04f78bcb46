"""The verbs that train and play; the docstrings are their help texts.

Imports are late, so that a verb loads only what it needs.
"""

import contextlib
import logging
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mpo.jobs.cli.study_verbs import root_of, status, study_of
from mpo.study import checksums
from mpo.study.config import ConfigError
from mpo.study.files import write_json
from mpo.study.specs import CellSpec, EnvironmentSpec, EvaluationSpec, RandomSpec
from mpo.training.signals import STOPPING, stopped_at_once

if TYPE_CHECKING:
    import torch

    from mpo.environments.workers import Worker
    from mpo.jobs.heartbeat import Heartbeat

logger = logging.getLogger(__name__)


def train(args: Namespace) -> None:
    """Trains runs of one cell to their budget, resuming each from its last checkpoint."""
    spec = CellSpec.parse(args.cell)
    if len({place.total_steps for place in args.out}) > 1:
        raise ConfigError("--out: runs trained together need the same budget, received several")

    total = args.out[0].total_steps
    files = {place.status_file: spec.of_seed(place.seed).identity for place in args.out}
    beat = _heartbeat(args, files, total)
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

    run, spec = checksums.read_run(args.run.directory)
    beat = _heartbeat(args, {args.run.status_file: spec.identity})
    with beat, stopped_at_once(), _workers(args, spec.environment) as workers:
        from mpo.jobs.evaluate import evaluate_run

        evaluate_run(args.run, run, spec, config, workers)


def calibrate(args: Namespace) -> None:
    """Trains every kind of run for some seconds and prints what the study will cost."""
    from mpo.jobs.calibrate import calibrate as measure
    from mpo.study import calibration

    with _heartbeat(args), _device(args) as device:
        options = {"cuda_graphs": not args.no_cuda_graphs, "compile_on_cpu": args.compile_on_cpu}
        for path in args.study:
            study = study_of(path)
            found = measure(study, args.seeds_per_job, args.seconds, device, **options)
            calibration.write(study, root_of(path), found)
    status(Namespace(study=args.study[-1]))


def verify(args: Namespace) -> None:
    """Repeats the first steps of finished runs and compares the metrics bit for bit."""
    from mpo.jobs import verify as verification

    with _heartbeat(args), _device(args) as device:
        found = [verification.verify(run, args.steps, device) for run in args.runs]
    verification.write(found, args.out)


def video(args: Namespace) -> None:
    """Records a video of one episode of a run's final evaluation."""
    import torch

    from mpo.jobs.video import record

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with _heartbeat(args):
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
    from mpo.study import references

    with _heartbeat(args), stopped_at_once():
        try:
            returns = random_returns(
                config.environment, config.episodes, config.max_episode_steps, args.budget
            )
            mean = float(returns.mean())
            if args.references:
                names, limit = [config.env_name], config.max_episode_steps
                (row,) = references.of_environments(names, args.references, limit)
                references.refuse_low(row, mean, args.references)
            outcome: dict[str, object] = {"mean": mean}
        except EnvironmentFailed as error:
            if not args.allow_missing:
                raise
            logger.warning("no random return: %s", error)
            outcome = {"error": str(error)}
        environment = fingerprint.present(config.environment)
    found = {"env_id": config.env_name, **outcome, "episodes": config.episodes}
    found |= {"spec": config.model_dump(mode="json"), "environment": environment}
    write_json(args.out, checksums.sealed(found))


def _heartbeat(
    args: Namespace, files: Mapping[Path, str] | None = None, total: int = 0
) -> "Heartbeat":
    """Says how the verb gets on, in the log and in the status files of its runs."""
    from mpo.jobs.heartbeat import Heartbeat

    log = args.log[0] if args.log else None
    name = args.function.__name__
    return Heartbeat(files or {}, name, total, args.environment_timeout, log)


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
