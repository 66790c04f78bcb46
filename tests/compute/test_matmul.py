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


@pytest.fixture(params=[True, False], ids=["torch's kernel", "emulated"])
def bfloat16(request, monkeypatch):
    """Torch's kernel is right on every CPU, and slow where it is not used."""
    monkeypatch.setattr(matmul, "_HAS_BFLOAT16", request.param)


def test_bfloat16_rounds_factors_and_result_but_neither_sums_nor_bias(bfloat16):
    """Between 256 and 512, numbers of 8 significant bits are even."""

    def of(x: list[float], y: list[float]) -> float:
        factors = torch.tensor(x).view(1, 1, -1), torch.tensor(y).view(1, -1, 1)
        return matmul.reduced(*factors, "bfloat16").item()

    assert of([257.0], [1.0]) == of([1.0], [257.0]) == 256
    assert of([259.0], [1.0]) == 260
    assert of([3.0], [85.0]) == 255 and of([3.0], [87.0]) == 260  # 261 is between 260 and 262
    # Summed in bfloat16, ones would stop at 256.
    assert of([1.0] * 300, [1.0] * 300) == 300
    one, bias = torch.ones(1, 1, 1), torch.full((1, 1, 1), 2.0**-20)
    assert matmul.affine(one, one, bias, "bfloat16").item() == 1 + 2.0**-20
    assert matmul.affine_elu(one, -one, bias, "bfloat16").item() == pytest.approx(
        -0.63212, abs=1e-5
    )


@pytest.mark.parametrize("shape", [(64, 48, 32), SMALL])
def test_a_product_in_bfloat16_is_exact_up_to_its_rounding(shape, bfloat16):
    x, y, _ = operands(shape)
    found = matmul.reduced(x, y, "bfloat16")
    assert found.dtype == torch.float32 and torch.equal(found, found.bfloat16().float())
    expected = exact(x.bfloat16(), y.bfloat16())
    # Half a unit in the last of 8 bits is 2^-8 of a number at most; sums in float32 add little.
    torch.testing.assert_close(found.double(), expected, rtol=1.01 * 2.0**-8, atol=1e-5)
    assert (found - exact(x, y)).abs().max() > 1e-3
    for s in range(S):
        one = slice(s, s + 1)
        assert torch.equal(matmul.reduced(x[one], y[one], "bfloat16")[0], found[s])


def test_tf32_is_set_for_a_product_and_put_back(monkeypatch):
    settings, seen = torch.backends.cuda.matmul, []
    before, bmm = settings.fp32_precision, torch.bmm
    monkeypatch.setattr(
        torch, "bmm", lambda x, y: (seen.append(settings.fp32_precision), bmm(x, y))[1]
    )
    x, y, _ = operands(SMALL)
    close(matmul._tf32(x, y), exact(x, y))  # the setting is for GPUs
    assert seen == ["tf32"] and settings.fp32_precision == before
    with pytest.raises(RuntimeError):
        matmul._tf32(x, x)
    assert len(seen) == 2  # the product itself failed
    assert settings.fp32_precision == before
