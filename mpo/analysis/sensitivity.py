"""How much an arm loses by one candidate for all environments, against the best one in each.

Source: Adkins, Bowling and White, "A Method for Evaluating Hyperparameter Sensitivity in
Reinforcement Learning", arXiv 2412.07165. The maxima of that index, over noisy means of a few
seeds, flatter both of its terms. Here each is also computed by choosing on all tuning seeds but one
and scoring on that one, in turn.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mpo.analysis.candidates import Scores, best, ranked


class Terms(NamedTuple):
    """What is reached with two ways to choose, in the unit of the values; NaN if not known."""

    per_environment: float
    """With the candidate that is best in each environment, the mean over the environments."""
    across: float
    """With the one candidate whose mean over the environments is best."""

    @property
    def lost(self) -> float:
        """What the one candidate loses: the index."""
        return self.per_environment - self.across


def naive(of: Scores) -> Terms:
    """Chooses and scores on the same seeds."""
    every = np.arange(of.values.shape[2])
    return _terms(of, every, every)


def held_out(of: Scores) -> Terms:
    """Chooses on all seeds but one and scores on that one; the mean over the seeds.

    Of one seed it is NaN. A candidate without a run of some seed is behind all others in each turn.
    """
    every = np.arange(of.values.shape[2])
    if len(every) < 2:
        return Terms(math.nan, math.nan)
    turns = np.array([_terms(of, every[every != seed], every[[seed]]) for seed in every])
    return Terms(*turns.mean(0).tolist())


def rows(
    names: Iterable[str], seeds: int, scores: Mapping[str, Scores]
) -> Iterator[dict[str, Any]]:
    """The table `sensitivity`: a row per arm.

    Args:
        names: the arms' labels.
        seeds: the number of tuning seeds.
        scores: of the arms with a reference in some environment, see `candidates.scores`. With
            fewer than two such environments an arm has no index: the best candidate across them
            is then also the best in each.
    """
    for name in names:
        own = scores.get(name)
        environments = len(own.values) if own else 0
        terms = held_out(own) if own else Terms(math.nan, math.nan)
        several = environments > 1
        yield {
            "arm": name,
            "environments": environments,
            "seeds": seeds,
            **terms._asdict(),
            "index": terms.lost if several else math.nan,
            "index_naive": naive(own).lost if own and several else math.nan,
        }


def _terms(of: Scores, chosen_on: np.ndarray, scored_on: np.ndarray) -> Terms:
    """Chooses on some seeds, scores on some; both are places of seeds."""
    means = of.values[..., chosen_on].mean(-1)
    diverged = np.any(of.diverged[..., chosen_on], axis=-1)
    scored = of.values[..., scored_on].mean(-1)
    count = len(means)
    orders = ranked(means, diverged[:count], of.missing[:count])
    own = [each[best(order)] for each, order in zip(scored, orders, strict=True)]
    common = best(ranked(means.mean(0), np.any(diverged, axis=0), of.missing.any(0)))
    return Terms(float(np.mean(own)), float(scored[:, common].mean()))
