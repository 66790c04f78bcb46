"""Reads and writes the files of a run: parquet rows and policy snapshots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mpo.study.checksums import reading
from mpo.study.files import replacing


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as parquet (zstd); all rows must have the same keys."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


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
