"""The training loop: from a stack and what it finds on disk to each seed's files."""

import itertools
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mpo import provenance
from mpo.study.config import ConfigError, canonical_json
from mpo.study.files import RUN
from mpo.study.specs import CellSpec
from mpo.training.artifacts import write_json
from mpo.training.checkpoint import Resumed, ResumeDirectory
from mpo.training.progress import format_metrics, progress
from mpo.training.recorder import Recorder
from mpo.training.session import Session, open_directories
from mpo.training.signals import StopRequest
from mpo.training.stack import Stack

logger = logging.getLogger(__name__)


def train(
    stack: Stack,
    spec: CellSpec,
    total_steps: int,
    out_dirs: Sequence[Path],
    resume_dirs: Sequence[Path] = (),
    checkpoint_interval_s: float = 60.0,
    keep_resume_state: bool = True,
) -> None:
    """Trains until a budget is spent, as a spec says; see `MPOTrainer.train`.

    Args:
        stack: of the spec's environment and hyperparameters.
        spec: what shapes the training.
        total_steps: environment steps in all.
        out_dirs: of each seed.
        resume_dirs: of each seed, or none.
        checkpoint_interval_s: seconds between checkpoints.
        keep_resume_state: whether a later call with more steps can go on from the end.
    """
    recorder = Recorder(len(stack.seeds))
    identities = [_identity(spec, seed) for seed in stack.seeds[: len(resume_dirs)]]
    with open_directories(resume_dirs, identities) as (directories, stop):
        together = _together(stack, spec, directories, stop, checkpoint_interval_s)
        session = Session(stack, recorder, directories, together, stop, checkpoint_interval_s)
        _refuse_off_grid(stack.env_steps, total_steps, spec)
        advance(stack, total_steps, spec, recorder, session)
        # Before the rows that only this budget has.
        session.save()
        if recorder.logged != stack.env_steps:
            _log(stack, recorder)
        if stack.env_steps % spec.snapshot_interval:
            recorder.snapshot(stack.env_steps, stack.agent.policy)
        _write(stack, out_dirs, recorder, spec, total_steps)
        if not keep_resume_state:
            session.delete()


def advance(
    stack: Stack,
    until: int,
    spec: CellSpec,
    recorder: Recorder,
    session: Session,
    diverged_too: bool = False,
) -> None:
    """Trains until so many environment steps, or until no seed is left that could learn."""
    training = spec.training
    if not recorder.of[0].snapshots:
        recorder.snapshot(stack.env_steps, stack.agent.policy)
    bar = progress(_label(stack), until, min(stack.env_steps, until))
    while stack.env_steps < until and (diverged_too or not recorder.all_diverged):
        # The first windows are drawn before an action is chosen, for which a GPU must be waited
        # for; the others once those before them are learnt from, for they take their place. The
        # action is executed after the updates: what a GPU has been asked to learn, it learns while
        # the environments move.
        steps = max(0, stack.env_steps + 1 - training.update_after)
        due = int(training.updates_per_step * steps) - stack.agent.updates
        drawn = (stack.draw_windows(training.batch_size) for _ in range(due))
        first = [*itertools.islice(drawn, 1)]
        chosen = stack.act(recorder)
        for windows in itertools.chain(first, drawn):
            recorder.add(stack.agent.update(windows, training.m_steps))
        stack.step_environments(*chosen)
        if stack.env_steps % spec.log_interval == 0:
            _log(stack, recorder, bar)
        elif ended := recorder.open_divergences:
            _log(stack, recorder, indices=ended)
        if stack.env_steps % spec.snapshot_interval == 0:
            recorder.snapshot(stack.env_steps, stack.agent.policy)
        bar.update()
        session.tick()
    bar.close()


def _together(
    stack: Stack,
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
        some = stack.of_some([stack.seeds[i] for i in behind])
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
    stack: Stack,
    recorder: Recorder,
    bar: tqdm | None = None,
    indices: Sequence[int] | None = None,
) -> None:
    """Closes a logging interval, of all seeds or of some."""
    which = range(len(stack.seeds)) if indices is None else indices
    finished = {i: stack.take_finished(i) for i in which}
    agent = stack.agent
    recorder.log(stack.env_steps, agent.updates, finished, agent.non_finite())
    returns = [r for episodes in finished.values() for r, _ in episodes]
    if returns and bar is not None:
        text = format_metrics({"return": float(np.mean(returns))})
        bar.set_postfix_str(text, refresh=False)


def _write(
    stack: Stack,
    out_dirs: Sequence[Path],
    recorder: Recorder,
    spec: CellSpec,
    total_steps: int,
) -> None:
    """Writes each seed's files."""
    origin = provenance.of_training(stack.device, stack.agent.compiled)
    for seed, directory, own in zip(stack.seeds, out_dirs, recorder.of, strict=True):
        record = own.write(total_steps, directory)
        if record["error"]:
            logger.warning("seed %d diverged: %s", seed, record["error"])
        write_json(
            directory / RUN,
            record
            | {
                "env_id": stack.env_id,
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


def _label(stack: Stack) -> str:
    return f"{stack.name} seed {'+'.join(map(str, stack.seeds))}"
