"""Roll-outs of policy snapshots on seeded episodes that training never sees.

Online: every snapshot, mean action. Final: the last snapshot on other seeds, mean action and
sampled action. The same episode seeds serve every run of every study.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.utils import batch_space

from mpo.algorithm.layers import Normalizer
from mpo.algorithm.networks import GaussianPolicy
from mpo.environments.envs import dimensions, make_env
from mpo.seeding import FIRST_FINAL_SEED, FIRST_ONLINE_SEED
from mpo.study.config import Evaluation, RunSpec
from mpo.training.progress import format_metrics, progress

MAX_PARALLEL = 10
"""Episodes that are played side by side, with one pass of the network a step."""

Act = Callable[[np.ndarray], np.ndarray]
"""Observations [E, O] to canonical actions [E, D], one row an episode."""


class Episodes(NamedTuple):
    """One entry an episode, [E]."""

    returns: np.ndarray
    """Undiscounted sums of rewards."""
    lengths: np.ndarray
    """Environment steps."""
    terminated: np.ndarray
    """Whether the episode ended by itself, not by its time limit."""


class SideBySide(gym.vector.VectorEnv):
    """Environments that are stepped together in this process, each until its episode is over.

    Gymnasium's own goes on to new episodes, gathers what the environments tell beside numbers and
    copies all of it: with small tasks a quarter of an evaluation.
    """

    def __init__(self, envs: Sequence[gym.Env]) -> None:
        """Takes environments of one kind."""
        self.envs = list(envs)
        self.num_envs = len(self.envs)
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Begins an episode in each, of a seed each: observations [E, O] and nothing."""
        answers = [env.reset(seed=s) for env, s in zip(self.envs, seed, strict=True)]
        self._obs = np.stack([obs for obs, _ in answers])
        self._over = [False] * self.num_envs
        return self._obs.copy(), {}

    def step(self, actions: np.ndarray) -> Any:
        """Of [E, D] to what Gymnasium's return, [E] and more; of an episode that is over, zeros."""
        rewards = np.zeros(self.num_envs)
        terminated, truncated = (np.zeros(self.num_envs, dtype=bool) for _ in range(2))
        for i, env in enumerate(self.envs):
            if not self._over[i]:
                self._obs[i], rewards[i], terminated[i], truncated[i], _ = env.step(actions[i])
                self._over[i] = bool(terminated[i] or truncated[i])
        return self._obs.copy(), rewards, terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        """Closes each."""
        for env in self.envs:
            env.close()


def vector_env(env_id: str, count: int) -> gym.vector.VectorEnv:
    """`count` instances side by side."""
    return SideBySide([make_env(env_id) for _ in range(count)])


def rollouts(envs: gym.vector.VectorEnv, act: Act, seeds: Sequence[int]) -> Episodes:
    """Plays one episode in each environment, all at once.

    Args:
        envs: one environment a seed.
        act: the policy; rows of episodes that are over are ignored.
        seeds: reset seeds, [E].
    """
    obs, _ = envs.reset(seed=list(seeds))  # type: ignore[arg-type]
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), dtype=np.int64)
    ended, running = np.zeros(len(seeds), dtype=bool), np.ones(len(seeds), dtype=bool)
    while running.any():
        obs, rewards, terminated, truncated, _ = envs.step(act(obs))
        returns += np.where(running, rewards, 0.0)
        lengths += running
        ended |= running & terminated
        running &= ~(terminated | truncated)
    return Episodes(returns, lengths, ended)


def random_returns(env_id: str, episodes: int) -> np.ndarray:
    """Returns of uniformly random canonical actions in the first episodes of final evaluation.

    Args:
        env_id: see `make_env`.
        episodes: E.

    Returns:
        Undiscounted sums of rewards, [E].
    """

    def uniform(envs: gym.vector.VectorEnv, seeds: Sequence[int]) -> Act:
        _, action_dim = dimensions(envs.single_observation_space, envs.single_action_space)
        streams = [np.random.default_rng(seed) for seed in seeds]
        return lambda obs: np.stack(
            [stream.uniform(-1, 1, action_dim).astype(np.float32) for stream in streams]
        )

    return _play(env_id, [FIRST_FINAL_SEED + i for i in range(episodes)], uniform).returns


def evaluate(
    spec: RunSpec,
    policies: Sequence[tuple[int, dict[str, torch.Tensor]]],
    config: Evaluation,
    total_steps: int,
    name: str | None = None,
) -> list[dict[str, Any]]:
    """Evaluates a run's snapshots.

    A run that has diverged is scored by its last snapshot from there on.

    Args:
        spec: of the run.
        policies: (environment step, policy state) in the order of training.
        config: numbers of episodes.
        total_steps: the run's budget.
        name: what its progress is shown under; the environment's and the seed if not given.

    Returns:
        One row an episode: env_step, phase (online, final), policy (mode, sample), episode,
        eval_seed, return, length, terminated.
    """
    online = [FIRST_ONLINE_SEED + i for i in range(config.online_episodes)]
    final = [FIRST_FINAL_SEED + i for i in range(config.final_episodes)]
    plan = [(step, state, "online", "mode", online) for step, state in policies]
    last_step, last = policies[-1]
    plan += [(total_steps, last, "final", policy, final) for policy in ("mode", "sample")]
    name = name or f"{spec.env_id} seed {spec.seed}"
    bar = progress(f"evaluate {name}", sum(len(seeds) for *_, seeds in plan), unit="episodes")
    rows = []
    for step, state, phase, policy, seeds in plan:
        played = _play(spec.env_id, seeds, partial(actor, spec, state, policy == "sample"))
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
    env_id: str,
    seeds: Sequence[int],
    actor: Callable[[gym.vector.VectorEnv, Sequence[int]], Act],
) -> Episodes:
    """One episode a seed, a group at a time; `actor` makes the policy of a group."""
    groups = [seeds[i : i + MAX_PARALLEL] for i in range(0, len(seeds), MAX_PARALLEL)]
    parts = []
    for group in groups:
        envs = vector_env(env_id, len(group))
        parts.append(rollouts(envs, actor(envs, group), group))
        envs.close()
    return Episodes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def actor(
    spec: RunSpec,
    state: dict[str, torch.Tensor],
    sampled: bool,
    envs: gym.vector.VectorEnv,
    seeds: Sequence[int],
) -> Act:
    """The policy of a snapshot: its mean, or samples with one noise stream an episode."""
    obs_dim, action_dim = dimensions(envs.single_observation_space, envs.single_action_space)
    widths, scale = spec.training.policy_layer_sizes, spec.training.policy_init_scale
    normalizer = Normalizer(1, obs_dim) if spec.training.normalize_observations else None
    network = GaussianPolicy(obs_dim, action_dim, widths, scale, [torch.Generator()], normalizer)
    network.load_state_dict(state)
    streams = [np.random.default_rng(seed) for seed in seeds] if sampled else []

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        mean, stddev = (x[0].numpy() for x in network(torch.from_numpy(obs).unsqueeze(0)))
        if streams:
            noise = [stream.standard_normal(action_dim, dtype=np.float32) for stream in streams]
            mean = mean + stddev * np.stack(noise)
        return mean.clip(-1, 1)

    return act
