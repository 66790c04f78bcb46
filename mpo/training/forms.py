"""Whether a saved state can be loaded: its device and form are compared with those of a new one.

A checksum only tells that a file is as it was written. A state that was written by another program,
or edited and written again, would fail halfway through loading and leave a training half restored.
"""

from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import torch

from mpo.study.config import ConfigError
from mpo.training.checkpoint import DamagedFile, Resumed

_JOURNAL = {
    "transitions": ("rows", "first", "apart", "successors"),
    "records": ("rows", "snapshots"),
}
"""Keys of each kind of journal piece."""

_FREE = ("optimizer",)
"""Mappings of a library, whose values may change with its version; only their keys are compared."""

_MISSING = object()

_GPU_STREAM = 16
"""Bytes of a random stream's state on a GPU; on a CPU it has thousands."""


def refuse_other_device(state: Mapping[str, Any], device: str, path: Path) -> None:
    """Checks that a state was saved on the present kind of device.

    On another one, random streams would go on elsewhere, and optimizers have other settings.

    Args:
        state: what was found in a resume directory; of any form.
        device: the present kind, as `torch.device.type` has it.
        path: the resume directory, for the message.

    Raises:
        ConfigError: it was saved on another kind of device.
    """
    saved = state.get("device") or _device_of(state)
    if saved not in (device, None):
        raise ConfigError(
            f"execution.device: the state in {path} was saved on {saved!r} and cannot be continued "
            f"on {device!r}. Run on the same kind of device, with execution.device: {saved}, or "
            f"delete {path} to start from step 0"
        )


def _device_of(state: Mapping[str, Any]) -> str | None:
    """The kind of device of a state that does not name it, as those of older versions."""
    try:
        stream = state["trainer"]["agent"]["noise"][0]
        return "cuda" if len(stream) == _GPU_STREAM else "cpu"
    except (KeyError, IndexError, TypeError):
        return None


def refuse_other_forms(found: Resumed, template: Mapping[str, Any]) -> None:
    """Checks what was found in a resume directory.

    Args:
        found: state and journal.
        template: the state of a training of the same spec, at step 0.

    Raises:
        DamagedFile: the state or a piece of the journal has another form.
    """
    if place := _difference(found.state, template):
        raise DamagedFile(f"the state is not one of this training: {place} differs in form")
    if not found.transitions:
        raise DamagedFile("the journal has no transitions")
    for kind, keys in _JOURNAL.items():
        for piece in getattr(found, kind):
            if not isinstance(piece, Mapping) or not piece.keys() >= set(keys):
                raise DamagedFile(f"the journal's {kind} are not those of a training")


def _difference(found: Any, template: Any, place: str = "state") -> str | None:
    """The first place at which two nested values differ in keys, types or shapes; None if none.

    An empty template says nothing of its content: optimizers fill their state at the first update,
    and episodes have any length.
    """
    if isinstance(template, Mapping):
        if not isinstance(found, Mapping):
            return place
        parts = [
            (found.get(key, _MISSING), _outline(value) if key in _FREE else value, key)
            for key, value in template.items()
        ]
    elif isinstance(template, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != (len(template) or len(found)):
            return place
        parts = [(*pair, key) for key, pair in enumerate(zip(found, template, strict=False))]
    else:
        return None if _alike(found, template) else place
    nested = (_difference(part, value, f"{place}.{key}") for part, value, key in parts)
    return next(filter(None, nested), None)


def _outline(value: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a mapping, with empty values of the same types."""
    return {key: type(part)() for key, part in value.items()}


def _alike(found: Any, template: Any) -> bool:
    """Whether two values, not nested, have the same type, and tensors the same shape."""
    if isinstance(template, torch.Tensor):
        any_size = template.numel() == 0
        return (
            isinstance(found, torch.Tensor)
            and found.dtype == template.dtype
            and (any_size or found.shape == template.shape)
        )
    if template is None or found is None:
        return True
    # On a GPU some optimizers keep numbers as tensors.
    numbers = (Number, torch.Tensor)
    return isinstance(found, numbers if isinstance(template, Number) else type(template))
