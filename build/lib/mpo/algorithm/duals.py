"""The dual variables of MPO: temperatures and KL multipliers, kept positive by a softplus.

Initial values and `Duals.value` are in natural units (a temperature of 10 is 10). Only this module
knows of the softplus.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FLOOR = 1e-8
"""Smallest value of a dual."""
_MIN_RAW = -18.0
"""Smallest variable before the softplus, where the softplus is about 1.5e-8."""


def softplus(x: float) -> float:
    """Computes log(1 + exp(x)) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


class Duals(nn.Module):
    """Positive dual variables of S learners, [S, ...]."""

    def __init__(self, start: Tensor) -> None:
        """Starts at the given positive values, [S, ...]."""
        super().__init__()
        start = start.double()
        # The inverse of softplus.
        raw = (start + (-torch.expm1(-start)).log()).clamp(min=_MIN_RAW)
        self.raw = nn.Parameter(raw.float(), requires_grad=False)
        """The optimized variables; the duals are their softplus."""

    @property
    def value(self) -> Tensor:
        """The duals themselves, [S, ...]."""
        # softplus(x) is computed as -logsigmoid(-x), because rounding in the CPU's softplus kernel
        # depends on an element's position in memory, and thus on the seed's position in the stack.
        return _FLOOR - F.logsigmoid(-self.raw)

    def write_gradient(self, gradient: Tensor) -> None:
        """Writes the gradient of the optimized variables.

        Args:
            gradient: of the loss with respect to the duals, [S, ...].
        """
        assert self.raw.grad is not None
        # The derivative of softplus is the logistic function.
        self.raw.grad.copy_(gradient * self.raw.sigmoid())

    def clamp_(self) -> None:
        """Clamps the variables to where the softplus has a gradient; call after each step.

        A clamp inside `value` instead would have no gradient below its bound, so a dual that fell
        below it could never rise again.
        """
        self.raw.clamp_(min=_MIN_RAW)
