"""Contrasts of a study's factors, as rows of the tables effects, differences, contrasts and power.

A contrast compares two levels of a varied axis, paired by seed. The table contrasts has those that
the config names; the others have every level against the first of its axis.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mpo.analysis import effects, intervals
from mpo.study.labels import words
from mpo.study.plan import Study

KEY = ("factor", "level", "against")
"""The columns that identify a contrast."""

COUNTS = ("environments", "n", "n_min")
"""The columns on how much an estimate is over: environments, seeds, fewest seeds in one of them."""

SPREAD = ("sd", "correlation", "effective_environments")
"""The columns on the spread of a paired effect, see `effects.Effect`."""

POOLED = "pooled"
"""Value of `env` in rows over several environments."""

SUM = "their sum"
"""Value of `against` in rows of interactions: the sum of the two single effects."""

_DELTAS = (0.05, 0.1, 0.2)  # effects of the power table, in units of the score

_METHOD = "student-t"
_NOT_ESTIMATED = {
    **dict.fromkeys(("estimate", "lo", "hi", "p", *SPREAD), np.nan),
    **{"method": _METHOD, **dict.fromkeys(COUNTS, 0)},
}


class Contrast(NamedTuple):
    """A level against another, by their places in `arrays`."""

    names: dict[str, str]
    """The columns of `KEY`."""
    factor: int
    level: int
    against: int


def effect_rows(
    study: Study, finals: pd.DataFrame, shared: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Each level of each varied axis against its first level, then interactions of two axes."""
    cells = arrays(study, finals, "score")
    pooled = [cells[env] for env in shared]
    contrasts = against_the_first(study)
    for contrast in contrasts:
        for env, unit, one in _by_environment(study, finals, contrast):
            yield contrast.names | _in_one(env, unit, one)
        if (found := effect_over(pooled, contrast)) is not None:
            yield contrast.names | over_all(found)
    for pair in _of_two_factors(contrasts):
        for env, unit, one in _by_environment(study, finals, *pair):
            yield _names_of(pair) | _in_one(env, unit, one)
        if (found := interaction_over(pooled, *pair)) is not None:
            yield _names_of(pair) | over_all(found)


def difference_rows(study: Study, finals: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The differences that `effect_rows` averages within an environment, one row per seed."""
    contrasts = against_the_first(study)
    for of in (*((each,) for each in contrasts), *_of_two_factors(contrasts)):
        for env, unit, found in _by_environment(study, finals, *of):
            for difference in found.differences:
                yield _names_of(of) | {"env": env, "unit": unit, "difference": difference}


def primary_rows(
    study: Study, finals: pd.DataFrame, shared: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The pooled effect of each primary contrast, with its p-value as it is and adjusted.

    A contrast that cannot be estimated has a row, too, over 0 environments: what was named before
    does not vanish.
    """
    cells = arrays(study, finals, "score")
    pooled = [cells[env] for env in shared]
    contrasts = [_contrast(study, *each) for each in study.primary]
    found = [effect_over(pooled, contrast) for contrast in contrasts]
    adjusted = intervals.holm([np.nan if each is None else each.p for each in found])
    for contrast, each, p_holm in zip(contrasts, found, adjusted, strict=True):
        row = _NOT_ESTIMATED if each is None else {"p": each.p} | over_all(each)
        yield contrast.names | {"p_holm": p_holm} | row


def against_the_first(study: Study) -> list[Contrast]:
    """Every level of each varied axis except the first, against the first."""
    return [
        _contrast(study, name, value, values[0])
        for name, values in study.varied.items()
        for value in values[1:]
    ]


def _contrast(study: Study, axis: str, level: Any, against: Any) -> Contrast:
    axes = study.varied
    values = axes[axis]
    names = {"factor": axis, "level": words(axis, level), "against": words(axis, against)}
    return Contrast(names, [*axes].index(axis), values.index(level), values.index(against))


def _of_two_factors(contrasts: Sequence[Contrast]) -> list[tuple[Contrast, Contrast]]:
    return [pair for pair in combinations(contrasts, 2) if pair[0].factor != pair[1].factor]


def _names_of(contrasts: Sequence[Contrast]) -> dict[str, str]:
    """The columns of `KEY` of an effect, or of the interaction of two."""
    if len(contrasts) == 1:
        return contrasts[0].names
    first, second = (each.names for each in contrasts)
    return {
        "factor": f"{first['factor']} x {second['factor']}",
        "level": f"{first['level']} and {second['level']}",
        "against": SUM,
    }


def _by_environment(
    study: Study, finals: pd.DataFrame, *contrasts: Contrast
) -> Iterator[tuple[str, str, effects.EnvironmentEffect]]:
    """The effect, or the interaction of two, in each environment, as a return and as a score.

    Environments without a complete pair are left out.
    """
    over = effect_over if len(contrasts) == 1 else interaction_over
    for unit in ("return", "score"):
        for env, x in arrays(study, finals, unit).items():
            if (found := over([x], *contrasts)) is not None:
                yield env, unit, found.environments[0]


def effect_over(cells: Sequence[np.ndarray], contrast: Contrast) -> effects.Effect | None:
    """The effect over the environments that have a complete pair; None without any.

    `cells` has one array per environment, see `arrays`.
    """
    _, factor, level, against = contrast
    scores = [x for x in cells if _complete(x, {factor: (against, level)})]
    return effects.main_effect(scores, factor, level, against) if scores else None


def interaction_over(
    cells: Sequence[np.ndarray], first: Contrast, second: Contrast
) -> effects.Effect | None:
    """As `effect_over`, how the first effect changes with the second, from their baselines.

    Both contrasts are against the first level of their axis.
    """
    (_, i, k, _), (_, j, m, _) = first, second
    scores = [x for x in cells if _complete(x, {i: (0, k), j: (0, m)})]
    return effects.interaction(scores, (i, j), (k, m)) if scores else None


def arrays(study: Study, finals: pd.DataFrame, unit: str) -> dict[str, np.ndarray]:
    """Values by environment, [seeds, levels of the first varied axis, of the second, ...]."""
    # Rows are in the plan's order: environment, axes, seed.
    sizes = [len(values) for values in study.varied.values()]
    shape = (len(study.environments), *sizes, len(study.seeds))
    values = np.moveaxis(finals[unit].to_numpy().reshape(shape), -1, 1)
    return {e.name: x for e, x in zip(study.environments, values, strict=True)}


def _complete(x: np.ndarray, levels: Mapping[int, tuple[int, int]]) -> bool:
    """Whether some seed has all cells of the two given levels of each factor."""
    for factor, pair in levels.items():
        x = x.take(pair, factor + 1)
    return bool((~np.isnan(x)).all(tuple(factor + 1 for factor in levels)).any())


def _in_one(env: str, unit: str, found: effects.EnvironmentEffect) -> dict[str, Any]:
    counts = {"environments": 1, "n_min": found.interval.n}
    return {"env": env, "unit": unit, **counts, **_student(found.interval, found)}


def over_all(found: effects.Effect) -> dict[str, Any]:
    """The columns that describe an effect over several environments."""
    names = {"env": POOLED, "unit": "score"}
    return names | counts(found) | _student(found.pooled, found)


def counts(found: effects.Effect) -> dict[str, int]:
    """Over how many environments an effect is, and how many seeds that with the fewest has."""
    n = [each.interval.n for each in found.environments]
    return {"environments": len(n), "n_min": min(n)}


def _student(
    interval: intervals.Interval, found: effects.EnvironmentEffect | effects.Effect
) -> dict[str, Any]:
    """The columns that describe a Student-t interval and its pairs."""
    bounds = {"estimate": interval.mean, "lo": interval.lo, "hi": interval.hi, "n": interval.n}
    return bounds | {"method": _METHOD} | {name: getattr(found, name) for name in SPREAD}


def power_rows(changes: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Seeds needed to detect an effect on the score, given the sd of the paired differences.

    Differences that are all equal, as of two seeds at a ceiling, say nothing of their spread.
    """
    known = changes[(changes["unit"] == "score") & (changes["sd"] > 0)]
    known = known.dropna(subset="effective_environments")
    for row in known.to_dict("records"):
        for delta, seeds in seeds_needed(row, _DELTAS).items():
            yield {"effect": delta, "seeds": seeds} | {str(k): v for k, v in row.items()}


def seeds_needed(row: Mapping[Hashable, Any], deltas: Sequence[float]) -> dict[float, int | None]:
    """Seeds per environment that would show effects on the score, see `effects.power_table`.

    Args:
        row: of the table effects or contrasts, with an sd above 0.
        deltas: the effects.
    """
    spread = (row["sd"], deltas, row["environments"], row["effective_environments"])
    return effects.power_table(*spread)
