"""What steps the parameters of S learners: one optimizer for all seeds, or one for each."""

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mpo.algorithm.optimizers.layout import join, row
from mpo.compute.compile import compiled

Make = Callable[[list[nn.Parameter]], Optimizer]
"""Makes an optimizer of some parameters."""


class Stepper(Protocol):
    """Steps some parameters of S learners."""

    def step(self) -> None:
        """Takes one step with the gradients that the parameters have."""

    def reset_(self, what: str) -> None:
        """See `StackedOptimizer.reset_`."""

    def state_dict(self, index: int) -> dict[str, Any]:
        """One learner's optimizer state; does not depend on the others, and is not changed."""

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Loads one state per learner, all after the same number of steps."""


class Stacked:
    """One optimizer of one tensor [S, P] with the parameters of all seeds.

    So a step is one kernel or a few. The optimizer must work element by element, because one that
    mixes elements would mix the seeds.
    """

    def __init__(
        self,
        flat: Tensor,
        gradient: Tensor,
        make: Make,
        built_in: bool,
        columns: Tensor | None = None,
    ) -> None:
        """Makes the optimizer.

        Args:
            flat: all parameters, [S, P].
            gradient: their gradients, [S, P].
            make: makes the optimizer.
            built_in: whether it is a built-in one. Its step is compiled where possible, and its
                state is reset in place, so that a CUDA graph can replay it.
            columns: those of `flat` that it steps; None: all.
        """
        self._flat, self._gradient, self._columns = flat, gradient, columns
        own = flat if columns is None else flat[:, columns]
        self._parameter = nn.Parameter(own, requires_grad=False)
        self._parameter.grad = gradient if columns is None else torch.zeros_like(own)
        self._make, self._built_in = make, built_in
        self.optimizer = make([self._parameter])
        """The optimizer."""
        self._step = _step_of(self.optimizer)
        if built_in:
            self._step = compiled(_bare_step(self.optimizer), flat.device)

    def step(self) -> None:
        """Takes one step; see `Stepper.step`."""
        if self._columns is None:
            self._step()
            return
        assert self._parameter.grad is not None
        self._follow()
        self._parameter.grad.copy_(self._gradient[:, self._columns])
        self._step()
        self._flat.index_copy_(1, self._columns, self._parameter.detach())

    def _follow(self) -> None:
        """Copies the parameters, if the optimizer has a copy of some."""
        if self._columns is not None:
            self._parameter.copy_(self._flat[:, self._columns])

    def reset_(self, what: str) -> None:
        """Resets the state; see `StackedOptimizer.reset_`."""
        if not self._built_in:
            self._follow()
            self.optimizer = self._make([self._parameter])
            self._step = _step_of(self.optimizer)
            return
        for name, value in self.optimizer.state.get(self._parameter, {}).items():
            if isinstance(value, Tensor) and (what == "moments" or name == "step"):
                value.zero_()

    def state_dict(self, index: int) -> dict[str, Any]:
        """Returns one learner's optimizer state; see `Stepper.state_dict`."""
        own = self.optimizer.state_dict()
        state = {
            key: {name: row(value, index) for name, value in values.items()}
            for key, values in own["state"].items()
        }
        return own | {"state": state}

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Loads one state per learner; see `Stepper.load_state_dict`."""
        joined = {
            key: {name: join([state["state"][key][name] for state in states]) for name in values}
            for key, values in states[0]["state"].items()
        }
        self.optimizer.load_state_dict(states[0] | {"state": joined})


class Layerwise:
    """An optimizer per seed, whose parameters are copies of the seed's layers.

    A weight is a matrix out x in, as in `torch.nn.Linear`; whatever has a single input, such as a
    bias, is a vector.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], make: Make) -> None:
        """Makes the optimizers.

        Args:
            parameters: [S, in, out] each, views of a flat tensor, with their gradients.
            make: makes an optimizer of one seed's layers.
        """
        seeds = range(len(parameters[0]))
        self._layers = [[_layer(p.detach()[s]) for p in parameters] for s in seeds]
        self._gradients = [[_layer(_gradient(p)[s]) for p in parameters] for s in seeds]
        self._own = [
            [nn.Parameter(layer.clone(memory_format=torch.contiguous_format)) for layer in layers]
            for layers in self._layers
        ]
        for own in self._own:
            for parameter in own:
                parameter.grad = torch.zeros_like(parameter)
        self._make = make
        self.optimizers = [make(own) for own in self._own]
        """One per seed."""

    @torch.no_grad()
    def step(self) -> None:
        """Takes one step; see `Stepper.step`."""
        self._follow()
        for seed, optimizer in enumerate(self.optimizers):
            for own, gradient in zip(self._own[seed], self._gradients[seed], strict=True):
                # Not in place: some optimizers set the gradient to None.
                own.grad = gradient.clone(memory_format=torch.contiguous_format)
            _step_of(optimizer)()
            for own, layer in zip(self._own[seed], self._layers[seed], strict=True):
                layer.copy_(own)

    @torch.no_grad()
    def _follow(self) -> None:
        """Copies the layers, which may have changed between two steps."""
        for all_own, layers in zip(self._own, self._layers, strict=True):
            for own, layer in zip(all_own, layers, strict=True):
                own.copy_(layer)

    def reset_(self, what: str) -> None:
        """Makes the optimizers anew; see `StackedOptimizer.reset_`."""
        self._follow()
        self.optimizers = [self._make(own) for own in self._own]

    def state_dict(self, index: int) -> dict[str, Any]:
        """Returns one learner's optimizer state; see `Stepper.state_dict`."""
        return copy.deepcopy(self.optimizers[index].state_dict())

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Loads one state per learner; see `Stepper.load_state_dict`."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(copy.deepcopy(state))


def _bare_step(optimizer: Optimizer) -> Callable[[], Any]:
    """Returns the step without torch's wrappers, which cost as much as a small step."""
    return partial(inspect.unwrap(type(optimizer).step), optimizer)


def _step_of(optimizer: Optimizer) -> Callable[[], Any]:
    """Returns an imported optimizer's step.

    That of torch's own is taken bare, because the wrappers' first call imports torch's compiler.
    """
    own = type(optimizer).__module__.partition(".")[0] == "torch"
    return _bare_step(optimizer) if own else optimizer.step


def _layer(value: Tensor) -> Tensor:
    """Views one seed's parameter [in, out] as a matrix [out, in], or with one input as [out]."""
    return value.mT if len(value) > 1 else value.flatten()


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
