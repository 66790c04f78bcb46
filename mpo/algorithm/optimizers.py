"""The optimizers that a study can choose from, over the parameters of S stacked learners."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mpo.compute.compile import compiled, compiles
from mpo.study.hyperparameters import OptimizerName


def _lion(flat: nn.Parameter, lr: float, _: float) -> Optimizer:
    """Chen et al. 2023 (arXiv 2302.06675): steps of the sign of a momentum, all of length lr."""
    # Imported for who chooses it.
    from lion_pytorch import Lion

    return Lion([flat], lr=lr)


def _fused(flat: nn.Parameter) -> bool:
    """Whether to take torch's own kernel of all of a step: the compiler's is faster on a GPU."""
    return not compiles(flat.device)


OPTIMIZERS: dict[OptimizerName, Callable[[nn.Parameter, float, float], Optimizer]] = {
    "adam": lambda flat, lr, _: torch.optim.Adam(
        [flat], lr=lr, fused=_fused(flat), capturable=flat.is_cuda
    ),
    "adamw": lambda flat, lr, _: torch.optim.AdamW(
        [flat], lr=lr, fused=_fused(flat), capturable=flat.is_cuda
    ),
    "sgd": lambda flat, lr, m: torch.optim.SGD([flat], lr=lr, momentum=m, fused=_fused(flat)),
    "rmsprop": lambda flat, lr, _: torch.optim.RMSprop([flat], lr=lr, capturable=flat.is_cuda),
    "lion": _lion,
}
"""Name -> constructor of (parameters, learning rate, momentum); only sgd uses the momentum.

Each must work element by element: an optimizer that mixes elements would mix stacked seeds. On a
GPU it must be `capturable`: count its steps there, so that a CUDA graph can repeat them.
"""

_ALIGNMENT = 32

# These are wrapped to be left alone by torch's compiler, which the first call therefore imports:
# one of three seconds that a job takes to start. Nothing is compiled here.
for _name in ("add_param_group", "state_dict", "load_state_dict"):
    setattr(Optimizer, _name, inspect.unwrap(getattr(Optimizer, _name)))


class StackedOptimizer:
    """Steps the parameters of S learners, which it keeps as one tensor [S, P].

    Gradient norm, clipping, optimizer step and target copy are then one kernel each. A parameter's
    share of a row is padded to a multiple of 32 elements: CPU kernels round a ragged tail in
    another way, and a seed's numbers would depend on its place in the stack.
    """

    def __init__(
        self,
        name: OptimizerName,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
    ) -> None:
        """Moves the parameters [S, ...] and their gradients into its own tensors.

        Raises:
            ValueError: the name is not in `OPTIMIZERS`.
        """
        if name not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {name!r}; choose from {', '.join(OPTIMIZERS)}")
        parameters = list(parameters)
        flat = nn.Parameter(flatten_(parameters), requires_grad=False)
        flat.grad = self._gradient = torch.zeros_like(flat)
        for parameter, gradient in zip(parameters, _views(parameters, flat.grad), strict=True):
            # Detached, or torch's compiler would look for the whole that it is a view of.
            parameter.grad = gradient.detach()
        self.flat = flat.detach()
        """The parameters, [S, P]; they are views of it."""
        self._optimizer = OPTIMIZERS[name](flat, lr, momentum)
        # Without the wrappers for profiler and autograd, which cost as much as a small step.
        step = partial(inspect.unwrap(type(self._optimizer).step), self._optimizer)
        self._step = compiled(step, flat.device)

    def clip_(self, max_norm: float) -> Tensor:
        """Bounds the 2-norm of each learner's gradient; returns the norms before, [S]."""
        norm = torch.linalg.vector_norm(self._gradient, dim=1)
        self._gradient.mul_((max_norm / (norm + 1e-6)).clamp_(max=1).unsqueeze(1))
        return norm

    def step(self) -> None:
        """One step along the gradients that lie in the parameters' `grad`."""
        self._step()

    def state_dict(self, index: int) -> dict[str, Any]:
        """A learner's parameters and the optimizer's own state of it, as if it were alone."""
        own = self._optimizer.state_dict()
        state = {
            key: {name: _row(value, index) for name, value in values.items()}
            for key, values in own["state"].items()
        }
        return {"parameters": _row(self.flat, index), "optimizer": own | {"state": state}}

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Takes over the parameters and states of learners that have made equally many steps."""
        self.flat.copy_(torch.cat([state["parameters"] for state in states]))
        own = [state["optimizer"] for state in states]
        joined = {
            key: {name: _join([o["state"][key][name] for o in own]) for name in values}
            for key, values in own[0]["state"].items()
        }
        self._optimizer.load_state_dict(own[0] | {"state": joined})


def flatten_(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Moves parameters [S, ...] into one tensor [S, P] that they become views of."""
    parameters = list(parameters)
    first = parameters[0]
    flat = first.new_zeros(len(first), sum(map(_padded, parameters)), requires_grad=False)
    for parameter, view in zip(parameters, _views(parameters, flat), strict=True):
        parameter.data = view.copy_(parameter.data)
    return flat


def _row(value: Any, index: int) -> Any:
    """A learner's row of a tensor [S, P], or what is for all, such as a count; a copy."""
    if not isinstance(value, Tensor):
        return value
    return (value[index : index + 1] if value.ndim else value).clone()


def _join(values: list[Any]) -> Any:
    """The rows of all learners, or what is for all; a copy."""
    if not isinstance(values[0], Tensor):
        return values[0]
    return torch.cat(values) if values[0].ndim else values[0].clone()


def _padded(parameter: Tensor) -> int:
    return -(-parameter[0].numel() // _ALIGNMENT) * _ALIGNMENT


def _views(parameters: list[nn.Parameter], flat: Tensor) -> list[Tensor]:
    """Each parameter's place in a flat tensor, in its own shape."""
    views, start = [], 0
    for parameter in parameters:
        views.append(flat[:, start : start + parameter[0].numel()].view(parameter.shape))
        start += _padded(parameter)
    return views
