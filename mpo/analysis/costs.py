"""What training costs: core-seconds or GPU-seconds, curves against them, and ratios of arms.

A run's cost is its share of the time of its process. On a CPU that is CPU time, which leaves out
waiting for a core; on a GPU it is wall-clock time.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components

from mpo.analysis import contrasts
from mpo.analysis.effects import Effect
from mpo.analysis.intervals import t_interval
from mpo.analysis.tables import read, seed_returns
from mpo.study.plan import Study

CURVES = ("env", "arm", "unit", "cost", "mean", "lo", "hi", "method", "n")
"""Columns of the table cost_curves."""

RATIOS = (*contrasts.KEY, "env", "unit", "estimate", "lo", "hi", "method", *contrasts.COUNTS)
"""Columns of the table cost_ratios."""

_TOGETHER_S = 2.0
"""The seeds of a process start within milliseconds; their starts are recorded in whole seconds."""


class Clock(NamedTuple):
    """How the cost of a study's runs is measured."""

    unit: str
    column: str
    """Of the tables runs and train."""


def clock(runs: pd.DataFrame) -> Clock:
    """Returns how cost is measured, by the devices of the runs.

    Runs on CPUs and on GPUs have no common unit but seconds.
    """
    devices = set(runs["device"].dropna())
    if devices <= {"cpu"}:
        return Clock("core-seconds", "cpu_s")
    return Clock("seconds" if "cpu" in devices else "GPU-seconds", "wall_s")


def clocks(tables: Path) -> pd.DataFrame:
    """Returns the time of each run at its logging intervals, and 0 at its start.

    The columns are run_id, env, arm, env_step, wall_s and cost, in the unit of `clock`.
    """
    runs, train = read(tables, "runs"), read(tables, "train")
    found = train[["run_id", "env_step", "wall_s"]].assign(cost=train[clock(runs).column])
    started = found.drop_duplicates("run_id").assign(env_step=0, wall_s=0.0, cost=0.0)
    return pd.concat([started, found]).merge(runs[["run_id", "env", "arm"]], on="run_id")


def curve_rows(tables: Path) -> Iterator[dict[str, Any]]:
    """Each arm's mean return against its cost, as many points as it has snapshots.

    A curve ends where its cheapest seed does. A diverged run keeps its last return, so it ends no
    curve unless all seeds diverged.
    """
    runs = read(tables, "runs")
    unit, diverged = clock(runs).unit, set(runs.loc[runs["status"] == "diverged", "run_id"])
    returns, timed = seed_returns(tables, "online"), dict(list(clocks(tables).groupby("run_id")))
    for (env, arm), cell in returns.groupby(["env", "arm"], sort=False):
        seen = cell.pivot(index="run_id", columns="env_step", values="return")
        of_seeds = [timed[run_id] for run_id in seen.index]
        costs = np.stack([np.interp(seen.columns, t["env_step"], t["cost"]) for t in of_seeds])
        ended = seen.index.isin(diverged)
        end = costs[~ended if (~ended).any() else ended, -1].min()
        grid = np.linspace(0.0, end, costs.shape[1])
        values = at_costs(costs, seen.to_numpy(), grid)
        for cost, column in zip(grid, values.T, strict=True):
            n, mean, lo, hi = t_interval(column)
            row = {"env": env, "arm": arm, "unit": unit, "cost": cost, "method": "student-t"}
            yield row | {"mean": mean, "lo": lo, "hi": hi, "n": n}


def at_costs(costs: np.ndarray, values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Interpolates the values of each seed linearly at given costs.

    Beyond its end, a seed keeps its last value.

    Args:
        costs: what each seed has cost at its evaluations, not falling, [seeds, T].
        values: at these evaluations, [seeds, T].
        grid: costs, [G].

    Returns:
        [seeds, G].
    """
    pairs = zip(costs, values, strict=True)
    return np.stack([np.interp(grid, own, seen) for own, seen in pairs])


def ratio_rows(study: Study, tables: Path) -> Iterator[dict[str, Any]]:
    """The ratio of what two levels of a factor cost per environment step, paired by seed.

    Rows are of every level against the first of its axis. A ratio is the exponential of the effect
    on the logarithm, so means are geometric: in each environment, and over all in which some pair
    is complete. n counts timings, see `timings`.
    """
    runs = read(tables, "runs")
    unit, column = clock(runs)
    found = runs.assign(log_cost=np.log(runs[column] / runs["env_steps"]), process=processes(runs))
    process = contrasts.arrays(study, found, "process")
    logs = contrasts.arrays(study, found, "log_cost")
    cells = {env: timings(x, process[env]) for env, x in logs.items()}
    for contrast in contrasts.against_the_first(study):
        row = contrast.names | {"unit": unit, "method": "student-t of the logarithm"}
        for env, x in cells.items():
            if (one := contrasts.effect_over([x], contrast)) is not None:
                yield row | {"env": env} | _ratio(one)
        if (every := contrasts.effect_over([*cells.values()], contrast)) is not None:
            yield row | {"env": contrasts.POOLED} | _ratio(every)


def processes(runs: pd.DataFrame) -> pd.Series:
    """Numbers the processes that trained the runs; NaN for a run that has not been trained.

    Runs of a cell that were trained with others, and started together on one host, count as one
    process. That may take two for one, never one for two.
    """
    trained = runs[runs["started"].notna()]
    cell = trained.groupby(["env", "arm", "host"]).ngroup()
    frame = pd.DataFrame({"cell": cell, "alone": trained["stacked"] <= 1})
    frame["start"] = pd.to_datetime(trained["started"], utc=True)
    frame = frame.sort_values(["cell", "alone", "start"])
    gap = frame["start"].diff().dt.total_seconds() > _TOGETHER_S
    number = (frame["alone"] | gap | (frame["cell"].diff() != 0)).cumsum()
    return number.reindex(runs.index).astype(float)


def timings(values: np.ndarray, process: np.ndarray) -> np.ndarray:
    """Averages seeds that shared a process in some cell: their times are one measurement.

    Args:
        values: one per run, [seeds, ...]; NaN where there is none.
        process: the number of the process of each run, [seeds, ...].

    Returns:
        [timings, ...].
    """
    own = process.reshape(len(process), -1)
    _, group = connected_components((own[:, None] == own[None]).any(-1), directed=False)
    means = pd.DataFrame(values.reshape(len(values), -1)).groupby(group).mean()
    return means.to_numpy().reshape(-1, *values.shape[1:])


def _ratio(found: Effect) -> dict[str, Any]:
    n, *log = found.pooled
    bounds = dict(zip(("estimate", "lo", "hi"), np.exp(log), strict=True))
    return bounds | contrasts.counts(found) | {"n": n}
