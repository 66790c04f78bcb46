"""The core trainer: S seeds of one environment, with their replay and their agent.

The public names, parameters and defaults of this file are fixed; the learning is in `agent.py`, the
training loop in `loop.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Tuple  # noqa: UP035 (the fixed signatures are written with them)

import gymnasium as gym
import numpy as np
import torch
from pydantic import ValidationError

from mpo.algorithm.agent import MPOAgent
from mpo.compute.malloc import keep_freed
from mpo.environments.envs import dimensions, make_env
from mpo.environments.episodes import EpisodeStream
from mpo.jobs.evaluate import rollouts
from mpo.replay.replay import Replay
from mpo.seeding import torch_generator
from mpo.study.config import CellSpec, ConfigError, Hyperparameters, Training, explain
from mpo.training import loop
from mpo.training.progress import format_metrics
from mpo.training.recorder import Recorder

if TYPE_CHECKING:
    from tensordict import TensorDict

logger = logging.getLogger(__name__)


def _format_metrics(metrics: Mapping[str, float]) -> str:
    """One line, see `format_metrics`."""
    return format_metrics(metrics)


def _make_env(env_id: str, *, seed: int | None = None) -> gym.Env:
    """An environment as the agent sees it (see `make_env`), reset and seeded if a seed is given."""
    env = make_env(env_id)
    if seed is not None:
        env.reset(seed=seed)
        env.action_space.seed(seed)
    return env


def _to_device_tensor(value: np.ndarray, device: torch.device) -> torch.Tensor:
    """A float32 copy of an array on a device."""
    return torch.tensor(value, dtype=torch.float32, device=device)


def _evaluate_vectorized(
    agent: MPOAgent, eval_envs: gym.vector.VectorEnv, seed: int = 42
) -> Dict[str, float]:  # noqa: UP006
    """Plays one mean-action episode in each environment, all at once, for each seed of the agent.

    Args:
        agent: its online policy acts.
        eval_envs: n environments as of `make_env`.
        seed: episode i resets with seed + i.

    Returns:
        return_mean, return_std, return_min, return_max and length_mean over all episodes.
    """
    seeds = [seed + i for i in range(eval_envs.num_envs)]
    returns, lengths = [], []
    for index in range(agent.num_seeds):
        played = rollouts(eval_envs, partial(agent.mode, seed_index=index), seeds)
        returns.append(played.returns)
        lengths.append(played.lengths)
    return {
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "return_min": float(np.min(returns)),
        "return_max": float(np.max(returns)),
        "length_mean": float(np.mean(lengths)),
    }


class MPOTrainer:
    """Trains MPO on one environment for one seed, or for several stacked ones.

    Args:
        env_id: see `make_env`.
        seed: with `extra_seeds` the only source of randomness.
        device: of networks, replay and updates.
        policy_layer_sizes: hidden units a layer of the policy.
        critic_layer_sizes: likewise of the critic.
        replay_size: capacity of the replay, in transitions a seed.
        gamma: discount in [0, 1].
        target_networks_update_period: updates between copies to the target networks.
        policy_lr: learning rate of the policy.
        q_lr: learning rate of the critic.
        kl_epsilon: E-step bound, in nats.
        mstep_kl_epsilon: M-step bound on the means a dimension, in nats.
        temperature_init: initial temperature of the E-step.
        temperature_lr: learning rate of the temperatures.
        lambda_init: factor on both initial KL multipliers.
        lambda_lr: learning rate of the KL multipliers.
        epsilon_penalty: E-step bound of the action penalty, in nats.
        max_grad_norm: bound on the gradient's 2-norm, of policy and of critic, per seed.
        action_samples: N, actions sampled a state.
        use_retrace: Retrace targets instead of n-step TD ones.
        retrace_steps: T, transitions in a Retrace window, at least 2.
        retrace_mc_actions: M, actions that estimate the values at a window's later states.
        retrace_lambda: trace decay in [0, 1].
        optimizer_type: of policy and critic: adam, adamw, sgd, rmsprop or lion.
        sgd_momentum: momentum of sgd in [0, 1).
        init_log_alpha_mean: the initial multiplier of the means is `lambda_init` * softplus of it.
        init_log_alpha_stddev: likewise of the standard deviations.
        mstep_kl_epsilon_stddev: M-step bound on the standard deviations; None: as on the means.
        action_penalty: whether actions outside [-1, 1] cost (MO-MPO).
        n_step: transitions in a TD target without Retrace.
        updates_per_step: updates per environment step after `update_after`; fractions add up.
        dual_optimizer: of temperatures and multipliers.
        policy_init_scale: initial standard deviation of canonical actions.
        behaviour_policy: what acts: the online policy or the target one.
        target_polyak: share of the way to the online networks that the target ones go each update;
            None: copies every `target_networks_update_period` updates.
        per_dimension_kl: M-step bounds hold for each action dimension, or for their sum.
        normalize_observations: centred and scaled by all that was acted in; what is applied
            changes every `target_networks_update_period` updates, for all networks at once.
        critic: scalar, or categorical: a distribution on fixed atoms (C51).
        critic_atoms: of the categorical critic.
        critic_min: its least atom, a return.
        critic_max: its greatest.
        extra_seeds: further independent learners, trained in the same process.
        cuda_graphs: on a GPU, launch acting, sampling and learning as one graph each.
        compile_on_cpu: on a CPU, act and learn in code that torch's compiler makes for this
            machine; takes one seed a trainer.

    Raises:
        ConfigError: a value is out of range, or the environment does not fit.
    """

    def __init__(
        self,
        env_id: str,
        seed: int,
        device: torch.device,
        policy_layer_sizes: Tuple[int, ...],  # noqa: UP006
        critic_layer_sizes: Tuple[int, ...],  # noqa: UP006
        replay_size: int,
        gamma: float = 0.99,
        target_networks_update_period: int = 100,
        policy_lr: float = 0.0003,
        q_lr: float = 0.0003,
        kl_epsilon: float = 0.1,
        mstep_kl_epsilon: float = 0.1,
        temperature_init: float = 1.0,
        temperature_lr: float = 0.0003,
        lambda_init: float = 1.0,
        lambda_lr: float = 0.0003,
        epsilon_penalty: float = 0.001,
        max_grad_norm: float = 1.0,
        action_samples: int = 20,
        use_retrace: bool = False,
        retrace_steps: int = 2,
        retrace_mc_actions: int = 8,
        retrace_lambda: float = 0.95,
        optimizer_type: str = "adam",
        sgd_momentum: float = 0.9,
        init_log_alpha_mean: float = 10.0,
        init_log_alpha_stddev: float = 1000.0,
        mstep_kl_epsilon_stddev: float | None = None,
        action_penalty: bool = True,
        n_step: int = 1,
        updates_per_step: float = 1.0,
        dual_optimizer: str = "adam",
        policy_init_scale: float = 0.5,
        behaviour_policy: str = "online",
        target_polyak: float | None = None,
        per_dimension_kl: bool = True,
        normalize_observations: bool = False,
        critic: str = "scalar",
        critic_atoms: int = 51,
        critic_min: float = -150.0,
        critic_max: float = 150.0,
        extra_seeds: Sequence[int] = (),
        cuda_graphs: bool = True,
        compile_on_cpu: bool = False,
    ) -> None:
        """Makes the environments, the agent and an empty replay; see the class."""
        given = {**locals(), "retrace": use_retrace, "optimizer": optimizer_type}
        try:
            self.config = Hyperparameters(**{k: given[k] for k in Hyperparameters.model_fields})
        except ValidationError as error:
            raise ConfigError(explain(error)) from None
        self.device = torch.device(device)
        if compile_on_cpu and extra_seeds and self.device.type == "cpu":
            # What the compiler makes rounds an odd element by its place, and so by the seed's.
            raise ConfigError(
                f"compile_on_cpu: takes one seed a trainer, received {1 + len(extra_seeds)}"
            )
        # Denormal numbers are many times slower on a CPU and carry no information here.
        torch.set_flush_denormal(True)
        keep_freed()
        self.env_id = env_id
        retrace = "on" if self.config.retrace else "off"
        self.name = f"{env_id} retrace {retrace} {self.config.optimizer}"
        """What its progress is shown under, before the seeds."""
        self.seeds = (seed, *extra_seeds)
        envs = [_make_env(env_id) for _ in self.seeds]
        self.obs_dim, self.action_dim = dimensions(envs[0].observation_space, envs[0].action_space)
        self._execution = {"cuda_graphs": cuda_graphs, "compile_on_cpu": compile_on_cpu}
        self.agent = MPOAgent(
            self.obs_dim, self.action_dim, self.config, self.seeds, self.device, **self._execution
        )
        self._replay = Replay(
            self.obs_dim,
            self.action_dim,
            replay_size,
            [torch_generator(s, "sample") for s in self.seeds],
            self.device,
            cuda_graphs=cuda_graphs,
        )
        self._offsets: dict[int, torch.Tensor] = {}
        self.env_steps = 0
        self.refused_transitions = [0] * len(self.seeds)
        self._streams = [EpisodeStream(env, s) for env, s in zip(envs, self.seeds, strict=True)]

    @classmethod
    def of(
        cls,
        env_id: str,
        settings: Hyperparameters,
        seeds: Sequence[int],
        device: torch.device,
        **execution: bool,
    ) -> MPOTrainer:
        """A trainer of hyperparameters that are one object already.

        Args:
            env_id: see the class.
            settings: the hyperparameters.
            seeds: of the trainer, the extra ones included.
            device: see the class.
            execution: cuda_graphs and compile_on_cpu, see the class.
        """
        given = {name: getattr(settings, name) for name in Hyperparameters.model_fields}
        names = {"use_retrace": given.pop("retrace"), "optimizer_type": given.pop("optimizer")}
        given |= names | {"extra_seeds": seeds[1:], **execution}
        return cls(env_id, seeds[0], device, **given)

    def of_some(self, seeds: Sequence[int]) -> MPOTrainer:
        """Another one, at its beginning, of some of its seeds."""
        other = MPOTrainer.of(self.env_id, self.config, seeds, self.device, **self._execution)
        other.name = self.name
        return other

    def replay_size(self) -> int:
        """Transitions that the replay holds for the first seed."""
        return self._replay.size()

    def replay_ptr(self) -> int:
        """The slot of the replay that the first seed's next transition takes."""
        return self._replay.pointer()

    @staticmethod
    def _as_cpu_float_tensor(value: np.ndarray | float, shape: tuple[int, ...]) -> torch.Tensor:
        """A float32 CPU tensor of the given shape."""
        return torch.as_tensor(value, dtype=torch.float32, device="cpu").reshape(shape)

    @staticmethod
    def _is_finite_value(value: np.ndarray | float) -> bool:
        """Whether every element is finite."""
        return bool(np.isfinite(value).all())

    def _add_transition(
        self,
        obs: np.ndarray,
        action_exec: np.ndarray,
        action_raw: np.ndarray,
        behaviour_logp: float,
        reward: float,
        next_obs: np.ndarray,
        done: float,
        truncated: float = 0.0,
        seed_index: int = 0,
    ) -> bool:
        """Stores a transition, unless a number in it is not finite.

        Args:
            obs: [O].
            action_exec: the canonical action that the environment received, [D].
            action_raw: the sample before clipping, [D].
            behaviour_logp: log-density of the raw action under the policy that acted, in nats.
            reward: of this step.
            next_obs: the true successor, before any reset, [O].
            done: 1 where the episode terminated, which ends the bootstrap.
            truncated: 1 where a time limit ended it, which does not.
            seed_index: whose replay.

        Returns:
            False for a refused transition; it is counted, and no window spans the gap it leaves.
        """
        parts: list[np.ndarray | float] = [obs, action_exec, action_raw, behaviour_logp, reward]
        parts += [done, truncated, next_obs]
        packed = np.empty(sum(self._replay.widths), dtype=np.float32)
        start = 0
        for part, width in zip(parts, self._replay.widths, strict=True):
            packed[start : start + width] = part
            start += width
        if not self._is_finite_value(packed):
            self.refused_transitions[seed_index] += 1
            self._replay.break_segment(seed_index)
            return False
        self._replay.add(seed_index, self._as_cpu_float_tensor(packed, packed.shape))
        return True

    def _get_sequence_offsets(self, seq_len: int) -> torch.Tensor:
        """0 ... seq_len - 1 on the CPU, where windows are drawn; made once, [T]."""
        if seq_len not in self._offsets:
            self._offsets[seq_len] = torch.arange(seq_len)
        return self._offsets[seq_len]

    def draw_windows(self, batch_size: int) -> dict[str, torch.Tensor]:
        """As many windows as an update takes, of its length; see `Replay.sample`."""
        return self._replay.sample(batch_size, self._get_sequence_offsets(self.config.window))

    def _sample_sequences(self, batch_size: int, seq_len: int) -> TensorDict:
        """Windows of consecutive transitions, [S, T, B]; see `Replay.sample`."""
        # Imported for who asks for it: it takes a second, in every job.
        from tensordict import TensorDict

        windows = self._replay.sample(batch_size, self._get_sequence_offsets(seq_len))
        return TensorDict(windows, batch_size=windows["reward"].shape).clone()

    def train(
        self,
        total_steps: int,
        update_after: int,
        batch_size: int,
        out_dir: str,
        m_steps: int = 1,
        snapshot_interval: int = 10_000,
        log_interval: int = 1_000,
        resume_dir: str | None = None,
        checkpoint_interval_s: float = 60.0,
        keep_resume_state: bool = True,
    ) -> None:
        """Trains until `total_steps` environment steps a seed and writes what was learnt.

        A seed whose loss, parameters or actions are no longer finite has diverged: its run.json
        says so, and when all have, training stops.

        Args:
            total_steps: environment steps in all; nothing that is learnt depends on it.
            update_after: environment steps before the first update.
            batch_size: windows an update, a seed.
            out_dir: gets train.parquet, policies.pt and run.json; with extra seeds, a folder
                seedN of them for each.
            m_steps: policy steps an update.
            snapshot_interval: environment steps between policy snapshots, the first at 0.
            log_interval: environment steps between rows of metrics.
            resume_dir: keeps the resumable state; with extra seeds, in a folder seedN for each.
                What it holds replaces this trainer's own state; where that is beyond `total_steps`
                already, nothing is trained and what lies beyond is not reported. SIGTERM, SIGINT
                and SIGUSR1 then end the training with a checkpoint.
            checkpoint_interval_s: seconds between checkpoints.
            keep_resume_state: whether a later call with more steps can go on from the end.

        Raises:
            ConfigError: a value is out of range, or `resume_dir` is of another training.
            EnvironmentFailed: see `make_env`.
            Interrupted: one of the signals came.
        """
        intervals = {"snapshot_interval": snapshot_interval, "log_interval": log_interval}
        spec = self._spec(
            intervals, update_after=update_after, batch_size=batch_size, m_steps=m_steps
        )
        loop.train(
            self,
            spec,
            total_steps,
            self._folders(out_dir),
            self._folders(resume_dir) if resume_dir else [],
            checkpoint_interval_s,
            keep_resume_state,
        )

    def _folders(self, directory: str) -> list[Path]:
        """Each seed's own: the directory itself, or its folder seedN where there are several."""
        path = Path(directory)
        return [path] if len(self.seeds) == 1 else [path / f"seed{seed}" for seed in self.seeds]

    def _spec(self, intervals: dict[str, int], **training: Any) -> CellSpec:
        """What shapes the training; ConfigError where a value is out of range."""
        try:
            settings = Training(**self.config.model_dump(), **training)
            return CellSpec(env_id=self.env_id, training=settings, **intervals)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None

    def act(self, recorder: Recorder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each seed's observation, sampled action before clipping and log-density of that."""
        obs = np.stack([stream.obs for stream in self._streams])
        raw, log_prob = self.agent.act(obs)
        finite = np.isfinite(raw).all(-1) & np.isfinite(log_prob)
        if not finite.all():
            for index in np.flatnonzero(~finite):
                recorder.of[index].diverge(self.env_steps, "an action is not finite")
            # The other seeds of the stack go on, and so must its environment.
            raw, log_prob = np.nan_to_num(raw, posinf=0, neginf=0), np.nan_to_num(log_prob)
        return obs, raw, log_prob

    def step_environments(self, obs: np.ndarray, raw: np.ndarray, log_prob: np.ndarray) -> None:
        """One step of every seed's environment, stored in its replay; see `act`."""
        executed = raw.clip(-1, 1)
        for i, stream in enumerate(self._streams):
            step = stream.step(executed[i])
            self._add_transition(
                obs[i],
                executed[i],
                raw[i],
                log_prob[i],
                step.reward,
                step.next_obs,
                step.terminated,
                step.truncated,
                seed_index=i,
            )
            stream.advance(step)
        self.env_steps += 1

    def take_finished(self, index: int) -> list[tuple[float, int]]:
        """Of a seed, see `EpisodeStream.take_finished`."""
        return self._streams[index].take_finished()

    def state_dict(self, index: int) -> dict[str, Any]:
        """All that a seed's training goes on from but its transitions, as if it were alone."""
        return {
            "env_steps": self.env_steps,
            "agent": self.agent.state_dict(index),
            "replay": self._replay.state_dict(index),
            "stream": self._streams[index].state_dict(),
        }

    def load_state_dict(
        self, states: Sequence[Mapping[str, Any]], transitions: Sequence[Sequence[Any]]
    ) -> None:
        """Becomes the trainer of seeds that stand at one step.

        Args:
            states: of each seed, see `state_dict`.
            transitions: of each seed, all that its `newest_transitions` returned.
        """
        self.env_steps = states[0]["env_steps"]
        self.agent.load_state_dict([state["agent"] for state in states])
        for index, (state, newest) in enumerate(zip(states, transitions, strict=True)):
            self._replay.load_state_dict(index, state["replay"], newest)
            self._streams[index].load_state_dict(state["stream"])

    def newest_transitions(self, index: int, count: int) -> dict[str, torch.Tensor]:
        """Of a seed, see `Replay.newest`."""
        return self._replay.newest(index, count)
