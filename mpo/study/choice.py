"""What the stage of tuning has chosen: results/NAME/chosen.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo.study.checksums import OWN, Damaged, read_record, reading
from mpo.study.tuning import key_of

Choice = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""The values of `training` that were chosen, by an environment's name in paths and `key_of` its
tuned arm: one for the reported runs, several for a rung of halving."""


def read_choice(path: Path) -> Choice | None:
    """Reads what was chosen; None if nothing was.

    Raises:
        Damaged: the file cannot be read, or is not the one that its job wrote.
    """
    try:
        record = read_record(path)
    except FileNotFoundError:
        return None
    if OWN not in record:
        raise Damaged(path, "it has no checksum")
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    with reading(path):
        for row in record["chosen"]:
            found.setdefault((row["env"], key_of(row["arm"])), []).append(row["settings"])
    return found
