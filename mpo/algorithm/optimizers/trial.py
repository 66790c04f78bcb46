"""Tries an imported optimizer out: whether it can be used, and whether one can step all seeds.

A trial takes a few steps of small layers on the CPU, with gradients of very different scale in two
seeds, and compares bits.
"""

import functools
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mpo.algorithm.optimizers.imported import make
from mpo.algorithm.optimizers.layout import flat_gradient, flatten_
from mpo.algorithm.optimizers.steppers import Layerwise, Stacked, Stepper
from mpo.environments.envs import stdout_to_stderr
from mpo.study.cells import DEFINITION
from mpo.study.config import ConfigError, canonical_json
from mpo.study.optimizers import Definition, Part

_MATRICES = ((8, 16), (16, 32))
_REST = ((1, 64), (32, 1))
_SHAPES = {"whole": (*_MATRICES, *_REST), "matrices": _MATRICES, "rest": _REST}
"""Shapes [in, out] of the layers that a part gets. Their sizes fill whole vector registers, so that
bits do not depend on where in memory a layer is."""

_SEEDS, _STEPS, _LR = 2, 12, 1e-3


def check(arm: str, definition: Definition) -> None:
    """Checks that an arm's optimizer can be used: it steps, the same way twice, and resumes.

    Whatever it prints goes to stderr: stdout belongs to the program that plans.

    Args:
        arm: the arm's name in `optimizers`.
        definition: what its optimizer is.

    Raises:
        ConfigError: it cannot; the message names the key, what it received and the reason.
    """
    for role, part in definition.parts.items():
        if not part.built_in:
            where = f"optimizers.{arm}" if role == "whole" else f"optimizers.{arm}.{role}"
            with _one_thread(), stdout_to_stderr():
                _check(part, role, where)


def stackable(part: Part, role: str) -> bool:
    """Returns whether one optimizer of all seeds steps exactly as one for each seed's layers does.

    LAMB and Prodigy do not: they take norms of a layer, or of all.

    Args:
        part: an imported optimizer.
        role: `whole`, `matrices` or `rest`.
    """
    with _one_thread():
        return _stackable(canonical_json(part.model_dump()), role)


@functools.cache
def _stackable(part_json: str, role: str) -> bool:
    part = Part.model_validate_json(part_json)
    layers = _tried(part, role, Layerwise)
    try:
        both = _tried(part, role, Stacked)
        resumed = _tried(part, role, Stacked, resume=True)
        alone = [_tried(part, role, Stacked, seeds=[seed]) for seed in range(_SEEDS)]
    except Exception:  # whatever a class that expects layers does with one tensor
        return False
    apart = [state for one in alone for state in one.states]
    return _same(both, resumed) and _same(both.ends, layers.ends) and _same(both.states, apart)


def _check(part: Part, role: str, where: str) -> None:
    lone = nn.Parameter(torch.zeros(2, 2))
    if role == "rest":
        lone = nn.Parameter(torch.zeros(2))
    make(part, [lone], _LR, where)
    place = f"{where}.class"
    try:
        first = _tried(part, role, Layerwise)
    except ConfigError as error:
        # Made with other layers than above, it raised.
        text = str(error).removeprefix(DEFINITION)
        raise ConfigError(f"{where}{text}") from error
    except Exception as error:
        raise ConfigError(
            f"{place}: a step raised {type(error).__name__}: {error}; received {part.name!r}, "
            f"expected `step()` to need no arguments and to take layers of the shapes "
            f"{_torch_shapes(role)}"
        ) from error
    still = [end for end, start in zip(first.ends, _start(role), strict=True) if end.equal(start)]
    if still:
        raise ConfigError(f"{place}: {_STEPS} steps left a layer as it was, received {part.name!r}")
    if not _same(first, _tried(part, role, Layerwise)):
        raise ConfigError(
            f"{place}: it does not step the same way twice, so no run could be repeated, received "
            f"{part.name!r}"
        )
    try:
        resumed = _tried(part, role, Layerwise, resume=True)
    except Exception as error:
        raise ConfigError(
            f"{place}: saving and loading its state raised {type(error).__name__}: {error}; "
            f"received {part.name!r}, expected a `state_dict` of tensors and plain data"
        ) from error
    if not _same(first, resumed):
        raise ConfigError(
            f"{place}: after its state was saved and loaded it steps otherwise, so no run could be "
            f"resumed, received {part.name!r}"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """The layers are small, so more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Tried(NamedTuple):
    """What a trial leaves."""

    ends: list[Tensor]
    """The layers, [S, in, out] each."""
    states: list[dict[str, Any]]
    """The optimizer's state, by seed."""


def _tried(
    part: Part,
    role: str,
    kind: type[Stacked] | type[Layerwise],
    seeds: Sequence[int] = range(_SEEDS),
    resume: bool = False,
) -> _Tried:
    """Takes the trial's steps; with `resume`, a new optimizer takes the second half of them."""
    rows = [*seeds]
    parameters = [nn.Parameter(x[rows], requires_grad=False) for x in _start(role)]
    flat = flatten_(parameters)
    gradient = flat_gradient(parameters, flat)

    def made() -> Stepper:
        def factory(own: list[nn.Parameter]) -> torch.optim.Optimizer:
            return make(part, own, _LR)

        if kind is Layerwise:
            return Layerwise(parameters, factory)
        return Stacked(flat, gradient, factory, built_in=False)

    stepper = made()
    for number, step in enumerate(_gradients(role)):
        if resume and number == _STEPS // 2:
            states = [_saved(stepper.state_dict(index)) for index in range(len(rows))]
            stepper = made()
            stepper.load_state_dict(states)
        with torch.inference_mode():  # as in a training
            for parameter, value in zip(parameters, step, strict=True):
                assert parameter.grad is not None
                parameter.grad.copy_(value[rows])
            stepper.step()
    states = [stepper.state_dict(index) for index in range(len(rows))]
    return _Tried([parameter.detach().clone() for parameter in parameters], states)


def _start(role: str) -> list[Tensor]:
    """Layers to start from, [S, in, out]."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(_SEEDS, *shape, generator=generator) for shape in _SHAPES[role]]


def _gradients(role: str) -> list[list[Tensor]]:
    """Gradients for each step, [S, in, out] each; those of the second seed are much larger."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.logspace(-3, 2, _SEEDS)[:, None, None]
    return [
        [scale * torch.randn(_SEEDS, *shape, generator=generator) for shape in _SHAPES[role]]
        for _ in range(_STEPS)
    ]


def _torch_shapes(role: str) -> str:
    shapes = [(outputs, inputs) for inputs, outputs in _SHAPES[role]]
    return ", ".join(f"{out} x {width}" if width > 1 else str(out) for out, width in shapes)


def _saved(state: dict[str, Any]) -> dict[str, Any]:
    """A state as a checkpoint gives it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, map_location="cpu", weights_only=True)


def _same(one: Any, other: Any) -> bool:
    """Whether two nested values have the same structure and the same bits."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return (
            isinstance(one, Tensor)
            and isinstance(other, Tensor)
            and (one.dtype, one.shape) == (other.dtype, other.shape)
            and bool(torch.equal(one, other))
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
