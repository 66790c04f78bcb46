import json

import numpy as np
import pytest
import torch

from mpo.algorithm.critics import make_critic
from mpo.algorithm.policies import GaussianPolicy
from mpo.environments.rollouts import rollouts, vector_env
from mpo.jobs import q_bias
from mpo.jobs.evaluate import evaluate
from mpo.jobs.snapshots import load_policy
from mpo.seeding import FIRST_FINAL_SEED, value_generator
from mpo.study.checksums import sealed
from mpo.study.files import write_json
from mpo.study.specs import EvaluationSpec
from mpo.training import loop
from mpo.training.artifacts import read_critic, read_policies, write_policies
from mpo.training.stack import Stack
from tests import (
    probes,  # noqa: F401 (registers the environments)
    processes,
)
from tests.cases import first_of

KINDS = {
    "one": {},
    "pair": {"critics": "mean"},
    "minimum": {"critics": "minimum"},
    "categorical": {"critic": "categorical", "critic_atoms": 11},
    "categorical pair": {"critic": "categorical", "critics": "minimum"},
    "normalised": {"normalize_observations": True},
    "normalised pair": {"normalize_observations": True, "critics": "minimum"},
    "every norm": {"layer_norm": "all"},
}


def networks(spec, obs_dim=1, action_dim=1):
    """State dicts of a policy around 0 and of a critic, both with weights of their own."""
    generators = [torch.Generator().manual_seed(3)]
    critic = make_critic(obs_dim, action_dim, spec.training, generators, None)
    critic.head.weight *= 100
    policy = GaussianPolicy(obs_dim, action_dim, (16,), 0.5, generators)
    return policy.state_dict(), critic.state_dict()


def constant(spec, value):
    """A critic that gives every action this value."""
    state = networks(spec)[1]
    return state | {
        "head.weight": torch.zeros_like(state["head.weight"]),
        "head.bias": torch.full_like(state["head.bias"], value),
    }


def played(spec, cap=None, count=3):
    """A policy and the recorded episodes with sampled actions of its final evaluation."""
    policy, recordings = networks(spec)[0], []
    config = EvaluationSpec(online_episodes=1, final_episodes=count, max_episode_steps=cap)
    rows = evaluate(spec, [(0, policy)], config, 0, recordings=recordings)
    return policy, recordings, [row for row in rows if row["policy"] == "sample"]


def error(env_id, gamma, value, cap=None):
    """The error of a constant critic in an environment."""
    spec = processes.run_spec(env_id, gamma=gamma)
    policy, recordings, _ = played(spec, cap)
    return q_bias.measure(spec.training, policy, constant(spec, value), recordings)


def test_a_termination_ends_the_return():
    found = error("probe/Terminating-v0", gamma=0.5, value=2.0)
    returns = np.array([1.75, 1.5, 1.0])  # of three rewards of 1
    assert found.q_bias == pytest.approx((0.25 + 0.5 + 1) / 3)
    assert found.q_spread == pytest.approx((2 - returns).std())
    assert found.q_return == pytest.approx(4.25 / 3)
    assert (found.q_states, found.q_bootstrap) == (9, 0.0)


def test_a_time_limit_does_not_end_it_and_short_episodes_count_whole():
    """With rewards of 1 and gamma 1/2 the value is 2; a horizon has 10 steps, the episode 5."""
    right = error("probe/Endless-v0", gamma=0.5, value=2.0)
    assert right == pytest.approx((0.0, 0.0, 2.0, 15, np.mean(0.5 ** np.arange(1, 6))))
    high = error("probe/Endless-v0", gamma=0.5, value=3.0)
    weights = 0.5 ** np.arange(1, 6)
    errors = 3 - (2 * (1 - weights) + 3 * weights)
    assert high.q_bias == pytest.approx(errors.mean()) and high.q_bias < 1  # its own value hides it
    assert high.q_spread == pytest.approx(errors.std())
    assert high.q_bootstrap == pytest.approx(weights.mean())


def test_of_a_long_episode_only_states_far_from_its_end_count():
    """A horizon has ln(100) / (1 - 1/2) = 9.2 steps, so those with 10 of 30 or more ahead count."""
    found = error("probe/Eternal-v0", gamma=0.5, value=3.0, cap=30)
    weights = 0.5 ** np.arange(30, 9, -1)
    assert found.q_states == 3 * 21
    assert found.q_bias == pytest.approx(np.mean(1 - weights))
    assert found.q_return == pytest.approx(np.mean(2 + weights))
    assert found.q_bootstrap == pytest.approx(weights.mean())
    assert found.q_bootstrap < 0.01


@pytest.mark.parametrize(
    ("length", "gamma", "count"),
    [(1000, 0.99, 540), (461, 0.99, 1), (460, 0.99, 460), (200, 0.99, 200), (7, 0.0, 3), (9, 1, 9)],
)
def test_the_horizon_is_ln_100_over_1_minus_gamma(length, gamma, count):
    assert q_bias.states_that_count(length, False, gamma) == count
    assert q_bias.states_that_count(length, True, gamma) == length


def test_the_returns_are_those_of_the_evaluations_own_episodes():
    spec = processes.run_spec("probe/Target-v0", gamma=0.9)  # one step each
    policy, recordings, rows = played(spec, count=12)
    found = q_bias.measure(spec.training, policy, constant(spec, 0.0), recordings)
    returns = [row["return"] for row in rows]
    assert [len(steps[0].rewards) for steps in recordings] == [10, 2]
    assert found.q_return == pytest.approx(np.mean(returns)) != 0
    assert found.q_bias == pytest.approx(-np.mean(returns))
    assert found.q_spread == pytest.approx(np.std(returns)) and found.q_spread > 0


def test_observations_actions_and_rewards_are_of_the_same_step():
    spec = processes.run_spec("probe/TwoSteps-v0")
    recordings = played(spec)[1]
    for episode in q_bias.episodes(recordings[0]):
        assert episode.obs.tolist() == [[0.0], [1.0]] and episode.last_obs.tolist() == [1.0]
        best = np.array([0.5, -0.5])
        expected = -((episode.actions[:, 0] - best) ** 2)
        np.testing.assert_allclose(episode.rewards, expected, rtol=1e-5, atol=1e-6)
        assert episode.terminated and (np.abs(episode.actions) <= 1).all()


def test_episodes_of_unequal_length_are_taken_apart():
    seeds = [FIRST_FINAL_SEED + i for i in range(6)]
    steps = []
    act = lambda obs: np.tanh(obs[:, 1:2] + 10 * obs[:, 3:4]).astype(np.float32)  # noqa: E731
    found = rollouts(vector_env("InvertedDoublePendulum-v5", 6), act, seeds, 60, steps)
    own = [*q_bias.episodes(steps)]
    assert len(set(found.lengths)) > 1
    assert [len(episode.rewards) for episode in own] == found.lengths.tolist()
    assert [episode.rewards.sum() for episode in own] == pytest.approx(found.returns.tolist())
    assert [episode.terminated for episode in own] == found.terminated.tolist()
    for episode in own:
        assert (episode.actions == act(episode.obs)).all()


@pytest.mark.parametrize("kind", first_of(KINDS))
def test_the_last_critic_is_read_back_and_measured(tmp_path, kind):
    spec = processes.run_spec("Pendulum-v1", **KINDS[kind])
    stack = Stack(spec.env_id, spec.training, [0], torch.device("cpu"))
    loop.train(stack, spec.cell, 220, [tmp_path])
    critic = read_critic(tmp_path / "policies.pt")
    step, policy = read_policies(tmp_path / "policies.pt")[-1]
    assert step == 220 and {value.shape[0] for value in critic.values()} == {1}
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(5000, 3)).astype(np.float32)
    actions = rng.uniform(-1, 1, (5000, 1)).astype(np.float32)
    network = q_bias.load_critic(spec.training, critic, 3, 1)
    found = q_bias.action_values(network, obs, actions)
    expected = stack.agent.critic(
        torch.from_numpy(obs)[None], torch.from_numpy(actions)[None, None]
    )
    np.testing.assert_allclose(found, expected[0, 0].numpy(), rtol=1e-5, atol=1e-6)
    assert found.std() > 0
    config = EvaluationSpec(online_episodes=1, final_episodes=2)
    recordings = []
    rows = evaluate(spec, [(220, policy)], config, 220, recordings=recordings)
    assert rows == evaluate(spec, [(220, policy)], config, 220)  # recording changes nothing
    measured = q_bias.measure(spec.training, policy, critic, recordings)
    assert measured.q_states == 400 and np.isfinite(measured).all()
    assert measured.q_bootstrap == pytest.approx(np.mean(0.99 ** np.arange(1, 201)))


def test_v_is_the_mean_over_sampled_actions_of_streams_of_their_own():
    spec = processes.run_spec("Pendulum-v1")
    policy, critic = networks(spec, 3)
    actor = load_policy(spec.training, policy, 3, 1)
    network = q_bias.load_critic(spec.training, critic, 3, 1)
    obs = np.random.default_rng(5).normal(size=(7, 3)).astype(np.float32)
    found = q_bias.bootstraps(actor, network, obs)
    mean, stddev = actor(torch.from_numpy(obs)[None])
    noise = torch.randn(20_000, 7, 1, generator=torch.Generator().manual_seed(2))
    values = network(torch.from_numpy(obs)[None], (mean + stddev * noise)[None])[0]
    assert (np.abs(found - values.mean(0).numpy()) < 5 * values.std(0).numpy() / 128**0.5).all()
    # An episode's value depends neither on the others nor on the noise of its actions.
    np.testing.assert_allclose(q_bias.bootstraps(actor, network, obs[:2]), found[:2], rtol=1e-5)
    one, other = q_bias.bootstraps(actor, network, obs[[0, 0]])
    assert one != other
    own, noise = value_generator(FIRST_FINAL_SEED), np.random.default_rng(FIRST_FINAL_SEED)
    assert own.standard_normal() != noise.standard_normal()


def test_without_a_critic_or_with_infinite_values_there_is_none():
    spec = processes.run_spec("probe/Endless-v0")
    policy, recordings, _ = played(spec)
    assert q_bias.measure(spec.training, policy, None, ()) is None
    assert q_bias.measure(spec.training, policy, constant(spec, np.inf), recordings) is None


@pytest.mark.slow
def test_the_job_records_it_and_a_file_of_an_older_version_is_evaluated_without(tmp_path):
    spec = processes.run_spec("Pendulum-v1")
    folder = processes.results(tmp_path, spec, 200)
    processes.train_here(folder, spec, 200)

    def evaluated():
        processes.finish(processes.evaluate(tmp_path, spec, 200, 1))
        rows = (folder / "evals.parquet").read_bytes()
        return json.loads((folder / "evals.json").read_text()), rows

    record, rows = evaluated()
    expected = {"q_bias", "q_spread", "q_return", "q_states", "q_bootstrap"}
    assert expected <= record.keys() and record["q_states"] == 200
    path, policies = folder / "policies.pt", read_policies(folder / "policies.pt")
    write_policies(path, *zip(*policies, strict=True))
    assert read_critic(path) is None
    run = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", sealed(run, [path]))
    older, same_rows = evaluated()
    assert not expected & older.keys() and same_rows == rows
