"""What the stage of tuning tells: how good each candidate is, and which is chosen.

In a rung of halving before the last, several candidates are chosen: those that go on.

Tables: candidates (one row per environment, tuned arm and candidate), choices (per environment and
tuned arm: what is chosen, how surely, and what a choice for all environments would cost), best_of
(the expected value of the best of k candidates) and sensitivity (per arm, see `sensitivity`).
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mpo.analysis import sensitivity
from mpo.analysis.candidates import (
    Scores,
    TunedArm,
    alone,
    best_first,
    ranked,
    ranked_across,
    read_arms,
    scores,
)
from mpo.analysis.intervals import t_interval
from mpo.analysis.tables import CONFIDENCE
from mpo.study.config import ConfigError, JobFailed
from mpo.study.labels import flat, label
from mpo.study.plan import Study
from mpo.study.tuning import Tuning

_RESAMPLES = 10_000
"""Most resamples of the tuning seeds; all there are if they are fewer, as of up to five seeds."""


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
        JobFailed: every candidate of an arm lacks a run, so that none can be chosen.
        Damaged: see `tables.read`.
    """
    tuning = study.tuned
    assert tuning is not None
    found = read_arms(study, tuning, tables)
    # In later rungs of halving each environment may have other candidates.
    comparable = study.rung == 1 or tuning.choose == "across"
    known = scores(found, scale) if comparable else {}
    across = {name: best_first(ranked_across(of)) for name, of in known.items()}
    if tuning.choose == "across" and not across:
        raise ConfigError(
            "tuning.choose: 'across' needs a reference of at least one environment in "
            f"{study.tables.references}; there is none for {', '.join(scale['env'])}"
        )
    candidates, choices, best_of, chosen = (list[dict[str, Any]]() for _ in range(4))
    rng = np.random.default_rng(study.statistics.seed)
    shares: dict[str, np.ndarray] = {}  # of each choice: for all environments it is one
    for each in found:
        name, count = label(each.arm), tuning.left(each.arm, study.rung + 1)
        own, common = best_first(ranked_across(alone(each))), across.get(name)
        if tuning.choose == "across":
            of, taken, where = known[name], across[name], f"{name} in all environments together"
        else:
            of, taken, where = alone(each), own, f"{name} in {each.env}"
        if where not in shares:
            _refuse_missing(of, where)
            shares[where] = _shares(of, count, rng)
        places = _Places(taken[:count], own[0], None if common is None else common[0])
        candidates += _candidate_rows(each, tuning, places, shares[where])
        choices.append(_choice_row(each, tuning, places, shares[where]))
        best_of += _best_of_rows(each)
        for place in places.taken:
            settings = tuning.settings(each.candidates[place])
            chosen.append({"env": each.env_slug, "arm": each.arm, "settings": settings})
    record = {"study": study.study, "criterion": tuning.criterion, "choose": tuning.choose}
    names = dict.fromkeys(label(each.arm) for each in found)
    rows = {"candidates": candidates, "choices": choices, "best_of": best_of}
    rows["sensitivity"] = [*sensitivity.rows(names, len(study.seeds), known)]
    return {name: pd.DataFrame(of) for name, of in rows.items()}, record | {"chosen": chosen}


class _Places(NamedTuple):
    """Candidates of a tuned arm in one environment."""

    taken: np.ndarray
    """The chosen one; in a rung of halving before the last, those that go on, the best first."""
    own: int
    """The best one here."""
    common: int | None
    """The best one for all environments; None if it is not known."""


def _refuse_missing(of: Scores, where: str) -> None:
    """Refuses to choose if every candidate lacks a run."""
    if of.missing.any(0).all():
        raise JobFailed(
            f"tuning: no candidate of {where} has a run of every tuning seed, so none can be "
            "chosen; failures.md says why the runs are missing"
        )


def _shares(of: Scores, best: int, rng: np.random.Generator) -> np.ndarray:
    """The share of the resamples of the tuning seeds in which each is among the best, [K].

    Seeds are resampled within each environment: runs of one seed in two environments have nothing
    in common. One seed says nothing of the others: all shares are NaN.
    """
    every, count = of.diverged.shape[0], of.diverged.shape[2]
    if count == 1:
        return np.full(of.diverged.shape[1], np.nan)
    if count ** (count * every) <= _RESAMPLES:
        draws = np.array([*itertools.product(range(count), repeat=count * every)])
    else:
        draws = rng.integers(count, size=(_RESAMPLES, count * every))
    draws = draws.reshape(-1, every, 1, count)
    values = np.take_along_axis(of.values[None], draws[:, : len(of.values)], 3)
    diverged = np.take_along_axis(of.diverged[None], draws, 3)
    order = ranked(values.mean(3).mean(1), diverged.any((1, 3)), of.missing.any(0))
    chosen = best_first(order)[:, :best]
    return np.bincount(chosen.ravel(), minlength=order.shape[1]) / len(draws)


def _candidate_rows(
    each: TunedArm, tuning: Tuning, places: _Places, shares: np.ndarray
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
            "chosen": place in places.taken,
            "best_here": place == places.own,
            "best_across": place == places.common,
            "share": shares[place],
            "on_edge": tuning.is_on_edge(each.arm, candidate),
        }


def _choice_row(
    each: TunedArm, tuning: Tuning, places: _Places, shares: np.ndarray
) -> dict[str, Any]:
    taken, own, common = places.taken[0], places.own, places.common
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
        "held_out": sensitivity.held_out(alone(each)).per_environment,
        "mean_across": math.nan if common is None else np.nanmean(each.values[common]),
    }


def _best_of_rows(each: TunedArm) -> Iterator[dict[str, Any]]:
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
