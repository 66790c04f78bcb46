"""The optimizer of a network or of duals: the parameters of S stacked learners in one tensor."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mpo.algorithm.optimizers.built_in import ADAMW_DECAY, OPTIMIZERS, Settings
from mpo.algorithm.optimizers.imported import make
from mpo.algorithm.optimizers.layout import columns, flat_gradient, flatten_, row
from mpo.algorithm.optimizers.steppers import Layerwise, Stacked, Stepper
from mpo.algorithm.optimizers.trial import stackable
from mpo.study.optimizers import Definition, Part


class StackedOptimizer:
    """An optimizer of the parameters of S learners, which it keeps in one tensor [S, P].

    So gradient norm, clipping, optimizer step and target update are one kernel each. In a row, each
    parameter is padded to a multiple of 32 elements: CPU kernels round the last, incomplete vector
    register differently, so without padding a seed's numbers would depend on its position in the
    stack.
    """

    def __init__(
        self,
        name: str,
        parameters: Iterable[nn.Parameter],
        lr: float,
        settings: Settings | None = None,
        definition: Definition | None = None,
    ) -> None:
        """Moves the parameters and their gradients into flat tensors, as views of them.

        Args:
            name: a key of `OPTIMIZERS`; with a definition, any name.
            parameters: [S, ...] each; [S, in, out] with a definition.
            lr: learning rate.
            settings: of the built-in optimizers; None: the defaults.
            definition: what the optimizer is, if it is no built-in.

        Raises:
            ValueError: the name is not in `OPTIMIZERS`.
            ConfigError: the definition's class cannot be imported or made.
        """
        if definition is None and name not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {name!r}; choose from {', '.join(OPTIMIZERS)}")
        parameters = list(parameters)
        flat = flatten_(parameters)
        self._gradient = flat_gradient(parameters, flat)
        self.flat = flat.detach()
        """All parameters, [S, P]; the modules' parameters are views of it."""
        own = settings or Settings()
        self._scale = flat.new_ones((), requires_grad=False) if own.warmup else None
        if definition is None:
            definition = Definition.model_validate({"class": name})
        self._steppers: dict[str, Stepper] = {}
        self._kept: float | Tensor = 1.0
        """Factor of the weight decay; a tensor [P] if it differs between parameters."""
        for role, part in definition.parts.items():
            self._add(role, part, parameters, lr, own)
        self.capturable = all(part.built_in for part in definition.parts.values())
        """Whether a CUDA graph can hold its steps. An imported one may read values on the host."""

    def _add(
        self, role: str, part: Part, parameters: list[nn.Parameter], lr: float, own: Settings
    ) -> None:
        """Makes what steps the parameters of one role."""
        lr *= part.lr_factor
        chosen = [role == "whole" or _is_matrix(p) == (role == "matrices") for p in parameters]
        if not any(chosen):
            return
        where = None if role == "whole" else columns(parameters, chosen)
        decay = own.weight_decay
        if decay is None:
            decay = ADAMW_DECAY if part.name == "adamw" else 0.0
        if where is None:
            self._kept = 1 - lr * decay
        elif decay:
            if not isinstance(self._kept, Tensor):
                self._kept = torch.ones_like(self.flat[0])
            self._kept[where] = 1 - lr * decay

        def factory(layers: list[nn.Parameter]) -> Optimizer:
            if part.built_in:
                return OPTIMIZERS[part.name](layers[0], lr, own)  # type: ignore[index]
            return make(part, layers, lr)

        if part.built_in or stackable(part, role):
            self._steppers[role] = Stacked(self.flat, self._gradient, factory, part.built_in, where)
        else:
            own_layers = [p for p, wanted in zip(parameters, chosen, strict=True) if wanted]
            self._steppers[role] = Layerwise(own_layers, factory)

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
        if isinstance(self._kept, Tensor) or self._kept != 1:
            self.flat.mul_(self._kept)
        for stepper in self._steppers.values():
            stepper.step()

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
            what: `moments`: all of it, as at the start; `time`: the number of steps only, of a
                built-in.
        """
        for stepper in self._steppers.values():
            stepper.reset_(what)

    def state_dict(self, index: int) -> dict[str, Any]:
        """Returns one learner's parameters and optimizer state.

        It does not depend on the other learners in the stack.
        """
        states = {role: stepper.state_dict(index) for role, stepper in self._steppers.items()}
        return {"parameters": row(self.flat, index), "optimizer": states.get("whole", states)}

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Loads one state per learner, all after the same number of steps."""
        self.flat.copy_(torch.cat([state["parameters"] for state in states]))
        own = [state["optimizer"] for state in states]
        for role, stepper in self._steppers.items():
            stepper.load_state_dict(own if role == "whole" else [state[role] for state in own])


def _is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter [S, in, out] is a matrix with at least two inputs and two outputs."""
    return min(parameter.shape[1:]) > 1
