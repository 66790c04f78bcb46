"""Matrix products of S stacked learners, with the fastest kernels available.

On a CPU each seed is multiplied separately, so that its numbers are the same as when it is trained
alone: rounding in batched kernels depends on the size of the stack. Large float32 products use
oneDNN, which uses the full vector width of any x86 CPU. MKL, torch's default, does so on Intel CPUs
only, and is half as fast on AMD's.

A product can be asked for in reduced precision, see `reduced`; all others are in float32.

On a GPU, and in compiled code, an `out` tensor is filled by a copy. The compiler does not support
writing a product into it directly, and removes most of these copies.

Letters: S seed; A, B, C, I, O rows and columns; N action samples, D action dimensions, H hidden
units.
"""

import contextlib

import torch
from torch import Tensor
from torch.nn import functional as F


def _is_intel() -> bool:
    """Returns whether Linux reports an Intel CPU."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as cpus:
        # The first CPU's entry is enough; the whole file takes long on machines with many CPUs.
        return "GenuineIntel" in cpus.read(200)
    return False


_HAS_ONEDNN = torch.backends.mkldnn.is_available()
_SUITS_MKL = _is_intel()
_HAS_BFLOAT16 = _HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()
"""Whether the CPU multiplies bfloat16 (AMX or AVX512). Without that torch takes a hundred times as
long as in float32."""
_LARGE = 2**20
"""Fewest multiplications for which oneDNN outweighs the higher cost of calling it."""
_WIDE = 16
"""Smallest inner size and number of columns for oneDNN: one vector register of float32."""
_MANY_ROWS = 2048
"""Fewest rows, over all seeds, for which our Triton kernel beats cuBLAS: it works on large
blocks."""


def affine(x: Tensor, weight: Tensor, bias: Tensor, precision: str = "float32") -> Tensor:
    """Computes x @ weight + bias: [S, B, I], [S, I, O] and [S, 1, O] -> [S, B, O].

    With another `precision` than float32 the product is that of `reduced`.
    """
    if precision != "float32":
        return reduced(x, weight, precision) + bias
    if _one_by_one(x):
        seeds = zip(x.split(1), weight.split(1), bias.split(1), strict=True)
        return torch.cat([affine(*seed) for seed in seeds])
    if _suits_onednn(x, weight):
        return _onednn(x[0], weight[0], bias[0, 0]).unsqueeze(0)
    if step_by_step(x):
        return torch.baddbmm(bias, x, weight)
    # On a GPU `baddbmm` takes 1.5 times as long as `bmm`; the compiler fuses the addition.
    return torch.bmm(x, weight) + bias


def affine_elu(x: Tensor, weight: Tensor, bias: Tensor, precision: str = "float32") -> Tensor:
    """Computes the ELU of `affine`; same arguments."""
    many = x.is_cuda and x.shape[0] * x.shape[1] >= _MANY_ROWS
    if many and precision == "float32" and torch.compiler.is_compiling():
        from mpo.compute import triton_kernels

        return triton_kernels.affine_elu(x, weight, bias)
    y = affine(x, weight, bias, precision)
    if x.device.type == "cpu" and torch.compiler.is_compiling():
        # exp(y) - 1 is faster than the expm1 of torch's ELU. Near 0 its relative error is larger,
        # but its absolute error is only that of rounding a number near 1.
        return torch.where(y > 0, y, y.clamp(max=0).exp() - 1)
    return F.elu_(y)


def reduced(x: Tensor, y: Tensor, precision: str) -> Tensor:
    """Computes x @ y from rounded factors: [S, A, B] and [S, B, C] -> [S, A, C], in float32.

    Their products are exact and are summed in float32.

    Args:
        x: the left factor.
        y: the right factor.
        precision: `bfloat16`: factors and result are rounded to 8 significant bits; `tf32`, on a
            GPU: the factors to 11.
    """
    if _one_by_one(x):
        return torch.cat([reduced(*s, precision) for s in zip(x.split(1), y.split(1), strict=True)])
    if precision == "tf32":
        return torch.ops.mpo.tf32(x, y)
    return torch.ops.mpo.bfloat16(x.bfloat16(), y.bfloat16()).float()


def product(x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """Computes x @ y: [S, A, B] and [S, B, C] -> [S, A, C], into `out` if given."""
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
    """Sums over B: [S, B, C] -> [S, 1, C], into `out` if given."""
    if step_by_step(x):
        return torch.sum(x, 1, keepdim=True, out=out)
    total = x.sum(1, keepdim=True)
    return total if out is None else out.copy_(total)


def add_product_(start: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Computes start + x @ y, in place where possible: [S, A, C], [S, A, B], [S, B, C].

    Meant for a small inner size B.
    """
    if x.device.type == "cpu" and torch.compiler.is_compiling():
        return product(x, y) + start
    if _one_by_one(x):
        for seed in zip(start.split(1), x.split(1), y.split(1), strict=True):
            add_product_(*seed)
        return start
    return start.baddbmm_(x, y)


def add_products(shared: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Computes shared + x @ y for each of N: [S, 1, B, H], [S, N, B, D], [S, D, H] -> [S, N*B, H].

    Meant for a small inner size D.
    """
    samples, rows = x.shape[1:3]
    if not step_by_step(x):
        return (product(x.flatten(1, 2), y).unflatten(1, (samples, rows)) + shared).flatten(1, 2)
    start = shared.repeat(1, samples, 1, 1).flatten(1, 2)
    return add_product_(start, x.flatten(1, 2), y)


def step_by_step(x: Tensor) -> bool:
    """Returns whether this runs uncompiled on a CPU, where operations in place are faster."""
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
        # Uncompiled code uses oneDNN on Intel CPUs too, so that runs keep the numbers they had.
        and not (_SUITS_MKL and torch.compiler.is_compiling())
    )


def _onednn(x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
    """Computes x @ y + bias with oneDNN: [A, B], [B, C] and [C] -> [A, C]."""
    if torch.compiler.is_compiling():
        return torch.ops.mpo.onednn(x, y, bias)
    return torch.ops.mkldnn._linear_pointwise(x, y.T, bias, "none", [], "")


def _bfloat16(x: Tensor, y: Tensor) -> Tensor:
    """Computes x @ y in bfloat16, with sums in float32."""
    if x.device.type == "cpu" and not _HAS_BFLOAT16:
        return product(x.float(), y.float()).bfloat16()  # the same, but for the order of the sums
    return torch.bmm(x, y)


def _tf32(x: Tensor, y: Tensor) -> Tensor:
    """Computes x @ y in a GPU's TF32; torch's setting, which is for all products, is put back."""
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32"
    try:
        return torch.bmm(x, y)
    finally:
        settings.fp32_precision = before


# The compiler supports oneDNN's operation with constant weights only, and no change of settings. It
# leaves out roundings to bfloat16 where it makes the product itself. Registered as custom
# operations, it only has to know the shapes of the results.
_operations = torch.library.Library("mpo", "DEF")
_operations.define("onednn(Tensor x, Tensor y, Tensor? bias) -> Tensor")
_operations.impl("onednn", _onednn, "CPU")
_operations.impl("onednn", lambda x, y, bias: x.new_empty(x.shape[0], y.shape[1]), "Meta")
for _name, _function, *_devices in (
    ("bfloat16", _bfloat16, "CPU", "CUDA"),
    ("tf32", _tf32, "CUDA"),
):
    _operations.define(f"{_name}(Tensor x, Tensor y) -> Tensor")
    _operations.impl(_name, lambda x, y: x.new_empty(*x.shape[:2], y.shape[2]), "Meta")
    for _device in _devices:
        _operations.impl(_name, _function, _device)
# Otherwise cuBLAS may round partial sums to bfloat16.
torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
