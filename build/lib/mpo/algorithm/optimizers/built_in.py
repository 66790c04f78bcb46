"""The built-in optimizers: each works element by element, so one tensor can hold all seeds."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from mpo.compute.compile import compiles
from mpo.study.optimizers import OptimizerName


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

ADAMW_DECAY = 0.01
"""Weight decay of adamw unless it is set, as in torch."""

# torch wraps these methods to exclude them from compilation, so their first call imports the
# compiler: one of the three seconds that a job takes to start. They are not compiled here, so the
# wrappers are removed.
for _name in ("add_param_group", "state_dict", "load_state_dict"):
    setattr(Optimizer, _name, inspect.unwrap(getattr(Optimizer, _name)))
