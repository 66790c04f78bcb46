"""The losses against the papers' formulas (`reference.py`) and against cases worked by hand."""

import math
from typing import NamedTuple

import mpmath
import pytest
import torch
from torch import Tensor

from mpo.algorithm import losses
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


# Critic


def test_regression_equals_the_reference_and_its_gradient_autograds():
    case = make_case()
    values, targets = case.values[:, 0], case.values[:, 1]
    found = losses.regression(values, targets)
    assert found.loss.shape == (S,)
    for s in range(S):
        online = leaf(values[s])
        loss = reference.critic_loss(online, targets[s])
        loss.backward()
        close(found.loss[s], loss)
        close(found.gradient[s], online.grad)


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
    gradient = losses.e_step(case.values, case.temperature, EPSILON).gradient
    for s in range(S):
        eta = leaf(case.temperature[s])
        dual = reference.temperature_dual(case.values[s], eta, EPSILON)
        dual.backward()
        close(gradient[s], eta.grad)
        h = 1e-5
        above, below = (
            reference.temperature_dual(case.values[s], case.temperature[s] + d, EPSILON)
            for d in (h, -h)
        )
        close(gradient[s], (above - below) / (2 * h), rtol=1e-6)


def test_temperature_gradient_is_epsilon_minus_kl():
    case = make_case(2)
    step = losses.e_step(case.values, case.temperature, EPSILON)
    close(step.gradient, EPSILON - step.kl)


def test_weights_are_a_distribution_over_the_samples():
    case = make_case()
    weights = losses.e_step(case.values, case.temperature, EPSILON).weights
    close(weights.sum(1), torch.ones(S, B, dtype=torch.float64))
    assert (weights > 0).all()


def test_weights_follow_hand_computed_odds():
    # exp(Q / eta) with eta = 2 is 1, 2 and 5, so the weights are 1/8, 2/8, 5/8.
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
    # Golden-section search on the dual, which is convex in the temperature, for all seeds at once.
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
        return losses.e_step(values, eta.detach(), EPSILON).gradient
    log_mean = torch.logsumexp(values / eta[:, None, None], 1) - math.log(N)
    (eta * (EPSILON + log_mean.mean(-1))).sum().backward()
    return eta.grad


@pytest.mark.parametrize("sign", [1, -1])
def test_float32_temperature_gradient_is_exact_at_large_values(sign):
    values, temperature = sign * large_values(0), 0.1
    exact = torch.full((S,), temperature, dtype=torch.float64)
    double = losses.e_step(values.double(), exact, EPSILON).gradient
    for s in range(S):
        eta = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
        reference.temperature_dual(values[s].double(), eta, EPSILON).backward()
        close(double[s], eta.grad, rtol=1e-6, atol=1e-9)
    gradient = float32_gradient(values, temperature, centred=True).double()
    close(gradient, double, rtol=1e-5, atol=1e-6)
    # In this hard case, float32 without subtracting the maximum is off by more than 5 %.
    uncentred = float32_gradient(values, temperature, centred=False).double()
    assert ((uncentred - double).abs() > 0.05 * double.abs()).all()


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
    assert error > 1e-4  # without subtracting the maximum


def test_an_overwhelming_value_gives_a_finite_one_hot():
    values = torch.zeros(N, B)
    values[2] = 1e6
    step = losses.e_step(values, torch.tensor(1e-8), EPSILON)
    assert step.weights[2].eq(1).all() and step.weights.sum() == B
    close(step.kl, torch.tensor(math.log(N)), rtol=1e-6)
    assert step.loss.isfinite() and step.gradient.isfinite()


# Action penalty


def test_out_of_bounds_cost_is_minus_the_distance_from_the_box():
    actions = torch.tensor([[0.5, -0.9], [1, -1], [2, 0], [0.3, -1.5], [4, 5], [-4, 5], [-2, 2]])
    expected = torch.tensor([0.0, 0, -1, -0.5, -5, -5, -math.sqrt(2)])
    close(losses.out_of_bounds_cost(actions), expected, rtol=1e-6)


def test_penalty_weights_and_dual_equal_the_reference():
    case = make_case(4)
    eta = 0.1 * case.temperature
    cost = losses.out_of_bounds_cost(2 * case.actions)
    penalty = losses.e_step(cost, eta, 1e-3)
    assert (cost < 0).any() and (cost == 0).any()
    for s in range(S):
        values = reference.penalty_values(2 * case.actions[s])
        single = leaf(eta[s])
        close(cost[s], values)
        close(penalty.weights[s], reference.weights(values, single))
        dual = reference.temperature_dual(values, single, 1e-3)
        dual.backward()
        close(penalty.loss[s], dual)
        close(penalty.gradient[s], single.grad)


def test_the_penalty_prefers_actions_inside_the_box():
    actions = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.5, 0.0], [3.0, 0.0]])[:, None, :]
    cost = losses.out_of_bounds_cost(actions)
    weights = losses.e_step(cost, torch.tensor(1.0), 1e-3).weights[:, 0]
    assert weights[0] == weights[1] > weights[2] > weights[3]


# M-step


def combined_weights(case: Case) -> Tensor:
    """Returns the reference weights of Q plus those of the penalty, which sum to 2 over N."""
    return torch.stack(
        [
            reference.weights(case.values[s], case.temperature[s])
            + reference.weights(reference.penalty_values(case.actions[s]), case.temperature[s])
            for s in range(S)
        ]
    )


def fit(case: Case, weights: Tensor, **other: Tensor) -> losses.MStep:
    """Computes the M-step of the case, with some of its tensors replaced."""
    moments = losses.noise_moments(weights, case.noise)
    *gaussians, alpha_mean, alpha_stddev = case._replace(**other)[3:]
    return losses.m_step(moments, *gaussians, torch.stack([alpha_mean, alpha_stddev], dim=-2))


def unbound(case: Case) -> dict[str, Tensor]:
    """Returns multipliers of 0, with which the KLs cost nothing."""
    zero = torch.zeros_like(case.alpha_mean)
    return {"alpha_mean": zero, "alpha_stddev": zero}


def reference_fit(case: Case, s: int, table: Tensor, mean: Tensor, stddev: Tensor):
    """Computes the cross-entropies and KLs of one seed by the reference."""
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
    step, free = fit(case, weights), fit(case, weights, **unbound(case))
    assert step.loss.shape == (S,)
    assert step.kl.shape == (S, 2, D)
    assert step.grad_mean.shape == step.grad_stddev.shape == (S, B, D)
    for s in range(S):
        mean, stddev = leaf(case.mean[s]), leaf(case.stddev[s])
        nll_mean, nll_stddev, kl_mean, kl_stddev = reference_fit(case, s, weights[s], mean, stddev)
        close(step.kl[s], torch.stack([torch.stack(kl_mean), torch.stack(kl_stddev)]))
        loss = nll_mean + nll_stddev
        close(free.loss[s], loss)
        for kl, alpha in ((kl_mean, case.alpha_mean), (kl_stddev, case.alpha_stddev)):
            loss = loss + reference.lagrangian(kl, alpha[s], EPSILON)[0]
        close(step.loss[s], loss)
        loss.backward()
        close(step.grad_mean[s], mean.grad)
        close(step.grad_stddev[s], stddev.grad)


def test_m_step_needs_no_seed_axis():
    case = make_case()
    weights = combined_weights(case)
    stacked = fit(case, weights)
    single = fit(Case(*(x[2] for x in case)), weights[2])
    for whole, part in zip(stacked, single, strict=True):
        close(part, whole[2])


def test_the_multipliers_dual_has_the_gradient_epsilon_minus_kl():
    case = make_case(6)
    step = fit(case, combined_weights(case))
    for kl, alpha in zip(step.kl.unbind(1), (case.alpha_mean, case.alpha_stddev), strict=True):
        for s in range(S):
            variable = leaf(alpha[s])
            reference.lagrangian(list(kl[s]), variable, EPSILON)[1].backward()
            close(EPSILON - kl[s], variable.grad)


def test_mean_and_stddev_are_fitted_apart():
    case = make_case()
    weights = combined_weights(case)
    step = fit(case, weights)
    other_mean = fit(case, weights, mean=case.mean + 1, alpha_mean=case.alpha_mean + 1)
    other_stddev = fit(case, weights, stddev=case.stddev * 2, alpha_stddev=case.alpha_stddev + 1)
    unchanged, with_other_mean, with_other_stddev = (
        [(each.kl[:, 0], each.grad_mean), (each.kl[:, 1], each.grad_stddev)]
        for each in (step, other_mean, other_stddev)
    )
    for own, touched, apart in (
        (unchanged[0], with_other_mean[0], with_other_stddev[0]),
        (unchanged[1], with_other_stddev[1], with_other_mean[1]),
    ):
        for before, moved, same in zip(own, touched, apart, strict=True):
            assert torch.equal(before, same) and (before != moved).all()


def test_at_the_target_the_kls_vanish_and_only_the_samples_pull():
    """If online equals target, d/dm of -sum w log N(m' + s' e; m, s') is -sum(w e) / s', and
    d/ds of -sum w log N(m' + s' e; m', s) is (sum(w) - sum(w e^2)) / s', both divided by B.
    """
    case = make_case(7)
    weights = combined_weights(case)
    step = fit(case, weights, mean=case.target_mean, stddev=case.target_stddev)
    assert step.kl.abs().max() == 0
    for s in range(S):
        for b in range(B):
            for d in range(D):
                pairs = [(float(weights[s, n, b]), float(case.noise[s, n, b, d])) for n in range(N)]
                scale = B * float(case.target_stddev[s, b, d])
                pull = -sum(w * e for w, e in pairs) / scale
                spread = sum(w * (1 - e * e) for w, e in pairs) / scale
                assert float(step.grad_mean[s, b, d]) == pytest.approx(pull, rel=1e-9, abs=1e-12)
                found = float(step.grad_stddev[s, b, d])
                assert found == pytest.approx(spread, rel=1e-9, abs=1e-12)


def test_without_bounds_the_fit_is_the_weighted_mean_and_spread_of_the_actions():
    case = make_case(8)
    weights = combined_weights(case)
    w = weights[..., None] / weights.sum(1)[:, None, :, None]
    mean = (w * case.actions).sum(1)
    stddev = (w * (case.actions - case.target_mean[:, None]) ** 2).sum(1).sqrt()
    best = fit(case, weights, mean=mean, stddev=stddev, **unbound(case))
    assert best.grad_mean.abs().max() < 1e-12 and best.grad_stddev.abs().max() < 1e-12
    worse = fit(case, weights, mean=mean + 0.01, stddev=stddev * 1.01, **unbound(case))
    assert (worse.loss > best.loss).all()


def test_kls_of_hand_computed_gaussians():
    def row(*x: float) -> Tensor:
        return torch.tensor([x], dtype=torch.float64)

    moments = losses.Moments(row(0.0), row(0.0, 0.0), row(0.0, 0.0))
    online = row(3.0, 0.0), row(4.0, 0.5)
    alphas = torch.cat([row(10.0, 1.0), row(3.0, 7.0)])
    step = losses.m_step(moments, row(1.0, 0.5), row(2.0, 1.0), *online, alphas)
    # KL(target || online): the squared shift is over twice the target's variance, and the ratio of
    # variances is target over online.
    close(step.kl[0], row(2**2 / (2 * 2**2), 0.5**2 / 2)[0])
    kl_stddev = math.log(2) + 1 / 8 - 0.5, -math.log(2) + 2 - 0.5
    close(step.kl[1], row(*kl_stddev)[0])
    penalties = 10 * 0.5 + 1 * 0.125 + 3 * kl_stddev[0] + 7 * kl_stddev[1]
    close(step.loss, torch.tensor(penalties, dtype=torch.float64))


def test_float32_m_step_equals_float64_to_rounding():
    case = make_case(9)
    weights = combined_weights(case)
    double = fit(case, weights)
    single = fit(Case(*(x.float() for x in case)), weights.float())
    for part, whole in zip(single, double, strict=True):
        assert part.dtype == torch.float32
        close(part.double(), whole, rtol=1e-5, atol=1e-5)


def test_large_multipliers_cost_float32_no_digits_near_the_target():
    case = make_case(11)
    alphas = {name: torch.full((S, D), 1000.0).double() for name in ("alpha_mean", "alpha_stddev")}
    online = {"mean": case.target_mean + 1e-5, "stddev": case.target_stddev * (1 + 1e-5)}
    case = Case(*(x.float() for x in case._replace(**alphas, **online)))
    weights = combined_weights(case).float()
    double = fit(Case(*(x.double() for x in case)), weights.double())
    single = fit(case, weights)
    close(single.grad_mean.double(), double.grad_mean, rtol=2e-4, atol=2e-5)
    close(single.grad_stddev.double(), double.grad_stddev, rtol=2e-4, atol=2e-5)
    # At the target, where the policy is after each target update, the KLs have no gradient.
    case = case._replace(mean=case.target_mean, stddev=case.target_stddev)
    free, held = fit(case, weights, **unbound(case)), fit(case, weights)
    assert torch.equal(free.grad_mean, held.grad_mean)
    assert torch.equal(free.grad_stddev, held.grad_stddev)


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


def test_cross_entropy_and_its_gradient_equal_autograds():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 11, generator=g, dtype=torch.float64)
    targets = torch.rand(2, 6, 11, generator=g, dtype=torch.float64).softmax(-1)
    fit = losses.cross_entropy(logits, targets)
    for s in range(2):
        leaf = logits[s].clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(leaf, targets[s])
        loss.backward()
        torch.testing.assert_close(fit.loss[s], loss.detach())
        torch.testing.assert_close(fit.gradient[s], leaf.grad)


# Precision: float32 against exact sums of the same float32 inputs


def exact_kl_from_uniform(values: Tensor, temperature: float) -> float:
    """KL(softmax || uniform), mean over B, with 50 digits."""
    with mpmath.workdps(50):
        columns = [[mpmath.mpf(v) / mpmath.mpf(temperature) for v in c] for c in values.T.tolist()]
        found = []
        for column in columns:
            top = max(column)
            masses = [mpmath.exp(z - top) for z in column]
            total = mpmath.fsum(masses)
            terms = (m / total * mpmath.log(len(masses) * m / total) for m in masses)
            found.append(mpmath.fsum(terms))
        return float(mpmath.fsum(found) / len(found))


@pytest.mark.parametrize("samples", [2, 20, 200])
@pytest.mark.parametrize("temperature", [1e-3, 0.1, 10.0])
def test_the_kl_of_the_weights_keeps_its_digits_in_float32(samples, temperature):
    g = torch.Generator().manual_seed(samples)
    eta = torch.tensor(temperature)
    checked = 0
    for spread in 10.0 ** torch.arange(-5, 2.1, 0.25):
        for offset in (0.0, 500.0):
            drawn = torch.randn(samples, 3, generator=g)
            values = offset + float(spread) * temperature * drawn
            wanted = exact_kl_from_uniform(values, float(eta))
            if wanted > 1e-9:
                step = losses.e_step(values, eta, EPSILON)
                assert float(step.kl) == pytest.approx(wanted, rel=1e-4), (spread, offset)
                assert float(step.gradient) == pytest.approx(EPSILON - wanted, rel=1e-5, abs=1e-7)
                checked += 1
    assert checked > 30


@pytest.mark.parametrize("stddev", [1e-6, 1e-2, 1.0, 50.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_kl_of_the_stddevs_keeps_its_digits_in_float32(stddev, sign):
    old = torch.tensor(stddev)
    checked = 0
    for share in (sign * 10.0 ** torch.arange(-6, 2.1, 0.125)).tolist():
        new = old * (1 + share)
        if new <= 0:
            continue
        with mpmath.workdps(50):
            ratio = mpmath.mpf(float(old)) / mpmath.mpf(float(new))
            wanted = float((ratio**2 - 1) / 2 - mpmath.log(ratio))
        if wanted > 1e-9:
            zero, one = torch.zeros(1, 1), torch.ones(1, 1)
            moments = losses.Moments(one, zero, one)
            alphas = torch.zeros(2, 1)
            found = losses.m_step(moments, zero, old.view(1, 1), zero, new.view(1, 1), alphas)
            assert float(found.kl[1, 0]) == pytest.approx(wanted, rel=1e-4), share
            checked += 1
    assert checked > 30
