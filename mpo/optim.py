"""The optimizers that a study can choose from."""

from collections.abc import Callable

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from mpo.config import OptimizerName

OPTIMIZERS: dict[OptimizerName, Callable[[ParamsT, float, float], Optimizer]] = {
    "adam": lambda params, lr, _: torch.optim.Adam(params, lr=lr, fused=True),
    "adamw": lambda params, lr, _: torch.optim.AdamW(params, lr=lr, fused=True),
    "sgd": lambda params, lr, m: torch.optim.SGD(params, lr=lr, momentum=m, fused=True),
    "rmsprop": lambda params, lr, _: torch.optim.RMSprop(params, lr=lr),
}
"""Name -> constructor of (parameters, learning rate, momentum); only sgd uses the momentum.

Each must work element by element: an optimizer that mixes elements would mix stacked seeds.
"""


def make_optimizer(name: OptimizerName, params: ParamsT, lr: float, momentum: float) -> Optimizer:
    """Builds an optimizer by its name.

    Raises:
        ValueError: the name is not in `OPTIMIZERS`.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; choose from {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](params, lr, momentum)
