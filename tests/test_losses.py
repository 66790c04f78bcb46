"""The losses against the papers' sums (`reference.py`) and against hand-made cases."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mpo import losses
from tests import reference

S, N, B, D = 3, 5, 7, 2
EPSILON, EPSILON_MEAN, EPSILON_STDDEV = 0.1, 0.02, 0.003


class Case(NamedTuple):
    values: Tensor
    temperature: Tensor
    noise: Tensor
    target_mean: Tensor
    target_stddev: Tensor
    mean: Tensor
    stddev: Tensor
    alpha_mean: Tensor
    alpha_stddev: Tensor

    @property
    def actions(self) -> Tensor:
        return self.target_mean[:, None] + self.target_stddev[:, None] * self.noise


def make_case(seed: int = 0) -> Case:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64)

    return Case(
        values=3 * normal(S, N, B),
        temperature=uniform(0.5, 2, S),
        noise=normal(S, N, B, D),
        target_mean=normal(S, B, D),
        target_stddev=uniform(0.3, 1.2, S, B, D),
        mean=normal(S, B, D),
        stddev=uniform(0.3, 1.2, S, B, D),
        alpha_mean=uniform(0.5, 20, S, D),
        alpha_stddev=uniform(0.5, 200, S, D),
    )


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-11, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=rtol, atol=atol)


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


# E-step


def test_e_step_equals_the_reference_for_each_seed():
    case = make_case()
    step = losses.e_step(case.values, case.temperature, EPSILON)
    assert step.weights.shape == (S, N, B) and step.loss.shape == step.kl.shape == (S,)
    for s in range(S):
        args = case.values[s], case.temperature[s]
        table = reference.weights(*args)
        close(step.weights[s], table)
        close(step.loss[s], reference.temperature_dual(*args, EPSILON))
        close(step.kl[s], reference.kl_from_uniform(table))


def test_e_step_needs_no_seed_axis():
    case = make_case()
    stacked = losses.e_step(case.values, case.temperature, EPSILON)
    single = losses.e_step(case.values[1], case.temperature[1], EPSILON)
    for whole, part in zip(stacked, single, strict=True):
        close(part, whole[1])


def test_temperature_gradient_equals_the_reference_and_finite_differences():
    case = make_case(1)
    temperature = leaf(case.temperature)
    losses.e_step(case.values, temperature, EPSILON).loss.sum().backward()
    for s in range(S):
        eta = leaf(case.temperature[s])
        dual = reference.temperature_dual(case.values[s], eta, EPSILON)
        dual.backward()
        close(temperature.grad[s], eta.grad)
        h = 1e-5
        above, below = (
            reference.temperature_dual(case.values[s], case.temperature[s] + d, EPSILON)
            for d in (h, -h)
        )
        close(temperature.grad[s], (above - below) / (2 * h), rtol=1e-6)


def test_temperature_gradient_is_epsilon_minus_kl():
    case = make_case(2)
    temperature = leaf(case.temperature)
    step = losses.e_step(case.values, temperature, EPSILON)
    step.loss.sum().backward()
    close(temperature.grad, EPSILON - step.kl)


def test_e_step_gives_gradient_to_the_temperature_alone():
    case = make_case()
    values, temperature = leaf(case.values), leaf(case.temperature)
    step = losses.e_step(values, temperature, EPSILON)
    assert not step.weights.requires_grad
    assert not step.kl.requires_grad
    grads = torch.autograd.grad(step.loss.sum(), (values, temperature), allow_unused=True)
    assert grads[0] is None
    assert (grads[1] != 0).all()


def test_weights_are_a_distribution_over_the_samples():
    case = make_case()
    weights = losses.e_step(case.values, case.temperature, EPSILON).weights
    close(weights.sum(1), torch.ones(S, B, dtype=torch.float64))
    assert (weights > 0).all()


def test_weights_follow_hand_computed_odds():
    # exp(Q / eta) with eta = 2 is 1, 2 and 5: weights 1/8, 2/8, 5/8.
    values = 2 * torch.tensor([[1.0], [2.0], [5.0]], dtype=torch.float64).log()
    two = torch.tensor(2.0, dtype=torch.float64)
    step = losses.e_step(values, two, 0.1)
    close(step.weights, torch.tensor([[0.125], [0.25], [0.625]], dtype=torch.float64))
    close(step.loss, torch.tensor(2 * (0.1 + math.log(8 / 3)), dtype=torch.float64))
    kl = sum(q * math.log(3 * q) for q in (0.125, 0.25, 0.625))
    close(step.kl, torch.tensor(kl, dtype=torch.float64))


def test_shifting_a_states_values_shifts_the_dual_and_nothing_else():
    case = make_case()
    shift = torch.linspace(-50, 80, B, dtype=torch.float64)
    before = losses.e_step(case.values, case.temperature, EPSILON)
    after = losses.e_step(case.values + shift, case.temperature, EPSILON)
    close(after.weights, before.weights, rtol=1e-10)
    close(after.kl, before.kl, rtol=1e-10)
    close(after.loss - before.loss, shift.mean().expand(S))


def test_equal_values_give_uniform_weights_and_no_kl():
    step = losses.e_step(torch.full((N, B), 7.0), torch.tensor(0.3), EPSILON)
    close(step.weights, torch.full((N, B), 1 / N), rtol=1e-6)
    close(step.kl, torch.tensor(0.0), atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.7])
def test_minimum_of_the_dual_puts_the_kl_at_epsilon(epsilon):
    case = make_case(3)
    # Golden-section search on the dual, convex in the temperature, for each seed at once.
    golden = (math.sqrt(5) - 1) / 2
    low = torch.full((S,), 1e-2, dtype=torch.float64)
    high = torch.full((S,), 1e3, dtype=torch.float64)

    def dual(temperature: Tensor) -> Tensor:
        return losses.e_step(case.values, temperature, epsilon).loss

    for _ in range(80):
        left, right = high - golden * (high - low), low + golden * (high - low)
        go_left = dual(left) < dual(right)
        low, high = torch.where(go_left, low, left), torch.where(go_left, right, high)
    kl = losses.e_step(case.values, (low + high) / 2, epsilon).kl
    close(kl, torch.full((S,), epsilon, dtype=torch.float64), rtol=1e-4)


def test_lower_temperature_moves_the_weights_further():
    case = make_case()
    kls = [
        losses.e_step(case.values, torch.full((S,), eta).double(), EPSILON).kl
        for eta in (10.0, 3.0, 1.0, 0.3, 0.1)
    ]
    assert all((colder > hotter).all() for hotter, colder in zip(kls, kls[1:], strict=False))
    assert (kls[-1] <= math.log(N)).all()


def large_values(seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return 500 + 0.05 * torch.randn(S, N, B, generator=g)


def float32_gradient(values: Tensor, temperature: float, centred: bool) -> Tensor:
    eta = torch.full((S,), temperature, requires_grad=True)
    if centred:
        loss = losses.e_step(values, eta, EPSILON).loss
    else:
        log_mean = torch.logsumexp(values / eta[:, None, None], 1) - math.log(N)
        loss = eta * (EPSILON + log_mean.mean(-1))
    loss.sum().backward()
    return eta.grad


@pytest.mark.parametrize("sign", [1, -1])
def test_float32_temperature_gradient_is_exact_at_large_values(sign):
    values, temperature = sign * large_values(0), 0.1
    exact = torch.full((S,), temperature, dtype=torch.float64, requires_grad=True)
    double = losses.e_step(values.double(), exact, EPSILON)
    double.loss.sum().backward()
    for s in range(S):
        eta = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
        reference.temperature_dual(values[s].double(), eta, EPSILON).backward()
        close(exact.grad[s], eta.grad, rtol=1e-6, atol=1e-9)
    gradient = float32_gradient(values, temperature, centred=True).double()
    close(gradient, exact.grad, rtol=1e-5, atol=1e-6)
    # The case is a hard one: float32 without the centring misses by more than 5 % here.
    uncentred = float32_gradient(values, temperature, centred=False).double()
    assert ((uncentred - exact.grad).abs() > 0.05 * exact.grad.abs()).all()


def test_float32_weights_and_dual_are_exact_at_large_values():
    values = large_values(1)
    eta = torch.full((S,), 0.1)
    single = losses.e_step(values, eta, EPSILON)
    double = losses.e_step(values.double(), eta.double(), EPSILON)
    close(single.weights.double(), double.weights, rtol=2e-6)
    close(single.loss.double(), double.loss, rtol=3e-7)
    close(single.kl.double(), double.kl, rtol=1e-5, atol=1e-6)
    log_weights = values / 0.1 - torch.logsumexp(values / 0.1, 1, keepdim=True)
    error = (log_weights.exp().double() / double.weights - 1).abs().max()
    assert error > 1e-4  # without the centring


def test_an_overwhelming_value_gives_a_finite_one_hot():
    values = torch.zeros(N, B)
    values[2] = 1e6
    eta = torch.tensor(1e-8, requires_grad=True)
    step = losses.e_step(values, eta, EPSILON)
    step.loss.backward()
    assert step.weights[2].eq(1).all() and step.weights.sum() == B
    close(step.kl, torch.tensor(math.log(N)), rtol=1e-6)
    assert step.loss.isfinite() and eta.grad.isfinite()


# Action penalty


def test_out_of_bounds_cost_is_minus_the_distance_from_the_box():
    actions = torch.tensor([[0.5, -0.9], [1, -1], [2, 0], [0.3, -1.5], [4, 5], [-4, 5], [-2, 2]])
    expected = torch.tensor([0.0, 0, -1, -0.5, -5, -5, -math.sqrt(2)])
    close(losses.out_of_bounds_cost(actions), expected, rtol=1e-6)


def test_penalty_weights_and_dual_equal_the_reference():
    case = make_case(4)
    eta = leaf(0.1 * case.temperature)
    cost = losses.out_of_bounds_cost(2 * case.actions)
    penalty = losses.e_step(cost, eta, 1e-3)
    penalty.loss.sum().backward()
    assert (cost < 0).any() and (cost == 0).any()
    for s in range(S):
        values = reference.penalty_values(2 * case.actions[s])
        single = leaf(0.1 * case.temperature[s])
        close(cost[s], values)
        close(penalty.weights[s], reference.weights(values, single))
        dual = reference.temperature_dual(values, single, 1e-3)
        dual.backward()
        close(penalty.loss[s], dual)
        close(eta.grad[s], single.grad)


def test_the_penalty_prefers_actions_inside_the_box():
    actions = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.5, 0.0], [3.0, 0.0]])[:, None, :]
    cost = losses.out_of_bounds_cost(actions)
    weights = losses.e_step(cost, torch.tensor(1.0), 1e-3).weights[:, 0]
    assert weights[0] == weights[1] > weights[2] > weights[3]


# M-step


def combined_weights(case: Case) -> Tensor:
    """Weights of Q plus weights of the penalty, rows sum to 2, by the reference."""
    return torch.stack(
        [
            reference.weights(case.values[s], case.temperature[s])
            + reference.weights(reference.penalty_values(case.actions[s]), case.temperature[s])
            for s in range(S)
        ]
    )


def fit(case: Case, weights: Tensor, mean: Tensor, stddev: Tensor) -> losses.MStep:
    moments = losses.noise_moments(weights, case.noise)
    target = case.target_mean, case.target_stddev
    return losses.m_step(moments, *target, mean, stddev)


def reference_fit(case: Case, s: int, table: Tensor, mean: Tensor, stddev: Tensor):
    """Cross-entropies and KLs of one seed, in the order of `losses.MStep`."""
    target_mean, target_stddev = case.target_mean[s], case.target_stddev[s]
    target = target_mean, target_stddev
    return (
        reference.cross_entropy(table, case.actions[s], mean, target_stddev),
        reference.cross_entropy(table, case.actions[s], target_mean, stddev),
        reference.kl_per_dimension(*target, mean, target_stddev),
        reference.kl_per_dimension(*target, target_mean, stddev),
    )


def test_noise_moments_are_weighted_sums_over_the_samples():
    case = make_case()
    weights = combined_weights(case)
    moments = losses.noise_moments(weights, case.noise)
    for s in range(S):
        for b in range(B):
            total = sum(float(weights[s, n, b]) for n in range(N))
            assert float(moments.zeroth[s, b, 0]) == pytest.approx(total) == pytest.approx(2)
            for d in range(D):
                pairs = [(float(weights[s, n, b]), float(case.noise[s, n, b, d])) for n in range(N)]
                first, second = (sum(w * e**k for w, e in pairs) for k in (1, 2))
                assert float(moments.first[s, b, d]) == pytest.approx(first, rel=1e-12)
                assert float(moments.second[s, b, d]) == pytest.approx(second, rel=1e-12)


@pytest.mark.parametrize("penalty", [False, True])
def test_m_step_equals_the_sums_over_samples_for_each_seed(penalty):
    case = make_case(5)
    weights = combined_weights(case)
    if not penalty:
        weights = losses.e_step(case.values, case.temperature, EPSILON).weights
    step = fit(case, weights, case.mean, case.stddev)
    assert step.loss_mean.shape == step.loss_stddev.shape == (S,)
    assert step.kl_mean.shape == step.kl_stddev.shape == (S, D)
    for s in range(S):
        nll_mean, nll_stddev, kl_mean, kl_stddev = reference_fit(
            case, s, weights[s], case.mean[s], case.stddev[s]
        )
        close(step.loss_mean[s], nll_mean)
        close(step.loss_stddev[s], nll_stddev)
        close(step.kl_mean[s], torch.stack(kl_mean))
        close(step.kl_stddev[s], torch.stack(kl_stddev))


def test_m_step_needs_no_seed_axis():
    case = make_case()
    weights = combined_weights(case)
    stacked = fit(case, weights, case.mean, case.stddev)
    single = losses.m_step(
        losses.noise_moments(weights[2], case.noise[2]),
        case.target_mean[2],
        case.target_stddev[2],
        case.mean[2],
        case.stddev[2],
    )
    for whole, part in zip(stacked, single, strict=True):
        close(part, whole[2])


def test_gradients_of_the_whole_policy_loss_equal_the_reference():
    case = make_case(6)
    weights = combined_weights(case)
    mean, stddev = leaf(case.mean), leaf(case.stddev)
    alpha_mean, alpha_stddev = leaf(case.alpha_mean), leaf(case.alpha_stddev)
    step = fit(case, weights, mean, stddev)
    hold_mean = losses.kl_penalty(step.kl_mean, alpha_mean, EPSILON_MEAN)
    hold_stddev = losses.kl_penalty(step.kl_stddev, alpha_stddev, EPSILON_STDDEV)
    total = step.loss_mean + step.loss_stddev + hold_mean.policy + hold_stddev.policy
    (total + hold_mean.dual + hold_stddev.dual).sum().backward()
    for s in range(S):
        leaves = [leaf(x[s]) for x in (case.mean, case.stddev, case.alpha_mean, case.alpha_stddev)]
        nll_mean, nll_stddev, kl_mean, kl_stddev = reference_fit(
            case, s, weights[s], leaves[0], leaves[1]
        )
        policy_mean, dual_mean = reference.lagrangian(kl_mean, leaves[2], EPSILON_MEAN)
        policy_stddev, dual_stddev = reference.lagrangian(kl_stddev, leaves[3], EPSILON_STDDEV)
        policy = nll_mean + nll_stddev + policy_mean + policy_stddev
        close(total[s], policy)
        close(hold_mean.dual[s], dual_mean)
        close(hold_stddev.dual[s], dual_stddev)
        (policy + dual_mean + dual_stddev).backward()
        for actual, expected in zip((mean, stddev, alpha_mean, alpha_stddev), leaves, strict=True):
            close(actual.grad[s], expected.grad)


def test_mean_and_stddev_are_fitted_apart():
    case = make_case()
    mean, stddev = leaf(case.mean), leaf(case.stddev)
    step = fit(case, combined_weights(case), mean, stddev)
    reached = {
        name: [
            g is not None
            for g in torch.autograd.grad(
                getattr(step, name).sum(), (mean, stddev), allow_unused=True, retain_graph=True
            )
        ]
        for name in step._fields
    }
    assert reached == {
        "loss_mean": [True, False],
        "loss_stddev": [False, True],
        "kl_mean": [True, False],
        "kl_stddev": [False, True],
    }


def test_no_gradient_reaches_values_or_temperature_through_the_weights():
    case = make_case()
    values, temperature, mean = leaf(case.values), leaf(case.temperature), leaf(case.mean)
    weights = losses.e_step(values, temperature, EPSILON).weights
    step = fit(case, weights, mean, case.stddev)
    grads = torch.autograd.grad(
        step.loss_mean.sum(), (values, temperature, mean), allow_unused=True
    )
    assert grads[0] is None and grads[1] is None and (grads[2] != 0).any()


def test_at_the_target_the_kls_vanish_and_only_the_samples_pull():
    """With online equal to target, d/dm of -sum w log N(m' + s' e; m, s') is -sum(w e) / s', and
    d/ds of -sum w log N(m' + s' e; m', s) is (sum(w) - sum(w e^2)) / s', over the B states.
    """
    case = make_case(7)
    weights = combined_weights(case)
    mean, stddev = leaf(case.target_mean), leaf(case.target_stddev)
    step = fit(case, weights, mean, stddev)
    assert step.kl_mean.abs().max() == 0 and step.kl_stddev.abs().max() == 0
    kls = (step.kl_mean.sum() + step.kl_stddev.sum(), (mean, stddev))
    assert all(g.abs().max() < 1e-14 for g in torch.autograd.grad(*kls, retain_graph=True))
    (step.loss_mean + step.loss_stddev).sum().backward()
    for s in range(S):
        for b in range(B):
            for d in range(D):
                pairs = [(float(weights[s, n, b]), float(case.noise[s, n, b, d])) for n in range(N)]
                scale = B * float(case.target_stddev[s, b, d])
                pull = -sum(w * e for w, e in pairs) / scale
                spread = sum(w * (1 - e * e) for w, e in pairs) / scale
                assert float(mean.grad[s, b, d]) == pytest.approx(pull, rel=1e-9, abs=1e-12)
                assert float(stddev.grad[s, b, d]) == pytest.approx(spread, rel=1e-9, abs=1e-12)


def test_without_bounds_the_fit_is_the_weighted_mean_and_spread_of_the_actions():
    case = make_case(8)
    weights = combined_weights(case)
    w = weights[..., None] / weights.sum(1)[:, None, :, None]
    mean = (w * case.actions).sum(1)
    stddev = (w * (case.actions - case.target_mean[:, None]) ** 2).sum(1).sqrt()
    mean, stddev = leaf(mean), leaf(stddev)
    step = fit(case, weights, mean, stddev)
    (step.loss_mean + step.loss_stddev).sum().backward()
    assert mean.grad.abs().max() < 1e-12 and stddev.grad.abs().max() < 1e-12
    best = (step.loss_mean + step.loss_stddev).detach()
    worse = fit(case, weights, mean.detach() + 0.01, stddev.detach() * 1.01)
    assert (worse.loss_mean + worse.loss_stddev > best).all()


def test_kls_of_hand_computed_gaussians():
    def row(*x: float) -> Tensor:
        return torch.tensor([x], dtype=torch.float64)

    moments = losses.Moments(row(0.0), row(0.0, 0.0), row(0.0, 0.0))
    online = row(3.0, 0.0), row(4.0, 0.5)
    step = losses.m_step(moments, row(1.0, 0.5), row(2.0, 1.0), *online)
    # KL(target || online): the target's variance scales the shift and stands over the online one.
    close(step.kl_mean, row(2**2 / (2 * 2**2), 0.5**2 / 2)[0])
    close(step.kl_stddev, row(math.log(2) + 1 / 8 - 0.5, -math.log(2) + 2 - 0.5)[0])


def test_float32_m_step_equals_float64_to_rounding():
    case = make_case(9)
    weights = combined_weights(case)
    double = fit(case, weights, case.mean, case.stddev)
    lower = Case(*(x.float() for x in case))
    single = fit(lower, weights.float(), lower.mean, lower.stddev)
    for part, whole in zip(single, double, strict=True):
        assert part.dtype == torch.float32
        close(part.double(), whole, rtol=1e-5, atol=1e-6)


# Lagrangian


def test_kl_penalty_by_hand():
    kl = torch.tensor([[0.5, 2.0], [1.0, 0.0]])
    alpha = torch.tensor([[10.0, 1.0], [3.0, 7.0]])
    penalty = losses.kl_penalty(kl, alpha, 1.5)
    assert penalty.policy.tolist() == [7.0, 3.0]
    assert penalty.dual.tolist() == [10 * 1.0 - 0.5, 3 * 0.5 + 7 * 1.5]


def test_kl_penalty_halves_move_the_policy_and_the_multipliers_apart():
    kl = torch.tensor([0.5, 2.0, 1.5], requires_grad=True)
    alpha = torch.tensor([10.0, 1.0, 4.0], requires_grad=True)
    penalty = losses.kl_penalty(kl, alpha, 1.5)
    to_kl, to_alpha = torch.autograd.grad(penalty.policy, (kl, alpha), allow_unused=True)
    assert to_alpha is None and torch.equal(to_kl, alpha.detach())
    to_kl, to_alpha = torch.autograd.grad(penalty.dual, (kl, alpha), allow_unused=True)
    # Descent raises the multiplier of the dimension over its bound, lowers the one below it.
    assert to_kl is None and to_alpha.tolist() == [1.0, -0.5, 0.0]


# Density


def test_gaussian_log_prob_equals_torch_distributions():
    case = make_case(10)
    normal = torch.distributions.Independent(torch.distributions.Normal(case.mean, case.stddev), 1)
    x = case.target_mean
    log_prob = losses.gaussian_log_prob(x, case.mean, case.stddev)
    assert log_prob.shape == (S, B)
    close(log_prob, normal.log_prob(x))
    total = sum(
        reference.log_density(x[1, 4, d], case.mean[1, 4, d], case.stddev[1, 4, d])
        for d in range(D)
    )
    close(log_prob[1, 4], total)
