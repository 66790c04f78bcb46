"""Where the parameters of S learners are in one tensor [S, P], and how its rows are copied."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_ALIGNMENT = 32
"""Elements to a multiple of which parameters are padded."""


def flatten_(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Moves parameters [S, ...] into one tensor [S, P], and makes them views of it."""
    parameters = list(parameters)
    first = parameters[0]
    flat = first.new_zeros(len(first), sum(map(_padded, parameters)), requires_grad=False)
    for parameter, view in zip(parameters, _views(parameters, flat), strict=True):
        parameter.data = view.copy_(parameter.data)
    return flat


def flat_gradient(parameters: Sequence[nn.Parameter], flat: Tensor) -> Tensor:
    """Makes a tensor [S, P] of zeros, and the parameters' gradients views of it."""
    gradient = torch.zeros_like(flat)
    for parameter, view in zip(parameters, _views(parameters, gradient), strict=True):
        # Detached, or torch's compiler would trace the view back to the flat gradient.
        parameter.grad = view.detach()
    return gradient


def columns(parameters: Sequence[nn.Parameter], chosen: Sequence[bool]) -> Tensor:
    """Returns the columns of the flat tensor, with padding, that hold the chosen parameters."""
    found, start = [], 0
    for parameter, wanted in zip(parameters, chosen, strict=True):
        if wanted:
            found.append(torch.arange(start, start + _padded(parameter)))
        start += _padded(parameter)
    return torch.cat(found).to(parameters[0].device) if found else torch.arange(0)


def row(value: Any, index: int) -> Any:
    """Copies one learner's row of a tensor [S, P], or a value common to all, e.g. a step count."""
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    return (value[index : index + 1] if value.ndim else value).clone()


def join(values: list[Any]) -> Any:
    """Concatenates the learners' rows, or copies the value common to all; inverse of `row`."""
    if not isinstance(values[0], Tensor):
        return copy.deepcopy(values[0])
    return torch.cat(values) if values[0].ndim else values[0].clone()


def _padded(parameter: Tensor) -> int:
    """Returns the padded number of elements of one learner's part of a parameter."""
    return -(-parameter[0].numel() // _ALIGNMENT) * _ALIGNMENT


def _views(parameters: Sequence[nn.Parameter], flat: Tensor) -> list[Tensor]:
    """Returns views of a flat tensor [S, P] with the shapes of the parameters."""
    views, start = [], 0
    for parameter in parameters:
        views.append(flat[:, start : start + parameter[0].numel()].view(parameter.shape))
        start += _padded(parameter)
    return views
