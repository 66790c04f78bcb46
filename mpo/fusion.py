"""Fewer kernels on a GPU: torch's compiler, where it can be had."""

import functools
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")

logger = logging.getLogger(__name__)

_AGENTS = 1024
"""Compiled anew for each of so many in a process; torch gives up at eight."""


@functools.cache
def available() -> bool:
    """Whether kernels can be made for the GPU here; warns where they can't."""
    from torch.utils._triton import has_triton

    lacks = [] if has_triton() else ["Triton (of torch for CUDA), or a GPU of its kind"]
    # The compilers that Triton looks for.
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang")))):
        lacks.append("a C compiler (CC, gcc or clang)")
    if lacks:
        logger.warning("learning on the GPU is slower than need be: no %s", ", no ".join(lacks))
    return not lacks


def compiles(device: torch.device) -> bool:
    """Whether `compiled` does."""
    return device.type == "cuda" and available()


def compiled(function: Callable[_P, _R], device: torch.device) -> Callable[_P, _R]:
    """The function in few kernels, on a GPU where that is possible; elsewhere the function itself.

    Its first call takes seconds; torch keeps what it made on disk for the next process. The kernels
    are chosen by rules, not by timing them, so they round alike each time.
    """
    if not compiles(device):
        return function
    import torch._dynamo.config

    torch._dynamo.config.recompile_limit = _AGENTS
    torch._dynamo.config.accumulated_recompile_limit = 4 * _AGENTS
    # It would rather have products of 10 bits; ours are of 24.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
    options: dict[str, Any] = {"deterministic": True}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)
