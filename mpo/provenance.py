"""Where numbers come from: the code, the packages, the machine and its settings."""

import contextlib
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
from collections.abc import Sequence
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


def of_training(device: "torch.device", compiled: bool) -> dict[str, Any]:
    """Where a run was made: code, packages, hardware and how it was used; see `machine`."""
    return {
        "algorithm_version": ALGORITHM_VERSION,
        **code(),
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        **machine(device, compiled),
    }


def machine(device: "torch.device", compiled: bool = False) -> dict[str, Any]:
    """What rounding can depend on: hardware, packages and settings; and the host's name.

    Args:
        device: where networks and updates are.
        compiled: whether torch's compiler has made the code of these.
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
    """The commit of this source tree, and whether tracked files differ from it."""
    try:
        sha = _git("rev-parse", "HEAD")
        dirty: bool | None = bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        sha, dirty = "unknown", None
    return {"git_sha": sha, "git_dirty": dirty}


def commit() -> str:
    """The commit in words, e.g. "1f0c2ab..., with uncommitted changes"."""
    found = code()
    return f"{found['git_sha']}{', with uncommitted changes' if found['git_dirty'] else ''}"


def packages(names: Sequence[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _blas(config: str) -> str:
    """The libraries of torch's matrix products, from its build description."""
    name = re.search(r"BLAS_INFO=(\w+)", config)
    versions = re.findall(r"(?:Math Kernel Library Version (\S+?)-|(MKL-DNN v\S+))", config)
    return ", ".join([name[1] if name else "unknown", *("".join(found) for found in versions)])


def _device_name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
