"""What a run leaves on disk: its metrics, its policy snapshots, and where it came from."""

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mpo import ALGORITHM_VERSION
from mpo.files import replacing

_PACKAGES = ("torch", "tensordict", "numpy", "gymnasium", "mujoco", "dm_control", "shimmy")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes readable JSON, keys in the order given."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of equal keys as parquet (zstd)."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_policies(path: Path, steps: Sequence[int], policies: Sequence[Mapping[str, Any]]) -> None:
    """Writes policy snapshots: `steps` [K] and each parameter stacked [K, 1, ...]."""
    stacked = {name: torch.stack([p[name] for p in policies]) for name in policies[0]}
    with replacing(path) as temporary:
        torch.save({"steps": torch.tensor(steps), "policy": stacked}, temporary)


def read_policies(path: Path) -> list[tuple[int, dict[str, torch.Tensor]]]:
    """Reads (environment step, state of a one-seed `GaussianPolicy`) pairs; runs no code."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    return [
        (int(step), {name: values[k] for name, values in content["policy"].items()})
        for k, step in enumerate(content["steps"])
    ]


def provenance(
    device: torch.device, started: datetime, resumed: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Where and when numbers were made: code, packages, hardware and thread settings."""
    return {
        "algorithm_version": ALGORITHM_VERSION,
        **_git(),
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        **machine(device),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "resumed": list(resumed),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What rounding can depend on: hardware, packages and thread settings; and the host's name."""
    return {
        "device": device.type,
        "device_name": _device_name(device),
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _git() -> dict[str, Any]:
    """The commit of this source tree, and whether tracked files differ from it."""
    try:
        sha = _git_output("rev-parse", "HEAD")
        dirty: bool | None = bool(_git_output("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        sha, dirty = "unknown", None
    return {"git_sha": sha, "git_dirty": dirty}


def _git_output(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
