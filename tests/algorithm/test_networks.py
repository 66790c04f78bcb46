"""Stacks of S networks against S plain torch networks."""

import pytest
import torch
from torch import Tensor, nn

from mpo.algorithm.critics import CategoricalQNetwork, CriticPair, QNetwork, effective_rank
from mpo.algorithm.layers import StackedLayerNorm, StackedLinear, elu_backward, tanh_, tanh_backward
from mpo.algorithm.policies import GaussianPolicy
from tests.reference import PlainCritic, PlainPolicy, in_stack_order, plain_linear

S, N, B, OBS, D = 3, 5, 7, 4, 2
SEEDS = (11, 3, 8)
# Multiples of 32: with other widths, rounding in the CPU's ELU depends on the place in the stack.
WHOLE = (32, 32)


def generators(seeds: tuple[int, ...] = SEEDS) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def policy(widths=(9, 6, 8), seeds=SEEDS, init_scale=0.5, every=False) -> GaussianPolicy:
    return GaussianPolicy(OBS, D, widths, init_scale, generators(seeds), norm_in_every_layer=every)


def critic(widths=(9, 6, 8), seeds=SEEDS, every=False) -> QNetwork:
    return QNetwork(OBS, D, widths, generators(seeds), norm_in_every_layer=every)


def scramble(network: nn.Module, seed: int = 0) -> nn.Module:
    """Perturbs every parameter, so that biases, gains and the small heads have an effect."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=g))
    return network


def inputs(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Returns observations [S, B, O] and actions [S, N, B, D], some of them out of bounds."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(S, B, OBS, generator=g), 1.5 * torch.randn(S, N, B, D, generator=g)


def close(actual: Tensor, expected: Tensor, tol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tol, atol=tol)


def test_stacked_linear_equals_plain_layers():
    stacked = scramble(StackedLinear(OBS, 6, generators())).double()
    x = inputs()[0].double()
    for s in range(S):
        close(stacked(x)[s], plain_linear(stacked, s)(x[s]))


def test_stacked_layer_norm_equals_plain_layers():
    stacked = scramble(StackedLayerNorm(S, OBS)).double()
    x = inputs()[0].double()
    for s in range(S):
        plain = nn.LayerNorm(OBS, dtype=torch.float64)
        with torch.no_grad():
            plain.weight.copy_(stacked.gain[s, 0])
            plain.bias.copy_(stacked.bias[s, 0])
        close(stacked(x)[s], plain(x[s]))


@pytest.mark.parametrize("widths", [(9,), (9, 6), (9, 6, 8)])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("every", [False, True])
def test_stacked_policy_equals_plain_networks(widths, dtype, tol, every):
    stacked = scramble(policy(widths, init_scale=0.7, every=every)).to(dtype)
    obs = inputs()[0].to(dtype)
    mean, stddev = stacked(obs)
    assert mean.shape == stddev.shape == (S, B, D)
    assert mean.dtype == stddev.dtype == dtype
    for s in range(S):
        plain_mean, plain_stddev = PlainPolicy(stacked, s, 0.7)(obs[s])
        close(mean[s], plain_mean, tol)
        close(stddev[s], plain_stddev, tol)


@pytest.mark.parametrize("widths", [(9,), (9, 6), (9, 6, 8)])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("every", [False, True])
def test_stacked_critic_equals_plain_networks_of_the_concatenated_input(widths, dtype, tol, every):
    stacked = scramble(critic(widths, every=every)).to(dtype)
    obs, actions = (x.to(dtype) for x in inputs())
    values = stacked(obs, actions)
    assert values.shape == (S, N, B) and values.dtype == dtype
    for s in range(S):
        plain = PlainCritic(stacked, s)
        for n in range(N):
            for b in range(B):
                close(values[s, n, b], plain(obs[s, b], actions[s, n, b]), tol)


# Hand-written gradients against autograd's of plain networks


def with_gradients(network: nn.Module) -> nn.Module:
    """Fills the gradients with garbage, all of which must be overwritten."""
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    return network


def test_in_place_tanh_is_tanh():
    x = torch.linspace(-12, 12, 10001)
    close(tanh_(x.double()), x.double().tanh())
    close(tanh_(x.clone()).double(), x.double().tanh(), 3e-7)
    assert tanh_(torch.tensor([-100.0, -0.0, 0.0, 100.0])).tolist() == [-1, 0, 0, 1]


@pytest.mark.parametrize(
    ("function", "backward"), [(torch.tanh, tanh_backward), (nn.functional.elu, elu_backward)]
)
def test_gradients_of_the_activations_equal_autograds(function, backward):
    x = 2 * inputs()[1].double()
    grad = inputs(2)[1].double()
    leaf = x.clone().requires_grad_()
    function(leaf).backward(grad)
    close(backward(function(x), grad), leaf.grad)


def test_gradients_of_the_norm_equal_autograds():
    norm = with_gradients(scramble(StackedLayerNorm(S, OBS)).double())
    x, grad = (inputs(seed)[0].double() for seed in (1, 2))
    outputs, backward = norm.vjp(x)
    found = backward(grad)
    for s in range(S):
        leaf = x[s].clone().requires_grad_()
        plain = nn.LayerNorm(OBS, dtype=torch.float64)
        with torch.no_grad():
            plain.weight.copy_(norm.gain[s, 0])
            plain.bias.copy_(norm.bias[s, 0])
        plain(leaf).backward(grad[s])
        close(outputs[s], plain(x[s]).detach())
        close(found[s], leaf.grad)
        close(norm.gain.grad[s, 0], plain.weight.grad)
        close(norm.bias.grad[s, 0], plain.bias.grad)


def plain_gradients(plain: nn.Module) -> list[Tensor]:
    """Returns gradients in the layout of the stack, but for the critic's joint first layer."""
    return [p.grad.T if p.ndim == 2 else p.grad[None] for p in in_stack_order(plain.layers)]


@pytest.mark.parametrize("widths", [(9,), (9, 6), (9, 6, 8)])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("every", [False, True])
def test_gradients_of_the_critic_equal_autograds_of_plain_networks(widths, outputs, every):
    stacked = critic(widths, every=every)
    if outputs > 1:
        atoms = torch.linspace(-1, 1, outputs)
        stacked = CategoricalQNetwork(
            OBS, D, widths, generators(), norm_in_every_layer=every, atoms=atoms
        )
    stacked = with_gradients(scramble(stacked).double())
    obs, actions = (x.double() for x in inputs())
    grad = inputs(2)[0][..., :outputs].double()
    found, features, backward = stacked.vjp(obs, actions[:, 0])
    close(stacked.head(features), found)
    backward(grad)
    for s in range(S):
        plain = PlainCritic(stacked, s)
        wanted = plain(obs[s], actions[s, 0]).view(B, outputs)
        wanted.backward(grad[s])
        close(found[s], wanted.detach())
        joint, bias, *rest = plain_gradients(plain)
        # The first layer adds two biases, so each has the gradient of their sum.
        expected = [joint[:OBS], bias, joint[OBS:], bias, *rest]
        for parameter, wanted in zip(stacked.parameters(), expected, strict=True):
            close(parameter.grad[s], wanted, 1e-10)


@pytest.mark.parametrize("widths", [(9,), (9, 6), (9, 6, 8)])
@pytest.mark.parametrize("every", [False, True])
def test_gradients_of_the_policy_equal_autograds_of_plain_networks(widths, every):
    network = policy(widths, init_scale=0.7, every=every)
    stacked = with_gradients(scramble(network).double())
    obs = inputs()[0].double()
    grads = [actions[:, 0].double() for _, actions in map(inputs, (2, 3))]
    mean, stddev, backward = stacked.vjp(obs)
    backward(*grads)
    for s in range(S):
        plain = PlainPolicy(stacked, s, 0.7)
        heads = plain(obs[s])
        torch.autograd.backward(heads, [grad[s] for grad in grads])
        for found, head in zip((mean[s], stddev[s]), heads, strict=True):
            close(found, head.detach())
        for parameter, wanted in zip(stacked.parameters(), plain_gradients(plain), strict=True):
            close(parameter.grad[s], wanted, 1e-10)


def test_a_categorical_value_is_the_mean_of_its_softmax():
    atoms = torch.linspace(-3, 5, 4)
    network = scramble(CategoricalQNetwork(OBS, D, (9, 6), generators(), atoms=atoms)).double()
    obs, actions = map(Tensor.double, inputs())
    values, mixture = network.evaluate(obs, actions)
    for s in range(S):
        plain = PlainCritic(network, s)
        probabilities = plain(obs[s].expand(N, -1, -1), actions[s]).softmax(-1)
        close(values[s], (probabilities * atoms.double()).sum(-1).detach())
        close(mixture[s], probabilities.mean(0).detach())
    close(network(obs, actions), values)
    outputs, *_ = network.vjp(obs, actions[:, 0])
    close(network.values(outputs), values[:, 0])


@pytest.mark.parametrize("minimum", [False, True])
@pytest.mark.parametrize("atoms", [None, torch.linspace(-3, 5, 4)])
def test_a_pair_of_critics_combines_them_sample_by_sample(minimum, atoms):
    common = (OBS, D, (9, 6), generators())
    one, other = (
        scramble(
            QNetwork(*common) if atoms is None else CategoricalQNetwork(*common, atoms=atoms), i
        )
        for i in range(2)
    )
    pair = CriticPair([one, other], minimum).double()
    obs, actions = map(Tensor.double, inputs())
    values, mixture = pair.evaluate(obs, actions, 2)
    both = torch.stack([one(obs, actions), other(obs, actions)])
    wanted = both.amin(0) if minimum else both.mean(0)
    close(values, wanted)
    close(pair(obs, actions), wanted)
    assert (both[0] < both[1]).any() and (both[0] > both[1]).any()
    if atoms is not None:
        # The distribution belongs to the value: its mean over two samples is theirs.
        close((mixture * atoms.double()).sum(-1), wanted[:, :2].mean(1))
        assert torch.equal(pair.atoms, one.atoms)


def test_inference_in_chunks_equals_the_whole(monkeypatch):
    network, (obs, actions) = scramble(critic()).double(), map(Tensor.double, inputs())
    whole = network(obs, actions)
    for size in (1, 2 * B * 9, 10**9):
        monkeypatch.setattr("mpo.algorithm.critics._IN_CACHE", size)
        close(network(obs, actions), whole)


def test_initial_weights_of_a_seed_do_not_depend_on_its_neighbours():
    for build in (policy, critic):
        stack = build().state_dict()
        other = build(seeds=(5, 3, 100)).state_dict()
        for s, seed in enumerate(SEEDS):
            alone = build(seeds=(seed,)).state_dict()
            assert stack.keys() == alone.keys()
            for name in stack:
                assert torch.equal(stack[name][s], alone[name][0]), name
        assert all(torch.equal(stack[name][1], other[name][1]) for name in stack)
        assert not torch.equal(stack["head.weight"][0], other["head.weight"][0])


def test_outputs_of_a_seed_do_not_depend_on_its_neighbours():
    obs, actions = inputs()
    with torch.no_grad():
        means, stddevs = policy(WHOLE)(obs)
        values = critic(WHOLE)(obs, actions)
        for s, seed in enumerate(SEEDS):
            one = slice(s, s + 1)
            mean, stddev = policy(WHOLE, (seed,))(obs[one])
            assert torch.equal(mean[0], means[s])
            assert torch.equal(stddev[0], stddevs[s])
            assert torch.equal(critic(WHOLE, (seed,))(obs[one], actions[one])[0], values[s])


def test_a_neighbours_input_and_weights_change_nothing():
    obs, actions = inputs()
    network = critic(WHOLE)
    with torch.no_grad():
        before = network(obs, actions)
        for parameter in network.parameters():
            parameter[0] = float("nan")
        obs[2] = float("inf")
        after = network(obs, actions)
    assert torch.equal(after[1], before[1])


def test_seeds_start_apart():
    for network in (policy(), critic()):
        for name, parameter in network.named_parameters():
            if name.endswith("weight"):
                assert not torch.equal(parameter[0], parameter[1])


def test_initial_weights_lie_within_their_bound_and_fill_it():
    layer = StackedLinear(40, 25, generators(), scale=0.3)
    bound = 0.3 / 25**0.5
    for weight in layer.weight:
        assert weight.abs().max() <= bound
        assert weight.max() > 0.95 * bound and weight.min() < -0.95 * bound
        assert abs(weight.mean()) < 0.06 * bound
    assert layer.bias.eq(0).all()


def test_the_critic_sees_clipped_actions():
    network = scramble(critic())
    obs, actions = inputs()
    assert (actions.abs() > 1).any() and (actions.abs() < 1).any()
    assert torch.equal(network(obs, actions), network(obs, actions.clamp(-1, 1)))
    assert not torch.equal(network(obs, actions), network(obs, actions.clamp(-0.9, 0.9)))


def test_policy_starts_at_mean_zero_and_the_initial_scale():
    for scale in (0.1, 0.5, 2.0):
        mean, stddev = policy((256, 256), init_scale=scale)(3 * inputs()[0])
        assert mean.abs().max() < 0.2
        assert ((stddev / scale - 1).abs() < 0.15).all()


def test_critic_starts_near_zero():
    assert critic((256, 256))(*inputs()).abs().max() < 0.5


def test_stddev_is_positive_whatever_the_head_says():
    network = policy()
    with torch.no_grad():
        for raw in (-1e4, -100.0, -10.0, 0.0, 100.0):
            network.head.bias.fill_(raw)
            stddev = network(inputs()[0])[1]
            assert (stddev > 0).all() and stddev.isfinite().all()
            assert stddev.log().isfinite().all()


@pytest.mark.parametrize("directions", [1, 2, 5])
def test_the_effective_rank_of_equally_strong_directions_is_their_number(directions):
    basis = torch.linalg.qr(torch.randn(S, 8, 8, dtype=torch.float64)).Q[:, :directions]
    # Each direction is taken forth and back by two rows, so that the mean is 0.
    features = 3.0 + torch.cat([basis, -basis], dim=1)
    close(effective_rank(features), torch.full((S,), float(directions), dtype=torch.float64))


def test_the_effective_rank_is_that_of_the_covariances_eigenvalues():
    features = torch.randn(S, 70, 9, dtype=torch.float64) * torch.linspace(0.1, 3, 9)
    for s in range(S):
        eigenvalues = torch.linalg.eigvalsh(features[s, :64].T.cov())
        wanted = eigenvalues.sum() ** 2 / eigenvalues.square().sum()
        close(effective_rank(features)[s], wanted)
