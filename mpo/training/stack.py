"""S seeds trained together in one environment: their agent, replay buffers and episodes.

The seeds are independent. Each has its own environment, random streams and saved state, and follows
the same trajectory as if it were trained alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mpo.algorithm.optimizers import classes
from mpo.algorithm.separate import make_agent
from mpo.compute.malloc import keep_freed
from mpo.environments.envs import dimensions, name_of
from mpo.environments.fingerprint import fingerprint, of_classes
from mpo.environments.parallel import ParallelStreams
from mpo.replay.replay import Replay
from mpo.seeding import torch_generator

if TYPE_CHECKING:
    from mpo.environments.workers import Worker
    from mpo.study.hyperparameters import Hyperparameters
    from mpo.study.specs import EnvironmentSpec
    from mpo.training.recorder import Recorder


class Stack:
    """S learners with the same environment and hyperparameters, one per seed."""

    def __init__(
        self,
        env: str | EnvironmentSpec,
        config: Hyperparameters,
        seeds: Sequence[int],
        device: torch.device,
        *,
        cuda_graphs: bool = True,
        compile_on_cpu: bool = False,
        workers: Sequence[Worker] = (),
    ) -> None:
        """Makes the environments, the agent and an empty replay.

        Args:
            env: see `make_env`.
            config: the hyperparameters.
            seeds: seed of each learner; the only source of randomness.
            device: device of the networks, the replay and the updates.
            cuda_graphs: see `MPOTrainer`.
            compile_on_cpu: see `MPOTrainer`.
            workers: processes that step some of the environments.

        Raises:
            ConfigError: the environment, the optimizer or the device cannot be used.
        """
        config.check_device(device.type)
        # Denormal numbers are many times slower on a CPU and carry no information here.
        torch.set_flush_denormal(True)
        keep_freed()
        self.config, self.device, self._env = config, device, env
        self.seeds = tuple(seeds)
        retrace = "on" if config.retrace else "off"
        self.name = f"{name_of(env)} retrace {retrace} {config.optimizer}"
        """Label of the progress bar, before the seeds."""
        self._execution = {"cuda_graphs": cuda_graphs, "compile_on_cpu": compile_on_cpu}
        self._workers = workers
        self.streams = ParallelStreams(env, self.seeds, workers)
        first = self.streams.here.envs[0]
        imported = classes(config.optimizer_definition)
        own = {"optimizer": of_classes(imported)} if imported else {}
        self.made_of: dict[str, Any] = {"environment": fingerprint(first), **own}
        """Fingerprints of the environment and of an imported optimizer, recorded with all that is
        learnt."""
        self.obs_dim, self.action_dim = dimensions(first.observation_space, first.action_space)
        episode_steps = first.spec.max_episode_steps if first.spec else None
        self.agent = make_agent(
            self.obs_dim,
            self.action_dim,
            config,
            self.seeds,
            device,
            episode_steps=episode_steps,
            **self._execution,
        )
        self.replay = self._make_replay()
        self.streams.begin()
        self.env_steps = 0
        self._offsets: dict[int, torch.Tensor] = {}

    def _make_replay(self) -> Replay:
        generators = [torch_generator(seed, "sample") for seed in self.seeds]
        return Replay(
            self.obs_dim,
            self.action_dim,
            self.config.replay_size,
            generators,
            self.device,
            cuda_graphs=self._execution["cuda_graphs"],
        )

    def of_some(self, seeds: Sequence[int]) -> Stack:
        """Makes a new stack with some of the seeds, at step 0."""
        execution: dict[str, Any] = {**self._execution, "workers": self._workers}
        other = Stack(self._env, self.config, seeds, self.device, **execution)
        other.name = self.name
        return other

    def act(self, recorder: Recorder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples an action for each seed; a seed with a non-finite action has diverged.

        Args:
            recorder: gets the divergences.

        Returns:
            Observations [S, O], actions before clipping [S, D] and their log-densities [S] in nats.
        """
        obs = self.streams.obs
        raw, log_prob = self.agent.act(obs)
        finite = np.isfinite(raw).all(-1) & np.isfinite(log_prob)
        if not finite.all():
            for index in np.flatnonzero(~finite):
                recorder.of[index].diverge(self.env_steps, "an action is not finite")
            # The other seeds go on, so this one needs an action that its environment accepts.
            raw, log_prob = np.nan_to_num(raw, posinf=0, neginf=0), np.nan_to_num(log_prob)
        return obs, raw, log_prob

    def step_environments(self, obs: np.ndarray, raw: np.ndarray, log_prob: np.ndarray) -> None:
        """Steps every seed's environment once and stores the transitions.

        Args:
            obs: observations, [S, O].
            raw: actions before clipping, [S, D].
            log_prob: log-densities of the raw actions, [S], in nats.
        """
        executed = raw.clip(-1, 1)
        for i, step in enumerate(self.streams.step(executed)):
            self.add_transition(
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
            if step.terminated or step.truncated:
                self.agent.begin_episode(i)
        self.env_steps += 1

    def add_transition(
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
        """Stores a transition, unless it contains a non-finite value.

        Args:
            obs: observation, [O].
            action_exec: the canonical action that the environment received, [D].
            action_raw: the sampled action before clipping, [D].
            behaviour_logp: log-density of the raw action under the policy that acted, in nats.
            reward: reward of this step.
            next_obs: the true next observation, before any reset, [O].
            done: 1 if the episode terminated; ends the bootstrap.
            truncated: 1 if a time limit ended the episode; does not end the bootstrap.
            seed_index: index of the seed whose replay gets the transition.

        Returns:
            False if the transition was rejected; then no window spans the gap.
        """
        parts: list[np.ndarray | float] = [obs, action_exec, action_raw, behaviour_logp, reward]
        parts += [done, truncated, next_obs]
        packed = np.empty(sum(self.replay.widths), dtype=np.float32)
        start = 0
        for part, width in zip(parts, self.replay.widths, strict=True):
            packed[start : start + width] = part
            start += width
        if not np.isfinite(packed).all():
            self.replay.break_segment(seed_index)
            return False
        self.replay.add(seed_index, torch.from_numpy(packed))
        return True

    def offsets(self, length: int) -> torch.Tensor:
        """Returns 0 ... length - 1, [T], on the CPU, where windows are drawn; cached."""
        if length not in self._offsets:
            self._offsets[length] = torch.arange(length)
        return self._offsets[length]

    def draw_windows(self, batch_size: int) -> dict[str, torch.Tensor]:
        """Draws the windows for one update, [S, T, B]; see `Replay.sample`."""
        return self.replay.sample(batch_size, self.offsets(self.config.window))

    def take_finished(self, index: int) -> list[tuple[float, int]]:
        """Calls `EpisodeStream.take_finished` for one seed."""
        return self.streams.take_finished(index)

    def state_dict(self, index: int) -> dict[str, Any]:
        """One seed's state without its transitions; does not depend on the stack."""
        return {
            "env_steps": self.env_steps,
            "agent": self.agent.state_dict(index),
            "replay": self.replay.state_dict(index),
            "stream": self.streams.state_dict(index),
        }

    def load_state_dict(
        self, states: Sequence[Mapping[str, Any]], transitions: Sequence[Sequence[Any]]
    ) -> None:
        """Loads one state per seed, all saved at the same step.

        An episode that the environment does not repeat ends there: no window spans the gap, and the
        next action is the first of an episode.

        Args:
            states: `state_dict` of each seed.
            transitions: for each seed, all results of `newest_transitions`, oldest first.
        """
        self.env_steps = states[0]["env_steps"]
        self.agent.load_state_dict([state["agent"] for state in states])
        for index, (state, newest) in enumerate(zip(states, transitions, strict=True)):
            self.replay.load_state_dict(index, state["replay"], newest)
        go_on = self.streams.load_state_dicts([state["stream"] for state in states])
        for index, goes_on in enumerate(go_on):
            if not goes_on:
                self.replay.break_segment(index)
                self.agent.begin_episode(index)

    def newest_transitions(self, index: int, count: int) -> dict[str, torch.Tensor]:
        """Calls `Replay.newest` for one seed."""
        return self.replay.newest(index, count)
