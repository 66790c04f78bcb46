import gymnasium as gym
import numpy as np
import pytest
import torch

from mpo.algorithm.policies import GaussianPolicy
from mpo.environments.envs import dimensions, make_env
from mpo.environments.guard import EnvironmentFailed
from mpo.environments.rollouts import SideBySide, rollouts, vector_env
from mpo.jobs.evaluate import evaluate, random_returns
from mpo.seeding import FIRST_FINAL_SEED, FIRST_ONLINE_SEED
from mpo.study.hyperparameters import Training
from mpo.study.specs import EvaluationSpec, RunSpec
from tests import probes  # noqa: F401 (registers the environments)
from tests.cases import first_of


def spec(env_id, interval=1):
    training = Training(
        policy_layer_sizes=(8,),
        critic_layer_sizes=(8,),
        replay_size=9,
        update_after=1,
        batch_size=1,
    )
    return RunSpec(
        env_id=env_id, seed=0, training=training, snapshot_interval=interval, log_interval=1
    )


def policy(bias, obs_dim=1):
    """Returns a policy whose mean is `bias` for every observation."""
    network = GaussianPolicy(obs_dim, 1, (8,), 0.5, [torch.Generator().manual_seed(0)])
    network.head.weight.data.zero_()
    network.head.bias.data[..., 0] = bias
    return network.state_dict()


def test_an_episode_is_counted_to_its_end_and_no_further():
    envs = vector_env("probe/Terminating-v0", 4)
    played = rollouts(envs, lambda obs: np.zeros((4, 1), np.float32), [1, 2, 3, 4])
    assert played.returns.tolist() == [3.0] * 4 and played.lengths.tolist() == [3] * 4
    assert played.terminated.all()
    endless = vector_env("probe/Endless-v0", 2)
    played = rollouts(endless, lambda obs: np.zeros((2, 1), np.float32), [1, 2])
    assert played.lengths.tolist() == [5, 5] and not played.terminated.any()


def test_episodes_are_those_of_gymnasiums_own_vector_environment():
    """Some episodes end long before others. The policy still gets all rows at each step."""

    def act(obs):
        return np.tanh(obs[:, 1:2] + 10 * obs[:, 3:4]).astype(np.float32)

    seeds = [FIRST_ONLINE_SEED + i for i in range(6)]
    name = "InvertedDoublePendulum-v5"
    own = rollouts(vector_env(name, 6), act, seeds)
    plain = gym.vector.SyncVectorEnv([lambda: make_env(name) for _ in seeds])
    theirs = rollouts(plain, act, seeds)
    assert len(set(own.lengths)) > 1 and own.terminated.any()
    for mine, given in zip(own, theirs, strict=True):
        assert mine.dtype == given.dtype and (mine == given).all()


def test_an_episode_that_is_over_is_not_stepped():
    class Once(gym.Wrapper):
        over = False

        def step(self, action):
            assert not self.over
            answer = self.env.step(action)
            self.over = answer[2] or answer[3]
            return answer

    envs = SideBySide([Once(make_env(f"probe/{name}-v0")) for name in ("Terminating", "Endless")])
    played = rollouts(envs, lambda obs: np.zeros((2, 1), np.float32), [1, 2])
    assert played.lengths.tolist() == [3, 5] and played.terminated.tolist() == [True, False]


def test_every_snapshot_then_the_last_one_in_full():
    snapshots = [(0, policy(0.0)), (10, policy(0.3))]
    config = EvaluationSpec(online_episodes=2, final_episodes=12)
    plan = spec("probe/Target-v0", interval=10)
    rows = evaluate(plan, snapshots, config, 10)
    assert len(rows) == 2 + 2 + 12 + 12
    online = [row for row in rows if row["phase"] == "online"]
    assert [row["env_step"] for row in online] == [0, 0, 10, 10]
    assert [row["return"] for row in online] == pytest.approx([-0.09, -0.09, 0, 0], abs=1e-6)
    assert {row["eval_seed"] for row in online} == {FIRST_ONLINE_SEED, FIRST_ONLINE_SEED + 1}
    final = [row for row in rows if row["phase"] == "final"]
    assert {row["env_step"] for row in final} == {10}
    assert [row["eval_seed"] for row in final[:12]] == [FIRST_FINAL_SEED + i for i in range(12)]
    mode = [row["return"] for row in final if row["policy"] == "mode"]
    sample = [row["return"] for row in final if row["policy"] == "sample"]
    assert mode == pytest.approx([0] * 12, abs=1e-6)
    assert len(set(sample)) > 6 and max(sample) < 0


def test_the_first_episodes_do_not_depend_on_how_many_follow():
    snapshots = [(0, policy(0.1, obs_dim=3))]
    few, many = (
        evaluate(
            spec("Pendulum-v1"), snapshots, EvaluationSpec(online_episodes=1, final_episodes=n), 0
        )
        for n in (3, 11)
    )
    for name in ("mode", "sample"):
        a, b = (
            [r for r in rows if r["policy"] == name and r["phase"] == "final"]
            for rows in (few, many)
        )
        assert [r["return"] for r in a] == [r["return"] for r in b[:3]]


def test_a_diverged_run_is_scored_by_its_last_policy_from_there_on():
    snapshots = [(0, policy(0.0)), (10, policy(0.1))]
    config = EvaluationSpec(online_episodes=2, final_episodes=3)
    rows = evaluate(spec("probe/Target-v0", interval=10), snapshots, config, 40)
    online = [(r["env_step"], r["return"]) for r in rows if r["phase"] == "online"]
    assert [step for step, _ in online] == [0, 0, 10, 10, 20, 20, 30, 30, 40, 40]
    assert [r for _, r in online] == pytest.approx([-0.09] * 2 + [-0.04] * 8, abs=1e-6)
    assert {r["env_step"] for r in rows if r["phase"] == "final"} == {40}


def test_random_returns_are_those_of_uniform_actions():
    returns = random_returns("probe/Target-v0", 2000)
    # The mean of -(a - 0.3)^2 over a uniform in [-1, 1].
    assert returns.mean() == pytest.approx(-(1 / 3 + 0.09), abs=0.03)
    assert random_returns("probe/Target-v0", 13).tolist() == returns[:13].tolist()


def test_a_cap_ends_an_episode_without_terminating_it():
    envs = [make_env(f"probe/{name}-v0") for name in ("Terminating", "Endless", "Eternal")]
    actions = np.zeros((3, 1), np.float32)
    for cap, lengths in ((2, [2, 2, 2]), (3, [3, 3, 3]), (4, [3, 4, 4]), (9, [3, 5, 9])):
        played = rollouts(SideBySide(envs), lambda obs: actions, [1, 2, 3], cap)
        assert played.lengths.tolist() == lengths and played.returns.tolist() == lengths
        assert played.terminated.tolist() == [cap >= 3, False, False]
        assert played.running.tolist() == [cap < 3, cap < 5, True]


def test_an_evaluation_keeps_to_its_cap():
    config = EvaluationSpec(online_episodes=2, final_episodes=3, max_episode_steps=7)
    rows = evaluate(spec("probe/Eternal-v0"), [(0, policy(0.0))], config, 1)
    assert {(row["return"], row["length"], row["terminated"]) for row in rows} == {(7.0, 7, False)}
    assert random_returns("probe/Eternal-v0", 3, max_episode_steps=7).tolist() == [7.0] * 3


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1, 12_000])
def test_an_episode_that_outlasts_the_training_fails_and_names_the_remedy(budget):
    steps = max(budget, 10_000)
    message = (
        f"environment 'probe/Eternal-v0': an episode has not ended after {steps} steps.* "
        "max_episode_steps.* evaluation.max_episode_steps"
    )
    config = EvaluationSpec(online_episodes=1, final_episodes=1)
    with pytest.raises(EnvironmentFailed, match=message):
        evaluate(spec("probe/Eternal-v0"), [(0, policy(0.0))], config, budget)
    with pytest.raises(EnvironmentFailed, match=message):
        random_returns("probe/Eternal-v0", 1, budget=budget)


@pytest.mark.parametrize(
    ("env_id", "length"),
    first_of([("dm_control/reacher-easy-v0", 1000), ("probe/Long-v0", 20_000)]),
)
def test_an_episode_that_ends_by_itself_may_outlast_a_short_training(env_id, length):
    envs = vector_env(env_id, 1)
    config = EvaluationSpec(online_episodes=1, final_episodes=1)
    state = GaussianPolicy(
        *dimensions(envs.single_observation_space, envs.single_action_space),
        (8,),
        0.5,
        [torch.Generator().manual_seed(0)],
    ).state_dict()
    rows = evaluate(spec(env_id), [(0, state)], config, 1)
    assert {row["length"] for row in rows} == {length}
