import math

import pytest
import torch
from pydantic import ValidationError

from mpo.algorithm.duals import Duals, softplus
from mpo.study.hyperparameters import Hyperparameters

SHAPE = (3, 2)


def make(value: float = 1.0) -> Duals:
    return Duals(torch.full(SHAPE, value, dtype=torch.float64))


def write(duals: Duals, value: float) -> None:
    """Writes the gradient of a loss whose derivative with respect to each dual is `value`."""
    duals.raw.grad = torch.zeros_like(duals.raw)
    duals.write_gradient(torch.full(SHAPE, value))


@pytest.mark.parametrize("value", [1e-4, 0.03, 0.5, 1.0, 10.0, 1000.0, 1e5])
def test_initial_values_are_natural_units(value):
    torch.testing.assert_close(make(value).value, torch.full(SHAPE, value), rtol=1e-5, atol=1.1e-8)


def test_each_starts_at_its_own_value():
    start = torch.tensor([[0.1, 20.0], [3.0, 4.0]])
    torch.testing.assert_close(Duals(start).value, start, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [1e-9, 1e-12, 1e-30])
def test_an_initial_value_below_the_floor_starts_at_the_floor(value):
    assert make(value).raw.eq(-18).all()


@pytest.mark.parametrize("key", ["init_log_alpha_mean", "init_log_alpha_stddev"])
def test_the_lowest_initial_multiplier_that_the_schema_accepts_is_kept(key):
    sizes = {"policy_layer_sizes": (4,), "critic_layer_sizes": (4,), "replay_size": 10}
    with pytest.raises(ValidationError, match=key):
        Hyperparameters(**sizes, **{key: -18.001})
    lowest = getattr(Hyperparameters(**sizes, **{key: -18}), key)
    duals = make(softplus(lowest))
    torch.testing.assert_close(duals.raw, torch.full(SHAPE, -18.0), rtol=1e-6, atol=0)
    expected = torch.full(SHAPE, math.exp(-18) + 1e-8)
    torch.testing.assert_close(duals.value, expected, rtol=1e-5, atol=0)


def test_softplus_is_exact_and_does_not_overflow():
    for x in (-30.0, -1.0, 0.0, 0.3, 5.0, 19.0, 25.0):
        assert softplus(x) == pytest.approx(math.log(1 + math.exp(x)), rel=1e-9, abs=1e-15)
    assert softplus(1000.0) == 1000.0
    assert softplus(-1000.0) == 0.0


@pytest.mark.parametrize("raw", [-1000.0, -18.0, -1.0, 0.0, 3.0, 19.0, 21.0, 1000.0])
def test_duals_are_the_softplus_of_their_variable_and_positive(raw):
    duals = make()
    duals.raw.fill_(raw)
    value = duals.value
    assert (value > 0).all() and value.isfinite().all()
    expected = torch.full(SHAPE, softplus(raw) + 1e-8)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("raw", [-18.0, -5.0, 0.0, 4.0, 30.0])
def test_the_gradient_is_that_of_the_softplus(raw):
    duals = make()
    duals.raw.fill_(raw)
    write(duals, 1.0)
    expected = torch.full(SHAPE, 1 / (1 + math.exp(-raw)))
    torch.testing.assert_close(duals.raw.grad, expected, rtol=1e-6, atol=0)


def test_clamping_lifts_what_is_below_minus_18_in_place_and_nothing_else():
    duals = make()
    variable, place = duals.raw, duals.raw.data_ptr()
    variable.copy_(torch.linspace(-40, 40, variable.numel()).view(SHAPE))
    expected = variable.clamp(min=-18)
    assert (expected != variable).any()
    duals.clamp_()
    assert duals.raw is variable and variable.data_ptr() == place
    assert torch.equal(variable, expected)


def test_a_clamped_dual_is_let_go_by_its_gradient():
    duals = make()
    duals.raw.fill_(-50.0)
    duals.clamp_()
    optimizer = torch.optim.Adam(duals.parameters(), lr=0.1)
    before = duals.value
    for _ in range(50):
        # The KL is far above its bound, so the dual's loss falls as the dual rises.
        write(duals, -10.0)
        assert (duals.raw.grad < 0).all()
        optimizer.step()
        duals.clamp_()
    assert (duals.value > 10 * before).all()


def test_a_gradient_is_that_of_autograd():
    g = torch.Generator().manual_seed(0)
    duals = make().double()
    duals.raw.copy_(4 * torch.randn(SHAPE, generator=g)).requires_grad_()
    of = torch.randn(SHAPE, generator=g).double()
    (expected,) = torch.autograd.grad((duals.value * of).sum(), [duals.raw])
    duals.raw.requires_grad_(False)
    duals.raw.grad = torch.zeros_like(duals.raw)
    duals.write_gradient(of)
    torch.testing.assert_close(duals.raw.grad, expected, rtol=1e-12, atol=0)
