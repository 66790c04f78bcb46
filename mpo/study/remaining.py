"""What the rest of a study will cost, estimated from what its runs have cost so far."""

import contextlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from mpo.study.cells import Run
from mpo.study.checksums import Damaged, read_object, reading
from mpo.study.files import CHECKPOINTS, EVALUATION_COST, RUN, RUN_FILES, is_trained
from mpo.study.plan import Study
from mpo.study.status import FINISHED, UNFINISHED, RunStatus


class Cost(NamedTuple):
    """What a run has cost; None where it is not known."""

    env: str
    variant: str
    finished: bool
    """Whether its training is; one in progress tells less."""
    step_s: float | None
    """Training, in core-seconds per environment step."""
    episode_s: float | None = None
    """Evaluation, in core-seconds per episode."""
    step_bytes: float | None = None
    """All files, with the state to resume from, in bytes per environment step."""
    calibrated: bool = False
    """Whether it was measured by a calibration, which trains no run."""


class Work(NamedTuple):
    """What a run still needs."""

    env: str
    variant: str
    training: bool
    """Whether it is to be trained, which may only take its last steps."""
    steps: int
    """Environment steps of training."""
    episodes: int
    """Episodes of its evaluation."""
    total_steps: int
    """Its budget."""
    present: int
    """Bytes that are there already."""


class Estimate(NamedTuple):
    """What the work will cost; NaN where nothing of its kind has been done yet."""

    trainings: int
    evaluations: int
    training_s: float
    """Core-seconds."""
    evaluation_s: float
    """Core-seconds."""
    span_s: float
    """Seconds on the given cores, without evaluations if their cost is not known."""
    bytes: float
    """Of disk."""


def estimate(parts: Sequence[Sequence[Work]], known: Sequence[Cost], cores: int) -> Estimate:
    """Estimates what work will cost.

    Each rate is the mean over the nearest runs that have it: those of the same environment and arm,
    else of the same environment, else of the same arm, else all. Among these, runs in progress
    count only where none is finished.

    Args:
        parts: stages that come one after the other, each with its runs.
        known: what runs have cost.
        cores: how many there are. A stage takes at least as long as its longest run.
    """
    step_s, episode_s, step_bytes = (
        _rates((cost, getattr(cost, name)) for cost in known)
        for name in ("step_s", "episode_s", "step_bytes")
    )
    training, evaluation, size, span = 0.0, 0.0, 0.0, 0.0
    for part in parts:
        seconds = []
        for work in part:
            trained = work.steps * _nearest(step_s, work) if work.steps else 0.0
            evaluated = work.episodes * _nearest(episode_s, work)
            size += max(0.0, work.total_steps * _nearest(step_bytes, work) - work.present)
            seconds.append(trained + (0.0 if math.isnan(evaluated) else evaluated))
            training, evaluation = training + trained, evaluation + evaluated
        span += max(sum(seconds) / cores, *seconds, 0.0)
    every = [work for part in parts for work in part]
    trainings = sum(work.training for work in every)
    if not step_bytes:
        size = math.nan
    if math.isnan(training):
        span = math.nan
    return Estimate(trainings, len(every), training, evaluation, span, size)


_Place = tuple[str | None, str | None]
"""An environment and an arm; None for all of them."""


def _rates(known: Iterable[tuple[Cost, float | None]]) -> dict[_Place, float]:
    """The mean of a rate over the runs of each environment and arm, of each, and over all."""
    found: dict[_Place, dict[bool, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cost, value in known:
        if value is not None:
            for place in itertools.product((cost.env, None), (cost.variant, None)):
                found[place][cost.finished].append(value)
    return {place: fmean(values[True] or values[False]) for place, values in found.items()}


def _nearest(rates: Mapping[_Place, float], work: Work) -> float:
    env, variant = work.env, work.variant
    places = ((env, variant), (env, None), (None, variant), (None, None))
    return next((rates[place] for place in places if place in rates), math.nan)


def work_left(study: Study, found: Iterable[RunStatus], root: Path) -> list[Work]:
    """Returns what the unfinished runs of a study need, as far as the same command does it.

    Not among them are damaged runs, which wait for somebody to delete them, and failed ones if the
    study allows them to be missing.

    Args:
        study: the study.
        found: the status of each of its runs.
        root: the directory that contains `results/`.
    """
    tried = ("planned", "running", *(() if study.allow_missing else UNFINISHED))
    states = _states(study, root)
    rest = []
    for s in found:
        if s.status in tried:
            run, state = s.run, states[s.run.run_id]
            trained, before = is_trained(root / run.directory), study.resumed_at(run)
            rest.append(
                Work(
                    *(run.spec.env_name, run.variant),
                    training=not trained,
                    steps=0 if trained else max(0, run.total_steps - max(before, _done(s, state))),
                    episodes=_episodes(study, run),
                    total_steps=run.total_steps,
                    present=_size(root / run.directory, state),
                )
            )
    return rest


def costs(study: Study, found: Sequence[RunStatus], root: Path) -> list[Cost]:
    """Returns what the trained runs of a study have cost, and those that are being trained.

    Arguments as for `work_left`. Records that cannot be read are left out.
    """
    sharing = Counter(s.process for s in found if s.status == "running")
    states = _states(study, root)
    known = []
    for s in found:
        run, state = s.run, states[s.run.run_id]
        if s.status in FINISHED or is_trained(root / run.directory):
            known += _finished(study, run, root, state)
        elif s.status == "running" and s.per_s > 0 and s.count > run.spec.training.update_after:
            # Seeds of one process share its core. Before the first update a step takes less.
            step_s, size = 1 / (s.per_s * sharing[s.process]), _size(root / run.directory, state)
            place = run.spec.env_name, run.variant
            known.append(Cost(*place, False, step_s, None, size / s.count if size else None))
    return known


def _finished(study: Study, run: Run, root: Path, state: Path) -> list[Cost]:
    """The cost of a trained run; empty if its records do not tell it."""
    directory, episode_s = root / run.directory, None
    path = directory / EVALUATION_COST
    try:
        with reading(directory / RUN):
            record = read_object(directory / RUN)
            cores = record["provenance"].get("threads") or 1
            step_s = cores * record["wall_s"] / record["stacked"] / record["env_steps"]
        if path.exists():
            with reading(path):
                episode_s = read_object(path)["eval_s"] / _episodes(study, run)
    except (Damaged, OSError):
        return []
    size = _size(directory, state) / run.total_steps
    return [Cost(run.spec.env_name, run.variant, True, step_s, episode_s, size)]


def _states(study: Study, root: Path) -> dict[str, Path]:
    """The directory of the state that each run resumes from, by run id."""
    cells = {cell.cell_id: cell.spec.identity for cell in study.cells}
    return {run.run_id: root / run.resume_directory(cells[run.cell_id]) for run in study.runs}


def _done(s: RunStatus, state: Path) -> int:
    """The environment step that a training has reached, which another budget may have paid for."""
    steps = (path.stem.rpartition("-")[2] for path in state.glob(CHECKPOINTS))
    saved = [int(step) for step in steps if step.isdecimal()]
    return max(s.count if s.status == "running" and s.phase == "train" else 0, *saved, 0)


def _episodes(study: Study, run: Run) -> int:
    """Episodes of a run's evaluation: of each snapshot, and twice of the last one."""
    snapshots = run.total_steps // run.spec.snapshot_interval + 1
    return snapshots * study.evaluation.online_episodes + 2 * study.evaluation.final_episodes


def _size(directory: Path, state: Path) -> int:
    """Bytes of a run's files and of the state that it resumes from."""
    size = 0
    for path in (*(directory / name for name in RUN_FILES), *state.glob("*.pt")):
        with contextlib.suppress(OSError):  # a training replaces its checkpoints meanwhile
            size += path.stat().st_size
    return size
