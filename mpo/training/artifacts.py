"""Reads and writes the files of a run: JSON, parquet rows and policy snapshots."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mpo.study.checksums import reading
from mpo.study.files import replacing


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes indented JSON, with keys in the given order."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as parquet (zstd); all rows must have the same keys."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_policies(path: Path, steps: Sequence[int], policies: Sequence[Mapping[str, Any]]) -> None:
    """Writes K policy snapshots: `steps` [K] and each parameter, stacked to [K, 1, ...]."""
    stacked = {name: torch.stack([p[name] for p in policies]) for name in policies[0]}
    with replacing(path) as temporary:
        torch.save({"steps": torch.tensor(steps), "policy": stacked}, temporary)


def read_policies(path: Path) -> list[tuple[int, dict[str, torch.Tensor]]]:
    """Reads policy snapshots without running pickled code.

    Returns:
        (environment step, state dict of a one-seed `GaussianPolicy`) pairs, oldest first; at least
        one.

    Raises:
        Damaged: the file cannot be read, or holds something else.
    """
    with reading(path):
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = [
            (int(step), {name: values[k] for name, values in content["policy"].items()})
            for k, step in enumerate(content["steps"])
        ]
        if not found:
            raise ValueError("no snapshots")
    return found
