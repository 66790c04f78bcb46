"""The MPO agent: it acts for S seeds, and decides what happens at which update.

What it learns is in `learners.py`, an update's steps are in `update.py`.

Letters: S seed, T window, B batch, O observation, D action dimensions.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpo.algorithm.action_noise import make_noise
from mpo.algorithm.learners import Learners
from mpo.algorithm.running_moments import ObservationMoments
from mpo.algorithm.update import Update
from mpo.compute.compile import compiled, compiles
from mpo.compute.cuda_graphs import Graphed, Tensors
from mpo.study.hyperparameters import Hyperparameters

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

Networks = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Policy and critic of one seed: their state dicts, on the CPU."""


class MPOAgent:
    """Acts for S seeds and learns from windows of their replays; no operation mixes seeds."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        config: Hyperparameters,
        seeds: Sequence[int],
        device: torch.device,
        cuda_graphs: bool = True,
        compile_on_cpu: bool = False,
        episode_steps: int | None = None,
    ) -> None:
        """Creates the learners, with initial networks drawn from each seed's own stream.

        Args:
            obs_dim: O.
            action_dim: D.
            config: the hyperparameters.
            seeds: one seed per learner, S.
            device: the device of networks and updates.
            cuda_graphs: whether acting and learning on a GPU are captured in a CUDA graph each.
            compile_on_cpu: whether acting and learning on a CPU are compiled.
            episode_steps: most steps of a training episode, if known; see `PinkNoise`.
        """
        self.config = config
        self.device = device
        self.action_dim = action_dim
        self.num_seeds = len(seeds)
        self.learners = Learners(obs_dim, action_dim, config, seeds, device)
        self.policy, self.critic = self.learners.policy, self.learners.critic
        self.non_finite, self.renew = self.learners.non_finite, self.learners.renew
        self._observations = ObservationMoments(len(seeds), obs_dim, self.learners.normalizer)
        self._act_noise = [
            make_noise(config.action_noise, seed, action_dim, episode_steps) for seed in seeds
        ]
        graphs = cuda_graphs and device.type == "cuda"
        self._update = Update(self.learners, config, seeds, device, graphs, compile_on_cpu)
        self.compiled = compiles(device, compile_on_cpu)
        """Whether acting and learning are compiled by torch."""
        behaves = {"online": self.policy, "target": self.learners.target_policy}
        self._behaviour = behaves[config.behaviour_policy]
        form = self.learners.form
        heads = compiled(self._policy_heads, device, on_cpu=compile_on_cpu, reads=form)
        self._heads = Graphed(heads, device) if graphs else heads
        self.updates = 0

    @torch.inference_mode()
    def mode(self, obs: np.ndarray, seed_index: int = 0) -> np.ndarray:
        """Returns the means of one seed's online policy, clipped to [-1, 1].

        Args:
            obs: float32 [B, O].
            seed_index: the seed's position in the stack.

        Returns:
            Canonical actions, float32 [B, D].
        """
        rows = torch.from_numpy(obs).to(self.device).expand(self.num_seeds, -1, -1)
        return self.policy(rows)[0][seed_index].clamp(-1, 1).cpu().numpy()

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples one action per seed from the behaviour policy.

        Args:
            obs: float32 [S, O].

        Returns:
            Raw (unclipped) actions [S, D] and their log-densities in nats [S], float32.
        """
        self._observations.add(obs)
        heads = self._heads({"obs": torch.from_numpy(obs)})["heads"]
        mean, stddev = np.split(heads.cpu().numpy(), 2, axis=-1)  # one copy to the host
        noise = np.stack([own.next() for own in self._act_noise])
        log_prob = -(0.5 * noise**2 + np.log(stddev)).sum(-1) - self.action_dim * _HALF_LOG_2PI
        return mean + stddev * noise, log_prob.astype(np.float32)

    def begin_episode(self, index: int) -> None:
        """Tells that a seed's next action is the first of an episode."""
        self._act_noise[index].begin_episode()

    @torch.inference_mode()
    def update(self, windows: Tensors, m_steps: int = 1) -> Tensors:
        """Takes one critic step and `m_steps` policy steps on windows of the replay.

        The policy's steps are taken in one of `policy_update_period` updates.

        Args:
            windows: fields [S, T, B], from `Replay.sample`.
            m_steps: steps of the policy and the KL multipliers with the same E-step.

        Returns:
            Diagnostics of the update, [S] each. With CUDA graphs the next update overwrites them.
        """
        config = self.config
        if self.updates % config.policy_update_period:
            m_steps = 0
        if self.updates == 0:
            self._observations.refresh_normalizer()
        networks = self.learners.policy_optimizer, self.learners.critic_optimizer
        if config.warmup_updates:
            for optimizer in networks:
                optimizer.scale_(min(1.0, (self.updates + 1) / config.warmup_updates))
        with self._step_lengths(m_steps > 0) as lengths:
            metrics = self._update(windows, m_steps)
        metrics = {**metrics, **lengths}
        self.updates += 1
        periodic = self.updates % config.target_networks_update_period == 0
        if periodic:
            self._observations.refresh_normalizer()
        if config.target_polyak is not None:
            self.learners.move_targets(config.target_polyak)
        elif periodic:
            self.learners.move_targets(1.0)
            if config.optimizer_reset != "never":
                for optimizer in networks:
                    optimizer.reset_(config.optimizer_reset)
        return metrics

    def networks(self) -> list[Networks]:
        """Returns a copy of each seed's policy and critic."""
        stacked = [
            {name: value.detach().cpu() for name, value in network.state_dict().items()}
            for network in (self.policy, self.critic)
        ]

        def of_seed(i: int, state: Tensors) -> dict[str, Tensor]:
            return {name: value[i : i + 1].clone() for name, value in state.items()}

        return [(of_seed(i, stacked[0]), of_seed(i, stacked[1])) for i in range(self.num_seeds)]

    @contextmanager
    def _step_lengths(self, with_policy: bool) -> Iterator[dict[str, Tensor]]:
        """Measures how far an update moves the networks, just before and after a copy to targets.

        Yields:
            At the end: 2-norms of the steps, [S] each; empty for all other updates.
        """
        period, lengths = self.config.target_networks_update_period, dict[str, Tensor]()
        place = {period - 1: "before", 0: "after"}.get(self.updates % period)
        if place is None or self.config.target_polyak is not None:
            yield lengths
            return
        networks = {"critic": self.learners.critic_optimizer}
        if with_policy:
            networks["policy"] = self.learners.policy_optimizer
        starts = {name: optimizer.flat.clone() for name, optimizer in networks.items()}
        yield lengths
        for name, start in starts.items():
            step = torch.linalg.vector_norm(networks[name].flat - start, dim=1)
            lengths[f"{name}_step_{place}_copy"] = step

    def state_dict(self, index: int) -> dict[str, Any]:
        """Returns everything that one seed's acting and learning depend on.

        It does not depend on the other seeds in the stack.
        """
        return {
            "updates": self.updates,
            **self.learners.state_dict(index),
            "act_noise": self._act_noise[index].state_dict(),
            "noise": [self._update.noise[index].get_state()],
            **self._observations.state_dict(index),
        }

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Loads one state per seed, from agents with the same settings.

        Args:
            states: one per seed, from `state_dict`, all after the same number of updates.
        """
        self.updates = states[0]["updates"]
        self.learners.load_state_dict(states)
        for i, state in enumerate(states):
            self._act_noise[i].load_state_dict(state["act_noise"])
            self._update.noise[i].set_state(state["noise"][0])
        self._observations.load_state_dict(states)
        self._update.forget_graphs()

    def _policy_heads(self, inputs: Tensors) -> Tensors:
        """Maps `obs` [S, O] to `heads`, the behaviour policy's mean and stddev, [S, 2 D]."""
        rows = inputs["obs"].to(self.device).unsqueeze(1)
        return {"heads": torch.cat(self._behaviour(rows), dim=-1).squeeze(1)}
