"""The target networks in reduced precision: errors bounded by rounding, online ones untouched."""

import copy

import pytest
import torch
from torch import Tensor

from mpo.algorithm import losses
from mpo.algorithm.agent import MPOAgent
from mpo.algorithm.layers import Torso, tanh_
from mpo.algorithm.targets import TargetPass
from mpo.study.config import ConfigError
from mpo.study.hyperparameters import Hyperparameters
from mpo.trainer import MPOTrainer
from tests.algorithm.test_agent import OBS, SEEDS, B, D, N, make_agent, make_windows

WIDTHS = {"policy_layer_sizes": (32, 64, 32), "critic_layer_sizes": (32, 64, 32)}
U = 2.0**-8
"""Largest relative error of rounding to 8 significant bits."""
MUCH_BETTER = 1e-4
"""Float32 has 16 more bits; its sums round as well."""


def agent_of(precision: str, **settings) -> MPOAgent:
    return make_agent(**WIDTHS, target_precision=precision, **settings)


def in_double(network):
    found = copy.deepcopy(network).double()
    found.torso.precision = "float32"
    return found


def bound(torso: Torso, x: Tensor) -> Tensor:
    """Bounds the error of the features that rounding to 8 bits causes, [S, B, H].

    With x off by e, the rounded x is off by d = e + U (|x| + e), and its product with the rounded
    weights W by (1 + U) d |W| + U |x| |W|; then the product is rounded. LayerNorm and tanh come
    before all roundings, and an ELU's slope is 1 at most.

    Args:
        torso: in float64.
        x: the outputs of the first layer, [S, B, H].
    """
    x = tanh_(torso.norm(x))
    error = torch.zeros_like(x)
    for layer in torso.layers:
        rounded = error + U * (x.abs() + error)
        weight, size = layer.weight.abs(), x.abs()
        error = (1 + U) * rounded @ weight + U * size @ weight
        error += U * ((x @ layer.weight).abs() + error)
        x = layer.elu(x)
    return error


def within(found: Tensor, expected: Tensor, most: Tensor, precision: str) -> None:
    errors = (found - expected).abs()
    if precision == "float32":
        assert (errors <= MUCH_BETTER * most).all()
    else:
        assert (errors <= most).all()
        assert errors.max() > MUCH_BETTER * most.max()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_errors_of_targets_and_weights_are_those_of_rounding(precision):
    agent = agent_of(precision)
    learners, config = agent.learners, agent.config
    # Then both passes evaluate the same actions.
    learners.target_policy.torso.precision = "float32"
    policy, critic = in_double(learners.target_policy), in_double(learners.target_critic)
    windows = dict(make_windows(1).items())
    exact = {name: x.double() for name, x in windows.items()}
    (shape,) = agent._update.targets.noise_shapes(windows)
    noise = torch.randn(len(SEEDS), *shape, D, generator=torch.Generator().manual_seed(0))
    found = agent._update.targets.compute(windows, [noise])
    expected = TargetPass(config, policy, critic).compute(exact, [noise.double()])

    state, mean, stddev = expected.samples[:3]
    actions = mean.unsqueeze(1) + stddev.unsqueeze(1) * noise
    by_action = actions.clamp(-1, 1) @ critic.first_action.weight.unsqueeze(1)
    first = (critic._first_obs(state).unsqueeze(1) + by_action).flatten(1, 2)
    of_values = bound(critic.torso, first) @ critic.head.weight.abs()
    of_values = of_values.view(len(SEEDS), shape[0], B)

    discount = config.gamma * (1 - exact["terminated"][:, 0])
    of_targets = discount * of_values[:, : config.retrace_mc_actions].mean(1) + 1e-15
    within(found.regression.target, expected.regression.target, of_targets, precision)

    temperature = learners.temperatures.value[:, :1]
    ours, exactly = (
        losses.e_step(
            each.samples.values.unsqueeze(1),
            temperature.to(each.samples.values),
            learners.estep_epsilons[:1].to(each.samples.values),
        ).weights[:, 0]
        for each in (found, expected)
    )
    # exp((Q - log-sum-exp Q) / eta): both parts are off by the largest error of the state's values.
    largest = of_values[:, :N].amax(1, keepdim=True)
    most = exactly * torch.expm1(2 * largest / temperature.unsqueeze(-1))
    within(ours, exactly, most, precision)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_errors_of_the_target_policy_are_those_of_rounding(precision):
    policy = agent_of(precision).learners.target_policy
    exact = in_double(policy)
    obs = torch.randn(len(SEEDS), 40, OBS, generator=torch.Generator().manual_seed(0))
    most = bound(exact.torso, exact.first(obs.double())) @ exact.head.weight.abs()
    # Softplus has a slope of 1 at most.
    slopes = 1.0, policy._scale
    for found, expected, part, slope in zip(
        policy(obs), exact(obs.double()), most.chunk(2, dim=-1), slopes, strict=True
    ):
        within(found, expected, slope * part, precision)


@pytest.mark.parametrize("layer_norm", ["first", "all"])
def test_what_has_gradients_has_the_bits_of_float32(layer_norm):
    plain, reduced = (agent_of(p, layer_norm=layer_norm) for p in ("float32", "bfloat16"))
    g = torch.Generator().manual_seed(0)
    obs, action = (torch.randn(len(SEEDS), B, size, generator=g) for size in (OBS, D))
    for name in ("policy", "critic"):
        given = (obs, action)[: 1 + (name == "critic")]
        outputs, gradients = [], []
        for agent in (plain, reduced):
            network = getattr(agent, name)
            *found, backward = network.vjp(*given)
            backward(*[torch.ones_like(x) for x in (found if name == "policy" else found[:1])])
            outputs.append([*found, network(obs, action.unsqueeze(1)) if name == "critic" else 0])
            gradients.append([p.grad.clone() for p in network.parameters()])
        for ours, theirs in zip(*outputs, strict=True):
            assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))
        assert all(map(torch.equal, *gradients))
    ours, theirs = (a.learners.target_critic(obs, action.unsqueeze(1)) for a in (plain, reduced))
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("critics", ["one", "mean"])
def test_every_hidden_product_of_the_target_networks_is_reduced_and_no_other(critics, monkeypatch):
    seen = []

    def noted(x, weight, bias, precision="float32"):
        seen.append((tuple(weight.shape[1:]), precision))
        return torch.baddbmm(bias, x, weight)

    agent = agent_of("bfloat16", critics=critics)
    for module in ("compute.matmul", "algorithm.layers", "algorithm.critics"):
        monkeypatch.setattr(f"mpo.{module}.affine", noted)
    obs = torch.zeros(len(SEEDS), B, OBS)
    hidden = [((32, 64), "bfloat16"), ((64, 32), "bfloat16")]
    agent.learners.target_policy(obs)
    assert seen == [((OBS, 32), "float32"), *hidden, ((32, 2 * D), "float32")]
    seen.clear()
    agent.learners.target_critic(obs, torch.zeros(len(SEEDS), 1, B, D))
    each = [((OBS, 32), "float32"), *hidden, ((32, 1), "float32")]
    assert seen == each * (1 + (critics == "mean"))
    seen.clear()
    agent.policy(obs)
    assert {precision for _, precision in seen} == {"float32"}


def test_what_does_not_fit_is_refused_before_anything_is_made():
    make = {"device": torch.device("cpu"), "policy_layer_sizes": (32,), "replay_size": 10}
    for value, message in (
        ("tf32", "target_precision: 'tf32' needs a GPU, .* 'cpu'; choose from float32, bfloat16"),
        ("half", "target_precision: .*'float32', 'bfloat16' or 'tf32', received 'half'"),
    ):
        with pytest.raises(ConfigError, match=message):
            MPOTrainer("NoSuch-v0", 0, critic_layer_sizes=(32,), target_precision=value, **make)
    assert (
        Hyperparameters(
            policy_layer_sizes=(1,), critic_layer_sizes=(1,), replay_size=1, target_precision="tf32"
        ).check_device("auto")
        is None
    )
