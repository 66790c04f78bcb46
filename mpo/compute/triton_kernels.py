"""What torch's compiler has no fast kernel for; to be imported on a GPU alone, for it takes Triton.

cuBLAS multiplies single-precision matrices without the tensor cores. These are several times
faster, and multiply such numbers, too, if each is split in two that they take: x = x' + x" with x'
its leading 11 bits, and x y = x' y' + x' y" + x" y' up to the rounding (3xTF32, Ootomo & Yokota
2022, arXiv 2203.03341).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS, _INNER = 64, 64, 32
"""A block of the result, and how much of the products are summed at a time: the fastest of a dozen
on an H100, for 256 x 256 weights."""


@triton.jit
def _affine_elu(  # type: ignore[no-untyped-def]
    x,  # [S, B, I]
    weight,  # [S, O, I]
    bias,  # [S, O]
    out,  # [S, B, O]
    B,  # noqa: N803
    I: tl.constexpr,  # noqa: E741, N803
    O: tl.constexpr,  # noqa: E741, N803
    of_weight,  # elements from one seed's to the next
    of_bias,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    """One block of one seed's result."""
    seed = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(O, COLUMNS)
    rows = (tl.program_id(0) // across) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    x += seed * B * I
    weight += seed * of_weight
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, I, INNER):
        inner = start + tl.arange(0, INNER)
        left = tl.load(
            x + rows * I + inner[None, :], mask=(rows < B) & (inner[None, :] < I), other=0.0
        )
        right = tl.load(
            weight + columns[:, None] * I + inner[None, :],
            mask=(columns[:, None] < O) & (inner[None, :] < I),
            other=0.0,
        )
        total = tl.dot(left, tl.trans(right), total, input_precision="tf32x3")
    total += tl.load(bias + seed * of_bias + columns, mask=columns < O, other=0.0)[None, :]
    # Without the minimum an overflow, not taken, would be a NaN's cause.
    elu = tl.where(total > 0, total, tl.exp(tl.minimum(total, 0.0)) - 1)
    tl.store(
        out + seed * B * O + rows * O + columns[None, :],
        elu,
        mask=(rows < B) & (columns[None, :] < O),
    )


def affine_elu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """elu(x @ weight + bias): contiguous [S, B, I], [S, I, O] and [S, 1, O] -> [S, B, O]."""
    seeds, rows, inner = x.shape
    columns = weight.shape[2]
    out = torch.empty(seeds, rows, columns, device=x.device, dtype=x.dtype)
    # The tensor cores read both factors along the sum.
    transposed = weight.mT.contiguous()
    blocks = -(-rows // _ROWS) * -(-columns // _COLUMNS)
    _affine_elu[blocks, seeds](
        x,
        transposed,
        bias,
        out,
        rows,
        inner,
        columns,
        inner * columns,
        bias.stride(0),
        _ROWS,
        _COLUMNS,
        _INNER,
        num_warps=4,
        num_stages=3,
    )
    return out
