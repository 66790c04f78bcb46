"""n-step and Retrace targets against examples worked by hand and the papers' formulas."""

import pytest
import torch
from torch import Tensor

from mpo.algorithm import returns
from tests import reference

S, T, B = 3, 5, 7
GAMMA = 0.9
NAN = float("nan")


def column(*x: float) -> Tensor:
    """Makes a field of one window, [T, 1]."""
    return torch.tensor(x, dtype=torch.float64)[:, None]


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-12)


def random_windows(seed: int, steps: int = T, cuts: bool = True) -> dict[str, Tensor]:
    """Makes windows [S, T, B]; with cuts, about 20 % of steps terminate and 20 % are truncated."""
    g = torch.Generator().manual_seed(seed)
    shape = (S, steps, B)

    def normal() -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    def flags() -> Tensor:
        drawn = (torch.rand(shape, generator=g) < 0.2).double()
        return drawn if cuts else torch.zeros_like(drawn)

    return {
        "rewards": normal(),
        "terminated": flags(),
        "truncated": flags(),
        "values": 10 * normal(),
        "taken_values": 10 * normal(),
        "log_ratios": normal(),
    }


def discounts_and_cut(windows: dict[str, Tensor], gamma: float = GAMMA) -> tuple[Tensor, Tensor]:
    ends = (windows["terminated"] == 1) | (windows["truncated"] == 1)
    return gamma * (1 - windows["terminated"]), ends


def retrace(windows: dict[str, Tensor], lambda_: float, gamma: float = GAMMA) -> Tensor:
    discounts, cut = discounts_and_cut(windows, gamma)
    taken, log_ratios = (windows[key][..., 1:, :] for key in ("taken_values", "log_ratios"))
    traces = lambda_ * log_ratios.clamp(max=0).exp()
    return returns.multi_step(windows["rewards"], discounts, windows["values"], traces, taken, cut)


def no(steps: int) -> Tensor:
    return torch.zeros(steps, 1, dtype=torch.bool)


# Retrace


def test_retrace_of_a_hand_computed_window():
    # gamma 0.5, lambda 0.5, ratios of steps 1 and 2 (4 -> 1, 0.5): c_1 = 0.5, c_2 = 0.25.
    # delta = r + gamma V' - Q = (1 + 2 - 5, 2 + 3 - 7, 3 + 4 - 1) = (-2, -2, 6)
    # y_2 = 1 + 6 = 7, y_1 = 7 - 2 + 0.5 * 0.25 * 6 = 5.75,
    # y_0 = 5 - 2 + 0.5 * 0.5 * (-2) + 0.25 * 0.5 * 0.25 * 6 = 2.6875.
    targets = returns.multi_step(
        rewards=column(1, 2, 3),
        discounts=column(0.5, 0.5, 0.5),
        values=column(4, 6, 8),
        traces=column(0.5, 0.25),
        baselines=column(7, 1),
        cut=no(3),
    )
    close(targets, column(2.6875, 5.75, 7))


def test_retrace_of_a_hand_computed_window_with_a_termination():
    # As above, but step 1 terminates: y_1 = r_1 = 2, without bootstrap and without trace;
    # y_0 = r_0 + gamma * (V_0 + c_1 * (y_1 - Q_1)) = 1 + 0.5 * (4 + 0.5 * (2 - 7)) = 1.75.
    targets = returns.multi_step(
        column(1, 2, 3),
        column(0.5, 0, 0.5),
        column(4, 6, 8),
        column(0.5, 0.25),
        column(7, 1),
        torch.tensor([[False], [True], [False]]),
    )
    close(targets, column(1.75, 2, 7))


def test_retrace_of_a_hand_computed_window_with_a_truncation():
    # As above, but step 1 is truncated: y_1 = r_1 + gamma * V_1 = 5, without trace;
    # y_0 = 1 + 0.5 * (4 + 0.5 * (5 - 7)) = 2.5.
    targets = returns.multi_step(
        column(1, 2, 3),
        column(0.5, 0.5, 0.5),
        column(4, 6, 8),
        column(0.5, 0.25),
        column(7, 1),
        torch.tensor([[False], [True], [False]]),
    )
    close(targets, column(2.5, 5, 7))


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("cuts", [False, True])
def test_retrace_equals_the_explicit_sum(lambda_, steps, cuts):
    windows = random_windows(steps, steps, cuts)
    targets = retrace(windows, lambda_)
    assert targets.shape == (S, steps, B)
    for s in range(S):
        for b in range(B):
            one = {key: x[s, :, b] for key, x in windows.items()}
            expected = reference.retrace(
                one["rewards"],
                one["terminated"],
                one["truncated"],
                one["values"],
                one["taken_values"],
                one["log_ratios"].exp(),
                GAMMA,
                lambda_,
            )
            close(targets[s, :, b], torch.tensor(expected, dtype=torch.float64))


def test_the_random_windows_hold_every_kind_of_end():
    windows = random_windows(T)
    terminated, truncated = windows["terminated"] == 1, windows["truncated"] == 1
    assert (terminated & ~truncated)[:, :-1].any() and (truncated & ~terminated)[:, :-1].any()
    assert (terminated | truncated).sum(1).unique().tolist()[:3] == [0, 1, 2]
    assert (windows["log_ratios"] > 0).any() and (windows["log_ratios"] < 0).any()


def test_retrace_needs_no_seed_axis():
    windows = random_windows(3)
    single = {key: x[1] for key, x in windows.items()}
    close(retrace(single, 0.8), retrace(windows, 0.8)[1])


def test_a_batch_of_ragged_windows_is_its_windows_one_by_one():
    # Window b ends after step b, alternately by truncation and termination.
    windows = {key: x[:1].clone() for key, x in random_windows(4, cuts=False).items()}
    for b in range(T):
        windows["terminated" if b % 2 else "truncated"][0, b, b] = 1
    together = retrace(windows, 0.9)
    for b in range(B):
        alone = {key: x[..., b : b + 1] for key, x in windows.items()}
        close(retrace(alone, 0.9), together[..., b : b + 1])


def test_lambda_zero_is_one_step_td_at_every_step():
    windows = random_windows(5)
    discounts, _ = discounts_and_cut(windows)
    close(retrace(windows, 0.0), windows["rewards"] + discounts * windows["values"])


def test_on_policy_with_lambda_one_telescopes_to_the_n_step_return():
    """With c = 1 and V(s_{t+1}) = Q(s_{t+1}, a_{t+1}) all corrections but the last cancel."""
    windows = random_windows(6)
    windows["log_ratios"].zero_()
    windows["values"][:, :-1] = windows["taken_values"][:, 1:]
    targets = retrace(windows, 1.0)
    for s in range(S):
        for b in range(B):
            for t in range(T):
                total, factor, last = reference.n_step(
                    windows["rewards"][s, t:, b],
                    windows["terminated"][s, t:, b],
                    windows["truncated"][s, t:, b],
                    GAMMA,
                )
                bootstrap = factor * float(windows["values"][s, t + last, b])
                assert float(targets[s, t, b]) == pytest.approx(total + bootstrap, rel=1e-11)


def test_ratios_above_one_count_as_one():
    windows = random_windows(7)
    capped = {**windows, "log_ratios": windows["log_ratios"].clamp(max=0)}
    huge = {**windows, "log_ratios": windows["log_ratios"].abs() * 500}
    ones = {**windows, "log_ratios": torch.zeros(S, T, B).double()}
    assert torch.equal(retrace(windows, 0.9), retrace(capped, 0.9))
    assert torch.equal(retrace(huge, 0.9), retrace(ones, 0.9))


def test_a_vanishing_ratio_leaves_one_step_td():
    windows = random_windows(8)
    windows["log_ratios"].fill_(-float("inf"))
    close(retrace(windows, 1.0), retrace(windows, 0.0))


def test_exact_values_are_a_fixed_point_whatever_the_behaviour():
    """If Q(s_t, a_t) = r_t + d_t V(s_{t+1}), every TD error is 0 and y = Q."""
    windows = random_windows(9)
    discounts, _ = discounts_and_cut(windows)
    windows["taken_values"] = windows["rewards"] + discounts * windows["values"]
    close(retrace(windows, 0.95), windows["taken_values"])


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize("junk", [1e30, float("inf"), NAN])
@pytest.mark.parametrize("t", range(T - 1))
def test_nothing_of_the_next_episode_passes_a_cut(end, junk, t):
    windows = random_windows(11, cuts=False)
    windows[end][:, t] = 1
    before = retrace(windows, 0.9)
    for key in ("rewards", "values", "taken_values", "log_ratios"):
        windows[key][:, t + 1 :] = junk
    after = retrace(windows, 0.9)
    assert torch.equal(after[:, : t + 1], before[:, : t + 1])
    assert after.isfinite()[:, : t + 1].all()


def test_truncation_bootstraps_and_termination_does_not():
    windows = random_windows(12, cuts=False)
    reward, value = windows["rewards"][:, 2], windows["values"][:, 2]
    windows["truncated"][:, 2] = 1
    close(retrace(windows, 0.9)[:, 2], reward + GAMMA * value)
    windows["terminated"][:, 2] = 1  # both at once count as termination
    close(retrace(windows, 0.9)[:, 2], reward)
    windows["truncated"][:, 2] = 0
    close(retrace(windows, 0.9)[:, 2], reward)


def test_windows_do_not_meet():
    windows = random_windows(13)
    before = retrace(windows, 0.9)
    for x in windows.values():
        x[1, :, 3] = NAN
    windows["terminated"][1, :, 3] = windows["truncated"][1, :, 3] = 0
    after = retrace(windows, 0.9)
    others = torch.ones(S, T, B, dtype=torch.bool)
    others[1, :, 3] = False
    assert torch.equal(after[others], before[others])


# The controls


def control(windows: dict[str, Tensor], trace: float, baselines: Tensor) -> Tensor:
    """Computes the targets with a constant trace coefficient."""
    discounts, cut = discounts_and_cut(windows)
    traces = torch.full_like(windows["values"][:, 1:], trace)
    return returns.multi_step(
        windows["rewards"], discounts, windows["values"], traces, baselines, cut
    )


def test_pengs_q_lambda_is_the_mixture_of_n_step_returns():
    """The n-step return to step k weighs (1 - lambda) lambda^k, and the last one the rest."""
    lambda_, windows = 0.7, random_windows(20)
    targets = control(windows, lambda_, windows["values"][:, :-1])
    for s in range(S):
        for b in range(B):
            one = {key: x[s, :, b] for key, x in windows.items()}
            found = []
            for k in range(1, T + 1):
                total, factor, last = reference.n_step(
                    one["rewards"][:k], one["terminated"][:k], one["truncated"][:k], GAMMA
                )
                found.append(total + factor * float(one["values"][last]))
            weights = [(1 - lambda_) * lambda_**k for k in range(T - 1)] + [lambda_ ** (T - 1)]
            expected = sum(w * x for w, x in zip(weights, found, strict=True))
            assert float(targets[s, 0, b]) == pytest.approx(expected, rel=1e-11)


def test_pengs_q_lambda_with_lambda_one_is_n_step_td():
    windows = random_windows(21)
    discounts, cut = discounts_and_cut(windows)
    targets = control(windows, 1.0, windows["values"][:, :-1])
    for t in range(T):
        step = returns.n_step(windows["rewards"][:, t:], discounts[:, t:], cut[:, t:])
        value = windows["values"][:, t:].gather(1, step.last.unsqueeze(1)).squeeze(1)
        close(targets[:, t], step.reward + step.discount * value)


def test_uncorrected_on_policy_is_retrace():
    """On-policy all ratios are 1, and Retrace cuts nothing (1602.04951, 1606.02647 sec. 3)."""
    windows = random_windows(22)
    windows["log_ratios"].zero_()
    close(control(windows, 0.8, windows["taken_values"][:, 1:]), retrace(windows, 0.8))


def test_uncorrected_is_the_sum_of_discounted_td_errors():
    """y = Q + sum over k of (gamma lambda)^k delta_k (1602.04951, eq. 6), whatever the policies."""
    lambda_, windows = 0.8, random_windows(23, cuts=False)
    taken = windows["taken_values"]
    errors = windows["rewards"] + GAMMA * windows["values"] - taken
    factors = (GAMMA * lambda_) ** torch.arange(T, dtype=torch.float64)
    expected = taken[:, 0] + (factors[:, None] * errors).sum(1)
    close(control(windows, lambda_, taken[:, 1:])[:, 0], expected)


def test_the_trace_length_of_hand_computed_windows():
    traces = torch.tensor([[0.5, 1, 0.5], [0.5, 1, 0.5]])
    cut = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 1]]) > 0
    # 1 + 0.5 + 0.25; a cut after the first step; a cut after the last, which changes nothing.
    assert returns.trace_length(traces, cut).tolist() == [1.75, 2.0, 1.75]


def test_traces_are_told_apart_by_the_windows_age():
    traces = torch.tensor([[0.5, 1.0, 0.2]])
    cut = torch.tensor([[0, 1, 0], [0, 0, 0]]) > 0
    found = returns.trace_metrics(traces, cut, torch.tensor([10.0, 20.0, 90.0]))
    # The last window is older than the mean age of 40; the second one has no trace.
    wanted = {"": (0.35, 3.7 / 3), "_new": (0.5, 1.25), "_old": (0.2, 1.2)}
    for name, (coefficient, length) in wanted.items():
        assert float(found[f"trace_coefficient{name}"]) == pytest.approx(coefficient)
        assert float(found[f"trace_length{name}"]) == pytest.approx(length)


# n-step


def test_n_step_of_a_hand_computed_window():
    # gamma 0.5: 1 + 0.5 * 2 + 0.25 * 3 = 2.75; the bootstrap after step 3 has the factor 0.125.
    step = returns.n_step(column(1, 2, 3), column(0.5, 0.5, 0.5), no(3))
    assert (step.reward.tolist(), step.discount.tolist(), step.last.tolist()) == (
        [2.75],
        [0.125],
        [2],
    )


@pytest.mark.parametrize(
    ("discount", "factor"), [(0.0, 0.0), (0.5, 0.25)], ids=["terminated", "truncated"]
)
def test_n_step_stops_at_the_first_cut(discount, factor):
    # Ending after step 2: 1 + 0.5 * 2 = 2; if truncated, the bootstrap there has the factor 0.25.
    cut = torch.tensor([[False], [True], [False], [True]])
    step = returns.n_step(column(1, 2, 3, 4), column(0.5, discount, 0.5, 0.5), cut)
    assert (step.reward.tolist(), step.discount.tolist(), step.last.tolist()) == (
        [2.0],
        [factor],
        [1],
    )


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("cuts", [False, True])
def test_n_step_equals_the_explicit_sum(steps, cuts):
    windows = random_windows(steps, steps, cuts)
    step = returns.n_step(windows["rewards"], *discounts_and_cut(windows))
    assert step.reward.shape == step.discount.shape == step.last.shape == (S, B)
    for s in range(S):
        for b in range(B):
            ends = windows["terminated"][s, :, b], windows["truncated"][s, :, b]
            total, factor, last = reference.n_step(windows["rewards"][s, :, b], *ends, GAMMA)
            assert float(step.reward[s, b]) == pytest.approx(total, rel=1e-12)
            assert float(step.discount[s, b]) == pytest.approx(factor, rel=1e-12)
            assert int(step.last[s, b]) == last


def test_a_window_of_one_is_the_transition_itself():
    windows = random_windows(14, steps=1)
    discounts, cut = discounts_and_cut(windows)
    step = returns.n_step(windows["rewards"], discounts, cut)
    assert torch.equal(step.reward, windows["rewards"][:, 0])
    assert torch.equal(step.discount, discounts[:, 0])
    assert step.last.eq(0).all()


@pytest.mark.parametrize("t", range(T - 1))
def test_nothing_of_the_next_episode_passes_a_cut_of_n_step(t):
    windows = random_windows(15, cuts=False)
    discounts, cut = discounts_and_cut(windows)
    cut[:, t] = True
    before = returns.n_step(windows["rewards"], discounts, cut)
    windows["rewards"][:, t + 1 :] = NAN
    discounts[:, t + 1 :] = NAN
    cut[:, t + 1 :] = ~cut[:, t + 1 :]
    after = returns.n_step(windows["rewards"], discounts, cut)
    assert all(torch.equal(x, y) for x, y in zip(after, before, strict=True))
    assert after.last.eq(t).all()


def test_n_step_of_a_constant_reward_is_the_geometric_sum():
    ones = torch.ones(S, T, B, dtype=torch.float64)
    step = returns.n_step(ones, GAMMA * ones, torch.zeros(S, T, B, dtype=torch.bool))
    # A constant reward of 1 has the value 1 / (1 - gamma), which is also the target's.
    value = 1 / (1 - GAMMA)
    close(step.reward + step.discount * value, torch.full((S, B), value, dtype=torch.float64))


ATOMS = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("probabilities", "shift", "discount", "expected"),
    [
        # No shift, discount 1.
        ([0.1, 0.2, 0.3, 0.2, 0.2], 0.0, 1.0, [0.1, 0.2, 0.3, 0.2, 0.2]),
        # 0.5 * (-2 ... 2) + 0.25 = -0.75, -0.25, 0.25, 0.75, 1.25.
        ([1, 0, 0, 0, 0], 0.25, 0.5, [0, 0.75, 0.25, 0, 0]),
        ([0, 0, 0, 0.5, 0.5], 0.25, 0.5, [0, 0, 0.125, 0.75, 0.125]),
        # A terminal transition: all mass at the reward.
        ([0.2, 0.2, 0.2, 0.2, 0.2], 0.4, 0.0, [0, 0, 0.6, 0.4, 0]),
        # Beyond the first or last atom.
        ([0.5, 0, 0, 0, 0.5], 3.5, 1.0, [0, 0, 0, 0.25, 0.75]),
        ([0, 0, 1, 0, 0], -7.0, 1.0, [1, 0, 0, 0, 0]),
    ],
)
def test_projections_by_hand(probabilities, shift, discount, expected):
    found = returns.project(
        torch.tensor(probabilities, dtype=torch.float64),
        ATOMS,
        torch.tensor(shift, dtype=torch.float64),
        torch.tensor(discount, dtype=torch.float64),
    )
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_projection_keeps_the_mean_and_the_mass():
    g = torch.Generator().manual_seed(0)
    atoms = torch.linspace(-10, 10, 51, dtype=torch.float64)
    probabilities = torch.rand(4, 9, 51, generator=g, dtype=torch.float64)
    probabilities /= probabilities.sum(-1, keepdim=True)
    discount = torch.rand(4, 9, generator=g, dtype=torch.float64)
    # No mass is moved beyond the first or last atom.
    shift = (2 * torch.rand(4, 9, generator=g, dtype=torch.float64) - 1) * 10 * (1 - discount)
    found = returns.project(probabilities, atoms, shift, discount)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(4, 9, dtype=torch.float64))
    wanted = shift + discount * (probabilities * atoms).sum(-1)
    torch.testing.assert_close((found * atoms).sum(-1), wanted)
