"""What produced a result: the commit, the packages, the machine and its settings."""

import contextlib
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpo import ALGORITHM_VERSION

if TYPE_CHECKING:
    import torch

_TRAINING = (
    "torch",
    "triton",
    "tensordict",
    "numpy",
    "gymnasium",
    "mujoco",
    "dm_control",
    "shimmy",
)
"""Packages whose versions are recorded with each training."""


def of_training(device: "torch.device", compiled: bool) -> dict[str, Any]:
    """Returns the provenance of a training run: commit, packages, hardware and settings.

    Args:
        device: the device of the networks and updates.
        compiled: whether acting and learning were compiled by torch.

    Returns:
        The algorithm version, the entries of `code` and `machine`, and the process's
        CUDA_VISIBLE_DEVICES.
    """
    return {
        "algorithm_version": ALGORITHM_VERSION,
        **code(),
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        **machine(device, compiled),
    }


def machine(device: "torch.device", compiled: bool = False) -> dict[str, Any]:
    """Returns everything that rounding can depend on, and the host name.

    Args:
        device: the device of the networks and updates.
        compiled: whether acting and learning were compiled by torch.

    Returns:
        Hardware, thread count, BLAS libraries, and the versions of Python and the packages.
    """
    import torch

    return {
        "device": device.type,
        "compiled": compiled,
        "device_name": _device_name(device),
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": _blas(torch.__config__.show()),
        "python": platform.python_version(),
        "packages": packages(_TRAINING),
    }


def code() -> dict[str, Any]:
    """Returns the commit of this source tree, and whether tracked files differ from it.

    Outside a git checkout the commit is "unknown".
    """
    try:
        sha = _git("rev-parse", "HEAD")
        dirty: bool | None = bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        sha, dirty = "unknown", None
    return {"git_sha": sha, "git_dirty": dirty}


def commit() -> str:
    """Returns the present commit as text, see `commit_of`."""
    return commit_of(code())


def commit_of(record: Mapping[str, Any]) -> str:
    """Returns a record's commit as text, e.g. "1f0c2ab..., with uncommitted changes"."""
    return f"{record['git_sha']}{', with uncommitted changes' if record['git_dirty'] else ''}"


def packages(names: Iterable[str]) -> dict[str, str]:
    """Returns the version of each named package that is installed."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _blas(config: str) -> str:
    """Returns torch's matrix libraries and their versions, from its build description."""
    name = re.search(r"BLAS_INFO=(\w+)", config)
    versions = re.findall(r"(?:Math Kernel Library Version (\S+?)-|(MKL-DNN v\S+))", config)
    return ", ".join([name[1] if name else "unknown", *("".join(found) for found in versions)])


def _device_name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
