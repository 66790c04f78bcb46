"""Stacked matrix products against plain ones, for every kernel that may compute them."""

import pytest
import torch
from torch import Tensor

from mpo.compute import matmul

S = 3
LARGE = (1024, 48, 32)
SMALL = (7, 5, 6)
THIN = (70000, 2, 8)
"""Rows, inner size and columns; only the first shape uses oneDNN."""
SHAPES = pytest.mark.parametrize("shape", [LARGE, SMALL, THIN], ids=["large", "small", "thin"])


def operands(shape: tuple[int, int, int], dtype=torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    rows, inner, columns = shape
    g = torch.Generator().manual_seed(0)
    x, y, bias = (
        torch.randn(S, *size, generator=g, dtype=dtype)
        for size in ((rows, inner), (inner, columns), (1, columns))
    )
    return x, y, bias


def exact(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([a.double() @ b.double() for a, b in zip(x, y, strict=True)])


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-5, atol=2e-5)


def test_the_shapes_reach_every_kernel():
    suits = [matmul._suits_onednn(*operands(shape)[:2]) for shape in (LARGE, SMALL, THIN)]
    assert suits == [torch.backends.mkldnn.is_available(), False, False]
    assert not matmul._suits_onednn(*operands(LARGE, torch.float64)[:2])


@SHAPES
def test_products_equal_exact_ones(shape):
    x, y, bias = operands(shape)
    close(matmul.product(x, y), exact(x, y))
    close(matmul.affine(x, y, bias), exact(x, y) + bias)
    start = torch.ones(S, len(x[0]), y.shape[-1])
    assert matmul.add_product_(start, x, y) is start
    close(start, exact(x, y) + 1)


@SHAPES
def test_a_product_of_transposes_is_written_where_it_shall_lie(shape):
    x, y, _ = operands(shape)
    place = torch.full((S, 2, y.shape[-1], len(x[0])), 7.0)
    out = place[:, 0]
    assert matmul.product(y.mT, x.mT, out) is out
    close(out, exact(x, y).mT)
    assert place[:, 1].eq(7).all()


@SHAPES
def test_a_seeds_products_do_not_depend_on_its_neighbours(shape):
    x, y, bias = operands(shape)
    for s in range(S):
        one = slice(s, s + 1)
        assert torch.equal(matmul.product(x[one], y[one])[0], matmul.product(x, y)[s])
        alone = matmul.affine(x[one], y[one], bias[one])[0]
        assert torch.equal(alone, matmul.affine(x, y, bias)[s])
        start = torch.ones(S, len(x[0]), y.shape[-1])
        alone = matmul.add_product_(start[one].clone(), x[one], y[one])[0]
        assert torch.equal(alone, matmul.add_product_(start, x, y)[s])


def test_without_onednn_the_products_are_the_same_to_rounding(monkeypatch):
    x, y, bias = operands(LARGE)
    fast = matmul.affine(x, y, bias), matmul.product(x, y)
    monkeypatch.setattr(matmul, "_HAS_ONEDNN", False)
    for one, other in zip(fast, (matmul.affine(x, y, bias), matmul.product(x, y)), strict=True):
        close(one, other)
