"""Gathers what a training leaves behind, without a host sync between logging intervals."""

import math
import resource
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpo.files import METRICS, POLICIES
from mpo.records import write_policies, write_rows

CLOCKS = ("wall_s", "cpu_s")
"""The only metrics that two equal runs differ in."""


class Divergence(NamedTuple):
    """A seed's loss, parameter or action that is no longer finite."""

    env_step: int
    """Where it was found."""
    term: str
    """What it is, in words."""


class Recorder:
    """Metrics a logging interval and policy snapshots, for each of S seeds."""

    def __init__(self, seeds: Sequence[int]) -> None:
        """Starts the clocks."""
        self.started = datetime.now(UTC)
        """When the training began; a resumed one keeps its first beginning."""
        self.resumed: list[dict[str, Any]] = []
        """Where and when it was taken up again."""
        self.diverged: dict[int, Divergence] = {}
        """By index in the stack; nothing is recorded of a seed after the interval of it."""
        self._seeds = seeds
        self._wall_start, self._cpu_start = time.perf_counter(), time.process_time()
        self._max_rss_mb = 0.0
        self._rows: list[list[dict[str, Any]]] = [[] for _ in seeds]
        self.snapshots: list[tuple[int, dict[str, Tensor]]] = []
        """Environment step and stacked policy."""
        self._sum: Tensor | None = None
        self._names: list[str] = []
        self._count = 0
        self._taken = [0 for _ in seeds]
        self._taken_snapshots = 0

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Takes one update's diagnostics, [S] each; they stay on the device."""
        values = torch.stack(list(metrics.values()), dim=-1)  # [S, K]
        self._names = list(metrics)
        self._sum = values if self._sum is None else self._sum.to(values.device) + values
        self._count += 1

    def diverge(self, index: int, env_step: int, term: str) -> None:
        """Notes that a seed has diverged, unless it had before."""
        self.diverged.setdefault(index, Divergence(env_step, term))

    def log(
        self,
        env_step: int,
        updates: int,
        episodes: Sequence[Sequence[tuple[float, int]]],
        non_finite: Mapping[str, Tensor],
    ) -> None:
        """Closes a logging interval: means over its updates and its finished episodes.

        Args:
            env_step: environment steps so far.
            updates: of the networks, so far.
            episodes: return and length of each that finished, for each seed.
            non_finite: what is no longer finite where, see `MPOAgent.non_finite`.
        """
        means = [] if self._sum is None else (self._sum / self._count).tolist()
        bad = {name: values.tolist() for name, values in non_finite.items()}
        clocks = dict(zip(CLOCKS, (self._wall_s, self._cpu_s), strict=True))
        for index, finished in enumerate(episodes):
            if self._closed(index):
                continue
            metrics = dict(zip(self._names, means[index], strict=True)) if means else {}
            for name, value in metrics.items():
                if not math.isfinite(value):
                    self.diverge(index, env_step, f"{name} is {value}")
            for name, values in bad.items():
                if values[index]:
                    self.diverge(index, env_step, f"a parameter of the {name} is not finite")
            count = len(finished)
            self._rows[index].append(
                {
                    "env_step": env_step,
                    "updates": updates,
                    **clocks,
                    "episodes": count,
                    "episode_return": sum(r for r, _ in finished) / count if count else math.nan,
                    "episode_length": sum(n for _, n in finished) / count if count else math.nan,
                    **metrics,
                }
            )
        self._sum, self._count = None, 0

    @property
    def logged(self) -> int | None:
        """The environment step of the newest row, None before the first."""
        steps = [rows[-1]["env_step"] for rows in self._rows if rows]
        return max(steps, default=None)

    def snapshot(self, env_step: int, policy: torch.nn.Module) -> None:
        """Keeps a copy of the stacked policy."""
        state = {name: value.detach().cpu().clone() for name, value in policy.state_dict().items()}
        self.snapshots.append((env_step, state))

    def take_new(self) -> dict[str, Any] | None:
        """Rows and snapshots since the last call, if any; `load_state_dict` takes them back."""
        rows = [rows[n:] for rows, n in zip(self._rows, self._taken, strict=True)]
        snapshots = self.snapshots[self._taken_snapshots :]
        self._mark_taken()
        return {"rows": rows, "snapshots": snapshots} if snapshots or any(rows) else None

    def state_dict(self) -> dict[str, Any]:
        """All but rows and snapshots, not copied."""
        return {
            "started": self.started.isoformat(),
            "resumed": self.resumed,
            "diverged": {index: tuple(found) for index, found in self.diverged.items()},
            "sum": self._sum,
            "names": self._names,
            "count": self._count,
            "wall_s": self._wall_s,
            "cpu_s": self._cpu_s,
            "max_rss_mb": self._peak_mb,
        }

    def load_state_dict(self, state: Mapping[str, Any], pieces: Sequence[dict[str, Any]]) -> None:
        """Becomes the recorder of `state` and of all that its `take_new` returned."""
        self.started = datetime.fromisoformat(state["started"])
        self.resumed = list(state["resumed"])
        self.diverged = {index: Divergence(*found) for index, found in state["diverged"].items()}
        self._sum, self._names, self._count = state["sum"], state["names"], state["count"]
        self._wall_start = time.perf_counter() - state["wall_s"]
        self._cpu_start = time.process_time() - state["cpu_s"]
        self._max_rss_mb = state["max_rss_mb"]
        self._rows = [[] for _ in self._seeds]
        self.snapshots = []
        for piece in pieces:
            self.snapshots += piece["snapshots"]
            for rows, new in zip(self._rows, piece["rows"], strict=True):
                rows += new
        self._mark_taken()

    def write(self, index: int, total_steps: int, directory: Path) -> dict[str, Any]:
        """Writes one seed's metrics and snapshots up to a budget.

        Returns:
            What run.json says of them: status, error, counts and costs.
        """
        rows = [row for row in self._rows[index] if row["env_step"] <= total_steps]
        columns = dict.fromkeys(name for row in rows for name in row)
        # Rows from before the first update lack its metrics.
        rows = [{name: row.get(name, math.nan) for name in columns} for row in rows]
        write_rows(directory / METRICS, rows)
        found = self.diverged.get(index)
        if found and found.env_step > total_steps:
            found = None
        kept = [
            (step, state)
            for step, state in self.snapshots
            # The first one is from before any update.
            if step <= total_steps and (found is None or step < max(found.env_step, 1))
        ]
        policies = [
            {name: value[index : index + 1] for name, value in state.items()} for _, state in kept
        ]
        write_policies(directory / POLICIES, [step for step, _ in kept], policies)
        return {
            "status": "diverged" if found else "ok",
            "error": f"{found.term} at step {found.env_step}" if found else None,
            "total_steps": total_steps,
            "env_steps": rows[-1]["env_step"],
            "updates": rows[-1]["updates"],
            "episodes": sum(row["episodes"] for row in rows),
            "wall_s": rows[-1]["wall_s"],
            "cpu_s": rows[-1]["cpu_s"],
            "max_rss_mb": self._peak_mb,
        }

    def _mark_taken(self) -> None:
        self._taken = [len(rows) for rows in self._rows]
        self._taken_snapshots = len(self.snapshots)

    def _closed(self, index: int) -> bool:
        """Whether the interval in which a seed diverged has its row."""
        found, rows = self.diverged.get(index), self._rows[index]
        return bool(found and rows and rows[-1]["env_step"] >= found.env_step)

    @property
    def _wall_s(self) -> float:
        return time.perf_counter() - self._wall_start

    @property
    def _cpu_s(self) -> float:
        return time.process_time() - self._cpu_start

    @property
    def _peak_mb(self) -> float:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return max(self._max_rss_mb, own)
