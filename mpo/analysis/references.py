"""Normalised scores, which make environments comparable: 0 is a random policy, 1 a reference.

Source: Agarwal et al., arXiv 2108.13264. Scores are normalised by values fixed in advance, never by
the minimum and maximum of the data.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpo.analysis.runs import environment_version
from mpo.study import references
from mpo.study.checksums import Damaged, read_record, reading
from mpo.study.config import ConfigError, JobFailed
from mpo.study.plan import Study

logger = logging.getLogger(__name__)

_COLUMNS = ["env", "reference", "what", "source"]

_UNKNOWN = {"reference": None, "what": None, "source": None}
_UNMEASURED = {
    "random": np.nan,
    "random_episodes": 0,
    "environment_version": None,
    "error": None,
}


def read(
    study: Study, table: Path, random: Sequence[Path], unfinished: Collection[str] = ()
) -> pd.DataFrame:
    """Reads the random and the reference return of each environment of a study.

    Args:
        study: the study.
        table: csv of reference returns, see `user_tables.references`.
        random: JSON files with a random policy's returns: env_id, mean, episodes; or error, if the
            environment failed.
        unfinished: environments without a finished run. They need no random return; without one
            they count as environments without a reference.

    Returns:
        One row per environment: env, random, random_episodes, environment_version (of the random
        return; empty in older files), error (if it could not be measured), reference, what, source.
        The last three are empty if the environment has no reference.

    Raises:
        ConfigError: see `user_tables.references`; or a reference is not above the random return,
            or a random return is missing or given twice.
        Damaged: a JSON file cannot be read, is not the one that its job wrote, or is of another
            environment.
        JobFailed: an environment failed with random actions, and the study does not allow it.
    """
    measured = _random_returns(study, random)
    rows = []
    for row in references.of_study(study, table):
        name = row.env
        if name not in measured and name not in unfinished:
            raise ConfigError(f"the random return of {name} was not given")
        chance = measured.get(name, _UNMEASURED)
        known: Mapping[str, Any] = row.model_dump() if chance["random_episodes"] else _UNKNOWN
        if chance["random_episodes"]:
            references.refuse_low(row, chance["random"], table)
        rows.append({"env": name, **chance, **{key: known[key] for key in _COLUMNS[1:]}})
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
    """What `read` needs of each random return, by environment."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        record = read_record(path)
        with reading(path):
            name = record["env_id"]
            error = record.get("error")
            returns = _UNMEASURED | {"environment_version": environment_version(record)}
            if error is None:
                returns |= {"random": float(record["mean"])}
                returns |= {"random_episodes": int(record["episodes"])}
            else:
                returns |= {"error": str(error)}
        if name in found:
            raise ConfigError(f"{path}: a second random return of {name}; expected one")
        if name not in [environment.name for environment in study.environments]:
            raise Damaged(path, f"it is the random return of {name}")
        if error is not None and not study.allow_missing:
            raise JobFailed(
                f"{path}: the random return of {name} could not be measured: {error}. Delete the "
                "file to try again; `allow_missing: true` makes the tables without these scores"
            )
        if error is not None:
            logger.warning("%s has no scores, for lack of a random return: %s", name, error)
        elif returns["environment_version"] is None:
            what = f"the random return of {name}"
            logger.info("%s does not record its environment, so changes of it go unnoticed", what)
        found[name] = returns
    return found
