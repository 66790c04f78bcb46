"""Computes a study's statistics from the tables of its runs.

Tables: finals (final return and score of each run), references (the scale of the scores),
aggregates, profiles, improvements (comparisons of arms), effects (of factors, paired by seed),
differences (the effects of single seeds), contrasts (those that the config names), robustness (the
effects with sampled actions, and at each level of the other factors), efficiency, power,
sample_efficiency (an arm's IQM during training), cost_curves (its return against the cost of
training) and cost_ratios (of factors).
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpo.analysis import (
    aggregates,
    contrasts,
    costs,
    efficiency,
    intervals,
    references,
    robustness,
)
from mpo.analysis.tables import read, seed_returns
from mpo.study.plan import Study
from mpo.study.status import FINISHED

_BOUNDS = ("estimate", "lo", "hi", "method", "replicates")
_COLUMNS = {
    "aggregates": ("arm", "metric", *_BOUNDS, *contrasts.COUNTS),
    "profiles": ("arm", "tau", "estimate", "lo", "hi", "replicates", "n", "n_min"),
    "improvements": ("arm", "over", *_BOUNDS, "n", "n_over", "n_min"),
    "effects": (
        *(*contrasts.KEY, "env", "unit", "estimate", "lo", "hi", "method"),
        *(*contrasts.COUNTS, *contrasts.SPREAD),
    ),
    "differences": (*contrasts.KEY, "env", "unit", "difference"),
    "contrasts": (
        *(*contrasts.KEY, "estimate", "lo", "hi", "p", "p_holm", "method"),
        *(*contrasts.COUNTS, *contrasts.SPREAD),
    ),
    "efficiency": (
        *("env", "arm", "n", "area", "area_lo", "area_hi"),
        *("threshold", "reached", "median_steps", "median_lo", "median_hi"),
    ),
    "power": (*contrasts.KEY, "env", "environments", "sd", "effect", "seeds"),
    "sample_efficiency": (
        *("arm", "share", "env_step", "wall_s", "unit", "cost"),
        *(*_BOUNDS, *contrasts.COUNTS),
    ),
    "robustness": robustness.COLUMNS,
    "cost_curves": costs.CURVES,
    "cost_ratios": costs.RATIOS,
}
"""Columns of the tables that can be empty: with a single arm, without any reference score, or
without a named contrast."""

_TAUS = 101  # thresholds of a performance profile
_CURVE_REPLICATES = 2_000  # resamples per point of a curve


def compute(
    study: Study, tables: Path, table: Path, random: Sequence[Path]
) -> dict[str, pd.DataFrame]:
    """Computes every table, by name.

    Statistics over environments use normalised scores. They include only environments with a
    reference score and a run of every arm; otherwise arms would differ by their environments.

    Args:
        study: the study's plan; its `statistics` set the seed and the replicates of the bootstrap.
        tables: the directory of its tables.
        table: csv of reference returns, see `references.read`.
        random: measurements of a random policy, see `references.read`. Environments without a
            finished run need none.

    Raises:
        ConfigError: see `references.read`.
        Damaged: see `references.read` and `tables.read`.
    """
    runs = read(tables, "runs")
    finished = set(runs.loc[runs["status"].isin(FINISHED), "env"])
    unfinished = {environment.name for environment in study.environments} - finished
    scale = references.read(study, table, random, unfinished)
    finals, sampled = (_finals(study, tables, scale, policy) for policy in ("mode", "sample"))
    shared = _shared_environments(study, finals)
    rng = np.random.default_rng(study.statistics.seed)
    by_arm = _by_arm(finals, shared)
    changes = _table("effects", contrasts.effect_rows(study, finals, shared))
    return {
        "finals": finals,
        "references": scale,
        "aggregates": _table("aggregates", _aggregates(study, by_arm, rng)),
        "profiles": _table("profiles", _profiles(by_arm, rng)),
        "improvements": _table("improvements", _improvements(study, by_arm, rng)),
        "effects": changes,
        "differences": _table("differences", contrasts.difference_rows(study, finals)),
        "contrasts": _table("contrasts", contrasts.primary_rows(study, finals, shared)),
        "robustness": _table("robustness", robustness.rows(study, finals, sampled, shared)),
        "efficiency": _table("efficiency", _efficiency(study, tables, scale)),
        "power": _table("power", contrasts.power_rows(changes)),
        "sample_efficiency": _table(
            "sample_efficiency", _sample_efficiency(study, tables, scale, shared, rng)
        ),
        "cost_curves": _table("cost_curves", costs.curve_rows(tables)),
        "cost_ratios": _table("cost_ratios", costs.ratio_rows(study, tables)),
    }


def _table(name: str, rows: Iterator[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(_COLUMNS[name]))


def _finals(study: Study, tables: Path, scale: pd.DataFrame, policy: str) -> pd.DataFrame:
    """One row per planned run, with the final return of its policy and its score."""
    runs = read(tables, "runs")[["run_id", "env", "arm", *study.axis_values, "seed", "status"]]
    returns = seed_returns(tables, "final", policy)[["run_id", "return"]]
    finals = runs.merge(returns, on="run_id", how="left")
    return finals.assign(score=references.scores(finals, scale))


def _shared_environments(study: Study, finals: pd.DataFrame) -> list[str]:
    """The environments in which every arm has a score, in the study's order."""
    complete = finals.dropna(subset="score").groupby("env")["arm"].nunique()
    arms = finals["arm"].nunique()
    return [e.name for e in study.environments if complete.get(e.name, 0) == arms]


def _by_arm(finals: pd.DataFrame, environments: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Each arm's scores, one array per environment; empty if `environments` is empty."""
    if not environments:
        return {}
    found = finals.dropna(subset="score")
    return {
        str(arm): [rows.loc[rows["env"] == env, "score"].to_numpy() for env in environments]
        for arm, rows in found.groupby("arm", sort=False)
    }


def _bounds(found: Any) -> dict[str, Any]:
    """The columns that describe a bootstrap estimate."""
    return {
        "estimate": found.estimate,
        "lo": found.lo,
        "hi": found.hi,
        "method": "stratified bootstrap",
        "replicates": found.replicates,
    }


def _aggregates(
    study: Study, by_arm: dict[str, list[np.ndarray]], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    for arm, runs in by_arm.items():
        found = aggregates.aggregates(runs, rng, replicates=study.statistics.replicates)
        for name, value in found._asdict().items():
            row = {"arm": arm, "metric": name, **_bounds(value)}
            yield row | {"environments": len(value.n), **_counts(value.n)}


def _counts(runs: tuple[int, ...], *others: tuple[int, ...]) -> dict[str, int]:
    """How many runs there are in all environments, and in that with the fewest, also of others."""
    return {"n": sum(runs), "n_min": min(min(each) for each in (runs, *others))}


def _profiles(
    by_arm: dict[str, list[np.ndarray]], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    pool = [x for runs in by_arm.values() for x in runs]
    if not pool:
        return
    every = np.concatenate(pool)
    taus = np.linspace(min(0.0, every.min()), max(1.0, every.max()), _TAUS)
    for arm, runs in by_arm.items():
        found = aggregates.performance_profile(runs, taus, rng, _CURVE_REPLICATES)
        for tau, share, lo, hi in zip(taus, found.estimate, found.lo, found.hi, strict=True):
            row = {"arm": arm, "tau": tau, "estimate": share, "lo": lo, "hi": hi}
            yield row | {"replicates": found.replicates, **_counts(found.n)}


def _improvements(
    study: Study, by_arm: dict[str, list[np.ndarray]], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """For each pair of arms, the probability that the later one in the study beats the earlier."""
    for (other, y), (arm, x) in combinations(by_arm.items(), 2):
        found = aggregates.probability_of_improvement(
            x, y, rng, replicates=study.statistics.replicates
        )
        row = {"arm": arm, "over": other, **_bounds(found)}
        yield row | _counts(found.n_x, found.n_y) | {"n_over": sum(found.n_y)}


def _efficiency(study: Study, tables: Path, scale: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Area under the learning curve and steps to a threshold, for each environment and arm."""
    curves = seed_returns(tables, "online")
    share = study.statistics.threshold
    for env in scale.to_dict("records"):
        threshold = env["random"] + share * (env["reference"] - env["random"])
        for arm, runs in curves[curves["env"] == env["env"]].groupby("arm", sort=False):
            grid = runs.pivot(index="run_id", columns="env_step", values="return")
            steps = grid.columns.to_numpy()
            area = intervals.t_interval(efficiency.area_under_curve(steps, grid.to_numpy()))
            found = {"env": env["env"], "arm": arm, "n": area.n, "area": area.mean}
            found |= {"area_lo": area.lo, "area_hi": area.hi, "threshold": threshold}
            if not np.isnan(threshold):
                crossed = efficiency.steps_to_threshold(steps, grid.to_numpy(), threshold)
                half = efficiency.kaplan_meier(crossed.steps, crossed.reached)
                found |= {"reached": half.reached, "median_steps": half.median}
                found |= {"median_lo": half.median_lo, "median_hi": half.median_hi}
            yield found


def _sample_efficiency(
    study: Study,
    tables: Path,
    scale: pd.DataFrame,
    shared: Sequence[str],
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Each arm's IQM at fractions of the training budget, and what training has cost by then.

    The fractions are the snapshots of the shared environment with the fewest snapshots. Scores of
    the other environments, and all clocks, are interpolated linearly. Costs are means of the runs
    in an environment, then over environments. A diverged run keeps its
    last score, and its clock stops.
    """
    if not shared:
        return
    plan = {run.spec.env_name: run for run in study.runs if run.spec.env_name in shared}
    budgets = {env: run.total_steps for env, run in plan.items()}
    common = len(set(budgets.values())) == 1
    fewest = min(run.total_steps // run.spec.snapshot_interval for run in plan.values())
    shares = np.linspace(0, 1, fewest + 1)
    curves = seed_returns(tables, "online").query("env in @shared")
    curves = curves.assign(score=references.scores(curves, scale))
    unit = costs.clock(read(tables, "runs")).unit
    timed = dict(list(costs.clocks(tables).groupby(["env", "arm"])))
    for arm, runs in curves.groupby("arm", sort=False):
        scores, spent = [], []  # [runs, shares] and [wall_s and cost, shares] of each environment
        for env, cell in runs.groupby("env", sort=False):
            steps = shares * budgets[str(env)]
            scores.append(_at(steps, cell, "score"))
            spent.append([_at(steps, timed[env, arm], x).mean(0) for x in ("wall_s", "cost")])
        for index, (share, *time) in enumerate(zip(shares, *np.mean(spent, 0), strict=True)):
            x = [of_runs[:, index] for of_runs in scores]
            found = aggregates.aggregates(x, rng, replicates=_CURVE_REPLICATES).iqm
            env_step = round(share * budgets[shared[0]]) if common else None
            row = {"arm": arm, "share": share, "env_step": env_step, "unit": unit}
            row |= dict(zip(("wall_s", "cost"), time, strict=True))
            yield row | {**_bounds(found), "environments": len(found.n), **_counts(found.n)}


def _at(steps: np.ndarray, runs: pd.DataFrame, column: str) -> np.ndarray:
    """Interpolates a column of each run linearly at environment steps: [runs, steps]."""
    groups = runs.groupby("run_id", sort=False)
    return np.stack([np.interp(steps, rows["env_step"], rows[column]) for _, rows in groups])
