import math

import pytest
import torch
from pydantic import ValidationError

from mpo.config import Hyperparameters
from mpo.duals import Duals, softplus

S, D = 3, 2
NAMES = ("temperature", "penalty_temperature", "alpha_mean", "alpha_stddev")


def make(temperature: float = 1.0, alpha_mean: float = 1.0, alpha_stddev: float = 1.0) -> Duals:
    return Duals(S, D, temperature, alpha_mean, alpha_stddev)


def write(duals: Duals, value: float, names: tuple[str, ...] = NAMES) -> None:
    """Gradients of a loss that has this derivative by each of these duals."""
    for parameter in duals.parameters():
        parameter.grad = torch.zeros_like(parameter)
    duals.write_gradients({name: torch.full_like(getattr(duals, name), value) for name in names})


def set_raw(duals: Duals, value: float) -> None:
    with torch.no_grad():
        for parameter in duals.parameters():
            parameter.fill_(value)


def test_one_temperature_a_seed_and_one_multiplier_a_dimension():
    shapes = {name: tuple(getattr(make(), name).shape) for name in NAMES}
    assert shapes == {
        "temperature": (S,),
        "penalty_temperature": (S,),
        "alpha_mean": (S, D),
        "alpha_stddev": (S, D),
    }


@pytest.mark.parametrize("value", [1e-4, 0.03, 0.5, 1.0, 10.0, 1000.0, 1e5])
def test_initial_values_are_natural_units(value):
    for name in NAMES:
        arguments = {"temperature": 2.0, "alpha_mean": 3.0, "alpha_stddev": 4.0}
        arguments[name.removeprefix("penalty_")] = value
        duals = make(**arguments)
        actual = getattr(duals, name).detach()
        expected = torch.full_like(actual, value)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1.1e-8)
        for other, untouched in {"alpha_mean": 3.0, "alpha_stddev": 4.0}.items():
            if other != name:
                assert getattr(duals, other)[0, 0].item() == pytest.approx(untouched, rel=1e-5)


def test_an_initial_value_below_the_floor_starts_at_the_floor():
    for parameter in make(1e-12, 1e-30, 1e-9).parameters():
        assert parameter.eq(-18).all()


@pytest.mark.parametrize("key", ["init_log_alpha_mean", "init_log_alpha_stddev"])
def test_the_lowest_initial_multiplier_that_the_schema_accepts_is_kept(key):
    sizes = {"policy_layer_sizes": (4,), "critic_layer_sizes": (4,), "replay_size": 10}
    with pytest.raises(ValidationError, match=key):
        Hyperparameters(**sizes, **{key: -18.001})
    lowest = getattr(Hyperparameters(**sizes, **{key: -18}), key)
    duals = make(1.0, softplus(lowest), softplus(lowest))
    values = duals.alpha_mean, duals.alpha_stddev
    for value, parameter in zip(values, duals.alphas(), strict=True):
        torch.testing.assert_close(parameter, torch.full_like(parameter, -18), rtol=1e-6, atol=0)
        expected = torch.full_like(value, math.exp(-18) + 1e-8)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)


def test_softplus_is_exact_and_does_not_overflow():
    for x in (-30.0, -1.0, 0.0, 0.3, 5.0, 19.0, 25.0):
        assert softplus(x) == pytest.approx(math.log(1 + math.exp(x)), rel=1e-9, abs=1e-15)
    assert softplus(1000.0) == 1000.0
    assert softplus(-1000.0) == 0.0


@pytest.mark.parametrize("raw", [-1000.0, -18.0, -1.0, 0.0, 3.0, 19.0, 21.0, 1000.0])
def test_duals_are_the_softplus_of_their_variable_and_positive(raw):
    duals = make()
    set_raw(duals, raw)
    for name in NAMES:
        value = getattr(duals, name)
        assert (value > 0).all() and value.isfinite().all()
        expected = torch.full_like(value, softplus(raw) + 1e-8)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("raw", [-18.0, -5.0, 0.0, 4.0, 30.0])
def test_the_gradient_is_that_of_the_softplus(raw):
    duals = make()
    set_raw(duals, raw)
    write(duals, 1.0)
    for parameter in duals.parameters():
        expected = torch.full_like(parameter, 1 / (1 + math.exp(-raw)))
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-6, atol=0)


def test_clamping_lifts_what_is_below_minus_18_in_place_and_nothing_else():
    duals = make()
    parameters = list(duals.parameters())
    places = [parameter.data_ptr() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.linspace(-40, 40, parameter.numel()).view_as(parameter))
    expected = [parameter.detach().clamp(min=-18) for parameter in parameters]
    assert any((e != p).any() for e, p in zip(expected, parameters, strict=True))
    duals.clamp_()
    for parameter, same, place, value in zip(
        duals.parameters(), parameters, places, expected, strict=True
    ):
        assert parameter is same and parameter.data_ptr() == place
        assert torch.equal(parameter, value)


def test_a_clamped_dual_is_let_go_by_its_gradient():
    duals = make()
    set_raw(duals, -50.0)
    duals.clamp_()
    optimizer = torch.optim.Adam(duals.parameters(), lr=0.1)
    before = {name: getattr(duals, name).detach().clone() for name in NAMES}
    for _ in range(50):
        # A KL far over its bound: the dual's loss falls as the dual rises.
        write(duals, -10.0)
        assert all((parameter.grad < 0).all() for parameter in duals.parameters())
        optimizer.step()
        duals.clamp_()
    for name in NAMES:
        assert (getattr(duals, name) > 10 * before[name]).all()


def test_temperatures_and_alphas_are_all_there_is():
    duals = make()
    grouped = [*duals.temperatures(), *duals.alphas()]
    assert sorted(map(id, grouped)) == sorted(map(id, duals.parameters()))
    assert [p.ndim for p in duals.temperatures()] == [1, 1]
    assert [p.ndim for p in duals.alphas()] == [2, 2]


@pytest.mark.parametrize("name", NAMES)
def test_each_dual_moves_its_own_variable_alone(name):
    duals = make()
    before = {other: getattr(duals, other) for other in NAMES}
    write(duals, 1.0, (name,))
    moved = [parameter for parameter in duals.parameters() if parameter.grad.any()]
    assert len(moved) == 1 and moved[0].grad.all()
    moved[0][1] += 1
    for other in NAMES:
        changed = getattr(duals, other) != before[other]
        assert changed[1].all() == (other == name) and not changed[[0, 2]].any()


def test_a_gradient_is_that_of_autograd():
    g = torch.Generator().manual_seed(0)
    duals = make().double()
    for parameter in duals.parameters():
        parameter.copy_(4 * torch.randn(parameter.shape, generator=g))
        parameter.requires_grad_()
    of = {name: torch.randn(getattr(duals, name).shape, generator=g).double() for name in NAMES}
    loss = sum((getattr(duals, name) * of[name]).sum() for name in NAMES)
    expected = torch.autograd.grad(loss, list(duals.parameters()))
    for parameter in duals.parameters():
        parameter.requires_grad_(False)
        parameter.grad = torch.zeros_like(parameter)
    duals.write_gradients(of)
    for parameter, grad in zip(duals.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-12, atol=0)
