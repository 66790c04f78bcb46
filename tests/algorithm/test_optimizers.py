from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from mpo.algorithm.optimizers import OPTIMIZERS, Settings, StackedOptimizer, flatten_
from mpo.study.hyperparameters import OptimizerName

S = 3
WHOLE = ((8, 16), (1, 64), (32, 1))
RAGGED = ((4, 5), (1, 5), (6, 1), (1, 12), (3, 9))
"""Shapes of a seed's parameters. Neither their sizes nor the total fill whole vector registers."""
LR = 0.01


def test_choices_are_those_of_the_schema():
    assert tuple(OPTIMIZERS) == get_args(OptimizerName)


def test_an_unknown_name_is_told_the_choices():
    with pytest.raises(ValueError, match="adm") as error:
        StackedOptimizer("adm", [nn.Parameter(torch.zeros(1, 1))], LR)
    for name in get_args(OptimizerName):
        assert name in str(error.value)


def leaf(x: Tensor) -> nn.Parameter:
    return nn.Parameter(x.clone(), requires_grad=False)


def write(parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad.copy_(gradient)


def trained(
    name: str, start: list[Tensor], gradients: list[list[Tensor]], **settings: float
) -> list[Tensor]:
    """Returns the parameters after one step per gradient."""
    parameters = [leaf(x) for x in start]
    optimizer = StackedOptimizer(name, parameters, LR, Settings(momentum=0.8, **settings))
    for step in gradients:
        write(parameters, step)
        optimizer.step()
    return [parameter.data for parameter in parameters]


def start_and_gradients(
    shapes: tuple[tuple[int, ...], ...],
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Returns parameters [S, ...] and gradients for four steps, of different scale per seed."""
    g = torch.Generator().manual_seed(0)
    scale = torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    start = [torch.randn(S, *shape, generator=g) for shape in shapes]
    steps = [[scale * torch.randn(x.shape, generator=g) for x in start] for _ in range(4)]
    return start, steps


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("shapes", [WHOLE, RAGGED], ids=["whole", "ragged"])
def test_a_stacked_step_equals_separate_ones(name, shapes):
    start, gradients = start_and_gradients(shapes)
    stacked = trained(name, start, gradients)
    for s in range(S):
        alone = trained(
            name,
            [x[s : s + 1] for x in start],
            [[x[s : s + 1] for x in step] for step in gradients],
        )
        for whole, part, initial in zip(stacked, alone, start, strict=True):
            assert not torch.equal(part[0], initial[s])
            assert torch.equal(whole[s], part[0])


def test_momentum_is_used_by_sgd():
    start, gradients = [torch.zeros(1, 1, 1)], [[torch.ones(1, 1, 1)]] * 2
    # The velocities are 1 and 0.8 + 1.
    assert float(trained("sgd", start, gradients)[0]) == pytest.approx(-LR * 2.8)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_first_step_of_adam_is_the_rate_whatever_the_gradients_size(name):
    start = [torch.zeros(S, 1, 1)]
    gradient = torch.tensor([1e-3, -1.0, 1e3])[:, None, None]
    moved = trained(name, start, [[gradient]])[0]
    torch.testing.assert_close(moved, -LR * gradient.sign(), rtol=1e-4, atol=0)


def test_parameters_are_views_of_one_tensor_and_keep_their_values():
    start, _ = start_and_gradients(RAGGED)
    parameters = [leaf(x) for x in start]
    flat = flatten_(parameters)
    assert flat.shape[0] == S and flat.shape[1] % 32 == 0
    assert all(torch.equal(p, x) for p, x in zip(parameters, start, strict=True))
    flat.zero_()
    assert all(p.eq(0).all() for p in parameters)


def test_each_seeds_gradient_is_clipped_by_its_own_norm():
    start, _ = start_and_gradients(RAGGED)
    g = torch.Generator().manual_seed(1)
    drawn = [torch.randn(x.shape, generator=g) for x in start]
    wanted = torch.tensor([0.4, 250.0, 0.0])
    size = torch.stack([x.square().sum((1, 2)) for x in drawn]).sum(0).sqrt()
    drawn = [x * (wanted / size)[:, None, None] for x in drawn]
    parameters = [leaf(x) for x in start]
    optimizer = StackedOptimizer("sgd", parameters, 1.0, Settings(momentum=0.0))
    write(parameters, drawn)
    torch.testing.assert_close(optimizer.clip_(None), wanted)
    torch.testing.assert_close(optimizer.clip_(2.0), wanted)
    optimizer.step()
    for parameter, initial, gradient in zip(parameters, start, drawn, strict=True):
        step = initial - parameter
        torch.testing.assert_close(step[0], gradient[0], rtol=1e-4, atol=1e-6)  # not clipped
        torch.testing.assert_close(step[1], gradient[1] * (2 / 250), rtol=1e-4, atol=1e-6)
        assert step[2].eq(0).all()


def test_only_adamw_decays_the_weights_unless_told():
    start, gradients = [torch.ones(1, 1, 1)], [[torch.zeros(1, 1, 1)]] * 3
    kept = {name: float(trained(name, start, gradients)[0]) for name in OPTIMIZERS}
    assert {name for name, value in kept.items() if value != 1} == {"adamw"}
    assert kept["adamw"] == pytest.approx((1 - LR * 0.01) ** 3)
    for name in OPTIMIZERS:
        for decay in (0.0, 0.5):
            told = float(trained(name, start, gradients, weight_decay=decay)[0])
            assert told == pytest.approx((1 - LR * decay) ** 3), name


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"beta1": 0.5}, {"beta2": 0.95}, {"epsilon": 1.0}, {"weight_decay": 0.3}],
)
def test_settings_of_adam_are_those_of_torch(name, settings):
    """Against torch's AdamW on plain parameters, in float64."""
    start, gradients = ([x.double() for x in xs] for xs in start_and_gradients(RAGGED)[:1] * 2)
    gradients = [[x.double() for x in step] for step in start_and_gradients(RAGGED)[1]]
    found = trained(name, start, gradients, **settings)
    own = Settings(**settings)
    decay = own.weight_decay if own.weight_decay is not None else 0.01 * (name == "adamw")
    plain = [nn.Parameter(x.clone()) for x in start]
    optimizer = torch.optim.AdamW(
        plain, LR, (own.beta1, own.beta2), own.epsilon, weight_decay=decay
    )
    for step in gradients:
        for parameter, gradient in zip(plain, step, strict=True):
            parameter.grad = gradient
        optimizer.step()
    for x, y in zip(found, plain, strict=True):
        torch.testing.assert_close(x, y.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_scaled_step_is_a_step_with_a_smaller_rate(name):
    start, gradients = start_and_gradients(RAGGED)
    shares = (0.1, 0.4, 0.75, 1.0)
    settings = Settings(momentum=0.8, weight_decay=0.1, warmup=True)
    parameters = [leaf(x.double()) for x in start]
    scaled = StackedOptimizer(name, parameters, LR, settings)
    plain = [leaf(x.double()) for x in start]
    steps = StackedOptimizer(name, plain, LR, settings._replace(weight_decay=0.0, warmup=False))
    for share, gradient in zip(shares, gradients, strict=True):
        write(parameters, gradient)
        scaled.scale_(share)
        scaled.step()
        write(plain, gradient)
        steps._steppers["whole"].optimizer.param_groups[0]["lr"] = LR * share
        steps.flat.mul_(1 - LR * share * 0.1)
        steps.step()
    for x, y in zip(parameters, plain, strict=True):
        torch.testing.assert_close(x.data, y.data, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_was_reset_steps_like_a_new_one(name):
    start, (first, second, *_) = start_and_gradients(RAGGED)
    parameters = [leaf(x) for x in start]
    used = StackedOptimizer(name, parameters, LR)
    used.reset_()  # before the first step there is nothing to reset
    write(parameters, first)
    used.step()
    reached = [x.data.clone() for x in parameters]
    used.reset_()
    write(parameters, second)
    used.step()
    for x, y in zip(parameters, trained(name, reached, [second]), strict=True):
        torch.testing.assert_close(x.data, y, rtol=1e-6, atol=1e-7)


def test_adam_rel_keeps_the_moments_and_forgets_the_time():
    """One step after the reset by hand: bias corrections of step 1, moments of step 2."""
    parameter, gradients = leaf(torch.zeros(1, 1, 1, dtype=torch.float64)), (2.0, 3.0)
    optimizer = StackedOptimizer("adam", [parameter], LR)
    moves = []
    for gradient in gradients:
        before = float(parameter)
        parameter.grad.fill_(gradient)
        optimizer.step()
        moves.append(before - float(parameter))
        optimizer.reset_("time")
    first, second = 0.1 * 2.0, 0.001 * 4.0
    first, second = 0.9 * first + 0.1 * 3.0, 0.999 * second + 0.001 * 9.0
    wanted = LR * (first / 0.1) / ((second / 0.001) ** 0.5 + 1e-8)
    assert moves == pytest.approx([LR, wanted], rel=1e-6)
