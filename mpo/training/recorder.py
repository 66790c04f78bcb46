"""Collects metrics and snapshots; the host waits for the GPU once a logging interval."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpo.algorithm.agent import Networks
from mpo.environments.workers import usage
from mpo.study.files import METRICS, POLICIES
from mpo.training.artifacts import write_policies, write_rows

CLOCKS = ("wall_s", "cpu_s")
"""The only metrics that differ between two runs of the same seed and settings."""


class Divergence(NamedTuple):
    """The first non-finite metric, parameter or action of a seed."""

    env_step: int
    """Environment step at which it was found."""
    term: str
    """Description of the value."""


class Snapshot(NamedTuple):
    """One seed's networks at an environment step."""

    env_step: int
    policy: dict[str, Tensor]
    """State dict of the policy, [1, ...] each."""
    critic: dict[str, Tensor] | None = None
    """That of the online critic; None in journals of before it was kept."""


class SeedRecord:
    """One seed's metrics, snapshots and clocks."""

    def __init__(self, stack: int) -> None:
        """Starts the clocks of a seed; `stack` is the number of seeds in the process."""
        self.started = datetime.now(UTC)
        """Start of the training; unchanged when it is resumed."""
        self.resumed: list[dict[str, Any]] = []
        """Environment step, host and time of each resumption."""
        self.diverged: Divergence | None = None
        """If set, recording ends with the logging interval of the divergence."""
        self.rows: list[dict[str, Any]] = []
        """Metrics, one row per logging interval."""
        self.snapshots: list[Snapshot] = []
        """Policy and critic, oldest first."""
        self._stack = stack
        self._wall_start, self._cpu_start = time.perf_counter(), usage().cpu_s
        self._before = 0.0, 0.0
        self._max_rss_mb = 0.0
        self._mark_taken()

    @property
    def closed(self) -> bool:
        """Whether the seed diverged and the row of that interval has been written."""
        found = self.diverged
        return bool(found and self.rows and self.rows[-1]["env_step"] >= found.env_step)

    @property
    def clocks(self) -> dict[str, float]:
        """Wall and CPU seconds of the seed's processes so far; the whole stack shares them."""
        wall = time.perf_counter() - self._wall_start
        return dict(zip(CLOCKS, (wall, usage().cpu_s - self._cpu_start), strict=True))

    def diverge(self, env_step: int, term: str) -> None:
        """Marks the seed as diverged; only the first call counts."""
        self.diverged = self.diverged or Divergence(env_step, term)

    def take_new(self) -> dict[str, Any] | None:
        """Returns rows and snapshots since the last call, or None; see `load_state_dict`."""
        rows, snapshots = self._taken
        plain = [tuple(snapshot) for snapshot in self.snapshots[snapshots:]]
        new = {"rows": self.rows[rows:], "snapshots": plain}
        self._mark_taken()
        return new if any(new.values()) else None

    def state_dict(self) -> dict[str, Any]:
        """Everything except rows and snapshots; values are not copied."""
        return {
            "started": self.started.isoformat(),
            "resumed": self.resumed,
            "diverged": self.diverged and tuple(self.diverged),
            **self._costs(),
        }

    def load_state_dict(self, state: Mapping[str, Any], pieces: Sequence[dict[str, Any]]) -> None:
        """Restores `state`, and the rows and snapshots from all results of `take_new`."""
        self.started = datetime.fromisoformat(state["started"])
        self.resumed = list(state["resumed"])
        self.diverged = state["diverged"] and Divergence(*state["diverged"])
        self._wall_start = time.perf_counter() - state["wall_s"]
        self._cpu_start = usage().cpu_s - state["cpu_s"]
        self._before = state["wall_s"], state["wall_s"] / state["stacked"]
        self._max_rss_mb = state["max_rss_mb"]
        self.rows = [row for piece in pieces for row in piece["rows"]]
        self.snapshots = [Snapshot(*saved) for piece in pieces for saved in piece["snapshots"]]
        self._mark_taken()

    def write(self, total_steps: int, directory: Path) -> dict[str, Any]:
        """Writes the metrics and snapshots up to environment step `total_steps`.

        Returns:
            The entries for run.json: status, error, counts and costs.
        """
        rows = [row for row in self.rows if row["env_step"] <= total_steps]
        columns = dict.fromkeys(name for row in rows for name in row)
        # Rows from before the first update have no update metrics.
        rows = [{name: row.get(name, math.nan) for name in columns} for row in rows]
        write_rows(directory / METRICS, rows)
        found = self.diverged
        if found and found.env_step > total_steps:
            found = None
        # Keep the snapshot of step 0 in any case: it was taken before any update.
        end = total_steps if found is None else min(total_steps, max(found.env_step - 1, 0))
        kept = [snapshot for snapshot in self.snapshots if snapshot.env_step <= end]
        steps, policies, critics = zip(*kept, strict=True)
        write_policies(directory / POLICIES, steps, policies, critics[-1])
        return {
            "status": "diverged" if found else "ok",
            "error": f"{found.term} at step {found.env_step}" if found else None,
            "total_steps": total_steps,
            "env_steps": rows[-1]["env_step"],
            "updates": rows[-1]["updates"],
            "episodes": sum(row["episodes"] for row in rows),
            **self._costs(),
            **{name: rows[-1][name] for name in CLOCKS},
        }

    def _costs(self) -> dict[str, float]:
        """Clocks, peak memory (MB) and the mean number of seeds per process, weighted by time."""
        clocks = self.clocks
        wall_before, share_before = self._before
        share = share_before + (clocks["wall_s"] - wall_before) / self._stack
        return {
            **clocks,
            "max_rss_mb": max(self._max_rss_mb, usage().max_rss_mb),
            "stacked": round(clocks["wall_s"] / share, 3),
        }

    def _mark_taken(self) -> None:
        self._taken = len(self.rows), len(self.snapshots)


class Recorder:
    """Averages metrics over logging intervals and keeps snapshots, for S stacked seeds."""

    def __init__(self, seeds: int) -> None:
        """Starts the clocks; `seeds` is S."""
        self.of = [SeedRecord(seeds) for _ in range(seeds)]
        """The record of each seed, by its index in the stack."""
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}
        """Names of metrics -> their sum [S, K] and the number of updates that had them."""

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Accumulates one update's diagnostics, [S] each, on their device."""
        values = torch.stack(list(metrics.values()), dim=-1)  # [S, K]
        names = tuple(metrics)
        total, count = self._sums.get(names, (torch.zeros_like(values), 0))
        self._sums[names] = total.to(values.device) + values, count + 1

    def _means(self) -> list[dict[str, float]]:
        """Returns each seed's mean of every metric, over the updates that had it."""
        sums: list[dict[str, float]] = [defaultdict(float) for _ in self.of]
        counts: dict[str, int] = defaultdict(int)
        for names, (total, count) in self._sums.items():
            for own, values in zip(sums, total.tolist(), strict=True):
                for name, value in zip(names, values, strict=True):
                    own[name] += value
            for name in names:
                counts[name] += count
        return [{name: own[name] / count for name, count in counts.items()} for own in sums]

    @property
    def all_diverged(self) -> bool:
        """Whether every seed has diverged."""
        return all(record.diverged for record in self.of)

    @property
    def open_divergences(self) -> list[int]:
        """Indices of seeds that diverged and still need their last row.

        Trained alone, such a seed would stop at this step.
        """
        return [i for i, record in enumerate(self.of) if record.diverged and not record.closed]

    @property
    def logged(self) -> int | None:
        """Environment step of the newest row; None if there are no rows."""
        steps = [record.rows[-1]["env_step"] for record in self.of if record.rows]
        return max(steps, default=None)

    def log(
        self,
        env_step: int,
        updates: int,
        episodes: Mapping[int, Sequence[tuple[float, int]]],
        non_finite: Mapping[str, Tensor],
    ) -> None:
        """Closes a logging interval: adds a row of means over its updates and finished episodes.

        Args:
            env_step: environment steps so far.
            updates: network updates so far.
            episodes: (return, length) of the episodes finished in the interval, by seed index. The
                interval closes for these seeds only.
            non_finite: for each network, which seeds have non-finite parameters, [S]; see
                `MPOAgent.non_finite`.
        """
        means = self._means()
        bad = {name: values.tolist() for name, values in non_finite.items()}
        for index, finished in episodes.items():
            record = self.of[index]
            if record.closed:
                continue
            metrics = means[index]
            for name, value in metrics.items():
                if not math.isfinite(value):
                    record.diverge(env_step, f"{name} is {value}")
            for name, values in bad.items():
                if values[index]:
                    record.diverge(env_step, f"a parameter of the {name} is not finite")
            count = len(finished)
            record.rows.append(
                {
                    "env_step": env_step,
                    "updates": updates,
                    **record.clocks,
                    "episodes": count,
                    "episode_return": sum(r for r, _ in finished) / count if count else math.nan,
                    "episode_length": sum(n for _, n in finished) / count if count else math.nan,
                    **metrics,
                }
            )
        if len(episodes) == len(self.of):
            self._sums = {}

    def snapshot(self, env_step: int, networks: Sequence[Networks]) -> None:
        """Stores each seed's networks; a diverged seed gets only its first snapshot.

        Every snapshot has a critic, because it is the last one of a shorter budget.

        Args:
            env_step: environment steps so far.
            networks: see `MPOAgent.networks`.
        """
        for record, own in zip(self.of, networks, strict=True):
            if record.diverged is None or not record.snapshots:
                record.snapshots.append(Snapshot(env_step, *own))

    def state_dict(self, index: int) -> dict[str, Any]:
        """One seed's state without rows and snapshots; does not depend on the stack."""
        sums = [
            {"names": list(names), "sum": total[index : index + 1].clone(), "count": count}
            for names, (total, count) in self._sums.items()
        ]
        return {"sums": sums} | self.of[index].state_dict()

    def load_state_dict(
        self, states: Sequence[Mapping[str, Any]], pieces: Sequence[Sequence[dict[str, Any]]]
    ) -> None:
        """Loads one state per seed, all saved at the same step.

        Args:
            states: `state_dict` of each seed.
            pieces: for each seed, all results of `SeedRecord.take_new`, oldest first.
        """
        self._sums = {
            tuple(first["names"]): (torch.cat([one["sum"] for one in group]), first["count"])
            for group in zip(*(state["sums"] for state in states), strict=True)
            for first in group[:1]
        }
        for record, state, own in zip(self.of, states, pieces, strict=True):
            record.load_state_dict(state, own)
