"""Trains every kind of run for a few seconds, to tell what a study will cost before it runs."""

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mpo.compute.compile import compiles
from mpo.environments.guard import EnvironmentFailed
from mpo.jobs import compiling
from mpo.jobs.evaluate import evaluate
from mpo.study.calibration import Rates, key
from mpo.study.cells import Cell
from mpo.study.config import Evaluation
from mpo.study.files import CHECKPOINTS, METRICS, POLICIES
from mpo.study.plan import Study
from mpo.training import loop
from mpo.training.artifacts import write_policies
from mpo.training.recorder import Recorder
from mpo.training.session import Session, open_directories
from mpo.training.stack import Stack

logger = logging.getLogger(__name__)

_FILLED = 200
"""Environment steps before the first update, or fewer: learning is what takes the time."""
_WARM = 3
"""Updates that are not timed: the first ones compile, and allocate memory."""
_EPISODES = 5
"""Episodes side by side in each of the three parts of an evaluation."""
_BYTES_OF_ROW = 320
"""Of the table of metrics, which has about forty columns."""


class _Over(Exception):
    """The time is over."""


class _Timed(Session):
    """A session that ends the training after some seconds of learning."""

    def __init__(self, seconds: float, stack: Stack, *arguments: object) -> None:
        super().__init__(stack, *arguments)  # type: ignore[arg-type]
        self._seconds, self._learner = seconds, stack
        self._first: tuple[float, float, int] | None = None
        self.step_s = 0.0
        """Core-seconds per step of the whole stack."""

    def tick(self) -> None:
        now, spent, step = time.monotonic(), _core_s(self._learner.device), self._learner.env_steps
        if self._first is None:
            if self._learner.agent.updates >= _WARM:
                self._first = now, spent, step
        elif now - self._first[0] >= self._seconds:
            self.step_s = (spent - self._first[1]) / (step - self._first[2])
            raise _Over


def _core_s(device: torch.device) -> float:
    """Core-seconds of this process: CPU time, which other work on the machine does not change.

    A GPU's cores wait for it, so there it is wall-clock time.
    """
    if device.type == "cpu":
        return time.process_time()
    return time.monotonic() * torch.get_num_threads()


def calibrate(
    study: Study,
    seeds: int,
    seconds: float,
    device: torch.device,
    cuda_graphs: bool = True,
    compile_on_cpu: str = "auto",
) -> dict[str, Rates]:
    """Measures what each kind of run of a study costs, by its `key`.

    Args:
        study: the study; its cells with the same key are measured once.
        seeds: number of seeds that a process trains together, at most those of the study.
        seconds: of learning, for each kind.
        device: device to train on.
        cuda_graphs: see `MPOTrainer`.
        compile_on_cpu: `true`, `false`, or `auto`: where it pays within the budget.
    """
    kinds = {key(cell.spec, cell.total_steps): cell for cell in study.cells}
    evaluations: dict[str, float | None] = {}
    found = {}
    for name, cell in kinds.items():
        wish = compile_on_cpu == "auto" and compiling.pays(cell.spec.training, cell.total_steps)
        on_cpu = (wish or compile_on_cpu == "true") and compiles(device, on_cpu=True)
        training = cell.spec.training
        filled = min(training.update_after, max(_FILLED, training.window))
        stack = Stack(
            cell.spec.environment,
            training.model_copy(update={"update_after": filled}),
            study.seeds[:seeds],
            device,
            cuda_graphs=cuda_graphs,
            compile_on_cpu=on_cpu,
        )
        stack.name = cell.cell_id
        with tempfile.TemporaryDirectory() as folder:
            step_s, size, policy = _train(stack, cell, seconds, Path(folder))
        if cell.env_slug not in evaluations:
            evaluations[cell.env_slug] = _evaluate(cell, study, policy)
        step_s /= len(stack.seeds)
        found[name] = Rates(step_s, evaluations[cell.env_slug], size / cell.total_steps)
        logger.info("%s: %.0f steps per core-second", cell.cell_id, 1 / step_s)
    return found


def _train(
    stack: Stack, cell: Cell, seconds: float, folder: Path
) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Trains for some seconds.

    Returns:
        Core-seconds per step of the whole stack, the bytes of a whole run, and a policy.
    """
    recorder, spec = Recorder(len(stack.seeds)), cell.spec
    spec = spec.model_copy(update={"training": stack.config})
    places = [folder / str(seed) for seed in stack.seeds]
    with open_directories(places, [""] * len(places)) as (directories, stop):
        session = _Timed(seconds, stack, recorder, directories, (), stop)
        try:
            while True:  # short runs are lengthened
                until = stack.env_steps + cell.total_steps
                loop.advance(stack, until, spec, recorder, session, diverged_too=True)
        except _Over:
            session.save()
    steps = stack.env_steps
    recorder.log(steps, stack.agent.updates, {0: []}, stack.agent.non_finite())
    recorder.of[0].write(steps, folder)
    networks = stack.agent.networks()[0]
    one, two = (_size_of(folder / POLICIES, networks, count) for count in (1, 2))
    snapshots = cell.total_steps // spec.snapshot_interval
    rows = cell.total_steps // spec.log_interval
    kept = min(cell.total_steps, stack.config.replay_size)
    saved = {path: path.stat().st_size for path in places[0].glob("*.pt")}
    state = sum(size for path, size in saved.items() if path.match(CHECKPOINTS))
    journal = (sum(saved.values()) - state) / steps * kept
    metrics = (folder / METRICS).stat().st_size + rows * _BYTES_OF_ROW
    size = metrics + one + snapshots * (two - one) + state + journal
    return session.step_s, size, networks[0]


def _size_of(path: Path, networks: Sequence[dict[str, torch.Tensor]], count: int) -> int:
    """Bytes of a file with some snapshots."""
    policy, critic = networks
    write_policies(path, range(count), [policy] * count, critic)
    return path.stat().st_size


def _evaluate(cell: Cell, study: Study, policy: dict[str, torch.Tensor]) -> float | None:
    """Core-seconds per episode; None if the environment fails."""
    few = {"online_episodes": _EPISODES, "final_episodes": _EPISODES}
    config = Evaluation(**study.evaluation.model_dump() | few)
    policy = {name: value.cpu() for name, value in policy.items()}
    start = time.process_time()
    try:
        evaluate(cell.spec.of_seed(study.seeds[0]), [(0, policy)], config, 0, cell.cell_id)
    except EnvironmentFailed as error:
        logger.warning("no evaluation: %s", error)
        return None
    return (time.process_time() - start) / (3 * _EPISODES)
