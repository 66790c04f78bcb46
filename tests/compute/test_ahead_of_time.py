"""Compiled code that is kept on disk, and agents that share it."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch._inductor.runtime.cache_dir_utils import cache_dir

from mpo.algorithm.agent import MPOAgent
from mpo.algorithm.learners import NOT_COMPILED
from mpo.algorithm.separate import SeparateAgents, make_agent
from mpo.compute import ahead_of_time
from mpo.compute.ahead_of_time import Compiled
from mpo.study.hyperparameters import Hyperparameters
from tests.algorithm import test_agent
from tests.algorithm.test_agent import OBS, B, D, make_windows
from tests.cases import first_of

CPU = torch.device("cpu")
SEEDS = (3, 11, 7)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder for kept functions. Torch's own cache, beside it, makes tests faster."""
    monkeypatch.setattr(ahead_of_time, "_IN_USE", {})
    monkeypatch.setattr(ahead_of_time, "_FOLDER", tmp_path.name)
    yield (folder := Path(cache_dir()) / tmp_path.name)
    shutil.rmtree(folder, ignore_errors=True)


class Scaled:
    """What an agent is to its methods: it holds a tensor."""

    def __init__(self, factor):
        self.factor = torch.tensor(factor)

    def of(self, x):
        return x * self.factor


def call(x, factor=2.0, reads="a scaled tensor"):
    """Calls a method of a new object, as another process would; returns compilations."""
    times = []

    class Counted(Compiled):
        def _compile(self, arguments):
            times.append(1)
            return super()._compile(arguments)

    ahead_of_time._IN_USE.clear()
    found = Counted(Scaled(factor).of, reads)(x)
    torch.testing.assert_close(found, x * factor)
    return len(times)


@pytest.mark.needs("compiler")
def test_code_is_kept_for_other_objects_and_processes(cache, monkeypatch):
    x = torch.ones(4)
    assert [call(x), call(x, factor=3.0)] == [1, 0]
    assert len([path for path in cache.iterdir() if path.suffix != ".lock"]) == 1
    assert call(torch.ones(5)) == 1
    assert call(torch.ones(2, 2).T) == 1
    assert call(x, reads="another") == 1
    for name, value in (("get_num_threads", lambda: 7), ("__version__", "9.9")):
        with monkeypatch.context() as patch:
            ahead_of_time._surroundings.cache_clear()
            patch.setattr(torch, name, value)
            assert call(x) == 1
    ahead_of_time._surroundings.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(ahead_of_time, "_capabilities", lambda: "another CPU")
        assert call(x) == 1
    ahead_of_time._surroundings.cache_clear()
    assert call(x) == 0


@pytest.mark.needs("compiler")
def test_a_damaged_file_is_made_again(cache, caplog):
    x = torch.ones(4)
    call(x)
    (path,) = (path for path in cache.iterdir() if path.suffix != ".lock")
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-1], whole[:50] + b"?" + whole[51:]):
        path.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert call(x) == 1
        assert str(path) in caplog.text and "damaged" in caplog.text
        assert call(x) == 0


@pytest.mark.needs("compiler")
def test_without_a_folder_of_its_own_code_is_not_kept(cache, monkeypatch, caplog):
    x = torch.ones(4)
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with caplog.at_level(logging.INFO):
        assert [call(x), call(x)] == [1, 1]
    assert "others may write to" in caplog.text and not list(cache.iterdir())
    cache.chmod(0o700)
    assert [call(x), call(x)] == [1, 0]
    # Another process has been compiling it for too long.
    (lock,) = cache.glob("*.lock")
    monkeypatch.setattr(ahead_of_time, "_WAIT_S", 0.05)
    with FileLock(lock):
        assert call(x) == 1


class Reads:
    """A config that notes which keys are read."""

    def __init__(self, config):
        self.config, self.keys = config, set()

    def __getattr__(self, name):
        self.keys.add(name)
        return getattr(self.config, name)


@pytest.mark.parametrize("mode", test_agent.MODES)
def test_compiled_code_reads_nothing_that_its_key_leaves_out(mode, monkeypatch):
    reads = Reads(test_agent.make_agent((3,), **test_agent.MODES[mode]).config)
    found = set()

    def noting(function, device, on_cpu=False, reads_=None, **_):
        def call(*arguments):
            reads.keys.clear()
            result = function(*arguments)
            found.update(reads.keys)
            return result

        return call

    monkeypatch.setattr("mpo.algorithm.update.compiled", noting)
    monkeypatch.setattr("mpo.algorithm.agent.compiled", noting)
    agent = MPOAgent(OBS, D, reads, (3,), CPU)
    agent.act(np.zeros((1, OBS), dtype=np.float32))
    agent.update(dict(make_windows(agent.config.window, (3,))))
    assert "max_grad_norm" in found and not found & NOT_COMPILED
    assert set(Hyperparameters.model_fields) >= NOT_COMPILED


def test_the_key_of_code_leaves_out_rates_and_names_sizes():
    def form(seeds=(3,), action_dim=D, **settings):
        return test_agent.make_agent(seeds, action_dim, **settings).learners.form

    assert form() == form((4,), policy_lr=0.5, optimizer="lion", replay_size=7)
    forms = [form(), form((3, 4)), form(action_dim=3), form(gamma=0.5), form(critics="mean")]
    assert len(set(forms)) == 5


@pytest.mark.needs("compiler")
@pytest.mark.parametrize("mode", first_of(["td", "retrace"]))
def test_seeds_of_a_pack_have_the_bits_that_they_have_alone(mode):
    """B, the widths and O are no multiples of a vector register."""
    sizes = {"policy_layer_sizes": (37, 29), "critic_layer_sizes": (41, 33)}
    config = test_agent.make_agent((3,), **test_agent.MODES[mode] | sizes).config
    pack = make_agent(OBS, D, config, SEEDS, CPU, compile_on_cpu=True)
    alone = [make_agent(OBS, D, config, (seed,), CPU, compile_on_cpu=True) for seed in SEEDS]
    assert isinstance(pack, SeparateAgents) and all(type(one) is MPOAgent for one in alone)
    windows = dict(make_windows(config.window, SEEDS))
    assert windows["obs"].shape[2] == B
    obs = np.linspace(-1, 1, 3 * OBS, dtype=np.float32).reshape(3, OBS)
    for step in range(4):
        raw, log_prob = pack.act(obs)
        metrics = pack.update(windows)
        for i, one in enumerate(alone):
            own = one.act(obs[i : i + 1])
            assert (own[0][0] == raw[i]).all() and own[1][0] == log_prob[i]
            own_windows = {name: x[i : i + 1].clone() for name, x in windows.items()}
            for name, value in one.update(own_windows).items():
                assert metrics[name][i] == value[0], name
        if step == 1:  # and their states can be exchanged
            states = [one.state_dict(0) for one in alone]
            for i, one in enumerate(alone):
                one.load_state_dict([pack.state_dict(i)])
            pack.load_state_dict(states)
    assert pack.updates == 4
    for i, one in enumerate(alone):
        for ours, theirs in zip(pack.networks()[i], one.networks()[0], strict=True):
            assert all((ours[name] == theirs[name]).all() for name in ours)
        assert (pack.mode(obs, i) == one.mode(obs)).all()
    assert {name: x.tolist() for name, x in pack.non_finite().items()} == {
        name: [False] * 3 for name in ("policy", "critic", "duals")
    }
