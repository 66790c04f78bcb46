"""What a checkpoint costs beside the training it protects, at a replay of a million transitions.

    python benchmarks/checkpoint.py [FOLDER]

Fills the replay of a HalfCheetah run (3 x 256 units) with made-up transitions, a checkpoint every
10 000; then trains for a while with real steps and updates, and takes both costs in the same run.
The folder, a temporary one unless given, decides which disk is measured.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mpo.checkpoint import ResumeDirectory
from mpo.recorder import Recorder
from mpo.session import Session
from mpo.signals import StopRequest
from mpo.trainer import MPOTrainer

CAPACITY = 1_000_000
PIECE = 10_000
EPISODE = 1_000
TRAINED_STEPS = 1_000
INTERVAL_S = 60.0
BATCH = 256


def make_trainer() -> MPOTrainer:
    """The trainer of a usual MuJoCo run."""
    widths = (256, 256, 256)
    return MPOTrainer("HalfCheetah-v5", 0, torch.device("cpu"), widths, widths, CAPACITY)


def fill(trainer: MPOTrainer, session: Session) -> list[float]:
    """Stores a million transitions; returns the seconds of each checkpoint on the way."""
    rng = np.random.default_rng(0)
    seconds = []
    obs = rng.standard_normal(trainer.obs_dim, dtype=np.float32)
    for step in range(1, CAPACITY + 1):
        after = rng.standard_normal(trainer.obs_dim, dtype=np.float32)
        action = rng.uniform(-1, 1, trainer.action_dim).astype(np.float32)
        over = step % EPISODE == 0
        trainer._add_transition(obs, action, action, -3.0, 1.0, after, 0.0, float(over))
        obs = rng.standard_normal(trainer.obs_dim, dtype=np.float32) if over else after
        if step % PIECE == 0:
            trainer.env_steps = step
            trainer.agent.updates = step
            start = time.perf_counter()
            session.save()
            seconds.append(time.perf_counter() - start)
    return seconds


def train(trainer: MPOTrainer, recorder: Recorder) -> float:
    """Real steps, an update each; returns steps per second."""
    start = time.perf_counter()
    for _ in range(TRAINED_STEPS):
        trainer._environment_step(*trainer._act(recorder))
        recorder.add(trainer.agent.update(trainer._sample_sequences(BATCH, 1)))
    return TRAINED_STEPS / (time.perf_counter() - start)


def bytes_of(folder: Path, pattern: str) -> int:
    """Bytes of the newest file of a kind."""
    return sorted(folder.glob(pattern))[-1].stat().st_size


def measure(folder: Path) -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    trainer, recorder = make_trainer(), Recorder(1)
    with ResumeDirectory(folder, "{}", StopRequest()) as directory:
        session = Session(trainer, recorder, [directory])
        seconds = fill(trainer, session)
        steps_per_s = train(trainer, recorder)
        # As many new transitions as an interval brings.
        new = int(steps_per_s * INTERVAL_S)
        trainer.env_steps = CAPACITY + new
        start = time.perf_counter()
        session.save()
        typical = time.perf_counter() - start
        state, piece = (bytes_of(folder, f"{kind}-*.pt") for kind in ("checkpoint", "transitions"))
        whole = sum(path.stat().st_size for path in folder.glob("*.pt"))
    start = time.perf_counter()
    fresh = make_trainer()
    made = time.perf_counter() - start
    with ResumeDirectory(folder, "{}", StopRequest()) as directory:
        start = time.perf_counter()
        Session(fresh, Recorder(1), [directory], [directory.load()])
        resumed = time.perf_counter() - start
    assert fresh.replay_size() == CAPACITY
    start = time.perf_counter()
    torch.save(trainer.newest_transitions(0, CAPACITY), folder / "whole.pt")
    naive = time.perf_counter() - start
    print(f"training                          {steps_per_s:.0f} steps/s, an update each")
    print(f"checkpoint, {PIECE} new transitions  {1e3 * np.median(seconds):.0f} ms (median of 100)")
    print(f"checkpoint, {INTERVAL_S:.0f} s of training        {1e3 * typical:.0f} ms for {new} new")
    print(f"  written: state {state / 1e6:.1f} MB, transitions {piece / 1e6:.1f} MB")
    print(
        f"  share of the training time      {typical / INTERVAL_S:.2%} at one in {INTERVAL_S:.0f} s"
    )
    print(
        f"resume                            {resumed:.2f} s, after {made:.2f} s to make a trainer"
    )
    print(f"the replay in memory              {trainer._replay.nbytes / 1e6:.0f} MB")
    print(f"on disk in all                    {whole / 1e6:.0f} MB")
    print(f"the whole replay in each instead  {1e3 * naive:.0f} ms, {naive / typical:.0f} x")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="an empty folder on the disk to test")
    folder = parser.parse_args().folder
    if folder is not None:
        measure(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(temporary))


if __name__ == "__main__":
    main()
