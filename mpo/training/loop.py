"""The training loop: from a trainer and what it finds on disk to each seed's files."""

import itertools
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mpo import provenance
from mpo.study.config import CellSpec, ConfigError, canonical_json
from mpo.study.files import RUN
from mpo.training.artifacts import write_json
from mpo.training.checkpoint import Resumed, ResumeDirectory
from mpo.training.progress import format_metrics, progress
from mpo.training.recorder import Recorder
from mpo.training.session import Session, open_directories
from mpo.training.signals import StopRequest

if TYPE_CHECKING:
    from mpo.trainer import MPOTrainer

logger = logging.getLogger(__name__)


def train(
    trainer: "MPOTrainer",
    spec: CellSpec,
    total_steps: int,
    out_dirs: Sequence[Path],
    resume_dirs: Sequence[Path] = (),
    checkpoint_interval_s: float = 60.0,
    keep_resume_state: bool = True,
) -> None:
    """Trains until a budget is spent, as a spec says; see `MPOTrainer.train`.

    Args:
        trainer: of the spec's environment and hyperparameters.
        spec: what shapes the training.
        total_steps: environment steps in all.
        out_dirs: of each seed.
        resume_dirs: of each seed, or none.
        checkpoint_interval_s: seconds between checkpoints.
        keep_resume_state: whether a later call with more steps can go on from the end.
    """
    recorder = Recorder(len(trainer.seeds))
    identities = [_identity(spec, seed) for seed in trainer.seeds[: len(resume_dirs)]]
    with open_directories(resume_dirs, identities) as (directories, stop):
        together = _together(trainer, spec, directories, stop, checkpoint_interval_s)
        session = Session(trainer, recorder, directories, together, stop, checkpoint_interval_s)
        _refuse_off_grid(trainer.env_steps, total_steps, spec)
        advance(trainer, total_steps, spec, recorder, session)
        # Before the rows that only this budget has.
        session.save()
        if recorder.logged != trainer.env_steps:
            _log(trainer, recorder)
        if trainer.env_steps % spec.snapshot_interval:
            recorder.snapshot(trainer.env_steps, trainer.agent.policy)
        _write(trainer, out_dirs, recorder, spec, total_steps)
        if not keep_resume_state:
            session.delete()


def advance(
    trainer: "MPOTrainer",
    until: int,
    spec: CellSpec,
    recorder: Recorder,
    session: Session,
    diverged_too: bool = False,
) -> None:
    """Trains until so many environment steps, or until no seed is left that could learn."""
    training = spec.training
    if not recorder.of[0].snapshots:
        recorder.snapshot(trainer.env_steps, trainer.agent.policy)
    bar = progress(_label(trainer), until, min(trainer.env_steps, until))
    while trainer.env_steps < until and (diverged_too or not recorder.all_diverged):
        # The first windows are drawn before an action is chosen, for which a GPU must be waited
        # for; the others once those before them are learnt from, for they take their place. The
        # action is executed after the updates: what a GPU has been asked to learn, it learns while
        # the environments move.
        steps = max(0, trainer.env_steps + 1 - training.update_after)
        due = int(training.updates_per_step * steps) - trainer.agent.updates
        drawn = (trainer.draw_windows(training.batch_size) for _ in range(due))
        first = [*itertools.islice(drawn, 1)]
        chosen = trainer.act(recorder)
        for windows in itertools.chain(first, drawn):
            recorder.add(trainer.agent.update(windows, training.m_steps))
        trainer.step_environments(*chosen)
        if trainer.env_steps % spec.log_interval == 0:
            _log(trainer, recorder, bar)
        elif ended := recorder.open_divergences:
            _log(trainer, recorder, indices=ended)
        if trainer.env_steps % spec.snapshot_interval == 0:
            recorder.snapshot(trainer.env_steps, trainer.agent.policy)
        bar.update()
        session.tick()
    bar.close()


def _together(
    trainer: "MPOTrainer",
    spec: CellSpec,
    directories: Sequence[ResumeDirectory],
    stop: StopRequest,
    checkpoint_interval_s: float,
) -> list[Resumed | None]:
    """What each directory holds, after those behind have been trained to where the others are.

    A process that is killed while it saves, or a new choice of stacks, leaves seeds at unlike
    steps; each of their trajectories is the same in any stack.
    """
    found = [directory.load() for directory in directories]
    steps = [0 if state is None else state.state["trainer"]["env_steps"] for state in found]
    ahead = max(steps, default=0)
    for step in sorted(set(steps) - {ahead}):
        behind = [i for i, reached in enumerate(steps) if reached == step]
        some = trainer.of_some([trainer.seeds[i] for i in behind])
        recorder = Recorder(len(behind))
        own = [directories[i] for i in behind]
        states = [found[i] for i in behind]
        session = Session(some, recorder, own, states, stop, checkpoint_interval_s)
        advance(some, ahead, spec, recorder, session, diverged_too=True)
        session.save()
        for i in behind:
            found[i] = directories[i].load()
    return found


def _identity(spec: CellSpec, seed: int) -> str:
    """All that shapes the training of a seed, whatever its stack."""
    return canonical_json(spec.model_dump(mode="json") | {"seeds": [seed]})


def _refuse_off_grid(reached: int, total_steps: int, spec: CellSpec) -> None:
    for name in ("snapshot_interval", "log_interval"):
        interval = getattr(spec, name)
        if reached > total_steps and total_steps % interval:
            raise ConfigError(
                f"total_steps: the training has gone on to {reached} steps, and what it was before "
                f"can be told at multiples of {name} {interval} only, received {total_steps}"
            )


def _log(
    trainer: "MPOTrainer",
    recorder: Recorder,
    bar: tqdm | None = None,
    indices: Sequence[int] | None = None,
) -> None:
    """Closes a logging interval, of all seeds or of some."""
    which = range(len(trainer.seeds)) if indices is None else indices
    finished = {i: trainer.take_finished(i) for i in which}
    agent = trainer.agent
    recorder.log(trainer.env_steps, agent.updates, finished, agent.non_finite())
    returns = [r for episodes in finished.values() for r, _ in episodes]
    if returns and bar is not None:
        text = format_metrics({"return": float(np.mean(returns))})
        bar.set_postfix_str(text, refresh=False)


def _write(
    trainer: "MPOTrainer",
    out_dirs: Sequence[Path],
    recorder: Recorder,
    spec: CellSpec,
    total_steps: int,
) -> None:
    """Writes each seed's files."""
    origin = provenance.of_training(trainer.device, trainer.agent.compiled)
    for seed, directory, own in zip(trainer.seeds, out_dirs, recorder.of, strict=True):
        record = own.write(total_steps, directory)
        if record["error"]:
            logger.warning("seed %d diverged: %s", seed, record["error"])
        write_json(
            directory / RUN,
            record
            | {
                "env_id": trainer.env_id,
                "seed": seed,
                "spec": spec.of_seed(seed).model_dump(mode="json"),
                "provenance": {
                    **origin,
                    "started": own.started.isoformat(timespec="seconds"),
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                    "resumed": own.resumed,
                },
            },
        )


def _label(trainer: "MPOTrainer") -> str:
    return f"{trainer.name} seed {'+'.join(map(str, trainer.seeds))}"
