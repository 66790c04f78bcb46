"""Gathers what a training leaves behind, without a host sync between logging intervals."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpo.files import METRICS, POLICIES
from mpo.records import write_policies, write_rows


class Diverged(FloatingPointError):
    """A loss or a parameter is no longer finite; the message names the term, seed and step."""


class Recorder:
    """Metrics a logging interval and policy snapshots, for each of S seeds."""

    def __init__(self, seeds: Sequence[int]) -> None:
        """Starts the clock of `wall_s`."""
        self._seeds = seeds
        self._start = time.perf_counter()
        self._rows: list[list[dict[str, Any]]] = [[] for _ in seeds]
        self._snapshots: list[tuple[int, dict[str, Tensor]]] = []
        self._sum: Tensor | None = None
        self._names: list[str] = []
        self._count = 0

    @property
    def wall_s(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Takes one update's diagnostics, [S] each; they stay on the device."""
        values = torch.stack(list(metrics.values()), dim=-1)  # [S, K]
        self._names = list(metrics)
        self._sum = values if self._sum is None else self._sum + values
        self._count += 1

    def log(
        self, env_step: int, updates: int, episodes: Sequence[Sequence[tuple[float, int]]]
    ) -> None:
        """Closes a logging interval: means over its updates and its finished episodes.

        Raises:
            Diverged: a mean is not finite, so some update's value was not.
        """
        means = [] if self._sum is None else (self._sum / self._count).tolist()
        for index, (seed, finished) in enumerate(zip(self._seeds, episodes, strict=True)):
            metrics = dict(zip(self._names, means[index], strict=True)) if means else {}
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise Diverged(f"{name} is {value} at step {env_step}, seed {seed}")
            count = len(finished)
            self._rows[index].append(
                {
                    "env_step": env_step,
                    "updates": updates,
                    "wall_s": self.wall_s,
                    "episodes": count,
                    "episode_return": sum(r for r, _ in finished) / count if count else math.nan,
                    "episode_length": sum(n for _, n in finished) / count if count else math.nan,
                    **metrics,
                }
            )
        self._sum, self._count = None, 0

    def snapshot(self, env_step: int, policy: torch.nn.Module) -> None:
        """Keeps a copy of the stacked policy."""
        state = {name: value.detach().cpu().clone() for name, value in policy.state_dict().items()}
        self._snapshots.append((env_step, state))

    def write(self, index: int, directory: Path) -> None:
        """Writes one seed's metrics and snapshots."""
        columns = dict.fromkeys(name for row in self._rows[index] for name in row)
        # Rows from before the first update lack its metrics.
        rows = [{name: row.get(name, math.nan) for name in columns} for row in self._rows[index]]
        write_rows(directory / METRICS, rows)
        steps = [step for step, _ in self._snapshots]
        policies = [
            {name: value[index : index + 1] for name, value in state.items()}
            for _, state in self._snapshots
        ]
        write_policies(directory / POLICIES, steps, policies)
