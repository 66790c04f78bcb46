"""What the stage of tuning tells: how good each candidate is, and which is chosen.

Tables: candidates (one row per environment, tuned arm and candidate), choices (per environment and
tuned arm: what is chosen, how surely, and what a choice for all environments would cost) and
best_of (the expected value of the best of k candidates).
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mpo.analysis.efficiency import area_under_curve
from mpo.analysis.intervals import t_interval
from mpo.analysis.tables import CONFIDENCE, flat, label, read, seed_means
from mpo.study.config import ConfigError
from mpo.study.plan import Study
from mpo.study.tuning import Tuning, arms

_RESAMPLES = 10_000
"""Most resamples of the tuning seeds; with up to five seeds all there are, which are fewer."""


class _Arm(NamedTuple):
    """A tuned arm in one environment: the criterion of each of its K candidates and n seeds."""

    env: str
    env_slug: str
    arm: dict[str, Any]
    candidates: list[dict[str, Any]]
    values: np.ndarray
    """[K, n]; NaN where a run is missing."""
    diverged: np.ndarray
    """Whether the run diverged, bool [K, n]."""


def compute(
    study: Study, tables: Path, scale: pd.DataFrame
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Compares the candidates and chooses.

    Args:
        study: the study of the stage.
        tables: the directory of its tables.
        scale: random and reference returns, see `references.read`.

    Returns:
        The tables, by name, and what chosen.json says.

    Raises:
        ConfigError: one candidate is to be chosen for all environments, and none has a reference.
        Damaged: see `tables.read`.
    """
    tuning = study.tuned
    assert tuning is not None
    found = _arms(study, tuning, tables)
    scores = _scores(found, scale)
    across = {
        name: _best(_ranked(np.mean(parts[0], axis=0), np.any(parts[1], axis=0)))
        for name, parts in scores.items()
    }
    if tuning.choose == "across" and not across:
        raise ConfigError(
            "tuning.choose: 'across' needs a reference of at least one environment in "
            f"{study.tables.references}; there is none for {', '.join(scale['env'])}"
        )
    candidates, choices, best_of, chosen = (list[dict[str, Any]]() for _ in range(4))
    rng = np.random.default_rng(study.statistics.seed)
    for each in found:
        name = label(each.arm)
        own, common = _best(_ranked_arm(each)), across.get(name)
        taken = common if tuning.choose == "across" and common is not None else own
        shares = _shares(each, rng)
        candidates += _candidate_rows(each, tuning, taken, own, common, shares)
        choices.append(_choice_row(each, tuning, taken, own, common, shares, scores.get(name)))
        best_of += _best_of_rows(each)
        settings = tuning.settings(each.candidates[taken])
        chosen.append({"env": each.env_slug, "arm": each.arm, "settings": settings})
    record = {"study": study.study, "criterion": tuning.criterion, "choose": tuning.choose}
    rows = {"candidates": candidates, "choices": choices, "best_of": best_of}
    return {name: pd.DataFrame(of) for name, of in rows.items()}, record | {"chosen": chosen}


def _arms(study: Study, tuning: Tuning, tables: Path) -> list[_Arm]:
    """Reads the criterion of every run, in the order of the plan."""
    values = _criterion(tuning, tables)
    status = read(tables, "runs").set_index("run_id")["status"]
    found, count = [], len(study.seeds)
    runs = iter(study.runs)
    for environment in study.environments:
        for arm in arms(tuning, study.axis_values):
            tried = tuning.candidates(arm)
            of_arm = [run.run_id for run in itertools.islice(runs, len(tried) * count)]
            shape = (len(tried), count)
            found.append(
                _Arm(
                    environment.name,
                    environment.slug,
                    arm,
                    tried,
                    values.reindex(of_arm).to_numpy(float).reshape(shape),
                    (status.reindex(of_arm) == "diverged").to_numpy().reshape(shape),
                )
            )
    return found


def _criterion(tuning: Tuning, tables: Path) -> pd.Series:
    """The criterion of each run, by run id."""
    means = seed_means(read(tables, "evals")).query("policy == 'mode'")
    if tuning.criterion == "final":
        return means[means["phase"] == "final"].set_index("run_id")["return"]
    online = means[means["phase"] == "online"].sort_values("env_step")
    return pd.Series(
        {
            run_id: float(area_under_curve(own["env_step"], own["return"]))
            for run_id, own in online.groupby("run_id", observed=True)
        }
    )


def _ranked(means: ArrayLike, bad: ArrayLike) -> np.ndarray:
    """Values that order candidates: a bad one, or one without a value, is behind all others."""
    values = np.asarray(means, float)
    return np.where(np.asarray(bad) | np.isnan(values), -np.inf, values)


def _ranked_arm(each: _Arm, seeds: Any = slice(None)) -> np.ndarray:
    """As `_ranked`, of some seeds: [K], or [..., K] for seeds [..., n]."""
    values, diverged = each.values[:, seeds], each.diverged[:, seeds]
    ranked = _ranked(values.mean(-1), diverged.any(-1))
    return np.moveaxis(ranked, 0, -1)


def _best(ranked: np.ndarray) -> int:
    """The place of the best candidate; of equal ones, or if all are bad, the first."""
    return int(np.argmax(ranked))


def _scores(
    found: list[_Arm], scale: pd.DataFrame
) -> dict[str, tuple[list[np.ndarray], list[np.ndarray]]]:
    """Mean scores [K] and whether a seed diverged [K], per environment with a reference, by arm."""
    known = scale.set_index("env")
    scores: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for each in found:
        low, high = (float(known[name][each.env]) for name in ("random", "reference"))
        if math.isnan(low) or math.isnan(high):
            continue
        parts = scores.setdefault(label(each.arm), ([], []))
        parts[0].append((each.values.mean(1) - low) / (high - low))
        parts[1].append(np.asarray(each.diverged.any(1)))
    return scores


def _shares(each: _Arm, rng: np.random.Generator) -> np.ndarray:
    """The share of the resamples of the tuning seeds in which each candidate is chosen, [K]."""
    count = each.values.shape[1]
    if count**count <= _RESAMPLES:
        resamples = np.array([*itertools.product(range(count), repeat=count)])
    else:
        resamples = rng.integers(count, size=(_RESAMPLES, count))
    chosen = _ranked_arm(each, resamples).argmax(-1)
    return np.bincount(chosen, minlength=len(each.candidates)) / len(resamples)


def _candidate_rows(
    each: _Arm, tuning: Tuning, taken: int, own: int, common: int | None, shares: np.ndarray
) -> Iterator[dict[str, Any]]:
    for place, candidate in enumerate(each.candidates):
        values = each.values[place][~np.isnan(each.values[place])]
        interval = t_interval(values, CONFIDENCE)._asdict() if len(values) else {"n": 0}
        yield {
            "env": each.env,
            "arm": label(each.arm),
            "candidate": label(candidate),
            **{key: flat(candidate.get(key)) for key in tuning.keys},
            **{"criterion": tuning.criterion, "mean": math.nan, "lo": math.nan, "hi": math.nan},
            **interval,
            "diverged": int(each.diverged[place].sum()),
            "chosen": place == taken,
            "best_here": place == own,
            "best_across": place == common,
            "share": shares[place],
            "on_edge": tuning.is_on_edge(each.arm, candidate),
        }


def _choice_row(
    each: _Arm,
    tuning: Tuning,
    taken: int,
    own: int,
    common: int | None,
    shares: np.ndarray,
    scores: Any,
) -> dict[str, Any]:
    return {
        "env": each.env,
        "arm": label(each.arm),
        "chosen": label(each.candidates[taken]),
        "choose": tuning.choose,
        "of": len(each.candidates),
        "seeds": each.values.shape[1],
        "share": shares[taken],
        "on_edge": tuning.is_on_edge(each.arm, each.candidates[taken]),
        "diverged": int(each.diverged[taken].sum()),
        "best_here": label(each.candidates[own]),
        "best_across": None if common is None else label(each.candidates[common]),
        "mean": np.nanmean(each.values[own]),
        "held_out": _held_out(each),
        "mean_across": math.nan if common is None else np.nanmean(each.values[common]),
    }


def _held_out(each: _Arm) -> float:
    """The value of choosing on all seeds but one, on that one; mean over the seeds.

    The mean of the best candidate flatters it, since it was chosen for the same numbers.
    """
    count = each.values.shape[1]
    if count < 2:
        return math.nan
    found = []
    for seed in range(count):
        others = [other for other in range(count) if other != seed]
        found.append(each.values[_best(_ranked_arm(each, others)), seed])
    return float(np.mean(found))


def _best_of_rows(each: _Arm) -> Iterator[dict[str, Any]]:
    """The expected best of k candidates drawn without replacement (Dodge et al. 2019, 1909.03004).

    A candidate that diverged has the least value of all.
    """
    means = each.values.mean(1)
    worst = np.nanmin(means) if not np.isnan(means).all() else math.nan
    ordered = np.sort(np.where(each.diverged.any(1) | np.isnan(means), worst, means))
    count = len(ordered)
    for k in range(1, count + 1):
        # The i-th smallest of all is the largest of k with this many of the subsets.
        ways = np.array([math.comb(i, k - 1) for i in range(count)]) / math.comb(count, k)
        yield {"env": each.env, "arm": label(each.arm), "k": k, "expected": float(ways @ ordered)}
