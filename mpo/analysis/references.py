"""Normalised scores, which make environments comparable: 0 is a random policy, 1 a reference.

Source: Agarwal et al., arXiv 2108.13264. Scores are normalised by values fixed in advance, never by
the minimum and maximum of the data.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpo.study import user_tables
from mpo.study.checksums import Damaged, read_record, reading
from mpo.study.config import ConfigError
from mpo.study.plan import Study

_COLUMNS = ["env", "reference", "what", "source"]
_DM_CONTROL = {
    "reference": 1000.0,
    "what": "the largest return there is: dm_control's tasks reward 0 to 1 a step for 1000 steps",
    "source": "arXiv 1801.00690",
}

_UNKNOWN = {"reference": None, "what": None, "source": None}


def read(
    study: Study, table: Path, random: Sequence[Path], unfinished: Collection[str] = ()
) -> pd.DataFrame:
    """Reads the random and the reference return of each environment of a study.

    Args:
        study: the study.
        table: csv of reference returns, see `user_tables.references`.
        random: JSON files with a random policy's returns: env_id, mean, episodes.
        unfinished: environments without a finished run. They need no random return; without one
            they count as environments without a reference.

    Returns:
        One row per environment: env, random, random_episodes, reference, what, source. The last
        three are empty if the environment has no reference.

    Raises:
        ConfigError: see `user_tables.references`; or a reference is not above the random return,
            or a random return is missing.
        Damaged: a JSON file cannot be read, is not the one that its job wrote, or is of another
            environment.
    """
    references = {row.env: row.model_dump() for row in user_tables.references(table)}
    measured = _random_returns(study, random)
    rows = []
    for environment in study.environments:
        chance = measured.get(environment.name)
        if chance is None:
            if environment.name not in unfinished:
                raise ConfigError(f"the random return of {environment.name} was not given")
            row = {"env": environment.name, "random": np.nan, "random_episodes": 0}
            rows.append(row | _UNKNOWN)
            continue
        known: Mapping[Any, Any] = references.get(
            environment.name,
            _DM_CONTROL if environment.name.startswith("dm_control/") else _UNKNOWN,
        )
        if known["reference"] is not None and known["reference"] <= chance["mean"]:
            raise ConfigError(
                f"{table}: the reference of {environment.name} must be above the random return "
                f"{chance['mean']:.4g}, received {known['reference']}"
            )
        row = {"env": environment.name, "random": chance["mean"]}
        row |= {"random_episodes": chance["episodes"]}
        rows.append(row | {name: known[name] for name in _COLUMNS[1:]})
    return pd.DataFrame(rows).astype({"reference": float})


def scores(finals: pd.DataFrame, scale: pd.DataFrame) -> pd.Series:
    """The score (return - random) / (reference - random) of each row.

    Args:
        finals: rows with `env` and `return`.
        scale: the table from `read`.
    """
    by_env = scale.set_index("env").loc[finals["env"]]
    low, high = by_env["random"].to_numpy(), by_env["reference"].to_numpy()
    return pd.Series((finals["return"].to_numpy() - low) / (high - low), index=finals.index)


def _random_returns(study: Study, paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The mean return of a random policy and its number of episodes, by environment."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        record = read_record(path)
        with reading(path):
            name = record["env_id"]
            returns = {"mean": float(record["mean"]), "episodes": int(record["episodes"])}
        if name in found or name not in [environment.name for environment in study.environments]:
            raise Damaged(path, f"it is the random return of {name}")
        found[name] = returns
    return found
