"""Compilation with `torch.compile`, where it is available: fewer kernels, less Python overhead."""

import functools
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

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
    function: Callable[_P, _R], device: torch.device, on_cpu: bool = False
) -> Callable[_P, _R]:
    """Compiles a function if that is possible here; otherwise returns it unchanged.

    The first call takes seconds; torch caches the result on disk for later processes. Kernels are
    chosen by fixed rules rather than by timing them, so that every run rounds in the same way.

    Args:
        function: the function; to be compiled on a CPU, it must be a method.
        device: the device of its tensors; on a GPU it is always compiled.
        on_cpu: whether to compile it on a CPU as well.
    """
    if not compiles(device, on_cpu):
        return function
    if device.type == "cpu":
        return cast(Callable[_P, _R], _Compiled(function))
    import torch._dynamo.config

    torch._dynamo.config.recompile_limit = _AGENTS
    torch._dynamo.config.accumulated_recompile_limit = 4 * _AGENTS
    # torch recommends TensorFloat32, whose products have 10-bit mantissas; float32 has 24 bits.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
    options: dict[str, Any] = {"deterministic": True}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


@functools.cache
def available_on_cpu() -> bool:
    """Returns whether a small function can be compiled for the CPU; logs a warning if not."""
    from torch._inductor.exc import InductorError

    trial = _Compiled(_Trial().double)
    try:
        trial(torch.zeros(2))
    except InductorError as error:
        lines = str(error).splitlines() or [repr(error)]
        reason = next((line for line in lines if "error:" in line), lines[0])
        logger.warning("learning is not compiled, because torch.compile fails here: %s", reason)
        return False
    logger.info("acting and learning will be compiled at their first calls")
    return True


class _Trial:
    """A function for `available_on_cpu` to compile."""

    def double(self, x: Tensor) -> Tensor:
        return 2 * x


class _Compiled:
    """A method compiled for the CPU, once for each layout (shapes and strides) of its arguments.

    Its arguments are tensors, or mappings or sequences of tensors. At each call `torch.compile`
    checks guards on everything that the method reads, including attributes of its object, which
    takes as long as a small update. Here the guards are off: tensors may change in value or be
    replaced by others with the same layout, but nothing else that the method reads may change.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        assert isinstance(method, MethodType)
        self._method = method
        self._made: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        layout = tuple(
            [(x.shape, x.stride()) for argument in arguments for x in _tensors(argument)]
        )
        if layout not in self._made:
            self._made[layout] = self._make(arguments)
        return self._made[layout](self._method.__self__, *arguments)

    def _make(self, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        options: dict[str, Any] = {
            "cpp_wrapper": True,
            "guard_filter_fn": lambda guards: [False] * len(guards),
        }
        function: Any = torch.compile(self._method, fullgraph=True, dynamic=False, options=options)
        made = function.aot_compile((arguments, {}))
        made.disable_guard_check()
        return made


def _tensors(argument: Any) -> Iterable[Tensor]:
    """The tensors in an argument."""
    if isinstance(argument, Tensor):
        return (argument,)
    return argument.values() if isinstance(argument, Mapping) else argument
