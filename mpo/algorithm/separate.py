"""Several agents of one seed each, in the place of one agent of several seeds."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpo.algorithm.agent import MPOAgent, Networks
from mpo.compute.compile import compiles
from mpo.compute.cuda_graphs import Tensors
from mpo.study.hyperparameters import Hyperparameters


class SeparateAgents:
    """S agents that are compiled for the CPU; each method is that of `MPOAgent`.

    Compiled code rounds the elements left over after vectorisation differently. Which ones these
    are depends on the position in memory, so in one stack a seed's numbers would depend on the
    others. Agents of one seed share the compiled code, and have the same numbers as alone.
    """

    compiled = True

    def __init__(self, agents: Sequence[MPOAgent]) -> None:
        """Takes the agents, each with one seed and the same settings."""
        self.agents = list(agents)
        self.num_seeds = len(self.agents)
        self.config = self.agents[0].config

    @property
    def updates(self) -> int:
        """Number of updates so far."""
        return self.agents[0].updates

    def mode(self, obs: np.ndarray, seed_index: int = 0) -> np.ndarray:
        """Returns the means of one seed's online policy; see `MPOAgent.mode`."""
        return self.agents[seed_index].mode(obs)

    def act(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples one action per seed; see `MPOAgent.act`."""
        raw, log_prob = zip(
            *(own.act(obs[i : i + 1]) for i, own in enumerate(self.agents)), strict=True
        )
        return np.concatenate(raw), np.concatenate(log_prob)

    def begin_episode(self, index: int) -> None:
        """Tells that a seed's next action is the first of an episode."""
        self.agents[index].begin_episode(0)

    def update(self, windows: Tensors, m_steps: int = 1) -> Tensors:
        """Updates every agent with its windows; see `MPOAgent.update`."""
        return _joined(
            own.update({name: x[i : i + 1] for name, x in windows.items()}, m_steps)
            for i, own in enumerate(self.agents)
        )

    def networks(self) -> list[Networks]:
        """Returns copies of each seed's policy and critic; see `MPOAgent.networks`."""
        return [own.networks()[0] for own in self.agents]

    def non_finite(self) -> dict[str, Tensor]:
        """Returns which seeds have non-finite parameters; see `Learners.non_finite`."""
        return _joined(own.non_finite() for own in self.agents)

    def renew(self, count: int) -> None:
        """Starts the networks anew; see `Learners.renew`."""
        for own in self.agents:
            own.renew(count)

    def state_dict(self, index: int) -> dict[str, Any]:
        """Returns one seed's state; see `MPOAgent.state_dict`."""
        return self.agents[index].state_dict(0)

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Loads one state per seed, all after the same number of updates."""
        for own, state in zip(self.agents, states, strict=True):
            own.load_state_dict([state])


Agent = MPOAgent | SeparateAgents
"""What acts and learns for a stack of seeds."""


def make_agent(
    obs_dim: int,
    action_dim: int,
    config: Hyperparameters,
    seeds: Sequence[int],
    device: torch.device,
    *,
    compile_on_cpu: bool = False,
    **options: Any,
) -> Agent:
    """Makes one agent for all seeds, or one for each; see `MPOAgent` for the arguments."""

    def make(some: Sequence[int]) -> MPOAgent:
        compiled = {"compile_on_cpu": compile_on_cpu, **options}
        return MPOAgent(obs_dim, action_dim, config, some, device, **compiled)

    if len(seeds) > 1 and device.type == "cpu" and compiles(device, compile_on_cpu):
        return SeparateAgents([make([seed]) for seed in seeds])
    return make(seeds)


def _joined(found: Iterable[Tensors]) -> dict[str, Tensor]:
    """Joins tensors [1] of each agent by name, [S] each."""
    each = list(found)
    return {name: torch.cat([own[name] for own in each]) for name in each[0]}
