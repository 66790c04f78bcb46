"""Matrix products of S stacked learners, in the fastest kernels at hand.

On a CPU each seed is multiplied by itself, so its numbers are those it has alone: batched kernels
round by the size of the stack. Large products in single precision go to oneDNN, which uses the full
width of the vector registers of any x86 CPU; MKL, that torch takes by itself, does so with Intel's
alone, and is half as fast with AMD's.

On a GPU, and where torch's compiler is at work, nothing is written to where it was asked for but by
a copy: the compiler, which leaves most of them out, can't have it otherwise.
"""

import contextlib

import torch
from torch import Tensor
from torch.nn import functional as F


def _is_intel() -> bool:
    """Whether Linux says so of the first CPU: to tell of all takes long where there are many."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as cpus:
        return "GenuineIntel" in cpus.read(200)
    return False


_HAS_ONEDNN = torch.backends.mkldnn.is_available()
_SUITS_MKL = _is_intel()
_LARGE = 2**20
"""Multiplications from which oneDNN is worth its dearer call."""
_WIDE = 16
"""Least inner size and columns for it: a vector of single-precision numbers."""
_MANY_ROWS = 2048
"""Of all seeds, from which our own kernel beats cuBLAS on a GPU: it works on large blocks."""


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The affine map x @ weight + bias: [S, B, I], [S, I, O] and [S, 1, O] -> [S, B, O]."""
    if _one_by_one(x):
        seeds = zip(x.split(1), weight.split(1), bias.split(1), strict=True)
        return torch.cat([affine(*seed) for seed in seeds])
    if _suits_onednn(x, weight):
        return _onednn(x[0], weight[0], bias[0, 0]).unsqueeze(0)
    if step_by_step(x):
        return torch.baddbmm(bias, x, weight)
    # With a bias a GPU's kernel takes half as long again; the compiler adds it in passing.
    return torch.bmm(x, weight) + bias


def affine_elu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The ELU of the affine map, shapes as there."""
    if x.is_cuda and x.shape[0] * x.shape[1] >= _MANY_ROWS and torch.compiler.is_compiling():
        from mpo.compute import triton_kernels

        return triton_kernels.affine_elu(x, weight, bias)
    y = affine(x, weight, bias)
    if x.device.type == "cpu" and torch.compiler.is_compiling():
        # exp(x) - 1 where the ELU takes expm1: as exact where there is a 1 to add to, and faster.
        return torch.where(y > 0, y, y.clamp(max=0).exp() - 1)
    return F.elu_(y)


def product(x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """The product x @ y: [S, A, B] and [S, B, C] -> [S, A, C], into `out` where given."""
    if _one_by_one(x):
        out = x.new_empty(len(x), x.shape[1], y.shape[2]) if out is None else out
        for seed in zip(x.split(1), y.split(1), out.split(1), strict=True):
            product(*seed)
        return out
    if _suits_onednn(x, y):
        found = _onednn(x[0], y[0], None).unsqueeze(0)
    elif step_by_step(x):
        return torch.bmm(x, y, out=out)
    else:
        found = torch.bmm(x, y)
    return found if out is None else out.copy_(found)


def sum_rows(x: Tensor, out: Tensor | None = None) -> Tensor:
    """The sum over B: [S, B, C] -> [S, 1, C], into `out` where given."""
    if step_by_step(x):
        return torch.sum(x, 1, keepdim=True, out=out)
    total = x.sum(1, keepdim=True)
    return total if out is None else out.copy_(total)


def add_product_(start: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Adds x @ y, of a small inner size, to `start`: [S, A, B] and [S, B, C] to [S, A, C]."""
    if x.device.type == "cpu" and torch.compiler.is_compiling():
        return product(x, y) + start
    if _one_by_one(x):
        for seed in zip(start.split(1), x.split(1), y.split(1), strict=True):
            add_product_(*seed)
        return start
    return start.baddbmm_(x, y)


def add_products(shared: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Adds each x @ y to what they share: [S, 1, B, H], [S, N, B, D] and [S, D, H] -> [S, N*B, H].

    D is small.
    """
    samples, rows = x.shape[1:3]
    if not step_by_step(x):
        return (product(x.flatten(1, 2), y).unflatten(1, (samples, rows)) + shared).flatten(1, 2)
    start = shared.repeat(1, samples, 1, 1).flatten(1, 2)
    return add_product_(start, x.flatten(1, 2), y)


def step_by_step(x: Tensor) -> bool:
    """Whether each operation is carried out as it is called, on a CPU: in place is faster then."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _one_by_one(x: Tensor) -> bool:
    return x.shape[0] > 1 and x.device.type == "cpu"


def _suits_onednn(x: Tensor, y: Tensor) -> bool:
    _, rows, inner = x.shape
    columns = y.shape[-1]
    return (
        rows * inner * columns >= _LARGE
        and min(inner, columns) >= _WIDE
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and _HAS_ONEDNN
        # Uncompiled, MKL is left aside even there, lest a run have other numbers than it once had.
        and not (_SUITS_MKL and torch.compiler.is_compiling())
    )


def _onednn(x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
    """As torch.compile would call it, x @ y + bias: [A, B], [B, C] and [C] -> [A, C]."""
    if torch.compiler.is_compiling():
        return torch.ops.mpo.onednn(x, y, bias)
    return torch.ops.mkldnn._linear_pointwise(x, y.T, bias, "none", [], "")


# The compiler takes oneDNN's operation with constant weights only; under a name of ours it asks
# for nothing but the shape.
_operations = torch.library.Library("mpo", "DEF")
_operations.define("onednn(Tensor x, Tensor y, Tensor? bias) -> Tensor")
_operations.impl("onednn", _onednn, "CPU")
_operations.impl("onednn", lambda x, y, bias: x.new_empty(x.shape[0], y.shape[1]), "Meta")
