"""Whether effects hold elsewhere: the rows of the table robustness.

The answers are about the mean action, and each effect is averaged over the other factors. Here are
the same effects with actions sampled from the policy, and at each level of every other factor. All
are exploratory.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mpo.analysis.contrasts import (
    COUNTS,
    KEY,
    POOLED,
    Contrast,
    against_the_first,
    arrays,
    effect_over,
    over_all,
)
from mpo.study.labels import words
from mpo.study.plan import Study

COLUMNS = (*KEY, "where", "env", "estimate", "lo", "hi", "method", *COUNTS)

SAMPLED = "sampled actions"
"""Value of `where` in rows on sampled actions; others are "with" and the level of a factor."""


def rows(
    study: Study, finals: pd.DataFrame, sampled: pd.DataFrame, shared: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Each level of each varied axis against its first level, as a difference of scores.

    Args:
        study: the study's plan.
        finals: final scores of the mean action, a row per planned run.
        sampled: the same of sampled actions.
        shared: the environments that are pooled.
    """
    axes = study.varied
    cells, of_sampled = arrays(study, finals, "score"), arrays(study, sampled, "score")
    for contrast in against_the_first(study):
        for place, (axis, values) in enumerate(axes.items()):
            for index, value in enumerate(values if place != contrast.factor else ()):
                at = {env: x.take([index], place + 1) for env, x in cells.items()}
                yield from _of(contrast, f"with {words(axis, value)}", at, shared)
        yield from _of(contrast, SAMPLED, of_sampled, shared)


def _of(
    contrast: Contrast, where: str, cells: dict[str, np.ndarray], shared: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The effect in each environment, then pooled."""
    places = {env: [x] for env, x in cells.items()} | {POOLED: [cells[env] for env in shared]}
    for env, scores in places.items():
        if (found := effect_over(scores, contrast)) is not None:
            yield contrast.names | over_all(found) | {"where": where, "env": env}
