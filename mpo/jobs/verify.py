"""Checks whether finished runs can be reproduced bit for bit on this machine."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mpo.provenance import machine
from mpo.study.checksums import intact, read_run, reading
from mpo.study.files import METRICS, RUN, write_text
from mpo.training import loop
from mpo.training.recorder import CLOCKS
from mpo.training.stack import Stack


def verify(run_directory: Path, steps: int, device: torch.device) -> dict[str, Any]:
    """Trains a finished run again from step 0 and compares the metrics.

    It is compiled if the run was.

    Args:
        run_directory: the directory of the run.
        steps: number of environment steps to compare; reduced to those of the run, and to whole
            logging intervals.
        device: device to train on.

    Returns:
        run: the run's id.
        env_steps: environment steps compared.
        recorded, again: hashes of the recorded and the new metrics, without the clocks.
        reproduced: whether the hashes are equal.
        differs: a text on the first row and columns that differ, or None.
        unlike: facts of the machine that differ, as [recorded, here].

    Raises:
        Damaged: a file of the run cannot be read, or its job did not write it.
    """
    record, spec = read_run(run_directory)
    with reading(run_directory / RUN):
        intervals = max(1, min(steps, record["env_steps"]) // spec.log_interval)
        was = {name: record.get(name) for name in ("environment", "optimizer")}
        was |= record["provenance"]
    compared = intervals * spec.log_interval
    path = intact(run_directory / METRICS, record)
    with reading(path):
        recorded = _metrics(run_directory, compared)
    compiled = bool(was.get("compiled"))
    stack = Stack(spec.environment, spec.training, [spec.seed], device, compile_on_cpu=compiled)
    with tempfile.TemporaryDirectory() as folder:
        loop.train(stack, spec.cell, compared, [Path(folder)])
        again = _metrics(Path(folder), compared)
    now = stack.made_of | machine(device, stack.agent.compiled)
    return {
        "run": "/".join(run_directory.parts[-4:-1]),
        "env_steps": compared,
        "recorded": _hash(recorded),
        "again": _hash(again),
        "reproduced": _hash(recorded) == _hash(again),
        "differs": _difference(recorded, again),
        # Facts that the run did not record count as equal.
        "unlike": {k: [was[k], v] for k, v in now.items() if was.get(k) not in (None, v)},
    }


def write(results: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Writes the results of `verify` as a Markdown page."""
    equal = sum(result["reproduced"] for result in results)
    rows = pd.DataFrame(
        {
            "run": result["run"],
            "environment steps": result["env_steps"],
            "bit for bit": "yes" if result["reproduced"] else f"no: {result['differs']}",
            "hash": result["again"][:12],
            "recorded on another": ", ".join(result["unlike"]) or "-",
        }
        for result in results
    )
    text = f"{equal} of {len(results)} runs were reproduced bit for bit on this machine."
    write_text(output, f"# Verification\n\n{text}\n\n{rows.to_markdown(index=False)}\n")


def _metrics(directory: Path, steps: int) -> pd.DataFrame:
    """The metrics of a run up to a step, without the clocks."""
    rows = pd.read_parquet(directory / METRICS).drop(columns=list(CLOCKS))
    rows = rows[rows["env_step"] <= steps].reset_index(drop=True)
    # Metrics that start later are empty columns in one run, and missing in the other.
    return rows.dropna(axis="columns", how="all").astype(np.float64)


def _hash(rows: pd.DataFrame) -> str:
    """A hash of the names and bits of all columns."""
    digest = hashlib.sha256()
    for name in sorted(rows.columns):
        digest.update(name.encode() + rows[name].to_numpy().tobytes())
    return digest.hexdigest()


def _difference(recorded: pd.DataFrame, again: pd.DataFrame) -> str | None:
    """Describes the first row in which two runs differ, with its columns; None if equal."""
    only = sorted(set(recorded.columns) ^ set(again.columns))
    if only or len(recorded) != len(again):
        return f"columns {', '.join(only)}" if only else f"{len(recorded)} rows, now {len(again)}"
    unequal = (recorded != again) & ~(recorded.isna() & again.isna())
    if not unequal.any(axis=None):
        return None
    row = int(np.argmax(unequal.any(axis="columns")))
    names = unequal.columns[unequal.iloc[row]]
    return f"from step {recorded['env_step'].iloc[row]:g} on in {', '.join(names)}"
