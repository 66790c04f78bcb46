"""Evaluates policy snapshots on seeded episodes that training never sees.

Online evaluation plays every snapshot with its mean action. Final evaluation plays the last
snapshot on other seeds, with mean and with sampled actions. All runs of all studies use the same
episode seeds.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from mpo.algorithm.networks import GaussianPolicy, make_normalizer
from mpo.environments.envs import dimensions
from mpo.environments.guard import EnvironmentFailed
from mpo.environments.rollouts import (
    MAX_PARALLEL,
    Act,
    Episodes,
    SideBySide,
    Step,
    rollouts,
    vector_env,
)
from mpo.seeding import FIRST_FINAL_SEED, FIRST_ONLINE_SEED
from mpo.study.config import Evaluation
from mpo.study.hyperparameters import Training
from mpo.study.specs import EnvironmentSpec, RunSpec
from mpo.training.progress import format_metrics, progress

_SURELY_OVER = 10_000
"""Steps within which an episode usually ends: ten times those of MuJoCo and dm_control tasks."""


def random_returns(
    env: str | EnvironmentSpec, episodes: int, max_episode_steps: int | None = None, budget: int = 0
) -> np.ndarray:
    """Plays uniformly random canonical actions in the first episodes of final evaluation.

    Args:
        env: see `make_env`.
        episodes: number of episodes, E.
        max_episode_steps: steps after which an episode is cut off.
        budget: steps of the longest training in this environment.

    Returns:
        Undiscounted sums of rewards, [E].
    """

    def uniform(envs: gym.vector.VectorEnv, seeds: Sequence[int]) -> Act:
        _, action_dim = dimensions(envs.single_observation_space, envs.single_action_space)
        streams = [np.random.default_rng(seed) for seed in seeds]
        return lambda obs: np.stack(
            [stream.uniform(-1, 1, action_dim).astype(np.float32) for stream in streams]
        )

    seeds = [FIRST_FINAL_SEED + i for i in range(episodes)]
    return _play(env, seeds, uniform, max_episode_steps, budget).returns


def evaluate(
    spec: RunSpec,
    policies: Sequence[tuple[int, dict[str, torch.Tensor]]],
    config: Evaluation,
    total_steps: int,
    name: str | None = None,
    recordings: list[list[Step]] | None = None,
) -> list[dict[str, Any]]:
    """Evaluates a run's snapshots.

    After a divergence, the run keeps the scores of its last snapshot.

    Args:
        spec: the run's spec.
        policies: (environment step, policy state) pairs, oldest first.
        config: numbers of episodes, and their maximum length.
        total_steps: the run's budget, in environment steps.
        name: label of the progress bar; environment and seed if not given.
        recordings: gets all steps of the final evaluation's episodes with sampled actions, if
            given; one list per group of at most `MAX_PARALLEL` episodes.

    Returns:
        One row per episode: env_step, phase (online, final), policy (mode, sample), episode,
        eval_seed, return, length, terminated.
    """
    online = [FIRST_ONLINE_SEED + i for i in range(config.online_episodes)]
    final = [FIRST_FINAL_SEED + i for i in range(config.final_episodes)]
    plan = [(step, state, "online", "mode", online) for step, state in policies]
    last_step, last = policies[-1]
    plan += [(total_steps, last, "final", policy, final) for policy in ("mode", "sample")]
    name = name or f"{spec.env_name} seed {spec.seed}"
    bar = progress(f"evaluate {name}", sum(len(seeds) for *_, seeds in plan), unit="episodes")
    rows = []
    for step, state, phase, policy, seeds in plan:
        act = partial(actor, spec, state, policy == "sample")
        recorded = recordings if policy == "sample" else None
        played = _play(
            spec.environment, seeds, act, config.max_episode_steps, total_steps, recorded
        )
        for i, seed in enumerate(seeds):
            rows.append(
                {
                    "env_step": step,
                    "phase": phase,
                    "policy": policy,
                    "episode": i,
                    "eval_seed": seed,
                    "return": float(played.returns[i]),
                    "length": int(played.lengths[i]),
                    "terminated": bool(played.terminated[i]),
                }
            )
        text = format_metrics({"return": float(played.returns.mean())})
        bar.set_postfix_str(f"{policy} at step {step}: {text}", refresh=False)
        bar.update(len(seeds))
    bar.close()
    carried = [row for row in rows if (row["env_step"], row["phase"]) == (last_step, "online")]
    later = range(last_step + spec.snapshot_interval, total_steps + 1, spec.snapshot_interval)
    return rows + [{**row, "env_step": step} for step in later for row in carried]


def _play(
    env: str | EnvironmentSpec,
    seeds: Sequence[int],
    actor: Callable[[gym.vector.VectorEnv, Sequence[int]], Act],
    max_episode_steps: int | None,
    budget: int,
    recordings: list[list[Step]] | None = None,
) -> Episodes:
    """Plays one episode per seed, a group at a time; `actor` makes the policy of a group."""
    name = env if isinstance(env, str) else env.name
    groups = [seeds[i : i + MAX_PARALLEL] for i in range(0, len(seeds), MAX_PARALLEL)]
    parts = []
    for group in groups:
        envs = vector_env(env, len(group))
        steps: list[Step] | None = None if recordings is None else []
        parts.append(play(name, envs, actor(envs, group), group, max_episode_steps, budget, steps))
        if recordings is not None and steps is not None:
            recordings.append(steps)
        envs.close()
    return Episodes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def play(
    name: str,
    envs: SideBySide,
    act: Act,
    seeds: Sequence[int],
    max_episode_steps: int | None,
    budget: int,
    recording: list[Step] | None = None,
) -> Episodes:
    """Plays one episode in each environment, see `rollouts`.

    Args:
        name: the environment's, for messages.
        envs: E environments, one per seed.
        act: the policy.
        seeds: reset seeds, [E].
        max_episode_steps: steps after which an episode is cut off.
        budget: environment steps of the training.
        recording: see `rollouts`.

    Raises:
        EnvironmentFailed: without `max_episode_steps`, an episode has not ended after `budget`
            steps. Budgets below `_SURELY_OVER` count as that, because a first try of a few steps
            may be shorter than an episode. Environments with a known time limit are left alone.
    """
    longest = math.inf if envs.time_limit else max(budget, _SURELY_OVER)
    played = rollouts(envs, act, seeds, max_episode_steps or longest, recording)
    if max_episode_steps is None and played.running.any():
        raise EnvironmentFailed(
            f"environment {name!r}: an episode has not ended after {longest} steps, and the "
            "environment has no time limit. Give it one, with max_episode_steps among its kwargs "
            "or where it is registered, or cut evaluation episodes off with "
            "evaluation.max_episode_steps"
        )
    return played


def actor(
    spec: RunSpec,
    state: dict[str, torch.Tensor],
    sampled: bool,
    envs: gym.vector.VectorEnv,
    seeds: Sequence[int],
) -> Act:
    """Makes the policy of a snapshot: its mean, or samples with one noise stream per episode.

    Args:
        spec: the run's spec.
        state: state dict of a one-seed `GaussianPolicy`.
        sampled: sample actions instead of taking the mean.
        envs: E environments, which set the dimensions.
        seeds: seeds of the noise, [E].

    Returns:
        A function from observations [E, O] to canonical actions [E, D].
    """
    obs_dim, action_dim = dimensions(envs.single_observation_space, envs.single_action_space)
    network = load_policy(spec.training, state, obs_dim, action_dim)
    streams = [np.random.default_rng(seed) for seed in seeds] if sampled else []

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        mean, stddev = (x[0].numpy() for x in network(torch.from_numpy(obs).unsqueeze(0)))
        if streams:
            noise = [stream.standard_normal(action_dim, dtype=np.float32) for stream in streams]
            mean = mean + stddev * np.stack(noise)
        return mean.clip(-1, 1)

    return act


def load_policy(
    training: Training, state: dict[str, torch.Tensor], obs_dim: int, action_dim: int
) -> GaussianPolicy:
    """Makes the policy of a snapshot, with its normalisation of observations.

    Args:
        training: the run's hyperparameters.
        state: state dict of a one-seed `GaussianPolicy`.
        obs_dim: O.
        action_dim: D.
    """
    network = GaussianPolicy(
        obs_dim,
        action_dim,
        training.policy_layer_sizes,
        training.policy_init_scale,
        [torch.Generator()],
        make_normalizer(training, 1, obs_dim),
        training.layer_norm == "all",
    )
    network.load_state_dict(state)
    return network
