"""The optional features: each works as described, alone, in a stack and when resumed."""

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mpo.algorithm.agent import MPOAgent
from mpo.algorithm.layers import Normalizer
from mpo.algorithm.running_moments import RunningMoments
from mpo.environments.rollouts import vector_env
from mpo.jobs.snapshots import actor
from mpo.seeding import torch_generator
from mpo.study.config import ConfigError
from mpo.study.hyperparameters import Hyperparameters
from mpo.trainer import MPOTrainer
from mpo.training.artifacts import read_policies
from tests import processes
from tests.algorithm.test_agent import (
    OBS,
    SEEDS,
    D,
    Window,
    expected_value,
    make_agent,
    make_windows,
    parts,
    same,
    snapshot,
    targets,
    upcoming_noise,
)
from tests.cases import first_of
from tests.reference import PlainCritic
from tests.test_trainer import results

ATOMS = {"critic_atoms": 11, "critic_min": -3.0, "critic_max": 5.0}
OPTIONS = {
    "categorical": {"critic": "categorical", **ATOMS},
    "normalized": {"normalize_observations": True},
    "polyak": {"target_polyak": 0.01},
    "target acts": {"behaviour_policy": "target"},
    "joint KL": {"per_dimension_kl": False},
    "lion": {"optimizer": "lion"},
}
LEVERS = {
    "every norm": {"layer_norm": "all"},
    "mean of two": {"critics": "mean"},
    "minimum of two": {"critics": "minimum"},
    "decay": {"weight_decay": 0.1},
    "first moment": {"adam_beta1": 0.5},
    "second moment": {"adam_beta2": 0.9},
    "epsilon": {"adam_epsilon": 1e-2},
    "moments reset": {"optimizer_reset": "moments"},
    "time reset": {"optimizer_reset": "time"},
    "warm-up": {"warmup_updates": 250},
    "networks reset": {"network_resets": [120, 160, 230]},
    "pink": {"action_noise": "pink"},
    "critic alone": {"policy_update_period": 2},
    "no clipping": {"max_grad_norm": None},
    "squashed": {"normalize_observations": True, "observation_bound": "squash"},
    "bfloat16": {"target_precision": "bfloat16"},
}
ALL = {
    key: value
    for option in (OPTIONS | LEVERS).values()
    for key, value in option.items()
    if key not in ("target_polyak", "optimizer_reset")
}
ALL_COPIED = {**ALL, "optimizer": "adam", "optimizer_reset": "time"}
_WINDOW = {"retrace": True, "retrace_steps": 4}
MODES = {
    "td": {},
    "n-step": {"n_step": 4},
    "retrace": _WINDOW,
    "peng": _WINDOW | {"corrections": "peng", "regressed": "all", "critic_batch_size": 5},
}


def trained(folder, seeds=(3, 4, 5), steps=400, resume=None, env_id="Reacher-v5", **settings):
    renamed = {"retrace": "use_retrace", "optimizer": "optimizer_type"}
    settings = {renamed.get(name, name): value for name, value in settings.items()}
    trainer = MPOTrainer(
        env_id,
        seeds[0],
        torch.device("cpu"),
        (32, 32),
        (32, 32),
        replay_size=300,
        target_networks_update_period=20,
        extra_seeds=seeds[1:],
        **settings,
    )
    trainer.train(steps, 100, 16, str(folder), 1, 100, 50, resume and str(resume))
    return trainer


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """Results of trainings of seed 5 without options, by mode."""

    @functools.cache
    def found(mode):
        folder = tmp_path_factory.mktemp("without")
        trained(folder, seeds=(5,), steps=250, **MODES[mode])
        return results(folder)

    return found


@pytest.mark.parametrize(
    ("option", "mode"),
    [
        pytest.param(option, mode, marks=() if mode == "td" else pytest.mark.slow)
        for option in OPTIONS
        for mode in MODES
    ],
)
def test_an_option_changes_what_is_learnt_and_no_seed_feels_its_neighbours(
    tmp_path, without, option, mode
):
    check(tmp_path, without(mode), MODES[mode] | OPTIONS[option])


@pytest.mark.slow
@pytest.mark.parametrize("lever", first_of(LEVERS))
def test_a_lever_changes_what_is_learnt_and_no_seed_feels_its_neighbours(tmp_path, without, lever):
    check(tmp_path, without("n-step"), MODES["n-step"] | LEVERS[lever])


def check(folder, without, settings):
    """Trains the last of two seeds alone, too."""
    trained(folder / "stack", seeds=(3, 5), steps=250, **settings)
    trained(folder / "alone", seeds=(5,), steps=250, **settings)
    alone = results(folder / "alone")
    assert results(folder / "stack/seed5") == alone
    assert alone != without


@pytest.mark.slow
@pytest.mark.parametrize("options", first_of([ALL | {"target_polyak": 0.01}, ALL_COPIED]))
def test_all_options_together_are_resumed_bit_for_bit(tmp_path, options):
    trained(tmp_path / "calm", **options)
    for steps in (150, 230, 400):
        trained(tmp_path / "parts", steps=steps, resume=tmp_path / "state", **options)
    for seed in (3, 4, 5):
        calm, parts = (results(tmp_path / name / f"seed{seed}") for name in ("calm", "parts"))
        assert calm == parts


# The categorical critic


def support(agent: MPOAgent) -> Tensor:
    return agent.critic.atoms.double()


def plain_projection(probabilities: Tensor, atoms: Tensor, shift: float, discount: float) -> Tensor:
    """Projects by C51's algorithm 1, one atom at a time."""
    low, spacing, count = float(atoms[0]), float(atoms[1] - atoms[0]), len(atoms)
    table = torch.zeros(count, dtype=torch.float64)
    for p, z in zip(probabilities.tolist(), atoms.tolist(), strict=True):
        place = (min(max(shift + discount * z, low), float(atoms[-1])) - low) / spacing
        below = min(int(np.floor(place + 1e-12)), count - 1)
        above = min(below + 1, count - 1)
        table[below] += p * (1 - (place - below))
        table[above] += p * (place - below)
    return table


def bootstraps(window: Window, noise: list[Tensor], b: int) -> list[tuple[Tensor, float, Tensor]]:
    """For each regressed pair of a window: bootstrap state, its factor, and noise [M, D]."""
    config, following = window.config, window.fields["next_obs"]
    first = window.state, noise[0][: config.retrace_mc_actions, b]
    if not config.retrace:
        _, factor, last = window.n_step(0)
        state, drawn = first if window.steps == 1 else (following[last], noise[1][:, b])
        return [(state, factor, drawn)]
    later = noise[1].unflatten(1, (window.steps - 1, -1))[:, :, b].unbind(1)
    factors = (config.gamma * (1 - window.ends[0])).tolist()
    places = [first, *zip(following[1:], later, strict=True)]
    found = [(state, factor, e) for (state, e), factor in zip(places, factors, strict=True)]
    return found if config.regressed == "all" else found[:1]


@pytest.mark.parametrize("mode", MODES)
def test_the_categorical_target_is_the_mixture_moved_by_the_scalar_one(mode):
    """It is the mixture at the bootstrap state, shifted so that its mean is the scalar target."""
    wide = {"critic_min": -100.0, "critic_max": 100.0, "critic_atoms": 17}
    agent = make_agent(critic="categorical", **(wide | MODES[mode]))
    windows = make_windows(agent.config.window)
    # Values and corrections are small compared to the atoms' range, so nothing is clipped.
    for parameter in agent.learners.target_critic.head.parameters():
        parameter.mul_(0.05)
    agent.learners.target_critic.double()
    agent.learners.target_policy.double()
    windows = {name: x.double() for name, x in windows.items()}
    noise = upcoming_noise(agent, windows)
    batch = targets(agent, windows).regression
    found, atoms = batch.distribution, support(agent)
    torch.testing.assert_close((found * atoms).sum(-1), batch.target)
    fitted = agent.config.critic_batch_size or windows["reward"].shape[-1]
    for s, b in itertools.product(range(len(SEEDS)), range(fitted)):
        window = Window(agent, windows, s, b)
        rows = range(b, found.shape[1], fitted)  # one for each step that is regressed
        places = bootstraps(window, [x[s] for x in noise], b)
        for row, (state, factor, drawn) in zip(rows, places, strict=True):
            logits = expected_value(window.policy, window.critic, state, drawn)
            mixture = F.softmax(logits, -1).mean(0).detach()
            shift = float(batch.target[s, row] - factor * (mixture * atoms).sum())
            wanted = plain_projection(mixture, atoms, shift, factor)
            torch.testing.assert_close(found[s, row], wanted)


def test_the_mixture_is_that_of_the_expectations_samples():
    agent = make_agent(critic="categorical", **ATOMS)
    noise = torch.randn(len(SEEDS), 8, 4, D)
    found, _, values = agent._update.targets._evaluate(torch.randn(len(SEEDS), 4, OBS), noise)
    samples = agent.config.retrace_mc_actions
    assert found.value.allclose(values[:, :samples].mean(1))
    assert (found.mixture * agent.critic.atoms).sum(-1).allclose(found.value, atol=1e-6)


def test_a_categorical_step_equals_plain_sums():
    """With TD, sample by sample: C51's projection of each, their mean, and its cross-entropy."""
    agent = make_agent(critic="categorical", optimizer="sgd", q_lr=1.0, sgd_momentum=0.0, **ATOMS)
    windows = make_windows(1)
    states = [generator.get_state() for generator in agent._update.noise]
    noise = agent._update._draw(8, 7).double()
    for generator, state in zip(agent._update.noise, states, strict=True):
        generator.set_state(state)
    before = copy.deepcopy(agent.critic).double()
    targets = (
        copy.deepcopy(agent.learners.target_critic).double(),
        copy.deepcopy(agent.learners.target_policy),
    )
    atoms = torch.linspace(-3, 5, 11, dtype=torch.float64)
    metrics = agent.update(windows)
    policy = targets[1].double()
    for s in range(len(SEEDS)):
        target_critic, critic = PlainCritic(targets[0], s), PlainCritic(before, s)
        losses = []
        for b in range(windows.batch_size[-1]):
            w = {name: windows[name][s, 0, b].double() for name in windows.keys()}
            state = w["first_obs"] if w["terminated"] else w["next_obs"]
            mean, stddev = (x[s, 0] for x in policy(state.expand(len(SEEDS), 1, -1)))
            discount = 0.0 if w["terminated"] else agent.config.gamma
            wanted = torch.stack(
                [
                    plain_projection(
                        F.softmax(target_critic(state, mean + stddev * e), -1).detach(),
                        atoms,
                        float(w["reward"]),
                        discount,
                    )
                    for e in noise[s, :, b]
                ]
            ).mean(0)
            logits = critic(w["obs"], w["action"])
            losses.append(-(wanted * F.log_softmax(logits, -1)).sum())
        loss = torch.stack(losses).mean()
        loss.backward()
        assert metrics["critic_loss"][s].item() == pytest.approx(loss.item(), rel=1e-5)
        moved = before.head.weight[s] - agent.critic.head.weight[s].double()
        weight = critic.layers[-1].weight.grad.T
        torch.testing.assert_close(moved, weight, rtol=1e-4, atol=1e-6)


def test_atoms_that_span_nothing_are_refused():
    with pytest.raises(ConfigError, match="critic_min must be below critic_max, received 2.0 and"):
        trained("nowhere", critic="categorical", critic_min=2.0, critic_max=2.0)


# The normaliser


def test_running_moments_are_those_of_all_vectors():
    vectors = np.random.default_rng(0).normal([5, -100, 0], [1e-3, 50, 1], (300, 3))
    moments = RunningMoments(3)
    assert moments.inverse_stddev.tolist() == [1, 1, 1]
    for vector in vectors:
        moments.add(vector)
    np.testing.assert_allclose(moments.mean, vectors.mean(0))
    np.testing.assert_allclose(moments.inverse_stddev, 1 / np.sqrt(vectors.var(0) + 1e-4))


def test_all_networks_see_the_same_normal_observations_and_change_together():
    agent = make_agent(normalize_observations=True, target_networks_update_period=3)
    plain = make_agent()
    obs = np.random.default_rng(1).normal(3, 2, (50, len(SEEDS), OBS)).astype(np.float32)
    for rows in obs:
        agent.act(rows)
    networks = [
        agent.policy,
        agent.critic,
        agent.learners.target_policy,
        agent.learners.target_critic,
    ]
    assert len({id(network.normalize) for network in networks}) == 1
    probe = torch.from_numpy(obs[:7].swapaxes(0, 1).copy())
    assert torch.equal(agent.policy(probe)[0], plain.policy(probe)[0])
    windows, seen = make_windows(1), []
    for _ in range(5):
        agent.update(windows)
        seen.append(agent.policy.normalize.shift.clone())
        agent.act(obs[0] + 100)
    # The third update applies all 52 observations so far.
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[4])
    first = torch.from_numpy(obs.mean(0)).unsqueeze(1)
    torch.testing.assert_close(seen[0], first, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        seen[2], (50 * first + 2 * (torch.from_numpy(obs[:1]).swapaxes(0, 1) + 100)) / 52
    )  # noqa: E501
    spread = agent.policy.normalize(probe)
    assert spread.abs().max() <= 10


def test_squashed_observations_are_bounded_and_stay_apart():
    squashed, clipped = Normalizer(1, 1, squash=True), Normalizer(1, 1)
    obs = torch.tensor([-1e6, -40.0, -20.0, -0.01, 0.0, 0.01, 20.0, 40.0, 1e6]).view(1, -1, 1)
    found = squashed(obs).flatten()
    assert found.abs().max() <= 3 and (found[1:7].diff() > 0).all()
    torch.testing.assert_close(found[3:6], obs.flatten()[3:6], rtol=1e-4, atol=0)
    torch.testing.assert_close(found, -found.flip(0))
    assert clipped(obs).flatten()[6] == clipped(obs).flatten()[7] == 10


@pytest.mark.parametrize("bound", first_of(["clip", "squash"]))
def test_a_snapshot_is_evaluated_with_its_own_normalisation(tmp_path, bound):
    normal = {"normalize_observations": True, "observation_bound": bound}
    trainer = trained(tmp_path, seeds=(3,), **normal)
    step, state = read_policies(tmp_path / "policies.pt")[-1]
    assert step == 400 and {"normalize.shift", "normalize.scale"} <= set(state)
    sizes = {"policy_layer_sizes": (32, 32), "critic_layer_sizes": (32, 32)}
    spec = processes.run_spec("Reacher-v5", **normal, **sizes)
    obs = np.random.default_rng(0).normal(0, 30, size=(4, 10)).astype(np.float32)
    act = actor(spec, state, vector_env("Reacher-v5", 1))
    np.testing.assert_allclose(act(obs), trainer.agent.mode(obs), rtol=1e-6)
    assert state["normalize.shift"].abs().max() > 0.01


# Targets, behaviour, bounds


def test_polyak_targets_go_a_share_of_the_way_each_update():
    agent = make_agent(target_polyak=0.25, target_networks_update_period=1)
    for _ in range(2):
        target, critic = (
            snapshot(agent.learners.target_policy),
            snapshot(agent.learners.target_critic),
        )
        agent.update(make_windows(1))
        for before, network, online in (
            (target, agent.learners.target_policy, agent.policy),
            (critic, agent.learners.target_critic, agent.critic),
        ):
            for old, new, goal in zip(before, snapshot(network), snapshot(online), strict=True):
                torch.testing.assert_close(new, 0.75 * old + 0.25 * goal)


@pytest.mark.parametrize("behaviour", ["online", "target"])
def test_the_behaviour_policy_acts(behaviour):
    agent = make_agent(behaviour_policy=behaviour)
    obs = np.random.default_rng(0).normal(size=(len(SEEDS), OBS)).astype(np.float32)
    acting = agent.policy if behaviour == "online" else agent.learners.target_policy
    mean, stddev = (x.squeeze(1).numpy() for x in acting(torch.from_numpy(obs).unsqueeze(1)))
    noise = copy.deepcopy(agent._act_noise)
    raw, log_prob = agent.act(obs)
    drawn = np.stack([own.next() for own in noise])
    np.testing.assert_allclose(raw, mean + stddev * drawn, rtol=1e-6)
    expected = torch.distributions.Normal(*map(torch.from_numpy, (mean, stddev)))
    wanted = expected.log_prob(torch.from_numpy(raw)).sum(-1)
    np.testing.assert_allclose(log_prob, wanted, rtol=1e-5)


def test_a_joint_bound_is_on_the_sum_over_dimensions():
    rates = {"dual_optimizer": "sgd", "lambda_lr": 0.3, "sgd_momentum": 0.0}
    each, joint = (make_agent(per_dimension_kl=per, **rates) for per in (True, False))
    assert joint.learners.alphas.raw.shape == (len(SEEDS), 2, 1)
    raw = joint.learners.alphas.raw.clone()
    apart, together = (agent.update(make_windows(1)) for agent in (each, joint))
    for kind in ("kl_mean_relative", "kl_stddev_relative"):
        torch.testing.assert_close(together[kind], D * apart[kind])
    bounds = torch.tensor([joint.config.mstep_kl_epsilon, joint.config.mstep_kl_epsilon_stddev])
    kl = bounds * torch.stack([together["kl_mean_relative"], together["kl_stddev_relative"]], -1)
    slope = (bounds - kl).unsqueeze(-1) * raw.sigmoid()
    torch.testing.assert_close(joint.learners.alphas.raw, raw - 0.3 * slope)
    # Equal multipliers constrain both policies equally.
    assert same(snapshot(each.policy), snapshot(joint.policy))


def test_with_one_dimension_the_bounds_are_the_same():
    each, joint = (make_agent(action_dim=1, per_dimension_kl=per) for per in (True, False))
    for _ in range(3):
        for agent in (each, joint):
            agent.update(make_windows(1, action_dim=1))
    assert same(snapshot(each.policy), snapshot(joint.policy))
    assert same(snapshot(each.learners.alphas), snapshot(joint.learners.alphas))


def test_a_lion_step_has_the_length_of_the_rate_whatever_the_gradient():
    agent = make_agent(optimizer="lion", q_lr=0.01)
    before = agent.learners.critic_optimizer.flat.clone()
    agent.update(make_windows(1))
    steps = (agent.learners.critic_optimizer.flat - before).abs()
    moved = steps[steps > 0]
    assert len(moved) > 1000
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=1e-6)


@pytest.fixture
def elsewhere(monkeypatch):
    """The meta device; see `tests.compute.test_cuda_graphs`."""
    monkeypatch.setattr(
        "mpo.algorithm.update.torch_generator",
        lambda seed, stream, *_: torch_generator(seed, stream),
    )
    monkeypatch.setattr(
        "mpo.algorithm.optimizers.StackedOptimizer.step",
        lambda self: self.flat.add_(self._gradient),
    )
    return torch.device("meta")


@pytest.mark.parametrize("mode", MODES)
def test_with_all_options_learning_stays_on_the_device(mode, elsewhere):
    sizes = {"policy_layer_sizes": (32,), "critic_layer_sizes": (32,), "replay_size": 10}
    settings = Hyperparameters(**(sizes | ALL | MODES[mode] | {"optimizer": "adam"}))
    agent = MPOAgent(OBS, D, settings, range(3), elsewhere)
    windows = {name: x.to(elsewhere) for name, x in make_windows(settings.window).items()}
    assert all(x.is_meta for x in agent.update(windows).values())
    assert agent._heads({"obs": torch.zeros(3, OBS)})["heads"].is_meta


# Networks and optimizers that start anew


def test_networks_start_anew_from_streams_of_their_own_and_the_duals_stay():
    agent = make_agent(optimizer="sgd")
    agent.update(make_windows(1))
    before = {name: snapshot(module) for name, module in parts(agent).items()}
    agent.learners.renew(0)
    first = {name: snapshot(module) for name, module in parts(agent).items()}
    assert same(first["duals"], before["duals"])
    assert same(first["policy"], first["target_policy"])
    assert same(first["critic"], first["target_critic"])
    for stream, count in (("init", ()), ("renew", (0,)), ("renew", (1,))):
        drawn = agent.learners.draw(stream, *count)
        alike = [
            same(snapshot(x), first[n]) for x, n in zip(drawn, ("policy", "critic"), strict=True)
        ]
        assert alike == [count == (0,)] * 2
    assert all(
        not x.any()
        for state in agent.learners.critic_optimizer._steppers["whole"].optimizer.state.values()
        for x in state.values()
    )


def test_moments_are_reset_at_the_copies_and_only_then():
    reset, plain = (
        make_agent(optimizer_reset=what, target_networks_update_period=2)
        for what in ("moments", "never")
    )
    steps = []
    for key in range(4):
        for agent in (reset, plain):
            agent.update(make_windows(1, key=key))
        steps.append(same(snapshot(reset.critic), snapshot(plain.critic)))
        time = next(
            iter(reset.learners.critic_optimizer._steppers["whole"].optimizer.state.values())
        )["step"]
        assert float(time) == (key + 1) % 2
    assert steps == [True, True, False, False]


def test_a_warm_up_counts_updates():
    """Adam's first steps have the length of the rate, here a quarter more of it each."""
    agent = make_agent(warmup_updates=4, q_lr=0.01)
    windows, lengths = make_windows(1), []
    for _ in range(6):
        before = agent.learners.critic_optimizer.flat.clone()
        agent.update(windows)
        lengths.append(float((agent.learners.critic_optimizer.flat - before).abs().max()))
        with torch.inference_mode():
            agent.learners.critic_optimizer.reset_()
    assert lengths == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01], rel=1e-2)


def test_between_two_policy_steps_the_critic_learns_alone():
    agent = make_agent(policy_update_period=3)
    for key in range(7):
        before = {name: snapshot(module) for name, module in parts(agent).items()}
        metrics = agent.update(make_windows(1, key=key), 2)
        moved = {n for n, x in before.items() if not same(x, snapshot(parts(agent)[n]))}
        assert moved == ({"policy", "critic", "duals"} if key % 3 == 0 else {"critic"})
        assert ("policy_loss" in metrics) == (key % 3 == 0) and "critic_loss" in metrics


@pytest.mark.parametrize("critics", ["mean", "minimum"])
def test_both_critics_learn_from_the_same_targets(critics):
    agent = make_agent(
        critics=critics, q_lr=1.0, optimizer="sgd", sgd_momentum=0.0, max_grad_norm=None
    )
    windows = make_windows(1)
    states = [g.get_state() for g in agent._update.noise]
    batch = targets(agent, windows).regression
    for g, state in zip(agent._update.noise, states, strict=True):
        g.set_state(state)
    before = [copy.deepcopy(member) for member in agent.critic.members]
    agent.update(windows)
    for old, new in zip(before, agent.critic.members, strict=True):
        for s in range(len(SEEDS)):
            plain = PlainCritic(old, s)
            loss = 0.5 * (plain(batch.obs[s], batch.action[s]) - batch.target[s]).square().mean()
            loss.backward()
            moved = old.head.weight[s] - new.head.weight[s]
            torch.testing.assert_close(moved, plain.layers[-1].weight.grad.T, rtol=1e-4, atol=1e-6)


# Diagnostics


def test_steps_are_measured_just_before_and_after_a_copy():
    agent = make_agent(target_networks_update_period=4)
    names = {
        f"{network}_step_{place}_copy"
        for network in ("policy", "critic")
        for place in ("before", "after")
    }
    for key in range(9):
        before = agent.learners.critic_optimizer.flat.clone()
        metrics = agent.update(make_windows(1, key=key))
        place = {3: "before", 0: "after"}.get(key % 4)
        assert {name for name in metrics if name in names} == {
            n for n in names if place and place in n
        }
        if place:
            moved = (agent.learners.critic_optimizer.flat - before).norm(dim=1)
            torch.testing.assert_close(metrics[f"critic_step_{place}_copy"], moved)


def test_the_age_of_the_samples_counts_updates():
    agent = make_agent(updates_per_step=2.0)
    windows = make_windows(1)
    metrics = agent.update(windows)
    torch.testing.assert_close(metrics["sample_age"], 2 * windows["age"].mean((1, 2)))
