"""The public API: trains MPO on one environment, for one seed or for several stacked ones.

The names, parameters and defaults in this file must not change. The state of the seeds is in
`training/stack.py`, the training loop in `training/loop.py`, and the algorithm in `algorithm/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Tuple, TypeVar  # noqa: UP035 (the fixed signatures are written with them)

import gymnasium as gym
import numpy as np
import torch
from pydantic import ValidationError, model_validator

from mpo.algorithm.agent import MPOAgent
from mpo.algorithm.separate import Agent
from mpo.environments.envs import make_env
from mpo.environments.rollouts import rollouts
from mpo.study.config import ConfigError, Count, Seconds, Section, Seed, explain
from mpo.study.hyperparameters import Hyperparameters, Training
from mpo.study.optimizers import refuse_unknown
from mpo.study.specs import CellSpec
from mpo.training import loop
from mpo.training.progress import format_metrics
from mpo.training.stack import Stack

if TYPE_CHECKING:
    from tensordict import TensorDict


def _format_metrics(metrics: Mapping[str, float]) -> str:
    """Formats metrics as one line; see `format_metrics`."""
    return format_metrics(metrics)


def _make_env(env_id: str, *, seed: int | None = None) -> gym.Env:
    """Makes an environment with `make_env`; if a seed is given, resets and seeds it."""
    env = make_env(env_id)
    if seed is not None:
        env.reset(seed=seed)
        env.action_space.seed(seed)
    return env


def _to_device_tensor(value: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copies an array to a device, as float32."""
    return torch.tensor(value, dtype=torch.float32, device=device)


def _evaluate_vectorized(
    agent: MPOAgent, eval_envs: gym.vector.VectorEnv, seed: int = 42
) -> Dict[str, float]:  # noqa: UP006
    """Plays one episode per environment with the mean action, for each seed of the agent.

    Args:
        agent: its online policy acts.
        eval_envs: n environments, each from `make_env`.
        seed: episode i uses the reset seed `seed + i`.

    Returns:
        return_mean, return_std, return_min, return_max and length_mean over all episodes; lengths
        in environment steps.
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


class _InitArguments(Section):
    """What the constructor takes besides hyperparameters and the device; see `MPOTrainer`."""

    env_id: str
    seed: Seed
    extra_seeds: tuple[Seed, ...]
    cuda_graphs: bool
    compile_on_cpu: bool

    @model_validator(mode="after")
    def _unique_seeds(self) -> _InitArguments:
        if len({self.seed, *self.extra_seeds}) <= len(self.extra_seeds):
            raise ValueError(
                "extra_seeds must differ from seed and from each other, received seed "
                f"{self.seed} and extra_seeds {[*self.extra_seeds]}"
            )
        return self


class _TrainArguments(Section):
    """What `MPOTrainer.train` takes that is no part of a training's spec."""

    total_steps: Count
    checkpoint_interval_s: Seconds
    keep_resume_state: bool


_Kind = TypeVar("_Kind", bound=Section)


def _validated(kind: type[_Kind], given: Mapping[str, Any]) -> _Kind:
    """Validates those of some arguments that a section has.

    Raises:
        ConfigError: a value is out of range.
    """
    try:
        return kind(**{name: given[name] for name in kind.model_fields})
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _hyperparameters(given: Mapping[str, Any]) -> Hyperparameters:
    """Validates the hyperparameters among the constructor's arguments.

    Raises:
        ConfigError: a value is out of range.
    """
    renamed = {"retrace": given["use_retrace"], "optimizer": given["optimizer_type"]}
    found = _validated(Hyperparameters, {**given, **renamed})
    try:
        refuse_unknown(found.optimizer, found.optimizer_definition)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return found


class MPOTrainer:
    """Trains MPO on one environment for one seed, or for several stacked ones.

    The hyperparameters, from `policy_layer_sizes` to `target_precision`, are those of
    `mpo.study.hyperparameters.Hyperparameters`, where each is described. Two have another name
    there: `use_retrace` is `retrace`, and `optimizer_type` is `optimizer`.

    Args:
        env_id: id of the environment, see `make_env`.
        seed: the only source of randomness, together with `extra_seeds`; from 0 to 2**32 - 1.
        device: where networks and replay buffer are.
        extra_seeds: seeds of further independent learners, trained in the same process; none twice.
        cuda_graphs: whether acting, sampling and learning are each launched as one CUDA graph.
            GPU only.
        compile_on_cpu: whether acting and learning are compiled with torch.compile on a CPU.
        optimizer_definition: what the optimizer is, if `optimizer_type` names no built-in, as in
            `{"class": "torch.optim.NAdam", "settings": {"betas": [0.9, 0.99]}}`, or with
            `matrices` and `rest`.

    Raises:
        ConfigError: a value is out of range, or the environment or the optimizer does not fit.
        EnvironmentFailed: an environment fails at its first reset.
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
        corrections: str = "retrace",
        regressed: str = "first",
        critic_batch_size: int | None = None,
        layer_norm: str = "first",
        critics: str = "one",
        weight_decay: float | None = None,
        adam_beta1: float = 0.9,
        adam_beta2: float = 0.999,
        adam_epsilon: float = 1e-8,
        optimizer_reset: str = "never",
        warmup_updates: int = 0,
        network_resets: Sequence[int] = (),
        action_noise: str = "white",
        policy_update_period: int = 1,
        observation_bound: str = "clip",
        target_precision: str = "float32",
        extra_seeds: Sequence[int] = (),
        cuda_graphs: bool = True,
        compile_on_cpu: bool = False,
        optimizer_definition: Mapping[str, Any] | None = None,
    ) -> None:
        """Creates the environments, the agent and an empty replay; see the class for arguments."""
        given = locals()
        own, self.config = _validated(_InitArguments, given), _hyperparameters(given)
        self.device = torch.device(device)
        self.env_id, self.seeds = env_id, (own.seed, *own.extra_seeds)
        self.stack = Stack(
            env_id,
            self.config,
            self.seeds,
            self.device,
            cuda_graphs=own.cuda_graphs,
            compile_on_cpu=own.compile_on_cpu,
        )
        """The stacked seeds: their agent, replay and episodes."""

    @property
    def agent(self) -> Agent:
        """The stacked learners."""
        return self.stack.agent

    def replay_size(self) -> int:
        """Returns the number of transitions that the replay holds for the first seed."""
        return self.stack.replay.size()

    def replay_ptr(self) -> int:
        """Returns the replay's slot for the first seed's next transition."""
        return self.stack.replay.pointer()

    @staticmethod
    def _as_cpu_float_tensor(value: np.ndarray | float, shape: tuple[int, ...]) -> torch.Tensor:
        """Converts a value to a float32 CPU tensor of the given shape."""
        return torch.as_tensor(value, dtype=torch.float32, device="cpu").reshape(shape)

    @staticmethod
    def _is_finite_value(value: np.ndarray | float) -> bool:
        """Returns whether every element is finite."""
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
        """Stores a transition; see `Stack.add_transition`."""
        return self.stack.add_transition(
            obs,
            action_exec,
            action_raw,
            behaviour_logp,
            reward,
            next_obs,
            done,
            truncated,
            seed_index,
        )

    def _get_sequence_offsets(self, seq_len: int) -> torch.Tensor:
        """Returns 0 ... seq_len - 1; see `Stack.offsets`."""
        return self.stack.offsets(seq_len)

    def _sample_sequences(self, batch_size: int, seq_len: int) -> TensorDict:
        """Samples windows of consecutive transitions, [S, T, B]; see `Replay.sample`."""
        # Imported only here, because the import takes a second and jobs do not need it.
        from tensordict import TensorDict

        windows = self.stack.replay.sample(batch_size, self._get_sequence_offsets(seq_len))
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
        """Trains each seed up to `total_steps` environment steps and writes the results.

        A seed diverges when its loss, parameters or actions become non-finite, which is recorded in
        its run.json. Training stops early when all seeds have diverged.

        Args:
            total_steps: environment steps per seed, in total. It only decides when training stops:
                the first steps of a longer training are the same.
            update_after: environment steps before the first update. A training that ends before has
                none; a study refuses that.
            batch_size: windows per update and seed.
            out_dir: where train.parquet, policies.pt and run.json are written; with extra seeds,
                in a folder seedN for each.
            m_steps: policy steps per update.
            snapshot_interval: environment steps between policy snapshots; the first is at step 0.
            log_interval: environment steps between rows of metrics.
            resume_dir: where the state to resume from is kept; with extra seeds, in a folder seedN
                for each. If it holds a state, training continues from there. If that state is
                already beyond `total_steps`, nothing is trained, and results are written up to
                `total_steps`. With this directory, SIGTERM, SIGINT and SIGUSR1 end the training
                with a checkpoint.
            checkpoint_interval_s: seconds between checkpoints.
            keep_resume_state: whether to keep the state at the end, so that a later call can
                continue with more steps.

        Raises:
            ConfigError: a value is out of range; or the saved state is of another training or of
                another kind of device, or it is already past `total_steps` and `total_steps` is
                not a multiple of the logging and snapshot intervals.
            OSError: `out_dir` cannot be made.
            EnvironmentFailed: an environment raised an exception or returned a non-finite number.
            EnvironmentChanged: the saved state is from another version of the environment.
            OptimizerChanged: the saved state is from another version of an imported optimizer.
            CheckpointFailed: a checkpoint cannot be written.
            Interrupted: one of the signals above was received.
        """
        own, spec = _validated(_TrainArguments, locals()), self._spec(locals())
        folders = self._folders(out_dir)
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)  # or this would fail after the training
        loop.train(
            self.stack,
            spec,
            own.total_steps,
            folders,
            self._folders(resume_dir) if resume_dir else [],
            own.checkpoint_interval_s,
            own.keep_resume_state,
        )

    def _folders(self, directory: str) -> list[Path]:
        """Returns each seed's folder: the directory itself, or seedN in it for several seeds."""
        path = Path(directory)
        return [path] if len(self.seeds) == 1 else [path / f"seed{seed}" for seed in self.seeds]

    def _spec(self, given: Mapping[str, Any]) -> CellSpec:
        """Builds the spec of the training from the arguments of `train`.

        Raises:
            ConfigError: a value is out of range.
        """
        training = {name: given[name] for name in ("update_after", "batch_size", "m_steps")}
        intervals = {name: given[name] for name in ("snapshot_interval", "log_interval")}
        try:
            settings = Training(**self.config.model_dump(), **training)
            return CellSpec(env_id=self.env_id, training=settings, **intervals)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None
