"""An update of another library, timed in turns with ours and with the machine's own product.

The other library is not needed by this project. Whoever has it writes a function that takes a
`Size`, which has the dimensions of the task and the networks, and returns a call that makes one
update.
"""

import importlib
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.findings import Finding
from benchmarks.sizes import SIZES, Size, flops, hyperparameters, windows
from benchmarks.update import PRODUCT, matrix_product, medians, step
from mpo.algorithm.separate import make_agent

CPU = torch.device("cpu")
Factory = Callable[[Size], Callable[[], object]]


def find(name: str) -> Factory:
    """Imports a function by its name, in the form MODULE:FUNCTION.

    Raises:
        ValueError: there is no such function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"expected MODULE:FUNCTION, received {name}: {error}") from None
    if not callable(found):
        raise ValueError(f"expected a function, received {name}, a {type(found).__name__}")
    return found


def measure(name: str, factory: Factory, rounds: int = 30) -> list[Finding]:
    """Measures one-step TD of one seed on one CPU thread, for every size."""
    found = []
    for case, size in SIZES.items():
        config = hyperparameters(size, 0)
        made_up, obs = windows(size, 1, 1), np.zeros((1, size.obs), dtype=np.float32)
        ours = [
            step(
                make_agent(size.obs, size.action, config, [0], CPU, compile_on_cpu=on), made_up, obs
            )
            for on in (False, True)
        ]
        spent = medians([*ours, factory(size), matrix_product()], rounds)
        *each, theirs, product = (1e3 * seconds for seconds in spent)
        floor = product * sum(flops(size, config).values()) / (2 * np.prod(PRODUCT))
        for how, value in zip((case, f"{case}, compiled"), each, strict=True):
            found.append(Finding("beside", how, value, name, theirs, "ms"))
            found.append(Finding("beside", how, value, "floor", floor, "ms"))
        found.append(Finding("beside", f"{case}, {name}", theirs, "floor", floor, "ms"))
    return found
