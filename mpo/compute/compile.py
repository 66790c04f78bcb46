"""Fewer kernels and less of Python between them: torch's compiler, where it can be had."""

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


def compiles(device: torch.device, on_cpu: bool = False) -> bool:
    """Whether `compiled` does."""
    if device.type == "cpu":
        return on_cpu and available_on_cpu()
    return device.type == "cuda" and available()


def compiled(
    function: Callable[_P, _R], device: torch.device, on_cpu: bool = False
) -> Callable[_P, _R]:
    """The function in few kernels, where that is possible; elsewhere the function itself.

    Its first call takes seconds; torch keeps what it made on disk for the next process. The kernels
    are chosen by rules, not by timing them, so they round alike each time.

    Args:
        function: a method, if it is to be compiled on a CPU.
        device: where it works; on a GPU it is compiled in any case.
        on_cpu: whether it is compiled on a CPU, too.
    """
    if not compiles(device, on_cpu):
        return function
    if device.type == "cpu":
        return cast(Callable[_P, _R], _Compiled(function))
    import torch._dynamo.config

    torch._dynamo.config.recompile_limit = _AGENTS
    torch._dynamo.config.accumulated_recompile_limit = 4 * _AGENTS
    # It would rather have products of 10 bits; ours are of 24.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
    options: dict[str, Any] = {"deterministic": True}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


@functools.cache
def available_on_cpu() -> bool:
    """Whether kernels can be made for the CPU here, as a trial tells; warns where they can't."""
    from torch._inductor.exc import InductorError

    trial = _Compiled(_Trial().double)
    try:
        trial(torch.zeros(2))
    except InductorError as error:
        lines = str(error).splitlines() or [repr(error)]
        reason = next((line for line in lines if "error:" in line), lines[0])
        logger.warning("learning is not compiled: a trial of torch's compiler failed: %s", reason)
        return False
    logger.info("acting and learning are compiled when they are called first")
    return True


class _Trial:
    def double(self, x: Tensor) -> Tensor:
        return 2 * x


class _Compiled:
    """A method of tensors of a CPU, and mappings and sequences of them, compiled for each layout.

    Torch would look at each call whether anything that the method reads has changed, its object's
    attributes included, which takes as long as a small update. Here tensors may change in value,
    and may be other ones of the same layout; nothing else may change at all.
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
    """What an argument consists of."""
    if isinstance(argument, Tensor):
        return (argument,)
    return argument.values() if isinstance(argument, Mapping) else argument
