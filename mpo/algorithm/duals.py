"""The Lagrange multipliers of MPO: temperatures and KL multipliers, positive through a softplus.

Constructors speak natural units (a temperature of 10 is 10); the softplus is private to this file.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FLOOR = 1e-8
_MIN_RAW = -18.0


def softplus(x: float) -> float:
    """log(1 + exp(x)) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


class Duals(nn.Module):
    """Positive variables of S learners, [S, ...], that one optimizer moves."""

    def __init__(self, start: Tensor) -> None:
        """Starts at the given values, all positive."""
        super().__init__()
        start = start.double()
        # The inverse of softplus.
        raw = (start + (-torch.expm1(-start)).log()).clamp(min=_MIN_RAW)
        self.raw = nn.Parameter(raw.float(), requires_grad=False)
        """What is moved."""

    @property
    def value(self) -> Tensor:
        """The duals themselves, [S, ...]."""
        # The floor plus softplus(x) = -logsigmoid(-x), whose own kernel on a CPU rounds by an
        # element's place in memory, and so in the stack.
        return _FLOOR - F.logsigmoid(-self.raw)

    def write_gradient(self, gradient: Tensor) -> None:
        """Of the variables behind the duals, from the gradient by the duals, [S, ...].

        The derivative of softplus is the logistic function.
        """
        assert self.raw.grad is not None
        self.raw.grad.copy_(gradient * self.raw.sigmoid())

    def clamp_(self) -> None:
        """Keeps each variable where its softplus still has a gradient; call after each step.

        A maximum inside the graph would have no gradient below it and never let go.
        """
        self.raw.clamp_(min=_MIN_RAW)
