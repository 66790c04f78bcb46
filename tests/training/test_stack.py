"""What a stack of seeds does where an environment does not repeat an episode."""

import pytest
import torch

from mpo.environments.workers import workers
from mpo.training.recorder import Recorder
from mpo.training.signals import STOPPING
from mpo.training.stack import Stack
from tests import processes

FICKLE = "tests.probes:probe/Fickle-v0"  # episodes of 10 steps; no observation comes twice
SETTINGS = {"n_step": 3, "action_noise": "pink", "replay_size": 100}


def made(started=(), env_id=FICKLE):
    training = processes.run_spec(env_id, **SETTINGS).training
    return Stack(env_id, training, (0, 1), torch.device("cpu"), workers=started)


def play(stack, steps):
    recorder = Recorder(len(stack.seeds))
    for _ in range(steps):
        stack.step_environments(*stack.act(recorder))


def resumed(stack, env_id=FICKLE, started=()):
    """A new stack, with the state of another."""
    other, seeds = made(started, env_id), range(len(stack.seeds))
    other.load_state_dict(
        [stack.state_dict(i) for i in seeds], [[stack.newest_transitions(i, 100)] for i in seeds]
    )
    return other


@pytest.mark.parametrize("count", [0, 1])
def test_no_window_joins_a_dropped_episode_to_the_next(count):
    stack = made()
    play(stack, 25)
    with workers(count, STOPPING) as started:
        other = resumed(stack, started=started)
        first = torch.from_numpy(other.streams.obs)[:, None, None]
        assert [other.state_dict(i)["agent"]["act_noise"]["taken"] for i in range(2)] == [0, 0]
        play(other, 8)
        windows = other.draw_windows(500)
    over = (windows["terminated"] + windows["truncated"]) > 0
    follows = (windows["next_obs"][:, :-1] == windows["obs"][:, 1:]).all(-1)
    assert (follows | over[:, :-1]).all()
    newest = windows["age"] <= 8
    assert newest.any((1, 2)).all()
    assert (windows["first_obs"] == first)[newest].all()


def test_an_episode_that_is_repeated_goes_on_as_if_nothing_had_been():
    stack = made(env_id="Pendulum-v1")
    play(stack, 25)
    other = resumed(stack, "Pendulum-v1")
    for each in (stack, other):
        play(each, 8)
    windows = other.draw_windows(500)
    for name, values in stack.draw_windows(500).items():
        assert torch.equal(values, windows[name]), name
