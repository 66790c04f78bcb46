"""Whether learning on a GPU is right: against the CPU, and against itself."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks.sizes import SIZES, windows
from mpo.agent import MPOAgent
from mpo.config import Hyperparameters
from mpo.recorder import CLOCKS
from mpo.seeding import torch_generator
from mpo.trainer import MPOTrainer

MODES: dict[str, dict[str, Any]] = {
    "TD": {},
    "3-step TD": {"n_step": 3},
    "Retrace 2": {"retrace": True, "retrace_steps": 2},
    "Retrace 5": {"retrace": True, "retrace_steps": 5},
    "Retrace 8": {"retrace": True, "retrace_steps": 8},
}
CHECKED = [
    *itertools.product(["HalfCheetah"], MODES),
    *itertools.product(["Pendulum", "Humanoid"], ["TD", "Retrace 5"]),
]
TOLERANCE = 1e-3
"""Relative; single precision, on two processors."""

Rows = list[dict[str, Any]]


def note(rows: Rows, **row: object) -> None:
    """Keeps a finding, and prints it."""
    rows.append(row)
    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def make_agent(
    size: str, mode: Mapping[str, Any], seeds: int, device: torch.device, graphs: bool
) -> tuple[MPOAgent, dict[str, Tensor]]:
    """An agent and made-up windows; equal on all devices."""
    of = SIZES[size]
    sizes = {"policy_layer_sizes": of.widths, "critic_layer_sizes": of.widths}
    config = Hyperparameters(
        **sizes, replay_size=10, target_networks_update_period=4, max_grad_norm=40.0, **mode
    )
    agent = MPOAgent(of.obs, of.action, config, range(seeds), device, graphs)
    torch.manual_seed(0)
    return agent, as_sampled(windows(of, seeds, config.window), device)


def as_sampled(fields: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The windows as parts of few tensors, as the replay gives them."""
    widths = {name: x.shape[3:].numel() for name, x in fields.items()}
    joined = torch.cat([x.unflatten(2, (-1, 1)).flatten(3) for x in fields.values()], dim=-1)
    parts = joined.to(device).split([*widths.values()], dim=-1)
    return {
        name: part.view_as(fields[name]) if fields[name].ndim == 4 else part.squeeze(-1)
        for name, part in zip(widths, parts, strict=True)
    }


def parameters(agent: MPOAgent) -> Tensor:
    """All that an agent has learnt, [S, P], on the CPU."""
    flats = [optimizer.flat for optimizer in agent._optimizers]
    return torch.cat([*flats, agent._flat_target_policy, agent._flat_target_critic], 1).cpu()


def same_noise(agent: MPOAgent) -> None:
    """Has an agent draw what it would draw on a CPU."""
    generators = [torch_generator(seed, "noise") for seed in range(agent.num_seeds)]

    def draw(samples: int, rows: int) -> Tensor:
        shape = samples, rows, agent.action_dim
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(agent.device)

    agent._draw = draw  # type: ignore[method-assign]


def learners(agent: MPOAgent) -> list[torch.nn.Module]:
    """What has gradients."""
    return [agent.policy, agent.critic, agent.temperatures, agent.alphas]


def take_over(agent: MPOAgent, other: MPOAgent) -> None:
    """Gives an agent another's parameters, and gradients that must be overwritten."""
    for own, given in zip(agent._optimizers, other._optimizers, strict=True):
        own.flat.copy_(given.flat)
    agent._flat_target_policy.copy_(other._flat_target_policy)
    agent._flat_target_critic.copy_(other._flat_target_critic)
    for learner in learners(agent):
        for parameter in learner.parameters():
            parameter.grad.fill_(torch.nan)


def difference(agent: MPOAgent, other: MPOAgent) -> float:
    """Between gradients: the largest norm of a seed's, over that of the other agent's."""
    worst = 0.0
    for pair in zip(learners(agent), learners(other), strict=True):
        own, given = (torch.cat([p.grad.flatten(1).cpu() for p in x.parameters()], 1) for x in pair)
        apart = torch.linalg.vector_norm(own - given, dim=1)
        worst = max(worst, float((apart / torch.linalg.vector_norm(given, dim=1)).max()))
    return worst


def check_gradients(checks: Rows, device: torch.device) -> None:
    """An update on the GPU against the CPU's."""
    for size, mode in CHECKED:
        agents = [
            make_agent(size, MODES[mode], 2, where, graphs=False)
            for where in (torch.device("cpu"), device)
        ]
        (plain, made_up), (agent, there) = agents
        for _ in range(5):
            plain.update(made_up)
        take_over(agent, plain)
        for each in (plain, agent):
            same_noise(each)
        expected, metrics = plain.update(made_up), agent.update(there)
        apart = max(
            float(((metrics[n].cpu() - x).abs() / x.abs().clamp(min=1e-2)).max())
            for n, x in expected.items()
        )
        worst = max(apart, difference(agent, plain))
        note(checks, check="GPU = CPU", size=size, mode=mode, worst=worst, ok=worst < TOLERANCE)


def check_graphs(checks: Rows, device: torch.device) -> None:
    """Graphs against single launches."""
    optimizers = [{"optimizer": name} for name in ("adamw", "sgd", "rmsprop", "lion")]
    for settings in [*MODES.values(), *optimizers]:
        ends = []
        for graphs in (False, True):
            agent, made_up = make_agent("HalfCheetah", settings, 2, device, graphs)
            for _ in range(12):
                agent.update(made_up)
            noise = torch.stack([generator.get_state() for generator in agent._noise])
            ends.append((parameters(agent), noise))
        equal = all(torch.equal(x, y) for x, y in zip(*ends, strict=True))
        note(checks, check="graphs = launches", mode=settings, ok=equal)


def check_training(checks: Rows, device: torch.device, folder: Path) -> None:
    """Whole trainings: by graphs or not, at a stretch or resumed, alone or stacked."""

    def train(name: str, steps: int, **options: Any) -> pd.DataFrame:
        trainer = MPOTrainer(
            "Pendulum-v1", 0, device, (64, 64), (64, 64), 10_000, use_retrace=True, **options
        )
        resume = str(folder / "state" / name) if name == "resumed" else None
        trainer.train(steps, 100, 64, str(folder / name), 1, 200, 100, resume, 0.5)
        single = folder / name / ("seed0" if "extra_seeds" in options else "")
        return pd.read_parquet(single / "train.parquet").drop(columns=[*CLOCKS])

    straight = train("straight", 600)
    eager = train("eager", 600, cuda_graphs=False)
    note(checks, check="training by graphs = by launches", ok=straight.equals(eager))
    train("resumed", 300)
    note(checks, check="resumed = straight", ok=straight.equals(train("resumed", 600)))
    stacked = train("stacked", 600, extra_seeds=(1, 2, 3))
    apart = (stacked - straight).abs().max().max()
    note(checks, check="stacked = alone (not promised)", worst=apart, ok=True)
