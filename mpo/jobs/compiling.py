"""Whether the trainings of a cell are compiled on a CPU: decided once, and then kept to.

Compiled code rounds differently. A longer budget extends a shorter one, and seeds are compared with
each other, so all runs of a cell should run the same code.
"""

import itertools
import json
import logging
from pathlib import Path

import torch

from mpo.compute.compile import compiles
from mpo.study.checksums import Damaged, read_run
from mpo.study.files import RUN, write_json
from mpo.study.hyperparameters import Training
from mpo.study.paths import Place
from mpo.study.specs import CellSpec

logger = logging.getLogger(__name__)

RECORD = "compiled.json"
"""File beside the states to resume from of a cell's seeds."""
_COSTS_S = 4.0
"""Seconds that a job takes longer to start. The first job of a kind takes half a minute longer."""
_OVERHEAD_S = 1e-3
"""Seconds that an update saves with small networks."""
_RATE = 2e11
"""Floating-point operations of the target critic for which large networks save a second."""


def compiled(spec: CellSpec, place: Place, steps: int, wish: str) -> bool:
    """Decides whether runs of a cell are compiled.

    Args:
        spec: the spec of the cell.
        place: the directories of one of the runs.
        steps: environment steps of the longest runs that are planned.
        wish: `true` or `false`, or `auto`: as the cell's runs before; for its first run, whether
            compiling saves more time than it takes.
    """
    before = _before(spec, place)
    if wish == "auto":
        chosen = pays(spec.training, steps) if before is None else before
    else:
        chosen = wish == "true"
        if before not in (None, chosen):
            logger.warning("runs of this cell before were%s compiled", "" if before else " not")
    chosen = chosen and compiles(torch.device("cpu"), on_cpu=True)
    logger.info("acting and learning are%s compiled", "" if chosen else " not")
    if before is None:
        # The first jobs of a cell start together, and each may write.
        writer = place.resume_directory(spec.identity).name
        write_json(_record(spec, place), {"compiled": chosen}, writer)
    return chosen


def _before(spec: CellSpec, place: Place) -> bool | None:
    """Whether runs of the cell were compiled before; None if there are none."""
    try:
        return bool(json.loads(_record(spec, place).read_text(encoding="utf-8"))["compiled"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing or damaged: the finished runs tell
    for path in sorted(place.directory.parent.parent.glob(f"seed*/step*/{RUN}")):
        try:
            record, found = read_run(path.parent)
            origin = record["provenance"]
            if found.cell.identity == spec.identity and origin["device"] == "cpu":
                return bool(origin["compiled"])
        except (Damaged, OSError, KeyError):
            continue
    return None


def _record(spec: CellSpec, place: Place) -> Path:
    return place.resume_directory(spec.identity).with_name(RECORD)


def pays(training: Training, steps: int) -> bool:
    """Returns whether compiling saves more time than it takes in a run of so many steps."""
    updates = max(0, steps - training.update_after) * training.updates_per_step
    widths = training.critic_layer_sizes
    rows = training.batch_size * training.action_samples
    operations = 2 * rows * sum(a * b for a, b in itertools.pairwise(widths))
    return updates * (_OVERHEAD_S + operations / _RATE) >= _COSTS_S
