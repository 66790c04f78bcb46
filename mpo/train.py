"""A planned run, trained as its spec says."""

from pathlib import Path
from typing import Any

import torch

from mpo.config import RunSpec
from mpo.trainer import MPOTrainer

_LOOP = ("update_after", "batch_size", "m_steps")


def make_trainer(spec: RunSpec, device: torch.device) -> MPOTrainer:
    """The trainer of a run, at its beginning."""
    values = {k: v for k, v in spec.training.model_dump().items() if k not in _LOOP}
    names = {"use_retrace": values.pop("retrace"), "optimizer_type": values.pop("optimizer")}
    return MPOTrainer(spec.env_id, spec.seed, device, **names, **values)


def train(
    trainer: MPOTrainer, spec: RunSpec, total_steps: int, out_dir: Path, **options: Any
) -> None:
    """Trains a run to a budget of environment steps; see `MPOTrainer.train` for the options."""
    trainer.train(
        total_steps,
        out_dir=str(out_dir),
        snapshot_interval=spec.snapshot_interval,
        log_interval=spec.log_interval,
        **{name: getattr(spec.training, name) for name in _LOOP},
        **options,
    )
