"""The candidates of a tuning stage: their criterion, their scores and the order they rank in."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mpo.analysis.efficiency import area_under_curve
from mpo.analysis.tables import read, seed_means
from mpo.study.labels import label
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

    @property
    def missing(self) -> np.ndarray:
        """Whether a candidate lacks a run of some seed, bool [K]."""
        return np.isnan(self.values).any(1)


class Scores(NamedTuple):
    """The candidates of a tuned arm: their scores, and what puts a candidate behind the others.

    Of all environments, the E that have a reference come first.
    """

    values: np.ndarray
    """The criterion as a normalised score, [E, K, n]; NaN where a run is missing."""
    diverged: np.ndarray
    """Whether the run diverged, in all environments, bool [all, K, n]."""
    missing: np.ndarray
    """Whether a run of some seed is missing, in all environments, bool [all, K]."""


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
        scale: random and reference returns, see `references.read`. An arm whose environments all
            lack a reference is left out.
    """
    ends = dict(zip(scale["env"], scale[["random", "reference"]].to_numpy(float), strict=True))
    unknown = {env for env, both in ends.items() if np.isnan(both).any()}
    arms: dict[str, list[TunedArm]] = {}
    for each in found:
        arms.setdefault(label(each.arm), []).append(each)
    normalised = {}
    for name, cells in arms.items():
        cells.sort(key=lambda each: each.env in unknown)
        values = [
            (each.values - ends[each.env][0]) / (ends[each.env][1] - ends[each.env][0])
            for each in cells
            if each.env not in unknown
        ]
        if values:
            flags = [each.diverged for each in cells], [each.missing for each in cells]
            normalised[name] = Scores(np.array(values), *map(np.array, flags))
    return normalised


def alone(each: TunedArm) -> Scores:
    """A tuned arm in one environment, its criterion in the unit of the returns."""
    return Scores(each.values[None], each.diverged[None], each.missing[None])


def ranked(means: ArrayLike, diverged: ArrayLike, missing: ArrayLike) -> np.ndarray:
    """Values that order candidates.

    One that diverged is behind all that did not. One that lacks a run is behind all that do not.
    """
    values = np.where(diverged, -np.finfo(float).max, np.asarray(means, float))
    return np.where(missing, -np.inf, values)


def best(ordered: np.ndarray) -> int:
    """The place of the best candidate; of equal ones, or if all are bad, the first."""
    return int(np.argmax(ordered))


def best_first(ordered: np.ndarray) -> np.ndarray:
    """The places of all candidates, along the last axis; of equal ones, the first comes first."""
    return np.argsort(-ordered, axis=-1, kind="stable")


def ranked_across(of: Scores) -> np.ndarray:
    """As `ranked`, of the mean scores over the environments, [K].

    A run that diverged or is missing counts in every environment, with a reference or without.
    """
    return ranked(of.values.mean(2).mean(0), of.diverged.any((0, 2)), of.missing.any(0))
