"""Checks of learning on a GPU: against the CPU, and against itself."""

import itertools
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor

from benchmarks.sizes import SIZES, windows
from mpo.algorithm.agent import MPOAgent
from mpo.algorithm.optimizers import StackedOptimizer
from mpo.replay.replay import Replay
from mpo.seeding import torch_generator
from mpo.study.hyperparameters import Hyperparameters, OptimizerName
from mpo.trainer import MPOTrainer
from mpo.training.recorder import CLOCKS

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
"""Largest relative difference of CPU and GPU, in single precision."""

Rows = list[dict[str, Any]]


def note(**row: object) -> Rows:
    """Prints a finding; returns it as a list of one row."""
    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return [row]


def make_agent(
    size: str, mode: Mapping[str, Any], seeds: int, device: torch.device, graphs: bool
) -> tuple[MPOAgent, dict[str, Tensor]]:
    """Makes an agent and synthetic windows, the same on all devices."""
    of = SIZES[size]
    sizes = {"policy_layer_sizes": of.widths, "critic_layer_sizes": of.widths}
    config = Hyperparameters(
        **sizes, replay_size=10, target_networks_update_period=4, max_grad_norm=40.0, **mode
    )
    agent = MPOAgent(of.obs, of.action, config, range(seeds), device, graphs)
    torch.manual_seed(0)
    return agent, as_sampled(windows(of, seeds, config.window), device)


def as_sampled(fields: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The windows as views of one tensor, as the replay returns them."""
    widths = {name: x.shape[3:].numel() for name, x in fields.items()}
    joined = torch.cat([x.unflatten(2, (-1, 1)).flatten(3) for x in fields.values()], dim=-1)
    parts = joined.to(device).split([*widths.values()], dim=-1)
    return {
        name: part.view_as(fields[name]) if fields[name].ndim == 4 else part.squeeze(-1)
        for name, part in zip(widths, parts, strict=True)
    }


def parameters(agent: MPOAgent) -> Tensor:
    """All P online and target parameters of an agent, [S, P], on the CPU."""
    flats = [optimizer.flat for optimizer in agent.learners.optimizers]
    return torch.cat(
        [*flats, agent.learners.flat_target_policy, agent.learners.flat_target_critic], 1
    ).cpu()


def same_noise(agent: MPOAgent) -> None:
    """Makes an agent draw the noise that it would draw on a CPU."""
    generators = [torch_generator(seed, "noise") for seed in range(agent.num_seeds)]

    def draw(samples: int, rows: int) -> Tensor:
        shape = samples, rows, agent.action_dim
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(agent.device)

    agent._update._draw = draw  # type: ignore[method-assign]


def learners(agent: MPOAgent) -> list[torch.nn.Module]:
    """The modules that have gradients."""
    return [agent.policy, agent.critic, agent.learners.temperatures, agent.learners.alphas]


def take_over(agent: MPOAgent, other: MPOAgent) -> None:
    """Copies another agent's parameters; sets gradients to NaN, so all must be overwritten."""
    for own, given in zip(agent.learners.optimizers, other.learners.optimizers, strict=True):
        own.flat.copy_(given.flat)
    agent.learners.flat_target_policy.copy_(other.learners.flat_target_policy)
    agent.learners.flat_target_critic.copy_(other.learners.flat_target_critic)
    for learner in learners(agent):
        for parameter in learner.parameters():
            parameter.grad.fill_(torch.nan)


def differences(agent: MPOAgent, other: MPOAgent) -> list[Tensor]:
    """The relative differences of two agents' gradients, by norm; of each module, [S]."""
    found = []
    for pair in zip(learners(agent), learners(other), strict=True):
        own, given = (torch.cat([p.grad.flatten(1).cpu() for p in x.parameters()], 1) for x in pair)
        apart = torch.linalg.vector_norm(own - given, dim=1)
        found.append(apart / torch.linalg.vector_norm(given, dim=1))
    return found


def check_gradients(size: str, mode: str, device: torch.device) -> Rows:
    """Compares the gradients and metrics of an update on the GPU with those on the CPU."""
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
    apart = [(metrics[n].cpu() - x).abs() / x.abs().clamp(min=1e-2) for n, x in expected.items()]
    # The largest of tensors, unlike that of floats, is NaN if one of them is.
    worst = float(torch.stack([*apart, *differences(agent, plain)]).max())
    return note(check="gradients = CPU's", size=size, mode=mode, worst=worst, ok=worst < TOLERANCE)


def check_graphs(settings: Mapping[str, Any], device: torch.device) -> Rows:
    """Checks that updates with CUDA graphs equal updates without them, bit for bit."""
    ends = []
    for graphs in (False, True):
        agent, made_up = make_agent("HalfCheetah", settings, 2, device, graphs)
        for _ in range(12):
            agent.update(made_up)
        noise = torch.stack([generator.get_state() for generator in agent._update.noise])
        ends.append((parameters(agent), noise))
    equal = all(torch.equal(x, y) for x, y in zip(*ends, strict=True))
    return note(check="graphs = launches", mode=settings, ok=equal)


def check_optimizer(name: OptimizerName, device: torch.device) -> Rows:
    """Compares optimizer steps on the GPU with those on the CPU, also after loading a state."""
    ends = []
    for where in (torch.device("cpu"), device):
        generator = torch.Generator().manual_seed(0)
        parameters = [
            torch.nn.Parameter(torch.randn(3, *shape, generator=generator).to(where), False)
            for shape in ((17, 256), (1, 256), (256, 1))
        ]
        optimizer = StackedOptimizer(name, parameters, 1e-3)
        for step in range(8):
            for parameter in parameters:
                parameter.grad.copy_(torch.randn(parameter.shape, generator=generator))
            with torch.inference_mode():
                optimizer.step()
            if step == 4:
                optimizer.load_state_dict([optimizer.state_dict(index) for index in range(3)])
        ends.append(optimizer.flat.cpu())
    worst = float((ends[0] - ends[1]).abs().max())
    return note(check="optimizer's steps = CPU's", mode=name, worst=worst, ok=worst < 1e-5)


def check_sampling(device: torch.device) -> Rows:
    """Checks that the replay samples the same windows on GPU and CPU, bit for bit."""
    places = (torch.device("cpu"), device)
    replays = [
        Replay(3, 1, 500, [torch_generator(s, "sample") for s in (0, 1)], where) for where in places
    ]
    numbers = torch.Generator().manual_seed(0)
    equal, obs = True, torch.randn(2, 3, generator=numbers)
    for step in range(1500):
        for index in (0, 1):
            over = float(torch.rand((), generator=numbers) < 0.1)
            ends, following = torch.tensor([0.0, over]), torch.randn(3, generator=numbers)
            between = torch.randn(4, generator=numbers)
            packed = torch.cat([obs[index], between, ends, following])
            for replay in replays:
                replay.add(index, packed)
            obs[index] = torch.randn(3, generator=numbers) if over else following
        if step > 5:
            here, there = (replay.sample(32, torch.arange(2)) for replay in replays)
            equal &= all(torch.equal(x, there[name].cpu()) for name, x in here.items())
    return note(check="windows = CPU's", ok=equal)


def check_training(device: torch.device) -> Rows:
    """Compares trainings: repeated, without CUDA graphs, resumed, and stacked."""
    with tempfile.TemporaryDirectory() as folder:

        def train(name: str, steps: int, **options: Any) -> pd.DataFrame:
            trainer = MPOTrainer(
                "Pendulum-v1", 0, device, (64, 64), (64, 64), 10_000, use_retrace=True, **options
            )
            out = Path(folder, name)
            resume = str(Path(folder, "state")) if name == "resumed" else None
            trainer.train(steps, 100, 64, str(out), 1, 200, 100, resume, 0.5)
            single = out / ("seed0" if "extra_seeds" in options else "")
            return pd.read_parquet(single / "train.parquet").drop(columns=[*CLOCKS])

        straight = train("straight", 600)
        again = train("again", 600)
        eager = train("eager", 600, cuda_graphs=False)
        train("resumed", 300)
        resumed = train("resumed", 600)
        stacked = train("stacked", 600, extra_seeds=(1, 2, 3))
    apart = float((stacked - straight).abs().max().max())
    return [
        *note(check="training = itself again", ok=straight.equals(again)),
        *note(check="training by graphs = by launches", ok=straight.equals(eager)),
        *note(check="training resumed = straight", ok=straight.equals(resumed)),
        *note(check="training stacked = alone (not promised)", worst=apart, ok=True),
    ]


def all_checks(device: torch.device) -> list[Callable[[], Rows]]:
    """All checks; they are independent, and each returns its rows."""
    optimizers = get_args(OptimizerName)
    settings = [*MODES.values(), *({"optimizer": name} for name in optimizers)]
    return [
        partial(check_training, device),
        *(partial(check_gradients, size, mode, device) for size, mode in CHECKED),
        *(partial(check_graphs, each, device) for each in settings),
        *(partial(check_optimizer, name, device) for name in optimizers),
        partial(check_sampling, device),
    ]
