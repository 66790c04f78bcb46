"""S stacked seeds of one environment: their agent, their replay and their episodes.

The seeds never mix. Each acts in an environment of its own and has the random streams, the state on
disk and the numbers that it has when it is trained alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mpo.algorithm.agent import MPOAgent
from mpo.compute.malloc import keep_freed
from mpo.environments.envs import dimensions, make_env
from mpo.environments.episodes import EpisodeStream
from mpo.replay.replay import Replay
from mpo.seeding import torch_generator
from mpo.study.config import ConfigError

if TYPE_CHECKING:
    from mpo.study.hyperparameters import Hyperparameters
    from mpo.training.recorder import Recorder


class Stack:
    """The learners of one environment and one set of hyperparameters, one for each seed."""

    def __init__(
        self,
        env_id: str,
        config: Hyperparameters,
        seeds: Sequence[int],
        device: torch.device,
        *,
        cuda_graphs: bool = True,
        compile_on_cpu: bool = False,
    ) -> None:
        """Makes the environments, the agent and an empty replay.

        Args:
            env_id: see `make_env`.
            config: the hyperparameters.
            seeds: of each learner; the only source of randomness.
            device: of networks, replay and updates.
            cuda_graphs: see `MPOTrainer`.
            compile_on_cpu: see `MPOTrainer`; takes one seed.

        Raises:
            ConfigError: the environment cannot be used, or several seeds are to be compiled.
        """
        if compile_on_cpu and len(seeds) > 1 and device.type == "cpu":
            # Compiled code rounds an odd element by its place in memory, and so by the seed's.
            raise ConfigError(f"compile_on_cpu: takes one seed a trainer, received {len(seeds)}")
        # Denormal numbers are many times slower on a CPU and carry no information here.
        torch.set_flush_denormal(True)
        keep_freed()
        self.env_id, self.config, self.device = env_id, config, device
        self.seeds = tuple(seeds)
        retrace = "on" if config.retrace else "off"
        self.name = f"{env_id} retrace {retrace} {config.optimizer}"
        """Shown with the progress, before the seeds."""
        self._execution = {"cuda_graphs": cuda_graphs, "compile_on_cpu": compile_on_cpu}
        envs = [make_env(env_id) for _ in self.seeds]
        self.obs_dim, self.action_dim = dimensions(envs[0].observation_space, envs[0].action_space)
        self.agent = MPOAgent(
            self.obs_dim, self.action_dim, config, self.seeds, device, **self._execution
        )
        self.replay = Replay(
            self.obs_dim,
            self.action_dim,
            config.replay_size,
            [torch_generator(seed, "sample") for seed in self.seeds],
            device,
            cuda_graphs=cuda_graphs,
        )
        self.streams = [EpisodeStream(env, s) for env, s in zip(envs, self.seeds, strict=True)]
        self.env_steps = 0
        self.refused_transitions = [0] * len(self.seeds)
        """Of each seed: transitions that held a number that is not finite."""
        self._offsets: dict[int, torch.Tensor] = {}

    def of_some(self, seeds: Sequence[int]) -> Stack:
        """A new stack of some of the seeds, at step 0."""
        other = Stack(self.env_id, self.config, seeds, self.device, **self._execution)
        other.name = self.name
        return other

    def act(self, recorder: Recorder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples an action for each seed; a seed whose action is not finite has diverged.

        Args:
            recorder: is told who has diverged.

        Returns:
            Observations [S, O], actions before clipping [S, D] and their log-densities [S].
        """
        obs = np.stack([stream.obs for stream in self.streams])
        raw, log_prob = self.agent.act(obs)
        finite = np.isfinite(raw).all(-1) & np.isfinite(log_prob)
        if not finite.all():
            for index in np.flatnonzero(~finite):
                recorder.of[index].diverge(self.env_steps, "an action is not finite")
            # The other seeds of the stack go on, and so must its environment.
            raw, log_prob = np.nan_to_num(raw, posinf=0, neginf=0), np.nan_to_num(log_prob)
        return obs, raw, log_prob

    def step_environments(self, obs: np.ndarray, raw: np.ndarray, log_prob: np.ndarray) -> None:
        """Steps every seed's environment once and stores the transition; see `act`."""
        executed = raw.clip(-1, 1)
        for i, stream in enumerate(self.streams):
            step = stream.step(executed[i])
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
            stream.advance(step)
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
        packed = np.empty(sum(self.replay.widths), dtype=np.float32)
        start = 0
        for part, width in zip(parts, self.replay.widths, strict=True):
            packed[start : start + width] = part
            start += width
        if not np.isfinite(packed).all():
            self.refused_transitions[seed_index] += 1
            self.replay.break_segment(seed_index)
            return False
        self.replay.add(seed_index, torch.from_numpy(packed))
        return True

    def offsets(self, length: int) -> torch.Tensor:
        """0 ... length - 1 on the CPU, where windows are drawn; made once, [T]."""
        if length not in self._offsets:
            self._offsets[length] = torch.arange(length)
        return self._offsets[length]

    def draw_windows(self, batch_size: int) -> dict[str, torch.Tensor]:
        """Draws the windows of an update, [S, T, B]; see `Replay.sample`."""
        return self.replay.sample(batch_size, self.offsets(self.config.window))

    def take_finished(self, index: int) -> list[tuple[float, int]]:
        """Of a seed, see `EpisodeStream.take_finished`."""
        return self.streams[index].take_finished()

    def state_dict(self, index: int) -> dict[str, Any]:
        """All that a seed resumes from but its transitions, as if it were alone."""
        return {
            "env_steps": self.env_steps,
            "agent": self.agent.state_dict(index),
            "replay": self.replay.state_dict(index),
            "stream": self.streams[index].state_dict(),
        }

    def load_state_dict(
        self, states: Sequence[Mapping[str, Any]], transitions: Sequence[Sequence[Any]]
    ) -> None:
        """Loads one state per seed, all saved at the same step.

        Args:
            states: of each seed, see `state_dict`.
            transitions: of each seed, all that its `newest_transitions` returned.
        """
        self.env_steps = states[0]["env_steps"]
        self.agent.load_state_dict([state["agent"] for state in states])
        for index, (state, newest) in enumerate(zip(states, transitions, strict=True)):
            self.replay.load_state_dict(index, state["replay"], newest)
            self.streams[index].load_state_dict(state["stream"])

    def newest_transitions(self, index: int, count: int) -> dict[str, torch.Tensor]:
        """Of a seed, see `Replay.newest`."""
        return self.replay.newest(index, count)
