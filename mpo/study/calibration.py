"""What a calibration has measured: the cost of runs of which none has been trained yet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mpo.study.checksums import Damaged, read_object, reading
from mpo.study.config import canonical_json
from mpo.study.files import CALIBRATION, write_json
from mpo.study.plan import Study
from mpo.study.specs import CellSpec


class Rates(NamedTuple):
    """What a run costs, in the units of `mpo.study.remaining.Cost`; None where it is not known."""

    step_s: float
    episode_s: float | None
    step_bytes: float


def key(spec: CellSpec, total_steps: int) -> str:
    """What the cost of a cell depends on: its spec without rates, bounds and other real numbers.

    A number of updates per step is one, too, but stays.
    """
    values = spec.model_dump(mode="json")
    training = {
        name: value
        for name, value in values["training"].items()
        if not isinstance(value, float) or name == "updates_per_step"
    }
    return canonical_json(values | {"training": training, "total_steps": total_steps})


def write(study: Study, root: Path, found: Mapping[str, Rates]) -> None:
    """Writes rates by `key`; `root` is the directory that contains `results/`."""
    rates = {name: rate._asdict() for name, rate in found.items()}
    write_json(_path(study, root), {"rates": rates})


def read(study: Study, root: Path) -> dict[tuple[str, str], Rates]:
    """Returns the rates of the study's cells that have been measured, by environment and variant.

    A file that cannot be read tells nothing.
    """
    path = _path(study, root)
    try:
        with reading(path):
            given: Mapping[str, Any] = read_object(path)["rates"]
            rates = {name: Rates(**values) for name, values in given.items()}
    except (Damaged, OSError):
        return {}
    keys = {(c.spec.env_name, c.variant): key(c.spec, c.total_steps) for c in study.cells}
    return {place: rates[name] for place, name in keys.items() if name in rates}


def _path(study: Study, root: Path) -> Path:
    return root / "results" / study.study / CALIBRATION
