"""The candidates of a tuning stage: their criterion, their scores and the order they rank in."""

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mpo.analysis.efficiency import area_under_curve
from mpo.analysis.tables import label, read, seed_means
from mpo.study.plan import Study
from mpo.study.tuning import Tuning, arms


class TunedArm(NamedTuple):
    """A tuned arm in one environment: the criterion of each of its K candidates and n seeds."""

    env: str
    env_slug: str
    arm: dict[str, Any]
    candidates: list[dict[str, Any]]
    values: np.ndarray
    """[K, n]; NaN where a run is missing."""
    diverged: np.ndarray
    """Whether the run diverged, bool [K, n]."""


class Scores(NamedTuple):
    """The candidates of a tuned arm in the E environments that have a reference."""

    values: np.ndarray
    """The criterion as a normalised score, [E, K, n]; NaN where a run is missing."""
    diverged: np.ndarray
    """Whether the run diverged, bool [E, K, n]."""


def read_arms(study: Study, tuning: Tuning, tables: Path) -> list[TunedArm]:
    """Reads the criterion of every run, in the order of the plan.

    Args:
        study: the study of the stage.
        tuning: its section.
        tables: the directory of its tables.

    Raises:
        Damaged: see `tables.read`.
    """
    values = _criterion(tuning, tables)
    status = read(tables, "runs").set_index("run_id")["status"]
    found, count = [], len(study.seeds)
    runs = iter(study.runs)
    for environment in study.environments:
        for arm in arms(tuning, study.axis_values):
            tried = study.candidates(environment, arm)
            of_arm = [run.run_id for run in itertools.islice(runs, len(tried) * count)]
            shape = (len(tried), count)
            found.append(
                TunedArm(
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


def scores(found: Iterable[TunedArm], scale: pd.DataFrame) -> dict[str, Scores]:
    """Normalises the criterion, by the arm's label.

    Args:
        found: every tuned arm in every environment.
        scale: random and reference returns, see `references.read`. Environments without a
            reference are left out, and so is an arm that has no other.
    """
    known = scale.set_index("env")
    parts: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for each in found:
        low, high = (float(known[name][each.env]) for name in ("random", "reference"))
        if math.isnan(low) or math.isnan(high):
            continue
        values, diverged = parts.setdefault(label(each.arm), ([], []))
        values.append((each.values - low) / (high - low))
        diverged.append(each.diverged)
    return {name: Scores(*map(np.array, part)) for name, part in parts.items()}


def ranked(means: ArrayLike, bad: ArrayLike) -> np.ndarray:
    """Values that order candidates: a bad one, or one without a value, is behind all others."""
    values = np.asarray(means, float)
    return np.where(np.asarray(bad) | np.isnan(values), -np.inf, values)


def best(ordered: np.ndarray) -> int:
    """The place of the best candidate; of equal ones, or if all are bad, the first."""
    return int(np.argmax(ordered))


def best_first(ordered: np.ndarray) -> np.ndarray:
    """The places of all candidates, along the last axis; of equal ones, the first comes first."""
    return np.argsort(-ordered, axis=-1, kind="stable")


def ranked_across(of: Scores) -> np.ndarray:
    """As `ranked`, of the mean scores over the environments, [K]."""
    return ranked(of.values.mean(2).mean(0), of.diverged.any((0, 2)))
