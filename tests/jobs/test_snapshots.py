"""Each snapshot's episodes are compared with those of the same policy alone, written out here."""

import numpy as np
import pytest
import torch

from mpo.algorithm.policies import GaussianPolicy, make_normalizer
from mpo.environments.guard import EnvironmentFailed
from mpo.environments.rollouts import rollouts, vector_env
from mpo.jobs import snapshots
from mpo.jobs.evaluate import evaluate
from mpo.seeding import FIRST_FINAL_SEED, FIRST_ONLINE_SEED
from mpo.study.hyperparameters import Training
from mpo.study.specs import EvaluationSpec, RunSpec
from tests import probes  # noqa: F401 (registers the environments)
from tests.cases import first_of

LONGEST = 40
REST = {"critic_layer_sizes": (32,), "replay_size": 9, "update_after": 1, "batch_size": 1}


def run_spec(env_id, **options):
    training = Training(**{"policy_layer_sizes": (64, 32)} | REST | options)
    return RunSpec(env_id=env_id, seed=0, training=training, snapshot_interval=10, log_interval=10)


def network(training, seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    normalizer = make_normalizer(training, 1, sizes[0])
    every = training.layer_norm == "all"
    widths = training.policy_layer_sizes
    made = GaussianPolicy(*sizes, widths, 0.5, [generator], normalizer, every)
    for name, value in made.named_parameters():
        if not name.endswith("gain"):
            value.data += 0.3 * torch.randn(value.shape, generator=generator)
    if normalizer is not None:
        normalizer.shift += torch.randn(normalizer.shift.shape, generator=generator)
    return made


def alone(policy, env_id, seeds, sampled, recording=None):
    """Plays groups of ten, one after another; returns (return, length, terminated) per episode."""
    found = []
    for first in range(0, len(seeds), 10):
        group = seeds[first : first + 10]
        streams = [np.random.default_rng(seed) for seed in group]

        def act(obs, streams=streams):
            with torch.no_grad():
                mean, stddev = (x[0].numpy() for x in policy(torch.from_numpy(obs)[None]))
            if sampled:
                drawn = [s.standard_normal(mean.shape[1], dtype=np.float32) for s in streams]
                mean = mean + stddev * np.stack(drawn)
            return mean.clip(-1, 1)

        steps = []
        played = rollouts(vector_env(env_id, len(group)), act, group, LONGEST, steps)
        found += zip(
            played.returns.tolist(),
            played.lengths.tolist(),
            played.terminated.tolist(),
            strict=True,
        )
        if recording is not None:
            recording.append(steps)
    return found


@pytest.mark.parametrize(
    ("env_id", "sizes", "options"),
    first_of(
        [
            ("InvertedDoublePendulum-v5", (9, 1), {}),
            ("Pendulum-v1", (3, 1), {"policy_layer_sizes": (40, 24)}),
            (
                "Reacher-v5",
                (10, 2),
                {
                    "normalize_observations": True,
                    "observation_bound": "squash",
                    "layer_norm": "all",
                },
            ),
            ("HalfCheetah-v5", (17, 6), {"policy_layer_sizes": (256, 256, 256)}),
        ]
    ),
)
def test_snapshots_side_by_side_have_the_bits_of_each_alone(env_id, sizes, options):
    spec = run_spec(env_id, **options)
    policies = [(10 * i, network(spec.training, i, sizes)) for i in range(9)]
    config = EvaluationSpec(online_episodes=7, final_episodes=13, max_episode_steps=LONGEST)
    recordings = []
    states = [(step, policy.state_dict()) for step, policy in policies]
    rows = evaluate(spec, states, config, 80, recordings=recordings)
    online, final = (
        [first + i for i in range(n)]
        for first, n in ((FIRST_ONLINE_SEED, 7), (FIRST_FINAL_SEED, 13))
    )
    expected = [row for _, policy in policies for row in alone(policy, env_id, online, False)]
    expected += alone(policies[-1][1], env_id, final, False)
    recorded = []
    expected += alone(policies[-1][1], env_id, final, True, recorded)
    assert [(row["return"], row["length"], row["terminated"]) for row in rows] == expected
    assert len(set(expected)) > 50
    assert [len(steps) for steps in recordings] == [len(steps) for steps in recorded]
    for own, theirs in zip(sum(recordings, []), sum(recorded, []), strict=True):
        assert all((a == b).all() for a, b in zip(own, theirs, strict=True))


def test_no_more_groups_than_allowed_have_environments_at_once(monkeypatch):
    """Groups end at different steps, and those that are over need no environments."""
    alive = set()

    class Counted(snapshots.ParallelEpisodes):
        def __init__(self, *arguments):
            nonlocal most
            super().__init__(*arguments)
            alive.add(self)
            most = max(most, len(alive))

        def close_extras(self, **kwargs):
            alive.remove(self)
            super().close_extras(**kwargs)

    most = 0
    monkeypatch.setattr(snapshots, "ParallelEpisodes", Counted)
    monkeypatch.setattr(snapshots, "MAX_GROUPS", 3)
    spec = run_spec("Pendulum-v1")
    state = network(spec.training, 0, (3, 1)).state_dict()
    group = snapshots.Group(0, "online", "mode", state, 0, [1, 2])
    ended = []
    played = snapshots.play_groups(spec, [group] * 8, 5, 0, lambda *each: ended.append(each))
    assert most == 3 and not alive and len(ended) == len(played) == 8
    assert len({tuple(each.returns) for each in played}) == 1


def test_an_environment_that_fails_beside_others_is_named():
    spec = run_spec("probe/Raising-v0")
    states = [(step, network(spec.training, step, (1, 1)).state_dict()) for step in range(3)]
    config = EvaluationSpec(online_episodes=2, final_episodes=2)
    with pytest.raises(EnvironmentFailed, match=r"probe/Raising-v0', step 3 .*a sensor is gone"):
        evaluate(spec, states, config, 3)
