"""Optimizers that a study imports: finds the class and makes it, with errors that name the key."""

import difflib
import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from mpo.study.cells import DEFINITION
from mpo.study.config import ConfigError
from mpo.study.optimizers import Definition, Part


def optimizer_class(part: Part, where: str = DEFINITION) -> type[Optimizer]:
    """Imports an optimizer's class.

    Args:
        part: names it by its import path.
        where: the place in the config, for messages.

    Raises:
        ConfigError: the module cannot be imported, has no such class, or the class is no
            `torch.optim.Optimizer`.
    """
    module_name, _, name = part.name.rpartition(".")
    place = f"{where}.class"
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        reason = f"importing {module_name!r} raised {type(error).__name__}: {error}"
        raise ConfigError(f"{place}: {reason}, received {part.name!r}") from error
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, Optimizer) and found is not Optimizer:
        return found
    if found is not None:
        wanted = "expected a subclass of torch.optim.Optimizer"
        raise ConfigError(f"{place}: {wanted}, received {part.name!r}, which is {found!r}")
    similar = difflib.get_close_matches(name, dir(module), n=3)
    hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
    raise ConfigError(f"{place}: {module_name!r} has no {name!r}, received {part.name!r}{hint}")


def classes(definition: Definition | None) -> list[type[Optimizer]]:
    """Returns the imported classes of an optimizer; none of a built-in.

    Raises:
        ConfigError: see `optimizer_class`.
    """
    parts = definition.parts.values() if definition else ()
    return [optimizer_class(part) for part in parts if not part.built_in]


def make(
    part: Part, parameters: Sequence[nn.Parameter], lr: float, where: str = DEFINITION
) -> Optimizer:
    """Makes an imported optimizer.

    Args:
        part: its class and settings.
        parameters: what it steps.
        lr: learning rate.
        where: the place in the config, for messages.

    Raises:
        ConfigError: see `optimizer_class`; or the class does not take the settings.
    """
    cls = optimizer_class(part, where)
    settings: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in part.settings.items()
    }
    try:
        return cls(parameters, lr=lr, **settings)  # type: ignore[call-arg]
    except Exception as error:
        raise ConfigError(
            f"{where}.settings: {part.name} raised {type(error).__name__}: {error}; received "
            f"{part.settings}; its settings are {_keywords(cls)}"
        ) from error


def _keywords(cls: type[Optimizer]) -> str:
    """The names of the constructor's keyword arguments, but for parameters and learning rate."""
    names = [*inspect.signature(cls).parameters][1:]
    return ", ".join(name for name in names if name != "lr") or "none"
