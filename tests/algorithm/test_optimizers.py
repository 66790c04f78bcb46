from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from mpo.algorithm.optimizers import OPTIMIZERS, StackedOptimizer, flatten_
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
        StackedOptimizer("adm", [nn.Parameter(torch.zeros(1, 1))], LR, 0.0)
    for name in get_args(OptimizerName):
        assert name in str(error.value)


def leaf(x: Tensor) -> nn.Parameter:
    return nn.Parameter(x.clone(), requires_grad=False)


def write(parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad.copy_(gradient)


def trained(
    name: str, start: list[Tensor], gradients: list[list[Tensor]], max_norm: float = float("inf")
) -> list[Tensor]:
    """Returns the parameters after one step per gradient."""
    parameters = [leaf(x) for x in start]
    optimizer = StackedOptimizer(name, parameters, LR, 0.8)
    for step in gradients:
        write(parameters, step)
        optimizer.clip_(max_norm)
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
    optimizer = StackedOptimizer("sgd", parameters, 1.0, 0.0)
    write(parameters, drawn)
    torch.testing.assert_close(optimizer.clip_(2.0), wanted)
    optimizer.step()
    for parameter, initial, gradient in zip(parameters, start, drawn, strict=True):
        step = initial - parameter
        torch.testing.assert_close(step[0], gradient[0], rtol=1e-4, atol=1e-6)  # not clipped
        torch.testing.assert_close(step[1], gradient[1] * (2 / 250), rtol=1e-4, atol=1e-6)
        assert step[2].eq(0).all()


def test_only_adamw_decays_the_weights():
    start, gradients = [torch.ones(1, 1, 1)], [[torch.zeros(1, 1, 1)]] * 3
    kept = {name: float(trained(name, start, gradients)[0]) for name in OPTIMIZERS}
    assert {name for name, value in kept.items() if value != 1} == {"adamw"}
    assert kept["adamw"] < 1
