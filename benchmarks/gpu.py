"""Whether learning on a GPU is right, and what it costs; one call, some minutes.

    python -m benchmarks.gpu [--out FOLDER] [--device cuda] [--updates N] [--steps N]

Prints each finding as it comes, and the tables once more at the end; leaves checks.csv and
times.csv in the folder. Fails where a check does. With `--device cpu` all of it runs, without CUDA
graphs and kernels of its own: to try the script, not the GPU.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks.sizes import SIZES, flops, windows
from mpo.agent import MPOAgent
from mpo.config import Hyperparameters
from mpo.provenance import machine
from mpo.recorder import CLOCKS, Recorder
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
TIMED = [
    *itertools.product(["HalfCheetah"], ["TD", "Retrace 2", "Retrace 5", "Retrace 8"], [1, 4, 10]),
    *itertools.product(["Pendulum", "Humanoid"], ["TD", "Retrace 5"], [1, 10]),
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


def check_updates(checks: Rows, device: torch.device) -> None:
    """The GPU against the CPU, and graphs against single launches."""
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


def seconds_each(call: Callable[[], object], times: int, device: torch.device) -> float:
    """Mean time of a call, all of what it asked for done."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(6):
        call()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - start) / times


def time_updates(times: Rows, device: torch.device, count: int) -> None:
    """Updates and actions."""
    single: dict[tuple[str, str], float] = {}
    for size, mode, seeds in TIMED:
        start = time.perf_counter()
        agent, made_up = make_agent(size, MODES[mode], seeds, device, True)
        seconds_each(lambda: agent.update(made_up), 1, device)  # noqa: B023
        first = time.perf_counter() - start
        seconds = seconds_each(lambda: agent.update(made_up), count, device)  # noqa: B023
        obs = torch.zeros(seeds, SIZES[size].obs).numpy()
        act = seconds_each(lambda: agent.act(obs), count, device)  # noqa: B023
        steps = MODES[mode].get("retrace_steps", 0)
        work = seeds * sum(flops(SIZES[size], steps).values())
        one = single.setdefault((size, mode), seconds)
        note(
            times,
            what="update",
            size=size,
            mode=mode,
            seeds=seeds,
            ms=1e3 * seconds,
            seed_updates_per_s=seeds / seconds,
            tflops=work / seconds / 1e12,
            ratio_to_one_seed=seconds / one,
            act_ms=1e3 * act,
            first_s=first,
        )


def time_steps(trainer: MPOTrainer, batch: int, steps: int) -> tuple[list[float], float]:
    """Seconds of acting and moving, of learning, and of the two as they are in a training."""
    recorder, offsets = Recorder(len(trainer.seeds)), trainer._get_sequence_offsets(1)

    def move() -> None:
        trainer._environment_step(*trainer._act(recorder))

    def learn() -> None:
        recorder.add(trainer.agent.update(trainer._replay.sample(batch, offsets)))

    def step() -> None:
        windows = trainer._replay.sample(batch, offsets)
        chosen = trainer._act(recorder)
        recorder.add(trainer.agent.update(windows))
        trainer._environment_step(*chosen)

    parts = [seconds_each(part, steps, trainer.device) for part in (move, learn)]
    return parts, seconds_each(step, steps, trainer.device)


def time_training(times: Rows, device: torch.device, steps: int) -> None:
    """Whole steps of HalfCheetah, and how much of a shorter part hides behind a longer one."""
    widths, batch = SIZES["HalfCheetah"].widths, SIZES["HalfCheetah"].batch
    for seeds in (1, 10):
        trainer = MPOTrainer(
            "HalfCheetah-v5", 0, device, widths, widths, 100_000, extra_seeds=range(1, seeds)
        )
        for _ in range(2 * batch):
            trainer._environment_step(*trainer._act(Recorder(seeds)))
        parts, whole = time_steps(trainer, batch, steps)
        note(
            times,
            what="training step",
            size="HalfCheetah",
            mode="TD",
            seeds=seeds,
            ms=1e3 * whole,
            move_ms=1e3 * parts[0],
            learn_ms=1e3 * parts[1],
            hidden=(sum(parts) - whole) / min(parts),
        )


def main() -> None:
    """Reads the command line, checks, measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="a folder for the tables")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--updates", type=int, default=300, help="that are timed, of each kind")
    parser.add_argument("--steps", type=int, default=1000, help="of training that are timed")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    checks: Rows = []
    times: Rows = []
    print(machine(device))
    try:
        check_updates(checks, device)
        with tempfile.TemporaryDirectory() as folder:
            check_training(checks, device, Path(folder))
        time_updates(times, device, arguments.updates)
        time_training(times, device, arguments.steps)
    finally:
        # What was found before something failed is worth its time, too.
        for name, rows in (("checks", checks), ("times", times)):
            table = pd.DataFrame(rows)
            table.to_csv(arguments.out / f"{name}.csv", index=False)
            print(table.to_markdown(index=False))
    if not all(row["ok"] for row in checks):
        sys.exit("a check has failed")


if __name__ == "__main__":
    main()
