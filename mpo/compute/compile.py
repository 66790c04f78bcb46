"""Compilation with `torch.compile`, where it is available: fewer kernels, less Python overhead."""

import functools
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch

from mpo.compute.ahead_of_time import Compiled, available_on_cpu

_P = ParamSpec("_P")
_R = TypeVar("_R")

logger = logging.getLogger(__name__)

_AGENTS = 1024
"""Most agents in a process whose functions are compiled; torch's own limit is eight."""


@functools.cache
def available() -> bool:
    """Returns whether code can be compiled for the GPU here; logs a warning if not."""
    from torch.utils._triton import has_triton

    lacks = [] if has_triton() else ["Triton (part of torch for CUDA) or a GPU that it supports"]
    # Triton itself looks for these compilers.
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang")))):
        lacks.append("a C compiler (CC, gcc or clang)")
    if lacks:
        logger.warning(
            "learning on the GPU is not compiled and thus slower; missing: %s", " and ".join(lacks)
        )
    return not lacks


def compiles(device: torch.device, on_cpu: bool = False) -> bool:
    """Returns whether `compiled` compiles functions for this device."""
    if device.type == "cpu":
        return on_cpu and available_on_cpu()
    return device.type == "cuda" and available()


def compiled(
    function: Callable[_P, _R],
    device: torch.device,
    on_cpu: bool = False,
    reads: str | None = None,
) -> Callable[_P, _R]:
    """Compiles a function if that is possible here; otherwise returns it unchanged.

    The first call takes seconds; torch caches the result on disk for later processes. Kernels are
    chosen by fixed rules rather than by timing them, so that every run rounds in the same way.

    Args:
        function: the function; to be compiled on a CPU, it must be a method.
        device: the device of its tensors; on a GPU it is always compiled.
        on_cpu: whether to compile it on a CPU as well.
        reads: on a CPU, see `Compiled`.
    """
    if not compiles(device, on_cpu):
        return function
    if device.type == "cpu":
        return cast(Callable[_P, _R], Compiled(function, reads))
    import torch._dynamo.config

    torch._dynamo.config.recompile_limit = _AGENTS
    torch._dynamo.config.accumulated_recompile_limit = 4 * _AGENTS
    # torch recommends TensorFloat32, whose products have 10-bit mantissas; float32 has 24 bits.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
    options: dict[str, Any] = {"deterministic": True}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)
