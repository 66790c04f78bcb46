"""Reads and writes the files of a run: parquet rows and policy snapshots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mpo.study.checksums import reading
from mpo.study.files import replacing


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as parquet (zstd); all rows must have the same keys."""
    columns = {name: _column([row.get(name) for row in rows]) for name in rows[0]}
    table = pa.Table.from_arrays(list(columns.values()), list(columns))
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _column(values: Sequence[Any]) -> pa.Array:
    """Makes the array of `pyarrow.array`, which imports pandas: that takes most of a second."""
    kinds = {type(value) for value in values}
    if kinds == {str}:
        encoded = [value.encode() for value in values]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
        return _array(
            pa.string(), len(values), None, ends, np.frombuffer(b"".join(encoded), np.uint8)
        )
    if kinds == {bool}:
        return _array(pa.bool_(), len(values), None, _bits(values))
    if not kinds & {int, float} or kinds - {int, float, type(None)}:
        return pa.array(values)
    known = [value is not None for value in values]
    dtype = np.float64 if float in kinds else np.int64
    numbers = np.array([0 if value is None else value for value in values], dtype)
    return _array(
        pa.from_numpy_dtype(dtype), len(values), None if all(known) else _bits(known), numbers
    )


def _bits(values: Sequence[bool]) -> np.ndarray:
    return np.packbits(values, bitorder="little")


def _array(kind: pa.DataType, length: int, *buffers: np.ndarray | None) -> pa.Array:
    """Makes an array of the buffers that Arrow's columnar format names; None: all are valid."""
    made = [None if buffer is None else pa.py_buffer(buffer) for buffer in buffers]
    return pa.Array.from_buffers(kind, length, made)


def write_policies(
    path: Path,
    steps: Sequence[int],
    policies: Sequence[Mapping[str, Any]],
    critic: Mapping[str, Any] | None = None,
) -> None:
    """Writes K policy snapshots and the critic of the last one.

    Args:
        path: the file.
        steps: environment steps, [K].
        policies: state dict of a one-seed `GaussianPolicy` for each, stacked in the file to
            [K, 1, ...].
        critic: state dict of the one-seed critic that was trained with the last policy.
    """
    stacked = {name: torch.stack([p[name] for p in policies]) for name in policies[0]}
    content = {"steps": torch.tensor(steps), "policy": stacked}
    with replacing(path) as temporary:
        if critic is not None:
            # `contiguous` would keep the stride of the seed axis, and so the size of the stack.
            content["critic"] = {
                name: value.clone(memory_format=torch.contiguous_format)
                for name, value in critic.items()
            }
        torch.save(content, temporary)


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


def read_critic(path: Path) -> dict[str, torch.Tensor] | None:
    """Reads the critic beside the last policy snapshot, without running pickled code.

    Returns:
        The state dict of a one-seed critic, see `make_critic`; None in a file of an older version.

    Raises:
        Damaged: the file cannot be read, or holds something else.
    """
    with reading(path):
        content = torch.load(path, map_location="cpu", weights_only=True)
        return None if "critic" not in content else dict(content["critic"])
