"""The training loop: resumes a stack of seeds, trains it and writes each seed's files."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mpo import provenance
from mpo.environments.fingerprint import EnvironmentChanged, OptimizerChanged, refuse_change
from mpo.study.checksums import sealed
from mpo.study.config import ConfigError, canonical_json
from mpo.study.files import METRICS, POLICIES, RUN, write_json
from mpo.study.specs import CellSpec
from mpo.training.checkpoint import Resumed, ResumeDirectory
from mpo.training.forms import refuse_other_device, refuse_other_forms
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
    """Trains the stack to its step budget and writes the results; see `MPOTrainer.train`.

    Args:
        stack: the seeds, with the environment and hyperparameters of `spec`.
        spec: everything that shapes the training.
        total_steps: budget in environment steps, counted from step 0.
        out_dirs: output directory of each seed.
        resume_dirs: resume directory of each seed; empty to keep no checkpoints.
        checkpoint_interval_s: seconds between checkpoints.
        keep_resume_state: keep the final checkpoint, so that a later call can train further.

    Raises:
        ConfigError: the saved state is of another training or of another kind of device, or it is
            already past `total_steps` and `total_steps` is not a multiple of the logging and
            snapshot intervals.
        Interrupted: a stop signal arrived; the state is saved.
        CheckpointFailed: a checkpoint cannot be written.
        EnvironmentChanged: the saved state is from another version of the environment.
        OptimizerChanged: the saved state is from another version of an imported optimizer.
    """
    recorder = Recorder(len(stack.seeds))
    identities = [_identity(spec, seed) for seed in stack.seeds[: len(resume_dirs)]]
    with open_directories(resume_dirs, identities) as (directories, stop):
        together = _together(stack, spec, directories, stop, checkpoint_interval_s)
        session = Session(stack, recorder, directories, together, stop, checkpoint_interval_s)
        _refuse_past(stack.env_steps, total_steps, spec, recorder)
        advance(stack, total_steps, spec, recorder, session)
        # Save first: the rows and snapshots below are off the grid and belong to this budget only.
        session.save()
        if recorder.logged != stack.env_steps:
            _log(stack, recorder)
        if stack.env_steps % spec.snapshot_interval:
            recorder.snapshot(stack.env_steps, stack.agent.networks())
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
    """Trains to environment step `until`; stops early once every seed has diverged.

    Args:
        stack: the seeds to train.
        until: environment step to stop at.
        spec: everything that shapes the training.
        recorder: receives metrics and snapshots.
        session: saves checkpoints and handles stop signals between steps.
        diverged_too: go on to `until` even if every seed has diverged.
    """
    training = spec.training
    if not recorder.of[0].snapshots:
        recorder.snapshot(stack.env_steps, stack.agent.networks())
    bar = progress(_label(stack), until, min(stack.env_steps, until))
    while stack.env_steps < until and (diverged_too or not recorder.all_diverged):
        if stack.env_steps in training.network_resets:
            stack.agent.renew(training.network_resets.index(stack.env_steps))
        # This order overlaps the work of CPU and GPU. Reading the action waits for the GPU, so the
        # first batch of windows is drawn before it. Later batches reuse the buffers of the first,
        # so each is drawn after the update before it. Environments step last, while the GPU is
        # still busy with the queued updates.
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
            recorder.snapshot(stack.env_steps, stack.agent.networks())
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
    """Loads every resume directory, first training seeds that lag behind to the newest step.

    Seeds are at different steps if a process was killed while saving, or if seeds are now stacked
    in another way. A seed's trajectory does not depend on its stack, so it can catch up alone.
    """
    template = {"trainer": stack.state_dict(0), "recorder": Recorder(1).state_dict(0)}

    def load(directory: ResumeDirectory) -> Resumed | None:
        def check(resumed: Resumed) -> None:
            state = resumed.state
            recorded = state if isinstance(state, Mapping) else {}
            what, remedy = str(directory.path), f"Delete {directory.path} to start from step 0"
            kinds = {"environment": EnvironmentChanged, "optimizer": OptimizerChanged}
            for name, now in stack.made_of.items():
                refuse_change(recorded.get(name), now, what, remedy, kinds[name])
            refuse_other_device(recorded, stack.device.type, directory.path)
            refuse_other_forms(resumed, template)

        return directory.load(check)

    found = [load(directory) for directory in directories]
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
            found[i] = load(directories[i])
    return found


def _identity(spec: CellSpec, seed: int) -> str:
    """Canonical JSON of everything that shapes one seed's training; independent of its stack."""
    return canonical_json(spec.model_dump(mode="json") | {"seeds": [seed]})


def _refuse_past(reached: int, total_steps: int, spec: CellSpec, recorder: Recorder) -> None:
    if reached > total_steps and recorder.logged is None:
        raise ConfigError(
            f"total_steps: the seeds were already trained to step {reached}, without a resume "
            f"directory that has their earlier states; received {total_steps}"
        )
    for name in ("snapshot_interval", "log_interval"):
        interval = getattr(spec, name)
        if reached > total_steps and total_steps % interval:
            raise ConfigError(
                f"total_steps: the training has already reached step {reached}; its earlier states "
                f"are known only at multiples of {name} {interval}, received {total_steps}"
            )


def _log(
    stack: Stack,
    recorder: Recorder,
    bar: tqdm | None = None,
    indices: Sequence[int] | None = None,
) -> None:
    """Closes a logging interval for all seeds, or only for those in `indices`."""
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
    """Writes each seed's metrics, policy snapshots and run.json."""
    origin = provenance.of_training(stack.device, stack.agent.compiled)
    for seed, directory, own in zip(stack.seeds, out_dirs, recorder.of, strict=True):
        record = own.write(total_steps, directory)
        if record["error"]:
            logger.warning("seed %d diverged: %s", seed, record["error"])
        record |= {
            "env_id": spec.env_id,
            "seed": seed,
            **stack.made_of,
            "spec": spec.of_seed(seed).model_dump(mode="json"),
            "provenance": {
                **origin,
                "started": own.started.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "resumed": own.resumed,
            },
        }
        written = [directory / name for name in (METRICS, POLICIES)]
        write_json(directory / RUN, sealed(record, written))


def _label(stack: Stack) -> str:
    return f"{stack.name} seed {'+'.join(map(str, stack.seeds))}"
