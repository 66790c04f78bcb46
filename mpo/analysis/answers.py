"""Computes a study's statistics from the tables of its runs.

Tables: finals (final return and score of each run), references (the scale of the scores),
aggregates, profiles, improvements (comparisons of arms), effects (of factors, paired by seed),
differences (the effects of single seeds), efficiency, power, and sample_efficiency (an arm's IQM
during training).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpo.analysis import aggregates, effects, efficiency, intervals, references
from mpo.analysis.tables import read, seed_returns, words
from mpo.study.plan import Study

_BOUNDS = ("estimate", "lo", "hi", "method", "replicates")
_CONTRAST = ("factor", "level", "against")
_COLUMNS = {
    "aggregates": ("arm", "metric", *_BOUNDS, "environments", "n"),
    "profiles": ("arm", "tau", "estimate", "lo", "hi", "replicates", "n"),
    "improvements": ("arm", "over", *_BOUNDS, "n", "n_over"),
    "effects": (
        *(*_CONTRAST, "env", "unit", "estimate", "lo", "hi", "method"),
        *("environments", "n", "sd", "correlation"),
    ),
    "differences": (*_CONTRAST, "env", "unit", "difference"),
    "efficiency": (
        *("env", "arm", "n", "area", "area_lo", "area_hi"),
        *("threshold", "reached", "median_steps", "median_lo", "median_hi"),
    ),
    "power": (*_CONTRAST, "env", "environments", "sd", "effect", "seeds"),
    "sample_efficiency": ("arm", "share", "env_step", "wall_s", *_BOUNDS, "environments", "n"),
}
"""Columns of the tables that can be empty: with a single arm, or without any reference score."""

POOLED = "pooled"
"""Value of `env` in rows over several environments."""

SUM = "their sum"
"""Value of `against` in rows of interactions: the sum of the two single effects."""

_TAUS = 101
_DELTAS = (0.05, 0.1, 0.2)
_CURVE_REPLICATES = 2_000


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
        random: measurements of a random policy, see `references.read`.

    Raises:
        ConfigError: see `references.read`.
    """
    scale = references.read(study, table, random)
    finals = _finals(study, tables, scale)
    shared = _shared_environments(study, finals)
    rng = np.random.default_rng(study.statistics.seed)
    by_arm = _by_arm(finals, shared)
    changes = _table("effects", _effects(study, finals, shared))
    return {
        "finals": finals,
        "references": scale,
        "aggregates": _table("aggregates", _aggregates(study, by_arm, rng)),
        "profiles": _table("profiles", _profiles(by_arm, rng)),
        "improvements": _table("improvements", _improvements(study, by_arm, rng)),
        "effects": changes,
        "differences": _table("differences", _differences(study, finals)),
        "efficiency": _table("efficiency", _efficiency(study, tables, scale)),
        "power": _table("power", _power(changes)),
        "sample_efficiency": _table(
            "sample_efficiency", _sample_efficiency(study, tables, scale, shared, rng)
        ),
    }


def _table(name: str, rows: Iterator[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(_COLUMNS[name]))


def _finals(study: Study, tables: Path, scale: pd.DataFrame) -> pd.DataFrame:
    """One row per planned run, with the final return of its mean-action policy and its score."""
    runs = read(tables, "runs")[["run_id", "env", "arm", *study.axis_values, "seed", "status"]]
    returns = seed_returns(tables, "final")[["run_id", "return"]]
    finals = runs.merge(returns, on="run_id", how="left")
    return finals.assign(score=references.scores(finals, scale))


def _shared_environments(study: Study, finals: pd.DataFrame) -> list[str]:
    """The environments in which every arm has a score, in the study's order."""
    complete = finals.dropna(subset="score").groupby("env")["arm"].nunique()
    arms = finals["arm"].nunique()
    return [e.id for e in study.environments if complete.get(e.id, 0) == arms]


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
            yield row | {"environments": len(value.n), "n": sum(value.n)}


def _profiles(
    by_arm: dict[str, list[np.ndarray]], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    pool = [x for runs in by_arm.values() for x in runs]
    if not pool:
        return
    every = np.concatenate(pool)
    taus = np.linspace(min(0.0, every.min()), max(1.0, every.max()), _TAUS)
    for arm, runs in by_arm.items():
        found = aggregates.performance_profile(runs, taus, rng)
        for tau, share, lo, hi in zip(taus, found.estimate, found.lo, found.hi, strict=True):
            row = {"arm": arm, "tau": tau, "estimate": share, "lo": lo, "hi": hi}
            yield row | {"replicates": found.replicates, "n": sum(found.n)}


def _improvements(
    study: Study, by_arm: dict[str, list[np.ndarray]], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """For each pair of arms, the probability that the later one in the study beats the earlier."""
    for (other, y), (arm, x) in combinations(by_arm.items(), 2):
        found = aggregates.probability_of_improvement(
            x, y, rng, replicates=study.statistics.replicates
        )
        row = {"arm": arm, "over": other, **_bounds(found)}
        yield row | {"n": sum(found.n_x), "n_over": sum(found.n_y)}


def _effects(study: Study, finals: pd.DataFrame, shared: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Each level of each varied axis against its first level, then interactions of two axes."""
    cells = _cells(study, finals, "score")
    pooled = [cells[env] for env in shared]
    for names, index, level in _contrasts(study):
        for env, unit, found in _by_environment(study, finals, index, level):
            yield names | _in_one(env, unit, found)
        scores = [x for x in pooled if _complete(x, {index: level})]
        if scores:
            yield names | _over_all(effects.main_effect(scores, index, level))
    for (first, i, k), (second, j, m) in combinations(_contrasts(study), 2):
        scores = [x for x in pooled if i != j and _complete(x, {i: k, j: m})]
        if scores:
            both = effects.interaction(scores, (i, j), (k, m))
            names = {
                "factor": f"{first['factor']} x {second['factor']}",
                "level": f"{first['level']} and {second['level']}",
                "against": SUM,
            }
            yield names | _over_all(both)


def _differences(study: Study, finals: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The differences that `_effects` averages within an environment, one row per seed."""
    for names, index, level in _contrasts(study):
        for env, unit, found in _by_environment(study, finals, index, level):
            for difference in found.differences:
                yield names | {"env": env, "unit": unit, "difference": difference}


def _contrasts(study: Study) -> list[tuple[dict[str, str], int, int]]:
    """Every level of each varied axis except the first, as (names, axis index, level index)."""
    varied = {name: values for name, values in study.axis_values.items() if len(values) > 1}
    return [
        (
            {"factor": name, "level": words(name, value), "against": words(name, values[0])},
            index,
            level,
        )
        for index, (name, values) in enumerate(varied.items())
        for level, value in enumerate(values)
        if level
    ]


def _by_environment(
    study: Study, finals: pd.DataFrame, index: int, level: int
) -> Iterator[tuple[str, str, effects.EnvironmentEffect]]:
    """The effect in each environment with a complete pair, as a return and as a score."""
    for unit in ("return", "score"):
        for env, x in _cells(study, finals, unit).items():
            if _complete(x, {index: level}):
                yield env, unit, effects.main_effect([x], index, level).environments[0]


def _cells(study: Study, finals: pd.DataFrame, unit: str) -> dict[str, np.ndarray]:
    """Values by environment, [seeds, levels of the first varied axis, of the second, ...]."""
    # Rows are in the plan's order: environment, axes, seed.
    sizes = [len(values) for values in study.axis_values.values() if len(values) > 1]
    shape = (len(study.environments), *sizes, len(study.seeds))
    values = np.moveaxis(finals[unit].to_numpy().reshape(shape), -1, 1)
    return {e.id: x for e, x in zip(study.environments, values, strict=True)}


def _complete(x: np.ndarray, levels: Mapping[int, int]) -> bool:
    """Whether some seed has all cells of the given levels and of the baseline, for each factor."""
    for factor, level in levels.items():
        x = x.take((0, level), factor + 1)
    return bool((~np.isnan(x)).all(tuple(factor + 1 for factor in levels)).any())


def _in_one(env: str, unit: str, found: effects.EnvironmentEffect) -> dict[str, Any]:
    return {"env": env, "unit": unit, "environments": 1, **_student(found.interval, found)}


def _over_all(found: effects.Effect) -> dict[str, Any]:
    names = {"env": POOLED, "unit": "score", "environments": len(found.environments)}
    return names | _student(found.pooled, found)


def _student(
    interval: intervals.Interval, found: effects.EnvironmentEffect | effects.Effect
) -> dict[str, Any]:
    """The columns that describe a Student-t interval and its pairs."""
    bounds = {"estimate": interval.mean, "lo": interval.lo, "hi": interval.hi, "n": interval.n}
    return bounds | {"method": "student-t", "sd": found.sd, "correlation": found.correlation}


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


def _power(changes: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Seeds needed to detect an effect on the score, given the sd of the paired differences."""
    known = changes[changes["unit"] == "score"].dropna(subset="sd")
    for row in known[[*_CONTRAST, "env", "environments", "sd"]].to_dict("records"):
        needed = effects.power_table(row["sd"], _DELTAS, row["environments"])
        for delta, seeds in needed.items():
            yield {"effect": delta, "seeds": seeds} | {str(k): v for k, v in row.items()}


def _sample_efficiency(
    study: Study,
    tables: Path,
    scale: pd.DataFrame,
    shared: Sequence[str],
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Each arm's IQM at fractions of the training budget, and the mean training time in seconds.

    The fractions are the snapshots of the shared environment with the fewest snapshots. Scores of
    the other environments, and all clocks, are interpolated linearly. A diverged run keeps its
    last score, and its clock stops.
    """
    if not shared:
        return
    plan = {run.spec.env_id: run for run in study.runs if run.spec.env_id in shared}
    budgets = {env: run.total_steps for env, run in plan.items()}
    common = len(set(budgets.values())) == 1
    fewest = min(run.total_steps // run.spec.snapshot_interval for run in plan.values())
    shares = np.linspace(0, 1, fewest + 1)
    curves = seed_returns(tables, "online").query("env in @shared")
    curves = curves.assign(score=references.scores(curves, scale))
    clocks = read(tables, "train")[["run_id", "env_step", "wall_s"]]
    started = clocks.drop_duplicates("run_id").assign(env_step=0, wall_s=0.0)
    clocks = pd.concat([started, clocks]).merge(curves[["run_id", "env", "arm"]].drop_duplicates())
    timed = dict(list(clocks.groupby(["env", "arm"])))
    for arm, runs in curves.groupby("arm", sort=False):
        scores, seconds = [], []  # [runs, shares] and [shares] of each environment
        for env, cell in runs.groupby("env", sort=False):
            steps = shares * budgets[str(env)]
            scores.append(_at(steps, cell, "score"))
            seconds.append(_at(steps, timed[env, arm], "wall_s").mean(0))
        for index, (share, wall_s) in enumerate(zip(shares, np.mean(seconds, 0), strict=True)):
            x = [of_runs[:, index] for of_runs in scores]
            found = aggregates.aggregates(x, rng, replicates=_CURVE_REPLICATES).iqm
            env_step = round(share * budgets[shared[0]]) if common else None
            row = {"arm": arm, "share": share, "env_step": env_step, "wall_s": wall_s}
            yield row | {**_bounds(found), "environments": len(found.n), "n": sum(found.n)}


def _at(steps: np.ndarray, runs: pd.DataFrame, column: str) -> np.ndarray:
    """Interpolates a column of each run linearly at environment steps: [runs, steps]."""
    groups = runs.groupby("run_id", sort=False)
    return np.stack([np.interp(steps, rows["env_step"], rows[column]) for _, rows in groups])
