"""The available optimizers, applied to the parameters of S stacked learners."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mpo.compute.compile import compiled, compiles
from mpo.study.hyperparameters import OptimizerName


class Settings(NamedTuple):
    """Settings of the built-in optimizers; each has those that it knows."""

    momentum: float = 0.9
    """Of sgd."""
    beta1: float = 0.9
    """Decay of the first moment, of adam and adamw."""
    beta2: float = 0.999
    """Decay of the second moment, of adam and adamw."""
    epsilon: float = 1e-8
    """Added to the root of the second moment, of adam and adamw."""
    weight_decay: float | None = None
    """Decoupled weight decay per step, times the learning rate (Loshchilov and Hutter 2019, arXiv
    1711.05101); None: 0.01 with adamw, else 0."""
    warmup: bool = False
    """Whether steps are scaled; see `StackedOptimizer.scale_`."""


def _adam(kind: type[torch.optim.Adam], flat: nn.Parameter, lr: float, own: Settings) -> Optimizer:
    """Makes Adam or AdamW; on a GPU, compiling the step is faster than torch's fused kernel."""
    return kind(
        [flat],
        lr=lr,
        betas=(own.beta1, own.beta2),
        eps=own.epsilon,
        weight_decay=0.0,
        fused=_fused(flat),
        capturable=flat.is_cuda,
    )


def _lion(flat: nn.Parameter, lr: float, _: Settings) -> Optimizer:
    """Makes Lion, which steps by lr along the sign of a momentum (Chen et al. 2023, 2302.06675)."""
    # Imported only if chosen, to keep the start-up short.
    from lion_pytorch import Lion

    return Lion([flat], lr=lr)


def _fused(flat: nn.Parameter) -> bool:
    """Returns whether to use torch's fused kernel; on a GPU, compiling the step is faster."""
    return not compiles(flat.device)


OPTIMIZERS: dict[OptimizerName, Callable[[nn.Parameter, float, Settings], Optimizer]] = {
    "adam": partial(_adam, torch.optim.Adam),
    "adamw": partial(_adam, torch.optim.AdamW),
    "sgd": lambda flat, lr, own: torch.optim.SGD(
        [flat], lr=lr, momentum=own.momentum, fused=_fused(flat)
    ),
    "rmsprop": lambda flat, lr, _: torch.optim.RMSprop([flat], lr=lr, capturable=flat.is_cuda),
    "lion": _lion,
}
"""Name -> constructor, which takes the parameters, the learning rate and the settings. None decays
the weights; `StackedOptimizer` does.

An optimizer must work element by element, because one that mixes elements would mix the seeds. On a
GPU it must be `capturable`, i.e. keep its step count on the GPU, so that CUDA graphs can replay it.
"""

_ADAMW_DECAY = 0.01
"""Weight decay of adamw unless it is set, as in torch."""

_ALIGNMENT = 32
"""Elements to a multiple of which parameters are padded."""

# torch wraps these methods to exclude them from compilation, so their first call imports the
# compiler: one of the three seconds that a job takes to start. They are not compiled here, so the
# wrappers are removed.
for _name in ("add_param_group", "state_dict", "load_state_dict"):
    setattr(Optimizer, _name, inspect.unwrap(getattr(Optimizer, _name)))


class StackedOptimizer:
    """An optimizer of the parameters of S learners, which it keeps in one tensor [S, P].

    So gradient norm, clipping, optimizer step and target update are one kernel each. In a row, each
    parameter is padded to a multiple of 32 elements: CPU kernels round the last, incomplete vector
    register differently, so without padding a seed's numbers would depend on its position in the
    stack.
    """

    def __init__(
        self,
        name: OptimizerName,
        parameters: Iterable[nn.Parameter],
        lr: float,
        settings: Settings | None = None,
    ) -> None:
        """Moves the parameters and their gradients into flat tensors, as views of them.

        Args:
            name: a key of `OPTIMIZERS`.
            parameters: [S, ...] each.
            lr: learning rate.
            settings: of the optimizer; None: the defaults.

        Raises:
            ValueError: the name is not in `OPTIMIZERS`.
        """
        if name not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {name!r}; choose from {', '.join(OPTIMIZERS)}")
        parameters = list(parameters)
        flat = nn.Parameter(flatten_(parameters), requires_grad=False)
        flat.grad = self._gradient = torch.zeros_like(flat)
        for parameter, gradient in zip(parameters, _views(parameters, flat.grad), strict=True):
            # Detached, or torch's compiler would trace the view back to the flat gradient.
            parameter.grad = gradient.detach()
        self._parameter = flat
        self.flat = flat.detach()
        """All parameters, [S, P]; the modules' parameters are views of it."""
        own = settings or Settings()
        self._optimizer = OPTIMIZERS[name](flat, lr, own)
        decay = own.weight_decay
        if decay is None:
            decay = _ADAMW_DECAY if name == "adamw" else 0.0
        self._kept = 1 - lr * decay
        self._scale = flat.new_ones((), requires_grad=False) if own.warmup else None
        # Torch's wrappers for the profiler and autograd cost as much as a small step: skip them.
        step = partial(inspect.unwrap(type(self._optimizer).step), self._optimizer)
        self._step = compiled(step, flat.device)

    def clip_(self, max_norm: float | None) -> Tensor:
        """Clips each learner's gradient to a 2-norm, unless it is None; returns its norm, [S]."""
        norm = torch.linalg.vector_norm(self._gradient, dim=1)
        if max_norm is not None:
            self._gradient.mul_((max_norm / (norm + 1e-6)).clamp_(max=1).unsqueeze(1))
        return norm

    def step(self) -> None:
        """Takes one step with the gradients in the parameters' `grad`."""
        if self._scale is None:
            self._decay_and_step()
        else:
            before = self.flat.clone()
            self._decay_and_step()
            self.flat.copy_(before.lerp(self.flat, self._scale))

    def _decay_and_step(self) -> None:
        if self._kept != 1:
            self.flat.mul_(self._kept)
        self._step()

    def scale_(self, share: float) -> None:
        """Scales the next steps, decay included, as a warm-up of the learning rate would.

        For the built-in optimizers both are the same: their steps are proportional to the rate, and
        their states do not depend on it.
        """
        assert self._scale is not None
        self._scale.fill_(share)

    def reset_(self, what: str = "moments") -> None:
        """Resets the optimizer's state.

        Args:
            what: `moments`: all of it, as at the start; `time`: the number of steps only.
        """
        for name, value in self._optimizer.state.get(self._parameter, {}).items():
            if isinstance(value, Tensor) and (what == "moments" or name == "step"):
                value.zero_()

    def state_dict(self, index: int) -> dict[str, Any]:
        """Returns one learner's parameters and optimizer state.

        It does not depend on the other learners in the stack.
        """
        own = self._optimizer.state_dict()
        state = {
            key: {name: _row(value, index) for name, value in values.items()}
            for key, values in own["state"].items()
        }
        return {"parameters": _row(self.flat, index), "optimizer": own | {"state": state}}

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Loads one state per learner, all after the same number of steps."""
        self.flat.copy_(torch.cat([state["parameters"] for state in states]))
        own = [state["optimizer"] for state in states]
        joined = {
            key: {name: _join([o["state"][key][name] for o in own]) for name in values}
            for key, values in own[0]["state"].items()
        }
        self._optimizer.load_state_dict(own[0] | {"state": joined})


def flatten_(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Moves parameters [S, ...] into one tensor [S, P], and makes them views of it."""
    parameters = list(parameters)
    first = parameters[0]
    flat = first.new_zeros(len(first), sum(map(_padded, parameters)), requires_grad=False)
    for parameter, view in zip(parameters, _views(parameters, flat), strict=True):
        parameter.data = view.copy_(parameter.data)
    return flat


def _row(value: Any, index: int) -> Any:
    """Copies one learner's row of a tensor [S, P], or a value common to all, e.g. a step count."""
    if not isinstance(value, Tensor):
        return value
    return (value[index : index + 1] if value.ndim else value).clone()


def _join(values: list[Any]) -> Any:
    """Concatenates the learners' rows, or copies the value common to all; inverse of `_row`."""
    if not isinstance(values[0], Tensor):
        return values[0]
    return torch.cat(values) if values[0].ndim else values[0].clone()


def _padded(parameter: Tensor) -> int:
    """Returns the padded number of elements of one learner's part of a parameter."""
    return -(-parameter[0].numel() // _ALIGNMENT) * _ALIGNMENT


def _views(parameters: list[nn.Parameter], flat: Tensor) -> list[Tensor]:
    """Returns views of a flat tensor [S, P] with the shapes of the parameters."""
    views, start = [], 0
    for parameter in parameters:
        views.append(flat[:, start : start + parameter[0].numel()].view(parameter.shape))
        start += _padded(parameter)
    return views
