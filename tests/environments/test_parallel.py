"""Environments in worker processes: the same numbers, failures and signals as in one process."""

import logging
import os
import signal
import time

import numpy as np
import psutil
import pytest
import torch

from mpo.environments import guard
from mpo.environments.guard import EnvironmentFailed
from mpo.environments.parallel import ParallelEpisodes, ParallelStreams, useful_workers
from mpo.environments.rollouts import rollouts
from mpo.environments.serving import Usage
from mpo.environments.workers import usage, workers
from mpo.training.signals import STOPPING
from tests import processes
from tests.cases import first_of

SEEDS = [3, 4, 5, 6, 7]


@pytest.fixture(scope="module")
def two():
    """Two workers, beside this process."""
    torch.set_flush_denormal(True)
    with workers(2, STOPPING) as started:
        yield started


def streams(env, started=(), seeds=SEEDS):
    """The streams of seeds, begun."""
    found = ParallelStreams(env, seeds, started)
    found.begin()
    return found


def stepped(found, actions):
    """Everything that one step gives, a row for each seed."""
    return [*map(np.stack, zip(*found.step(actions), strict=True)), found.obs]


def played(found, steps, first=0):
    """Everything that some steps with fixed actions give."""
    size = found.here.envs[0].action_space.shape[0]
    drawn = np.random.default_rng(0).uniform(-1, 1, (first + steps, len(SEEDS), size))
    moved = [stepped(found, actions) for actions in drawn[first:].astype(np.float32)]
    finished = [found.take_finished(i) for i in range(len(SEEDS))]
    return [*map(np.stack, zip(*moved, strict=True)), finished]


ENVIRONMENTS = ["InvertedDoublePendulum-v5", "dm_control/cheetah-run-v0", "Pendulum-v1"]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("env", first_of(ENVIRONMENTS))
def test_streams_give_the_same_bits_and_resume_in_any_number_of_processes(two, env, count):
    alone, beside = streams(env), streams(env, two[:count])
    assert len(beside.here.envs) < len(SEEDS)
    np.testing.assert_array_equal(beside.obs, alone.obs)
    for mine, theirs in zip(played(beside, 230), played(alone, 230), strict=True):
        np.testing.assert_equal(mine, theirs)
    states = [beside.state_dict(i) for i in range(len(SEEDS))]
    resumed = streams(env)
    resumed.load_state_dicts(states)
    again = streams(env, two)
    again.load_state_dicts(states)
    expected = played(alone, 30, 230)
    for found in (played(resumed, 30, 230), played(again, 30, 230)):
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_equal(mine, theirs)


def test_fewer_environments_than_processes(two):
    alone, beside = streams("Pendulum-v1", seeds=[1, 2]), streams("Pendulum-v1", two, [1, 2])
    actions = np.ones((2, 1), np.float32)
    for mine, theirs in zip(stepped(beside, actions), stepped(alone, actions), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_episodes_of_an_evaluation_are_the_same(two):
    def play(started):
        envs = ParallelEpisodes("InvertedDoublePendulum-v5", 7, started)
        steps = []
        found = rollouts(envs, lambda obs: np.tanh(obs[:, :1]), range(7), 40, steps)
        envs.close()
        return found, steps

    (alone, steps), (beside, others) = play([]), play(two)
    for mine, theirs in zip(beside, alone, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for here, there in zip(steps, others, strict=True):
        for mine, theirs in zip(here, there, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_failure_names_its_step_and_leaves_the_workers_usable(two):
    failing = streams("tests.probes:probe/Raising-v0", two)
    zero = np.zeros((len(SEEDS), 1), np.float32)
    failing.step(zero)
    failing.step(zero)
    with pytest.raises(EnvironmentFailed, match=r"Raising-v0', step 3 .*a sensor is gone"):
        failing.step(zero)
    after, alone = (stepped(streams("Pendulum-v1", *own), zero) for own in ([two], []))
    for mine, theirs in zip(after, alone, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_worker_that_is_killed_is_named_with_its_signal():
    zero = np.zeros((2, 1), np.float32)
    with workers(1, STOPPING) as started:
        killed = streams("tests.probes:probe/Killed-v0", started, [1, 2])
        for _ in range(4):
            killed.step(zero)
        with pytest.raises(EnvironmentFailed, match=r"Killed-v0': its process \d+ .* by SIGKILL"):
            killed.step(zero)
        with pytest.raises(EnvironmentFailed, match="by SIGKILL"):
            streams("Pendulum-v1", started, [1, 2])


def test_signals_of_the_parent_do_not_end_a_worker_and_its_log_is_the_parents(caplog):
    with workers(1, STOPPING) as started:
        pid = started[0]._process.pid
        for number in STOPPING:  # also while it is starting
            os.kill(pid, number)
        fickle = streams("tests.probes:probe/Fickle-v0", started, [1, 2])
        states = [fickle.state_dict(i) for i in range(2)]
        caplog.set_level(logging.WARNING)
        fickle.load_state_dicts(states)
    assert sum("does not reproduce an episode" in text for text in caplog.messages) == 2
    assert not psutil.pid_exists(pid)


def test_the_cost_includes_that_of_workers(two):
    here, before = time.process_time(), usage()
    streams("dm_control/cheetah-run-v0", two)
    assert usage().cpu_s - before.cpu_s > time.process_time() - here
    of_workers = usage().max_rss_mb - Usage.of_this_process().max_rss_mb
    assert of_workers > 100  # each has imported torch


@pytest.mark.parametrize(
    ("env", "count", "processes", "expected"),
    [
        ("tests.probes:probe/Slow-v0", 10, 4, 3),
        ("tests.probes:probe/Slow-v0", 3, 4, 2),
        ("tests.probes:probe/Slow-v0", 10, 1, 0),
        ("tests.probes:probe/Slow-v0", 1, 4, 0),
        ("tests.probes:probe/Terminating-v0", 10, 4, 0),  # too quick to tell anybody
        ("tests.probes:probe/Raising-v0", 10, 4, 0),
    ],
)
def test_workers_are_started_where_they_pay(env, count, processes, expected):
    assert useful_workers(env, count, processes) == expected


@pytest.mark.slow
def test_a_stack_is_stopped_and_resumed_in_other_numbers_of_processes(tmp_path):
    slow = "tests.probes:probe/Slow-v0"
    spec = processes.run_spec(slow, retrace=True, retrace_steps=3, **processes.STACKABLE)
    seeds = [0, 1, 2]
    process = processes.train(tmp_path, spec, 100_000, "--threads", 2, seeds=seeds)
    processes.wait_until_training(process, processes.resume(tmp_path, spec, 2))
    time.sleep(0.5)
    (worker,) = psutil.Process(process.pid).children()
    for each in (worker, process):  # as a scheduler signals a whole job
        each.send_signal(signal.SIGTERM)
    processes.finish(process, code=75)
    step = processes.status(tmp_path, spec, 100_000)["count"]
    steps = step // 100 * 100 + 200
    for threads, budget in ((3, steps), (1, steps + 100)):
        process = processes.train(tmp_path, spec, budget, "--threads", threads, seeds=seeds)
        output = processes.finish(process)
        assert "resumed at step" in output
    for seed in seeds:
        processes.train_here(tmp_path / "calm", spec, steps + 100, seed)
        found = processes.bits(processes.results(tmp_path, spec, steps + 100, seed))
        assert found == processes.bits(tmp_path / "calm")


def test_a_hanging_environment_in_a_worker_ends_the_job(tmp_path):
    spec = processes.run_spec("tests.probes:probe/Elsewhere-v0")
    options = ("--threads", 2, "--environment-timeout", 1)
    process = processes.train(tmp_path, spec, 100, *options, seeds=[0, 1])
    processes.wait_until_training(process, processes.resume(tmp_path, spec, 1))
    children = psutil.Process(process.pid).children()
    processes.finish(process, code=1)
    said = processes.status(tmp_path, spec, 100)
    assert said["status"] == "timeout"
    assert "probe/Elsewhere-v0', step 5 of an episode (step, in process" in said["error"]
    assert "has not answered for 1 s" in said["error"]
    gone, alive = psutil.wait_procs(children, 10)
    assert gone and not alive


def test_the_wait_for_a_worker_is_that_for_its_call():
    with workers(1, STOPPING) as started:
        slow = streams("tests.probes:probe/Elsewhere-v0", started, [1, 2])
        for _ in range(4):
            slow.step(np.zeros((2, 1), np.float32))
        begun = time.monotonic()
        finish = slow._shares._shares[1].begin("step", actions=np.zeros((1, 1), np.float32))
        seen = []
        before = signal.signal(
            signal.SIGALRM, lambda *_: (seen.append(guard.current_call()), 1 / 0)
        )
        signal.setitimer(signal.ITIMER_REAL, 1)
        with pytest.raises(ZeroDivisionError):
            finish()
        signal.signal(signal.SIGALRM, before)
    ((text, since),) = seen
    assert "step 5" in text and begun < since < begun + 0.9
    assert guard.current_call() is None
