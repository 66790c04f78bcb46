"""Probe environments with known optima, each learnt in seconds."""

import numpy as np
import pytest
import torch

from mpo.trainer import MPOTrainer
from tests import probes  # noqa: F401 (registers the environments)
from tests.cases import first_of

GAMMA = 0.9


def trained(tmp_path, env_id, steps=900, extra_seeds=(), **settings):
    defaults = {
        "gamma": GAMMA,
        "policy_lr": 3e-3,
        "q_lr": 3e-3,
        "temperature_lr": 1e-2,
        "lambda_lr": 1e-2,
        "mstep_kl_epsilon": 0.05,
        "mstep_kl_epsilon_stddev": 1e-3,
        "init_log_alpha_mean": 1.0,
        "init_log_alpha_stddev": 1.0,
        "target_networks_update_period": 20,
        "max_grad_norm": 40.0,
    }
    trainer = MPOTrainer(
        env_id,
        0,
        torch.device("cpu"),
        (32, 32),
        (32, 32),
        replay_size=5000,
        extra_seeds=extra_seeds,
        **(defaults | settings),
    )
    trainer.train(steps, update_after=100, batch_size=32, out_dir=str(tmp_path), log_interval=100)
    return trainer


def values(trainer, observation):
    """Returns each seed's value of its online mean action at an observation, [S]."""
    obs = np.full((1, trainer.stack.obs_dim), observation, np.float32)
    rows = torch.from_numpy(obs).expand(len(trainer.seeds), -1, -1)
    with torch.no_grad():
        action = trainer.agent.policy(rows)[0]
        return trainer.agent.critic(rows, action.unsqueeze(1)).flatten().numpy()


@pytest.mark.slow
@pytest.mark.parametrize("retrace", first_of([False, True]))
@pytest.mark.parametrize(
    ("env_id", "optimum"), first_of([("probe/Rescaled-v0", 0.5), ("probe/Target-v0", 0.3)])
)
def test_the_best_action_is_found_in_canonical_units(tmp_path, env_id, optimum, retrace):
    trainer = trained(tmp_path, env_id, use_retrace=retrace)
    assert trainer.agent.mode(np.zeros((1, 1), np.float32)).item() == pytest.approx(
        optimum, abs=0.07
    )


@pytest.mark.slow
def test_each_stacked_seed_learns_to_copy_a_dict_observation(tmp_path):
    trainer = trained(tmp_path, "probe/Copy-v0", steps=1500, extra_seeds=(1, 2))
    grid = np.random.default_rng(0).uniform(-0.7, 0.7, (200, 2)).astype(np.float32)
    for index in range(3):
        error = np.abs(trainer.agent.mode(grid, index) - grid).mean()
        assert error < 0.12, f"seed {index}: {error}"


@pytest.mark.parametrize("settings", first_of([{}, {"use_retrace": True}]))
def test_the_first_action_of_an_episode_is_learnt_too(tmp_path, settings):
    trainer = trained(tmp_path, "probe/TwoSteps-v0", steps=1200, **settings)
    for observation, best in ((0.0, 0.5), (1.0, -0.5)):
        action = trainer.agent.mode(np.full((1, 1), observation, np.float32)).item()
        assert action == pytest.approx(best, abs=0.1)


WINDOWS = ({}, {"use_retrace": True, "retrace_steps": 4}, {"n_step": 3})


@pytest.mark.parametrize("settings", first_of(WINDOWS))
def test_time_limits_bootstrap(tmp_path, settings):
    trainer = trained(tmp_path, "probe/Endless-v0", steps=1500, **settings)
    assert values(trainer, 0.0).item() == pytest.approx(1 / (1 - GAMMA), rel=0.1)


@pytest.mark.parametrize("settings", first_of(WINDOWS))
def test_terminations_end_the_return(tmp_path, settings):
    trainer = trained(tmp_path, "probe/Terminating-v0", steps=1200, **settings)
    for time, expected in enumerate((1 + GAMMA + GAMMA**2, 1 + GAMMA, 1.0)):
        assert values(trainer, time / 3).item() == pytest.approx(expected, abs=0.15)
