"""Evaluates policy snapshots on seeded episodes that training never sees.

Online evaluation plays every snapshot with its mean action. Final evaluation plays the last
snapshot on other seeds, with mean and with sampled actions. All runs of all studies use the same
episode seeds.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mpo.environments import fingerprint
from mpo.environments.envs import dimensions, name_of
from mpo.environments.rollouts import (
    MAX_PARALLEL,
    Act,
    Episodes,
    RecordedStep,
    SideBySide,
    vector_env,
)
from mpo.environments.workers import Worker
from mpo.jobs import q_bias
from mpo.jobs.snapshots import Group, play, play_groups
from mpo.seeding import FIRST_FINAL_SEED, FIRST_ONLINE_SEED
from mpo.study import checksums
from mpo.study.config import Evaluation
from mpo.study.files import EVALUATION_COST, EVALUATIONS, POLICIES, write_json
from mpo.study.paths import Place
from mpo.study.specs import EnvironmentSpec, EvaluationSpec, RunSpec
from mpo.training import artifacts
from mpo.training.progress import format_metrics, progress


def random_returns(
    env: str | EnvironmentSpec, episodes: int, max_episode_steps: int | None = None, budget: int = 0
) -> np.ndarray:
    """Plays uniformly random canonical actions in the first episodes of final evaluation.

    Args:
        env: see `make_env`.
        episodes: number of episodes, E.
        max_episode_steps: steps after which an episode is cut off.
        budget: steps of the longest training in this environment.

    Returns:
        Undiscounted sums of rewards, [E].
    """
    seeds = [FIRST_FINAL_SEED + i for i in range(episodes)]
    name = name_of(env)
    returns = []
    for first in range(0, episodes, MAX_PARALLEL):
        group = seeds[first : first + MAX_PARALLEL]
        envs = vector_env(env, len(group))
        played = play(name, envs, _uniform(envs, group), group, max_episode_steps, budget)
        envs.close()
        returns.append(played.returns)
    return np.concatenate(returns)


def _uniform(envs: SideBySide, seeds: Sequence[int]) -> Act:
    """Makes a policy of uniformly random canonical actions, with one stream per episode."""
    _, action_dim = dimensions(envs.single_observation_space, envs.single_action_space)
    streams = [np.random.default_rng(seed) for seed in seeds]
    return lambda obs: np.stack(
        [stream.uniform(-1, 1, action_dim).astype(np.float32) for stream in streams]
    )


def evaluate(
    spec: RunSpec,
    policies: Sequence[tuple[int, dict[str, torch.Tensor]]],
    config: Evaluation,
    total_steps: int,
    name: str | None = None,
    recordings: list[list[RecordedStep]] | None = None,
    workers: Sequence[Worker] = (),
) -> list[dict[str, Any]]:
    """Evaluates a run's snapshots.

    After a divergence, the run keeps the scores of its last snapshot.

    Args:
        spec: the run's spec.
        policies: (environment step, policy state) pairs, oldest first.
        config: numbers of episodes, and their maximum length.
        total_steps: the run's budget, in environment steps.
        name: label of the progress bar; environment and seed if not given.
        recordings: gets all steps of the final evaluation's episodes with sampled actions, if
            given; one list per group of at most `MAX_PARALLEL` episodes.
        workers: processes that play some of the episodes.

    Returns:
        One row per episode: env_step, phase (online, final), policy (mode, sample), episode,
        eval_seed, return, length, terminated.
    """
    online = [FIRST_ONLINE_SEED + i for i in range(config.online_episodes)]
    final = [FIRST_FINAL_SEED + i for i in range(config.final_episodes)]
    plan = [(step, state, "online", "mode", online) for step, state in policies]
    last_step, last = policies[-1]
    plan += [(total_steps, last, "final", policy, final) for policy in ("mode", "sample")]
    groups = [
        Group(step, phase, policy, state, first, seeds[first : first + MAX_PARALLEL])
        for step, state, phase, policy, seeds in plan
        for first in range(0, len(seeds), MAX_PARALLEL)
    ]
    if recordings is not None:
        for i, group in enumerate(groups):
            if group.policy == "sample":
                recordings.append([])
                groups[i] = group._replace(recording=recordings[-1])
    name = name or f"{spec.env_name} seed {spec.seed}"
    bar = progress(f"evaluate {name}", sum(len(seeds) for *_, seeds in plan), unit="episodes")

    def show(group: Group, played: Episodes) -> None:
        text = format_metrics({"return": float(played.returns.mean())})
        bar.set_postfix_str(f"{group.policy} at step {group.env_step}: {text}", refresh=False)
        bar.update(len(group.seeds))

    with bar:
        played = play_groups(spec, groups, config.max_episode_steps, total_steps, show, workers)
    rows = [row for each in zip(groups, played, strict=True) for row in _rows(*each)]
    carried = [row for row in rows if (row["env_step"], row["phase"]) == (last_step, "online")]
    later = range(last_step + spec.snapshot_interval, total_steps + 1, spec.snapshot_interval)
    return rows + [{**row, "env_step": step} for step in later for row in carried]


def evaluate_run(
    place: Place,
    run: Mapping[str, Any],
    spec: RunSpec,
    config: EvaluationSpec,
    workers: Sequence[Worker] = (),
) -> None:
    """Evaluates a finished run and writes the episodes and what they cost beside it.

    Args:
        place: where the run is.
        run: the training's record.
        spec: the run's spec.
        config: numbers of episodes, and their maximum length.
        workers: processes that play some of the episodes.

    Raises:
        Damaged: the policies are not those that the training wrote.
        EnvironmentChanged: the environment is not the one of the training.
        EnvironmentFailed: an environment raised an exception or returned a non-finite number.
    """
    start = time.perf_counter()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    directory, own = place.directory, place.resume_directory(spec.cell.identity)
    environment = fingerprint.present(spec.environment)
    remedy = f"Delete {directory} and {own} to train again"
    what = f"the training of {place.run_id}"
    fingerprint.refuse_change(run.get("environment"), environment, what, remedy)
    path = checksums.intact(directory / POLICIES, run)
    policies, critic = artifacts.read_policies(path), artifacts.read_critic(path)
    steps: list[list[RecordedStep]] | None = None if critic is None else []
    rows = evaluate(spec, policies, config, place.total_steps, place.run_id, steps, workers)
    error = q_bias.measure(spec.training, policies[-1][1], critic, steps or ())
    artifacts.write_rows(directory / EVALUATIONS, rows)
    record = {
        "eval_s": time.perf_counter() - start,
        "spec": config.model_dump(mode="json"),
        "policies": checksums.expected(path, run),
        "environment": environment,
        **(error._asdict() if error else {}),
    }
    write_json(directory / EVALUATION_COST, checksums.sealed(record, [directory / EVALUATIONS]))


def _rows(group: Group, played: Episodes) -> list[dict[str, Any]]:
    return [
        {
            "env_step": group.env_step,
            "phase": group.phase,
            "policy": group.policy,
            "episode": group.first + i,
            "eval_seed": seed,
            "return": float(played.returns[i]),
            "length": int(played.lengths[i]),
            "terminated": bool(played.terminated[i]),
        }
        for i, seed in enumerate(group.seeds)
    ]
