"""Methods compiled for the CPU, once for each layout of their arguments, and kept on disk.

Compiling a learner takes tens of seconds and loading it a fraction of one, so the jobs of a study
compile each kind of learner once. The files are in `torch`'s own cache of compiled code, whose
place TORCHINDUCTOR_CACHE_DIR changes. They may be deleted at any time.
"""

import functools
import hashlib
import logging
import os
import pickle
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

logger = logging.getLogger(__name__)

_FOLDER = "mpo"
"""In torch's cache of compiled code."""
_WAIT_S = 600.0
"""Longest wait for another process that compiles the same method."""


@functools.cache
def available_on_cpu() -> bool:
    """Returns whether a small function can be compiled for the CPU; logs a warning if not."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InductorError, InvalidCxxCompiler

    try:
        Compiled(_Trial().double, get_cpp_compiler())(torch.zeros(2))
    except (InductorError, InvalidCxxCompiler) as error:
        lines = str(error).splitlines() or [repr(error)]
        reason = next((line for line in lines if "error:" in line), lines[0])
        logger.warning("learning is not compiled, because torch.compile fails here: %s", reason)
        return False
    return True


class _Trial:
    """A function for `available_on_cpu` to compile."""

    def double(self, x: Tensor) -> Tensor:
        return 2 * x


class Compiled:
    """A method compiled for the CPU, once for each layout (shapes and strides) of its arguments.

    Its arguments are tensors, or mappings or sequences of tensors. At each call `torch.compile`
    checks guards on everything that the method reads, including attributes of its object, which
    takes as long as a small update. Here the guards are off: tensors may change in value or be
    replaced by others with the same layout, but nothing else that the method reads may change.
    """

    def __init__(self, method: Callable[..., Any], reads: str | None = None) -> None:
        """Prepares the method; each layout is compiled or loaded at its first call.

        Args:
            method: a method of an object.
            reads: text that stands for all that it reads besides its arguments, including the
                layout of tensors; None: the compiled code is not kept on disk.
        """
        assert isinstance(method, MethodType)
        self._method, self._reads = method, reads
        self._made: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Calls the method's code for arguments of this layout."""
        layout = tuple(
            [(x.shape, x.stride()) for argument in arguments for x in _tensors(argument)]
        )
        if layout not in self._made:
            self._made[layout] = self._find(layout, arguments)
        return self._made[layout](self._method.__self__, *arguments)

    def _find(self, layout: tuple[Any, ...], arguments: tuple[Any, ...]) -> Callable[..., Any]:
        """Returns this process's code, that of an earlier process, or new code."""
        if self._reads is None:
            return self._compile(arguments)
        function = self._method.__func__
        parts = [function.__module__, function.__qualname__, self._reads, repr(layout)]
        parts.append(f"{torch.get_num_threads()} threads")
        key = hashlib.sha256("\n".join([*parts, _surroundings()]).encode()).hexdigest()
        if key not in _IN_USE:
            _IN_USE[key] = _kept(key, function.__globals__, lambda: self._compile(arguments))
        return _IN_USE[key]

    def _compile(self, arguments: tuple[Any, ...]) -> Any:
        options: dict[str, Any] = {
            "cpp_wrapper": True,
            "guard_filter_fn": lambda guards: [False] * len(guards),
        }
        function: Any = torch.compile(self._method, fullgraph=True, dynamic=False, options=options)
        made = function.aot_compile((arguments, {}))
        made.disable_guard_check()
        return made


_IN_USE: dict[str, Callable[..., Any]] = {}
"""Functions in this process, by key. They take the object as an argument, so that several objects
with the same layout share them."""


def _tensors(argument: Any) -> Iterable[Tensor]:
    """The tensors in an argument."""
    if isinstance(argument, Tensor):
        return (argument,)
    return argument.values() if isinstance(argument, Mapping) else argument


def _kept(key: str, scope: dict[str, Any], make: Callable[[], Any]) -> Callable[..., Any]:
    """Loads the function that was kept under a key, or makes and keeps it.

    Processes that need the same function at the same time wait for the first to make it.

    Args:
        key: a name for the file.
        scope: the globals of the function.
        make: makes the function.
    """
    made = None
    try:
        folder = _folder()
        with FileLock(folder / f"{key}.lock", timeout=_WAIT_S):
            if (made := _load(folder / key, scope)) is None:
                made = make()
                _save(folder / key, made)
    # Some versions of filelock raise the second where a file system has no locks.
    except (OSError, NotImplementedError, Timeout) as error:
        logger.info("compiled code is not kept: %s", error)
    return make() if made is None else made


def _folder() -> Path:
    """Returns the folder of kept functions, which only this user may write to."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    folder = Path(cache_dir()) / _FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"others may write to {folder}")
    return folder


def _save(path: Path, made: Any) -> None:
    """Writes a function behind its SHA-256."""
    data = type(made).serialize(made).serialized_data
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(hashlib.sha256(data).digest() + data)
    temporary.replace(path)


def _load(path: Path, scope: dict[str, Any]) -> Any:
    """Reads a function; returns None if there is none, or if the file is damaged."""
    if not path.exists():
        return None
    content = path.read_bytes()
    digest, data = content[:32], content[32:]
    if hashlib.sha256(data).digest() != digest:
        logger.warning("%s is damaged, and is compiled again", path)
        return None
    from torch._dynamo.aot_compile import AOTCompiledFunction

    try:
        made = AOTCompiledFunction.deserialize(data, f_globals=scope)
    except (RuntimeError, ImportError, AttributeError, pickle.UnpicklingError) as error:
        logger.warning("%s cannot be used, and is compiled again: %s", path, error)
        return None
    made.disable_guard_check()
    return made


@functools.cache
def _surroundings() -> str:
    """Returns a text of all else that compiled code depends on: our code, torch, and the CPU."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted([*root.glob("algorithm/**/*.py"), *root.glob("compute/*.py")]):
        digest.update(path.read_bytes())
    versions = [torch.__version__, platform.python_version()]
    return "\n".join([digest.hexdigest(), *versions, _capabilities()])


def _capabilities() -> str:
    """Returns the instructions of the CPU, for which code is compiled."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    listed = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(listed))])
