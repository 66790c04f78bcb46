"""Whole updates of the agent against a float64 reference of the papers' formulas, seed by seed."""

import copy
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional as F

from mpo.algorithm.agent import MPOAgent
from mpo.algorithm.targets import Targets
from mpo.replay.replay import Replay
from mpo.study.hyperparameters import Hyperparameters
from tests import reference
from tests.reference import PlainCritic, PlainPolicy

SEEDS = (3, 11, 7)
S, N, M, B, OBS, D = 3, 5, 8, 7, 6, 2
# Multiples of 32: with other widths, rounding on a CPU depends on the seed's place in the stack.
WIDTHS = (32, 32)
_WINDOW = {"retrace": True, "retrace_steps": 4, "retrace_lambda": 0.9}
MODES = {
    "td": {},
    "every norm": {"layer_norm": "all"},
    "n-step": {"n_step": 4},
    "n-step, all pairs": {"n_step": 4, "regressed": "all"},
    "retrace": _WINDOW | {"regressed": "all"},
    "retrace, first pair": _WINDOW,
    "retrace, fewer pairs": _WINDOW | {"regressed": "all", "critic_batch_size": 3},
    "n-step, fewer pairs": {"n_step": 4, "critic_batch_size": 3},
    "uncorrected": _WINDOW | {"regressed": "all", "corrections": "uncorrected"},
    "zero": _WINDOW | {"regressed": "all", "corrections": "zero"},
    "peng": _WINDOW | {"regressed": "all", "corrections": "peng"},
}
NETWORKS = ("policy", "critic", "target_policy", "target_critic")


def make_agent(seeds: tuple[int, ...] = SEEDS, action_dim: int = D, **settings) -> MPOAgent:
    """Makes an agent and perturbs its four networks, so that all of them differ."""
    config = {
        "policy_layer_sizes": WIDTHS,
        "critic_layer_sizes": WIDTHS,
        "replay_size": 100,
        "gamma": 0.9,
        "target_networks_update_period": 1000,
        "kl_epsilon": 0.15,
        "mstep_kl_epsilon": 0.02,
        "mstep_kl_epsilon_stddev": 0.003,
        "epsilon_penalty": 0.04,
        "temperature_init": 0.7,
        "lambda_init": 1.5,
        "init_log_alpha_mean": 2.0,
        "init_log_alpha_stddev": 5.0,
        "max_grad_norm": 1e6,
        "action_samples": N,
        "retrace_mc_actions": M,
        "policy_init_scale": 0.6,
    }
    agent = MPOAgent(
        OBS, action_dim, Hyperparameters(**config | settings), seeds, torch.device("cpu")
    )
    with torch.no_grad():
        for i, seed in enumerate(seeds):
            g = torch.Generator().manual_seed(seed)
            for name in NETWORKS:
                for parameter in getattr(agent.learners, name).parameters():
                    shape = parameter.shape[1:]
                    parameter[i] += 0.15 * torch.randn(shape, generator=g)
    return agent


def make_windows(
    steps: int, seeds: tuple[int, ...] = SEEDS, action_dim: int = D, key: int = 0
) -> TensorDict:
    """Makes random windows [S, T, B], different for each seed, some with episode ends inside."""
    columns = []
    for seed in seeds:
        g = torch.Generator().manual_seed(1000 * key + seed)
        obs = torch.randn(steps + 1, B, OBS, generator=g)
        terminated, truncated = (
            (torch.rand(steps, B, generator=g) < 0.2).float() for _ in range(2)
        )
        terminated[0, 0] = truncated[0, 1] = 1
        reset = torch.randn(steps, B, OBS, generator=g)
        ended = ((terminated + truncated) > 0).unsqueeze(-1)
        first = obs[:-1].clone()
        first[1:] = torch.where(ended[:-1], reset[1:], first[1:])
        noise = torch.randn(steps, B, action_dim, generator=g)
        raw = 0.8 * noise
        log_prob = torch.distributions.Normal(0.0, 0.8).log_prob(raw).sum(-1)
        columns.append(
            {
                "obs": first,
                "action": raw.clamp(-1, 1),
                "action_raw": raw,
                "behaviour_logp": log_prob,
                "reward": torch.randn(steps, B, generator=g),
                "next_obs": obs[1:],
                "first_obs": torch.randn(steps, B, OBS, generator=g),
                "terminated": terminated,
                "truncated": truncated,
                "age": torch.rand(steps, B, generator=g) * 100,
            }
        )
    fields = {name: torch.stack([c[name] for c in columns]) for name in columns[0]}
    return TensorDict(fields, batch_size=(len(seeds), steps, B))


def snapshot(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def moved(agent: MPOAgent, before: dict[str, list[Tensor]]) -> set[str]:
    return {name for name, state in before.items() if not same(state, snapshot(parts(agent)[name]))}


def parts(agent: MPOAgent) -> dict[str, nn.Module]:
    return {name: getattr(agent.learners, name) for name in NETWORKS} | {"duals": duals(agent)}


def duals(agent: MPOAgent) -> nn.Module:
    return nn.ModuleList([agent.learners.temperatures, agent.learners.alphas])


def snapshots(agent: MPOAgent) -> dict[str, list[Tensor]]:
    return {name: snapshot(module) for name, module in parts(agent).items()}


def targets(agent: MPOAgent, windows: Mapping[str, Tensor]) -> Targets:
    """Runs the target pass with the agent's next noise."""
    noise = [agent._update._draw(*shape) for shape in agent._update.targets.noise_shapes(windows)]
    return agent._update.targets.compute(windows, noise)


# The reference update of one seed


def upcoming_noise(agent: MPOAgent, windows: TensorDict) -> list[Tensor]:
    """Returns the next update's noise, [S, samples, states, D] per tensor."""
    states = [g.get_state() for g in agent._update.noise]
    drawn = [
        agent._update._draw(*shape).double()
        for shape in agent._update.targets.noise_shapes(windows)
    ]
    for g, state in zip(agent._update.noise, states, strict=True):
        g.set_state(state)
    return drawn


class Problem(NamedTuple):
    """The targets and samples of one seed, computed by the target networks."""

    inputs: list[tuple[Tensor, Tensor, float]]
    """Observation, action and target of each of the critic's regressions."""
    states: Tensor
    mean: Tensor
    stddev: Tensor
    noise: Tensor
    values: Tensor
    coefficient: float
    """Mean trace coefficient of Retrace."""

    @property
    def actions(self) -> Tensor:
        return self.mean + self.stddev * self.noise


def expected_value(
    policy: PlainPolicy, critic: PlainCritic, state: Tensor, noise: Tensor
) -> Tensor:
    """Returns the values of the target policy's samples at one state, [N]."""
    mean, stddev = policy(state)
    return torch.stack([critic(state, mean + stddev * e) for e in noise])


class Window:
    """One window of one seed in float64, and the target networks."""

    def __init__(self, agent: MPOAgent, windows: TensorDict, s: int, b: int):
        scale = agent.config.policy_init_scale
        self.config = agent.config
        self.policy = PlainPolicy(copy.deepcopy(agent.learners.target_policy).double(), s, scale)
        self.critic = PlainCritic(copy.deepcopy(agent.learners.target_critic).double(), s)
        self.fields = {name: windows[name][s, :, b].double() for name in windows.keys()}
        self.ends = self.fields["terminated"], self.fields["truncated"]
        self.steps = len(self.ends[0])
        self.state = self.fields["first_obs" if self.ends[0][0] else "next_obs"][0]

    def n_step(self, start: int, end: int | None = None) -> tuple[float, float, int]:
        """Rewards, factor of the bootstrap and last step of the window from `start`."""
        parts = (x[start:end] for x in (self.fields["reward"], *self.ends))
        total, factor, last = reference.n_step(*parts, self.config.gamma)
        return total, factor, start + last

    def expectations(self, values: Tensor, later: Tensor | None) -> list[float]:
        """The value of each next state that counts, from M samples.

        Args:
            values: of the E-step's samples.
            later: noise [T-1, M, D] for the other next states, or [1, M, D] for the last one.
        """
        found = [values[:M].mean().item()] + [0.0] * (self.steps - 1)
        if later is None:
            return found
        *_, last = self.n_step(0)
        for t, noise in zip(range(1, self.steps) if len(later) > 1 else [last], later, strict=True):
            state = self.fields["next_obs"][t]
            found[t] = expected_value(self.policy, self.critic, state, noise).mean().item()
        return found

    def ratios(self) -> list[float]:
        """pi / b of each step's action."""
        found = []
        for t in range(self.steps):
            mean, stddev = self.policy(self.fields["obs"][t])
            raw = self.fields["action_raw"][t]
            terms = zip(raw, mean, stddev, strict=True)
            logp = sum(reference.log_density(*term) for term in terms)
            found.append(math.exp(float(logp - self.fields["behaviour_logp"][t])))
        return found

    def mixture(self, start: int, lambda_: float, expected: list[float]) -> float:
        """Peng's Q(lambda): the mixture of the n-step returns from `start`."""
        count = self.steps - start
        found = []
        for n in range(1, count + 1):
            total, factor, last = self.n_step(start, start + n)
            found.append(total + factor * expected[last])
        weights = [(1 - lambda_) * lambda_**k for k in range(count - 1)] + [lambda_ ** (count - 1)]
        return math.fsum(w * x for w, x in zip(weights, found, strict=True))

    def targets(self, expected: list[float]) -> list[float]:
        """The target of each step's action value."""
        config = self.config
        if not config.retrace or config.corrections == "peng":
            lambda_ = config.retrace_lambda if config.retrace else 1.0
            return [self.mixture(t, lambda_, expected) for t in range(self.steps)]
        # With ratios of 1, Retrace is Q(lambda) without cuts.
        ratios = self.ratios() if config.corrections == "retrace" else [1.0] * self.steps
        return reference.retrace(
            self.fields["reward"],
            *self.ends,
            torch.tensor(expected, dtype=torch.float64),
            self.critic(self.fields["obs"], self.fields["action"]),
            torch.tensor(ratios),
            config.gamma,
            0.0 if config.corrections == "zero" else config.retrace_lambda,
        )


@torch.no_grad()
def pose(agent: MPOAgent, windows: TensorDict, s: int, noise: list[Tensor]) -> Problem:
    config = agent.config
    fitted = config.critic_batch_size or B
    shared, *later = (x[s] for x in noise)
    if later:
        later = [later[0].unflatten(1, (-1, fitted)).transpose(0, 1)]  # [T-1 or 1, M, C, D]
    inputs, states, values, coefficients = [], [], [], []
    for b in range(B):
        window = Window(agent, windows, s, b)
        states.append(window.state)
        values.append(expected_value(window.policy, window.critic, window.state, shared[:, b]))
        if b >= fitted:
            continue
        targets = window.targets(
            window.expectations(values[-1], later[0][:, :, b] if later else None)
        )
        count = window.steps if config.regressed == "all" else 1
        pairs = zip(window.fields["obs"], window.fields["action"], targets, strict=True)
        inputs += list(pairs)[:count]
        joined = [t for t in range(1, window.steps) if not any(e[t - 1] for e in window.ends)]
        coefficients += [config.retrace_lambda * min(1.0, window.ratios()[t]) for t in joined]
    mean, stddev = window.policy(torch.stack(states))
    return Problem(
        inputs,
        torch.stack(states),
        mean,
        stddev,
        shared[:N],
        torch.stack(values, 1)[:N],
        float(np.mean(coefficients)) if coefficients else 0.0,
    )


def stacked_gradients(plain: PlainPolicy | PlainCritic) -> list[Tensor]:
    """Returns one seed's gradients in the order and layout of the stacked parameters."""
    grads = [p.grad.T if p.ndim == 2 else p.grad[None] for p in plain.parameters()]
    if isinstance(plain, PlainCritic):
        joint, bias, *rest = grads
        grads = [joint[:OBS], bias, joint[OBS:], bias, *rest]
    return grads


def norm_of(grads: list[Tensor]) -> float:
    return math.sqrt(sum(float(g.square().sum()) for g in grads))


def expected_critic(agent: MPOAgent, problem: Problem, s: int):
    """Returns the metrics and gradients of the critic's step."""
    critic = PlainCritic(copy.deepcopy(agent.critic).double(), s)
    values = torch.stack([critic(obs, action) for obs, action, _ in problem.inputs])
    targets = torch.tensor([target for *_, target in problem.inputs], dtype=torch.float64)
    loss = reference.critic_loss(values, targets)
    loss.backward()
    # The first layer adds two biases, so each has the gradient of their sum.
    grads = stacked_gradients(critic)
    metrics = {
        "critic_loss": loss.item(),
        "critic_grad_norm": norm_of(grads),
        "q_mean": values.mean().item(),
        "target_mean": targets.mean().item(),
    }
    return metrics, grads


def expected_policy(agent: MPOAgent, problem: Problem, s: int, m_steps: int):
    """Returns metrics, and the policy's and duals' variables after steps of gradient descent."""
    config = agent.config
    eps_mean, eps_stddev = config.mstep_kl_epsilon, config.mstep_kl_epsilon_stddev
    policy = PlainPolicy(copy.deepcopy(agent.policy).double(), s, config.policy_init_scale)
    raw = [p[s].detach().double().requires_grad_() for p in duals(agent).parameters()]
    temperature, *penalty_temperature = F.softplus(raw[0]) + 1e-8
    weights = reference.weights(problem.values, temperature)
    dual = reference.temperature_dual(problem.values, temperature, config.kl_epsilon)
    kl = reference.kl_from_uniform(weights)
    metrics = {
        "temperature": temperature.item(),
        "temperature_loss": dual.item(),
        "kl_q_relative": kl.item() / config.kl_epsilon,
    }
    if config.action_penalty:
        cost = reference.penalty_values(problem.actions)
        (eta,) = penalty_temperature
        penalty = reference.weights(cost, eta)
        dual = dual + reference.temperature_dual(cost, eta, config.epsilon_penalty)
        kl = reference.kl_from_uniform(penalty)
        metrics["penalty_temperature"] = eta.item()
        metrics["penalty_kl_relative"] = kl.item() / config.epsilon_penalty
        weights = weights + penalty
    target = problem.mean, problem.stddev
    for step in range(m_steps):
        mean, stddev = policy(problem.states)
        kl_mean = reference.kl_per_dimension(*target, mean, problem.stddev)
        kl_stddev = reference.kl_per_dimension(*target, problem.mean, stddev)
        alpha_mean, alpha_stddev = F.softplus(raw[1]) + 1e-8
        hold_mean = reference.lagrangian(kl_mean, alpha_mean, eps_mean)
        hold_stddev = reference.lagrangian(kl_stddev, alpha_stddev, eps_stddev)
        actions = problem.actions
        fit = reference.cross_entropy(weights, actions, mean, problem.stddev)
        fit = fit + reference.cross_entropy(weights, actions, problem.mean, stddev)
        loss = fit + hold_mean[0] + hold_stddev[0]
        policy.zero_grad()
        loss.backward()
        metrics |= {
            "policy_loss": loss.item(),
            "kl_mean_relative": sum(kl_mean).item() / len(kl_mean) / eps_mean,
            "kl_stddev_relative": sum(kl_stddev).item() / len(kl_stddev) / eps_stddev,
            "alpha_mean": alpha_mean.mean().item(),
            "alpha_stddev": alpha_stddev.mean().item(),
            "policy_stddev": stddev.mean().item(),
            "policy_grad_norm": norm_of(stacked_gradients(policy)),
        }
        of_duals = hold_mean[1] + hold_stddev[1] + (dual if step == 0 else 0)
        grads = torch.autograd.grad(of_duals, raw, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter -= config.policy_lr * parameter.grad
            rates = config.temperature_lr, config.lambda_lr
            for x, grad, rate in zip(raw, grads, rates, strict=True):
                x -= rate * grad
    parameters = [p.T if p.ndim == 2 else p[None] for p in policy.parameters()]
    return metrics, [p.detach() for p in parameters], [x.detach() for x in raw]


def near(actual: Tensor, expected: Tensor, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=atol)


DESCENT = {
    "optimizer": "sgd",
    "dual_optimizer": "sgd",
    "sgd_momentum": 0.0,
    "q_lr": 1.0,
    "policy_lr": 0.01,
    "temperature_lr": 0.5,
    "lambda_lr": 0.2,
}


@pytest.mark.parametrize("m_steps", [1, 2])
@pytest.mark.parametrize("penalty", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_an_update_equals_the_reference(mode, penalty, m_steps):
    agent = make_agent(action_penalty=penalty, **DESCENT, **MODES[mode])
    steps = agent.config.window
    windows = make_windows(steps)
    noise = upcoming_noise(agent, windows)
    problems = [pose(agent, windows, s, noise) for s in range(S)]
    critics = [expected_critic(agent, problems[s], s) for s in range(S)]
    policies = [expected_policy(agent, problems[s], s, m_steps) for s in range(S)]
    before = snapshot(agent.critic)
    metrics = agent.update(windows, m_steps)
    for s in range(S):
        expected = critics[s][0] | policies[s][0]
        assert metrics.keys() >= expected.keys()
        for name in expected:
            assert metrics[name].shape == (S,)
            actual = metrics[name][s].item()
            assert actual == pytest.approx(expected[name], rel=5e-5, abs=5e-6), name
        for start, parameter, grad in zip(
            before, agent.critic.parameters(), critics[s][1], strict=True
        ):
            near((start - parameter.detach())[s], grad, rtol=1e-4, atol=1e-6)
        for parameter, goal in zip(agent.policy.parameters(), policies[s][1], strict=True):
            near(parameter.detach()[s], goal)
        for parameter, goal in zip(duals(agent).parameters(), policies[s][2], strict=True):
            near(parameter.detach()[s], goal)


def test_retrace_reports_its_mean_trace_coefficient():
    agent = make_agent(**MODES["retrace"])
    windows = make_windows(4)
    noise = upcoming_noise(agent, windows)
    expected = [pose(agent, windows, s, noise).coefficient for s in range(S)]
    assert all(0.05 < x < 0.85 for x in expected)
    metrics = agent.update(windows)
    assert metrics["trace_coefficient"].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("steps", [2, 5])
def test_all_arms_learn_their_policy_from_the_same_samples(steps):
    windows = make_windows(steps)
    window = {"retrace": True, "retrace_steps": steps}
    arms = [
        {"n_step": steps},
        {"n_step": steps, "regressed": "all"},
        window,
        window | {"corrections": "peng", "critic_batch_size": 2},
    ]
    few = {"retrace_mc_actions": N}  # so that all draw the same numbers
    first, *others = (targets(make_agent(**few, **arm), windows).samples for arm in arms)
    for other in others:
        for name in ("state", "mean", "stddev", "noise", "actions", "values"):
            torch.testing.assert_close(getattr(other, name), getattr(first, name))


@pytest.mark.parametrize("mode", MODES)
def test_a_fallback_bound_holds_the_stddev_like_the_mean(mode):
    given, fallback = (
        make_agent(mstep_kl_epsilon_stddev=bound, **DESCENT, **MODES[mode])
        for bound in (0.02, None)
    )
    windows = make_windows(given.config.window)
    metrics = [agent.update(windows) for agent in (given, fallback)]
    assert all(torch.equal(metrics[0][name], metrics[1][name]) for name in metrics[0])
    assert same(snapshot(duals(given)), snapshot(duals(fallback)))


# Which loss changes which parameters


def test_the_critics_step_moves_the_critic_alone():
    agent = make_agent()
    before = snapshots(agent)
    agent._update._fit_critic(targets(agent, make_windows(1)).regression)
    assert not moved(agent, before)
    agent.learners.critic_optimizer.step()
    assert moved(agent, before) == {"critic"}


def test_the_policys_step_moves_the_policy_and_the_duals_alone():
    agent = make_agent()
    windows = make_windows(1)
    before = snapshots(agent)
    found = agent._update._evaluate(windows, [agent._update._draw(M, B)])
    assert not moved(agent, before)
    agent.learners.temperature_optimizer.step()
    agent._update._m_step(found)
    assert moved(agent, before) == {"policy", "duals"}
    for start, parameter in zip(before["duals"], duals(agent).parameters(), strict=True):
        assert (start != parameter).all()


@pytest.mark.parametrize("mode", MODES)
def test_no_gradient_reaches_the_targets(mode):
    agent = make_agent(**MODES[mode])
    agent.update(make_windows(agent.config.window))
    for name in ("target_policy", "target_critic"):
        for parameter in getattr(agent.learners, name).parameters():
            assert parameter.grad is None and not parameter.requires_grad
    for name in ("policy", "critic", "duals"):
        for label, parameter in parts(agent)[name].named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), label


@pytest.mark.parametrize("mode", MODES)
def test_online_networks_learn_from_the_targets_not_from_each_other(mode):
    plain, other_policy, other_critic = (make_agent(**MODES[mode]) for _ in range(3))
    with torch.no_grad():
        for network in (other_policy.policy, other_critic.critic):
            for parameter in network.parameters():
                parameter.mul_(1.5)
    for agent in (plain, other_policy, other_critic):
        agent.update(make_windows(agent.config.window))
    assert same(snapshot(other_policy.critic), snapshot(plain.critic))
    assert same(snapshot(other_critic.policy), snapshot(plain.policy))
    assert same(snapshot(duals(other_critic)), snapshot(duals(plain)))


@pytest.mark.parametrize("mode", MODES)
def test_the_target_of_a_terminal_step_is_its_reward(mode):
    agent = make_agent(**DESCENT, **MODES[mode])
    windows = make_windows(agent.config.window)
    windows["terminated"].fill_(1)
    metrics = agent.update(windows)
    assert all(x.isfinite().all() for state in snapshots(agent).values() for x in state)
    pairs = None if agent.config.regressed == "all" else 1
    rewards = windows["reward"][:, :pairs, : agent.config.critic_batch_size]
    torch.testing.assert_close(metrics["target_mean"], rewards.mean((1, 2)))


@pytest.mark.parametrize("mode", ["td", "n-step", "retrace"])
def test_the_policy_is_improved_where_it_acted(mode):
    """The episode has four steps from states 0 ... 3 and terminates in state 9."""
    replay = Replay(OBS, D, 10, [torch.Generator().manual_seed(0)])
    for state, successor in ((0, 1), (1, 2), (2, 3), (3, 9), (50, 51), (51, 52), (52, 53)):
        obs, next_obs = (torch.full((OBS,), float(x)) for x in (state, successor))
        ends = torch.tensor([float(successor == 9), 0.0])
        replay.add(0, torch.cat([obs, torch.zeros(2 * D + 2), ends, next_obs]))
    agent = make_agent((3,), **MODES[mode])
    windows = replay.sample(400, torch.arange(agent.config.window))
    states = targets(agent, windows).samples.state[0, :, 0].long().tolist()
    counts = [states.count(state) for state in range(10)]
    assert min(counts[:4]) > 40 and sum(counts[4:]) == 0


# Target networks


@pytest.mark.parametrize("period", [1, 3])
def test_targets_are_copied_every_period_updates_and_not_between(period):
    agent = make_agent(target_networks_update_period=period)
    pairs = (
        (agent.learners.target_policy, agent.policy),
        (agent.learners.target_critic, agent.critic),
    )
    for update in range(1, 8):
        before = [snapshot(target) for target, _ in pairs]
        agent.update(make_windows(1, key=update))
        assert agent.updates == update
        for (target, online), old in zip(pairs, before, strict=True):
            expected = online if update % period == 0 else None
            assert same(snapshot(target), snapshot(expected) if expected else old)
            assert all(not parameter.requires_grad for parameter in target.parameters())


def test_a_copy_is_no_alias():
    agent = make_agent(target_networks_update_period=2)
    agent.update(make_windows(1))
    agent.update(make_windows(1))
    copied = snapshot(agent.learners.target_critic)
    agent.update(make_windows(1))
    assert same(snapshot(agent.learners.target_critic), copied)
    assert not same(snapshot(agent.critic), copied)


# Several M-steps


def test_two_m_steps_are_two_policy_steps_and_one_of_critic_and_temperatures():
    once, twice = make_agent(), make_agent()
    windows = make_windows(1)
    once.update(windows, 1)
    twice.update(windows, 2)
    assert same(snapshot(once.critic), snapshot(twice.critic))
    assert not same(snapshot(once.policy), snapshot(twice.policy))
    assert torch.equal(once.learners.temperatures.value, twice.learners.temperatures.value)
    assert (once.learners.alphas.value != twice.learners.alphas.value).all()
    assert twice.updates == 1


# Gradient clipping


@pytest.mark.parametrize("mode", MODES)
def test_an_update_moves_each_seed_by_at_most_the_clipped_norm(mode):
    settings = DESCENT | {"policy_lr": 1.0, "max_grad_norm": 0.05}
    agent = make_agent(**settings, **MODES[mode])
    before = snapshots(agent)
    metrics = agent.update(make_windows(agent.config.window))
    for name in ("policy", "critic"):
        # The metrics contain the norm before clipping.
        assert (metrics[f"{name}_grad_norm"] > 0.05).all()
        after = snapshot(getattr(agent.learners, name))
        for s in range(S):
            step = [(x - y)[s].double() for x, y in zip(after, before[name], strict=True)]
            assert norm_of(step) == pytest.approx(0.05, rel=1e-3)


# Optimizers


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_duals_stay_on_adam_whatever_the_networks_use(optimizer):
    rates = {"temperature_lr": 0.02, "lambda_lr": 0.005}
    agent, adam = make_agent(optimizer=optimizer, **rates), make_agent(**rates)
    before = snapshot(duals(agent))
    for each in (agent, adam):
        each.update(make_windows(1))
    assert same(snapshot(duals(agent)), snapshot(duals(adam)))
    assert not same(snapshot(agent.policy), snapshot(adam.policy))
    assert not same(snapshot(agent.critic), snapshot(adam.critic))
    # The length of Adam's first step is its rate, regardless of the gradient's size.
    for rate, start, parameter in zip(
        [0.02, 0.005], before, duals(agent).parameters(), strict=True
    ):
        moves = (parameter.detach() - start).abs()
        torch.testing.assert_close(moves, torch.full_like(moves, rate), rtol=1e-3, atol=0)


def test_duals_are_clamped_after_their_step():
    # All KLs are far below their bounds of 100 nats, so every dual falls, and far in one step.
    bounds = ("kl_epsilon", "epsilon_penalty", "mstep_kl_epsilon", "mstep_kl_epsilon_stddev")
    settings = DESCENT | {"temperature_lr": 1e4, "lambda_lr": 1e4} | dict.fromkeys(bounds, 100.0)
    agent = make_agent(**settings)
    for key in range(2):
        agent.update(make_windows(1, key=key))
        assert all((parameter == -18).all() for parameter in duals(agent).parameters())


# Independence of seeds and streams


@pytest.mark.parametrize(
    ("optimizer", "action_dim"),
    [*itertools.product(["adam", "adamw", "sgd", "rmsprop"], [1, 6]), ("adam", 3), ("adam", 17)],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_seeds_updates_do_not_depend_on_its_neighbours(mode, optimizer, action_dim):
    settings = {"optimizer": optimizer, "target_networks_update_period": 2, **MODES[mode]}
    stack = make_agent(SEEDS, action_dim, **settings)
    steps = stack.config.window
    history = [stack.update(make_windows(steps, SEEDS, action_dim, key), 2) for key in range(3)]
    for i, seed in enumerate(SEEDS):
        alone = make_agent((seed,), action_dim, **settings)
        for key, metrics in enumerate(history):
            single = alone.update(make_windows(steps, (seed,), action_dim, key), 2)
            assert single.keys() == metrics.keys()
            for name in metrics:
                assert torch.equal(single[name][0], metrics[name][i]), name
        for name, module in parts(alone).items():
            for label, parameter in module.named_parameters():
                stacked = parts(stack)[name].get_parameter(label)
                assert torch.equal(parameter[0], stacked[i]), (name, label)


def test_a_seed_that_diverges_leaves_its_neighbours_alone():
    agent, healthy = make_agent(), make_agent()
    for key in range(2):
        windows = make_windows(1, key=key)
        healthy.update(windows.clone())
        windows["reward"][1] = float("nan")
        agent.update(windows)
    for name, module in parts(agent).items():
        for label, parameter in module.named_parameters():
            other = parts(healthy)[name].get_parameter(label)
            for s in (0, 2):
                assert torch.equal(parameter[s], other[s]), (name, label)
    assert agent.critic.head.weight[1].isnan().any()


def test_initial_networks_of_a_seed_do_not_depend_on_its_neighbours():
    config = Hyperparameters(policy_layer_sizes=(9, 6), critic_layer_sizes=(7,), replay_size=10)
    stack = MPOAgent(OBS, D, config, SEEDS, torch.device("cpu"))
    for i, seed in enumerate(SEEDS):
        alone = MPOAgent(OBS, D, config, (seed,), torch.device("cpu"))
        for name, module in parts(alone).items():
            for label, parameter in module.named_parameters():
                assert torch.equal(parameter[0], parts(stack)[name].get_parameter(label)[i])
    assert same(snapshot(stack.policy), snapshot(stack.learners.target_policy))
    assert same(snapshot(stack.critic), snapshot(stack.learners.target_critic))


def test_acting_and_updating_draw_from_unlike_streams():
    quiet, acting = make_agent(), make_agent()
    obs = np.random.default_rng(0).standard_normal((S, OBS), dtype=np.float32)
    for _ in range(3):
        acting.act(obs)
    for agent in (quiet, acting):
        agent.update(make_windows(1))
    assert all(
        same(x, y) for x, y in zip(*map(dict.values, map(snapshots, (quiet, acting))), strict=True)
    )


# Initial multipliers


def test_duals_start_at_the_configs_natural_values():
    settings = {"temperature_init": 3.0, "lambda_init": 2.0, "init_log_alpha_mean": -1.0}
    agent = make_agent(**settings, init_log_alpha_stddev=1000.0)
    mean, stddev = 2 * math.log(1 + math.exp(-1)), 2000.0
    for found, start in (
        (agent.learners.temperatures.value, torch.tensor([3.0, 3.0])),
        (agent.learners.alphas.value, torch.tensor([[mean] * D, [stddev] * D])),
    ):
        torch.testing.assert_close(found, start.expand_as(found), rtol=1e-6, atol=2e-8)
        assert found.shape == (S, *start.shape)


def test_without_a_penalty_there_is_one_temperature():
    agent = make_agent(action_penalty=False)
    assert agent.learners.temperatures.value.shape == (S, 1)


# Acting


def test_raw_actions_come_with_their_log_density_under_the_online_policy():
    agent = make_agent()
    obs = np.random.default_rng(1).standard_normal((S, OBS), dtype=np.float32)
    for _ in range(5):
        actions, log_probs = agent.act(obs)
        assert actions.shape == (S, D) and log_probs.shape == (S,)
        assert actions.dtype == log_probs.dtype == np.float32
        for s in range(S):
            policy = PlainPolicy(
                copy.deepcopy(agent.policy).double(), s, agent.config.policy_init_scale
            )
            mean, stddev = policy(torch.from_numpy(obs[s]).double())
            expected = sum(
                reference.log_density(float(actions[s, d]), mean[d], stddev[d]) for d in range(D)
            )
            assert log_probs[s] == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)


def test_acting_samples_the_online_gaussian():
    agent = make_agent()
    obs = np.random.default_rng(2).standard_normal((S, OBS), dtype=np.float32)
    drawn = np.stack([agent.act(obs)[0] for _ in range(2000)])
    mean, stddev = (x[:, 0].detach().numpy() for x in agent.policy(torch.from_numpy(obs)[:, None]))
    assert (np.abs(drawn.mean(0) - mean) < 4 * stddev / 2000**0.5).all()
    assert (np.abs(drawn.std(0) / stddev - 1) < 0.08).all()
    assert (np.abs(drawn) > 1).any()  # raw: not clipped
    z = ((drawn - mean) / stddev).reshape(2000, S * D)
    assert (np.abs(np.corrcoef(z.T) - np.eye(S * D)) < 0.1).all()  # streams are independent


@pytest.mark.parametrize("action_dim", [1, 2, 3, 6, 17])
def test_a_seed_acts_alike_without_its_neighbours(action_dim):
    stack = make_agent(SEEDS, action_dim)
    obs = np.random.default_rng(3).standard_normal((4, S, OBS), dtype=np.float32)
    together = [stack.act(x) for x in obs]
    for i, seed in enumerate(SEEDS):
        alone = make_agent((seed,), action_dim)
        for x, both in zip(obs, together, strict=True):
            for one, several in zip(alone.act(x[i : i + 1]), both, strict=True):
                assert np.array_equal(one[0], several[i])


def test_the_mode_is_the_clipped_online_mean_of_the_seed():
    agent = make_agent()
    obs = 3 * np.random.default_rng(4).standard_normal((B, OBS), dtype=np.float32)
    with torch.no_grad():
        agent.policy.head.bias[1, 0, 0] += 2
    for s in range(S):
        policy = PlainPolicy(agent.policy, s, agent.config.policy_init_scale)
        expected = policy(torch.from_numpy(obs))[0].detach().clamp(-1, 1).numpy()
        actions = agent.mode(obs, s)
        assert actions.shape == (B, D) and actions.dtype == np.float32
        np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(agent.mode(obs, s), actions)
    assert (agent.mode(obs, 1) == 1).any()
