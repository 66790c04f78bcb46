"""Contrasts of a study's factors, as rows of the tables effects, differences and power.

A contrast compares a level of a varied axis with the first level of that axis, paired by seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from mpo.analysis import effects, intervals
from mpo.analysis.tables import words
from mpo.study.plan import Study

KEY = ("factor", "level", "against")
"""The columns that identify a contrast."""

POOLED = "pooled"
"""Value of `env` in rows over several environments."""

SUM = "their sum"
"""Value of `against` in rows of interactions: the sum of the two single effects."""

_DELTAS = (0.05, 0.1, 0.2)  # effects of the power table, in units of the score


def effect_rows(
    study: Study, finals: pd.DataFrame, shared: Sequence[str]
) -> Iterator[dict[str, Any]]:
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


def difference_rows(study: Study, finals: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The differences that `effect_rows` averages within an environment, one row per seed."""
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
    return {e.name: x for e, x in zip(study.environments, values, strict=True)}


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


def power_rows(changes: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Seeds needed to detect an effect on the score, given the sd of the paired differences.

    Differences that are all equal, as of two seeds at a ceiling, say nothing of their spread.
    """
    known = changes[(changes["unit"] == "score") & (changes["sd"] > 0)]
    for row in known[[*KEY, "env", "environments", "sd"]].to_dict("records"):
        needed = effects.power_table(row["sd"], _DELTAS, row["environments"])
        for delta, seeds in needed.items():
            yield {"effect": delta, "seeds": seeds} | {str(k): v for k, v in row.items()}
