"""The scale on which environments are compared: a random policy scores 0, a reference scores 1.

Source: Agarwal et al., arXiv 2108.13264: scores are normalised by values that are fixed in advance,
never by the data's own smallest and largest.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpo.study.config import ConfigError
from mpo.study.plan import Study

_COLUMNS = ["env", "reference", "what", "source"]
_DM_CONTROL = {
    "reference": 1000.0,
    "what": "the largest return there is: dm_control's tasks reward 0 to 1 a step for 1000 steps",
    "source": "arXiv 1801.00690",
}

_UNKNOWN = {"reference": np.nan, "what": None, "source": None}


def read(study: Study, table: Path, random: Sequence[Path]) -> pd.DataFrame:
    """The scale of each environment of a study.

    Args:
        study: names the environments.
        table: csv of env, reference, what (it is), source (of it).
        random: measurements of a random policy, JSON of env_id, mean and episodes.

    Returns:
        One row an environment: env, random, random_episodes, reference, what, source; the last
        three are empty where nobody has given a reference.

    Raises:
        ConfigError: the table has other columns, an environment twice, or a reference that is not
            above the random return.
    """
    given = pd.read_csv(table)
    if list(given.columns) != _COLUMNS or given["env"].duplicated().any():
        raise ConfigError(
            f"{table}: expected the columns {', '.join(_COLUMNS)} and one row an environment, "
            f"received {', '.join(given.columns)} and {', '.join(given['env'])}"
        )
    references = {row["env"]: row for row in given.to_dict("records")}
    measured = {found["env_id"]: found for found in map(_read_json, random)}
    rows = []
    for environment in study.environments:
        chance = measured[environment.id]
        known: Mapping[Any, Any] = references.get(
            environment.id, _DM_CONTROL if environment.id.startswith("dm_control/") else _UNKNOWN
        )
        if known["reference"] <= chance["mean"]:
            raise ConfigError(
                f"{table}: the reference of {environment.id} must be above the random return "
                f"{chance['mean']:.4g}, received {known['reference']}"
            )
        row = {"env": environment.id, "random": chance["mean"]}
        row |= {"random_episodes": chance["episodes"]}
        rows.append(row | {name: known[name] for name in _COLUMNS[1:]})
    return pd.DataFrame(rows)


def scores(finals: pd.DataFrame, scale: pd.DataFrame) -> pd.Series:
    """(return - random) / (reference - random) of each row of `env` and `return`."""
    by_env = scale.set_index("env").loc[finals["env"]]
    low, high = by_env["random"].to_numpy(), by_env["reference"].to_numpy()
    return pd.Series((finals["return"].to_numpy() - low) / (high - low), index=finals.index)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
