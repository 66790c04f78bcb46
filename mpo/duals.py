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


def _positive(x: Tensor) -> Tensor:
    # The floor plus softplus(x) = -logsigmoid(-x), whose own kernel on a CPU rounds by an element's
    # place in memory, and so in the stack.
    return _FLOOR - F.logsigmoid(-x)


def _inverse_softplus(y: float) -> float:
    return y + math.log(-math.expm1(-y))


class Duals(nn.Module):
    """The dual variables of S learners, [S] or [S, D] (one a dimension of the action)."""

    def __init__(
        self,
        seeds: int,
        action_dim: int,
        temperature: float,
        alpha_mean: float,
        alpha_stddev: float,
    ) -> None:
        """Starts at the given values, all positive; both temperatures start alike."""
        super().__init__()
        self._temperature = _raw((seeds,), temperature)
        self._penalty_temperature = _raw((seeds,), temperature)
        self._alpha_mean = _raw((seeds, action_dim), alpha_mean)
        self._alpha_stddev = _raw((seeds, action_dim), alpha_stddev)

    @property
    def temperature(self) -> Tensor:
        """Of the E-step over action values, [S]."""
        return _positive(self._temperature)

    @property
    def penalty_temperature(self) -> Tensor:
        """Of the E-step over the action penalty, [S]."""
        return _positive(self._penalty_temperature)

    @property
    def alpha_mean(self) -> Tensor:
        """Of the KL bound on the means, [S, D]."""
        return _positive(self._alpha_mean)

    @property
    def alpha_stddev(self) -> Tensor:
        """Of the KL bound on the standard deviations, [S, D]."""
        return _positive(self._alpha_stddev)

    def temperatures(self) -> list[nn.Parameter]:
        """What the E-step's duals move."""
        return [self._temperature, self._penalty_temperature]

    def alphas(self) -> list[nn.Parameter]:
        """What the KL bounds' duals move."""
        return [self._alpha_mean, self._alpha_stddev]

    def write_gradients(self, of: dict[str, Tensor]) -> None:
        """Of the variables behind these duals, from gradients by the duals themselves.

        The derivative of softplus is the logistic function.
        """
        for name, gradient in of.items():
            variable = getattr(self, f"_{name}")
            torch.mul(gradient, variable.sigmoid(), out=variable.grad)

    def clamp_(self) -> None:
        """Keeps each variable where its softplus still has a gradient; call after each step.

        A maximum inside the graph would have no gradient below it and never let go.
        """
        for parameter in self.parameters():
            parameter.clamp_(min=_MIN_RAW)


def _raw(shape: tuple[int, ...], value: float) -> nn.Parameter:
    start = torch.full(shape, max(_inverse_softplus(value), _MIN_RAW))
    return nn.Parameter(start, requires_grad=False)
