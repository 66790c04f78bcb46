"""A Triton kernel for affine maps in float32; import it only where Triton is installed.

cuBLAS multiplies float32 matrices without the tensor cores, which are several times faster. Here
each float32 number is split into two that the tensor cores accept: x = x' + x", where x' has the
leading 11 bits. Then x y = x' y' + x' y" + x" y' up to rounding (3xTF32, Ootomo & Yokota 2022,
arXiv 2203.03341).

Letters: S seed, B rows, I inputs, O outputs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS, _INNER = 64, 64, 32
"""Rows and columns of a block of the result, and the number of inputs summed at a time. Of a dozen
choices, these were the fastest on an H100 with 256 x 256 weights."""


@triton.jit
def _affine_elu(  # type: ignore[no-untyped-def]
    x,  # [S, B, I]
    weight,  # [S, O, I]
    bias,  # [S, O]
    out,  # [S, B, O]
    B,  # noqa: N803
    I: tl.constexpr,  # noqa: E741, N803
    O: tl.constexpr,  # noqa: E741, N803
    of_weight,  # stride between seeds, in elements
    of_bias,  # stride between seeds, in elements
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    """Computes one block of one seed's result."""
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
    # The minimum avoids an overflow of exp in the branch that is not taken.
    elu = tl.where(total > 0, total, tl.exp(tl.minimum(total, 0.0)) - 1)
    tl.store(
        out + seed * B * O + rows * O + columns[None, :],
        elu,
        mask=(rows < B) & (columns[None, :] < O),
    )


def affine_elu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes elu(x @ weight + bias): [S, B, I], [S, I, O] and [S, 1, O] -> [S, B, O].

    `x` must be contiguous, and each seed's bias too; `weight` may have any strides.
    """
    seeds, rows, inner = x.shape
    columns = weight.shape[2]
    out = torch.empty(seeds, rows, columns, device=x.device, dtype=x.dtype)
    # The tensor cores read both factors along the summed dimension.
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
