"""Reads the files of one finished run for the tables, and names everything wrong with them."""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mpo.study.cells import Run
from mpo.study.checksums import OWN, Damaged, intact, read_evaluation, read_record, reading
from mpo.study.config import canonical_json
from mpo.study.files import EVALUATIONS, METRICS, POLICIES, RUN

CLOCKS = ("wall_s", "cpu_s")
"""Times that the seeds of one process share."""

_COUNTS = ("env_steps", "updates", "episodes")
_COSTS = ("wall_s", "eval_s", "cpu_s", "max_rss_mb", "stacked")
_CRITIC = ("q_bias", "q_spread", "q_return", "q_states", "q_bootstrap")
_PROVENANCE = (
    *("git_sha", "git_dirty", "algorithm_version"),
    *("device", "device_name", "threads", "host", "cpu", "blas", "python"),
)
_PACKAGES = ("torch", "gymnasium", "mujoco", "dm_control", "numpy")


class DamagedRun(ValueError):
    """Files of a run cannot be used; the message names all of them."""


class RunFiles(NamedTuple):
    """What the tables need of a run."""

    facts: dict[str, Any]
    """Status, error, counts, costs, the critic's error and provenance: columns of `runs`."""
    evals: pa.Table
    """One row per evaluation episode."""
    train: pa.Table
    """One row per logging interval."""
    checked: bool
    """Whether the run has checksums; older versions of the code wrote none."""


def read_run(run: Run, root: Path) -> RunFiles:
    """Reads a run's files and checks them, the policies too if there are any.

    Args:
        run: the run, with all files that the tables need.
        root: the directory that contains `results/`.

    Raises:
        DamagedRun: a file cannot be read, is not the one that its job wrote, or was made from
            another spec than planned.
    """
    directory, problems = root / run.directory, list[str]()
    record: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    with _noting(problems):
        record = read_record(directory / RUN)
    with _noting(problems):
        evaluation = read_evaluation(directory, record)
    with _noting(problems):
        if os.path.lexists(directory / POLICIES):
            intact(directory / POLICIES, record)
    with _noting(problems):
        train = _rows(directory / METRICS, record, ["env_step", *CLOCKS])
    with _noting(problems):
        evals = _rows(directory / EVALUATIONS, evaluation, ["env_step", "return"])
    if record and evaluation:
        with _noting(problems), reading(directory / RUN):
            facts = _facts(run, directory, record, evaluation)
    if problems:
        raise DamagedRun("; ".join(problems))
    return RunFiles(facts, evals, train, OWN in record)


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except (Damaged, FileNotFoundError) as error:
        problems.append(str(error))


def _rows(path: Path, record: Mapping[str, Any], numbers: Sequence[str]) -> pa.Table:
    """Reads a table of the run; the given columns must hold numbers."""
    with reading(intact(path, record)):
        rows = pq.ParquetFile(path).read().replace_schema_metadata()
        for name in numbers:
            kind = rows.schema.field(name).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise TypeError(f"column {name}: expected numbers, received {kind}")
    return rows


def _facts(
    run: Run, directory: Path, record: dict[str, Any], evaluation: dict[str, Any]
) -> dict[str, Any]:
    if canonical_json(record["spec"]) != run.spec.identity:
        raise Damaged(directory / RUN, "its results have another spec than the study plans")
    provenance = record["provenance"]
    clocks = {name: record[name] / record["stacked"] for name in CLOCKS}
    costs = record | evaluation | clocks
    return {
        "status": record["status"],
        "error": record["error"],
        **{name: record[name] for name in _COUNTS},
        "updates_per_s": record["updates"] / clocks["wall_s"],
        **{name: costs[name] for name in _COSTS},
        # Missing where an older version trained or evaluated the run, or a value is not finite.
        **{name: float(evaluation.get(name, math.nan)) for name in _CRITIC},
        **{name: provenance[name] for name in _PROVENANCE},
        # Older runs did not record this.
        "compiled": provenance.get("compiled"),
        **{name: provenance["packages"].get(name) for name in _PACKAGES},
        "environment_version": environment_version(record, evaluation),
        "started": provenance["started"],
        "finished": provenance["finished"],
        "resumed": len(provenance["resumed"]),
    }


def environment_version(*records: Mapping[str, Any]) -> str | None:
    """Digests of what the environment was made of in some records, joined by `+`.

    Records of older versions of the code do not tell it.
    """
    found = [canonical_json(r["environment"]) for r in records if r.get("environment") is not None]
    digests = dict.fromkeys(hashlib.sha256(text.encode()).hexdigest()[:12] for text in found)
    return "+".join(digests) or None
