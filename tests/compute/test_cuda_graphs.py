"""CUDA graphs, as far as they can be tested on a CPU.

Here a stand-in for the capture calls the function at every replay, and copies the results to the
outputs of the first one. Like a CUDA graph, it gets its inputs from fixed tensors only.
"""

import copy
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mpo.algorithm import agent as agents
from mpo.algorithm.agent import MPOAgent
from mpo.algorithm.optimizers import StackedOptimizer
from mpo.compute.cuda_graphs import Graphed
from mpo.replay.replay import Replay
from mpo.seeding import torch_generator
from mpo.study.hyperparameters import Hyperparameters
from mpo.trainer import MPOTrainer
from mpo.training.recorder import CLOCKS, Recorder
from tests.algorithm.test_agent import OBS, D, make_agent, make_windows

CPU = torch.device("cpu")
WARM_UP = 3


class Tape:
    """Stands in for `mpo.compute.cuda_graphs.capture`."""

    def __init__(self) -> None:
        self.captures = self.repetitions = 0
        self.running = False
        self.generators = []

    def __call__(self, function, generators):
        self.captures += 1
        self.generators = list(generators)
        outputs = {}

        def repeat():
            self.repetitions += 1
            self.running = True
            with torch.inference_mode():
                for name, value in function().items():
                    outputs.setdefault(name, torch.empty_like(value)).copy_(value)
            self.running = False

        return repeat, outputs


def doubled(tape: Tape) -> Graphed:
    return Graphed(lambda inputs: {"y": 2 * inputs["x"]}, CPU, ["generator"], tape)


def test_after_its_warm_up_a_function_is_captured_once_and_repeated():
    tape = Tape()
    graphed = doubled(tape)
    for call in range(8):
        assert graphed({"x": torch.full((3,), float(call))})["y"].tolist() == [2 * call] * 3
        assert tape.captures == (call >= WARM_UP)
        assert tape.repetitions == max(0, call + 1 - WARM_UP)
    assert tape.generators == ["generator"]


def test_a_repetition_overwrites_the_result_and_leaves_the_inputs():
    graphed = doubled(Tape())
    x = torch.ones(2)
    results = [graphed({"x": x * call})["y"] for call in range(WARM_UP + 2)]
    assert results[-1] is results[-2] and results[-1].tolist() == [2 * (WARM_UP + 1)] * 2
    assert x.tolist() == [1, 1]


def test_other_shapes_or_names_are_captured_anew():
    tape = Tape()
    graphed = doubled(tape)
    for size, captures in ((2, 1), (5, 2), (2, 3)):
        for call in range(WARM_UP + 2):
            assert graphed({"x": torch.full((size,), 7.0 + call)})["y"].shape == (size,)
        assert tape.captures == captures
    with pytest.raises(KeyError, match="x"):
        graphed({"z": torch.ones(2)})


def test_parts_of_one_tensor_are_copied_as_one():
    graphed = Graphed(
        lambda inputs: {"y": inputs["a"] * inputs["b"] + inputs["c"]}, CPU, [], Tape()
    )
    for call in range(WARM_UP + 3):
        packed = torch.arange(12.0).view(3, 4) + call
        apart = torch.full((3, 1), 100.0 * call)
        given = {"a": packed[:, 1:3], "b": packed[:, 3:], "c": apart}
        expected = given["a"] * given["b"] + given["c"]
        assert torch.equal(graphed(given)["y"], expected)
        assert [len(place) for place in graphed._places] == [12, 3]


Tapes = dict[str, list[Tape]]
"""The tapes of each captured function, by its name."""


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Tapes:
    """Records all graphs that are created during the test."""
    found: Tapes = defaultdict(list)

    def taped(function, device, generators=()):
        tape = Tape()
        found[getattr(function, "func", function).__name__].append(tape)
        return Graphed(function, device, generators, tape)

    for module in ("algorithm.agent", "algorithm.update", "replay.storage"):
        monkeypatch.setattr(f"mpo.{module}.Graphed", taped)
    return found


def graphed_replay(obs_dim: int, capacity: int, seeds: Sequence[int]) -> Replay:
    """Makes a replay that treats the CPU as a GPU."""
    generators = [torch_generator(seed, "sample") for seed in seeds]
    replay = Replay(obs_dim, 1, capacity, generators, staged=True)
    replay._rows._graphs = True
    return replay


def graphed_trainer(**settings) -> MPOTrainer:
    """Makes a trainer that treats the CPU as a GPU."""
    trainer = plain_trainer(**settings)
    agent = trainer.agent
    agent._update._graphs = True
    agent._heads = agents.Graphed(agent._policy_heads, CPU)
    trainer.stack.replay = graphed_replay(3, 100, trainer.seeds)
    return trainer


def plain_trainer(**settings) -> MPOTrainer:
    return MPOTrainer(
        "Pendulum-v1",
        seed=3,
        device=CPU,
        policy_layer_sizes=(32,),
        critic_layer_sizes=(32,),
        replay_size=100,
        target_networks_update_period=7,
        extra_seeds=(4,),
        **settings,
    )


def windows_for(agent: MPOAgent) -> dict[str, torch.Tensor]:
    """Random windows with Pendulum's dimensions, for two seeds."""
    generator = torch.Generator().manual_seed(0)
    widths = {"obs": 3, "next_obs": 3, "first_obs": 3, "action": 1, "action_raw": 1}
    vectors = {name: torch.rand(2, 1, 8, n, generator=generator) for name, n in widths.items()}
    numbers = {
        name: torch.rand(2, 1, 8, generator=generator) for name in ("reward", "behaviour_logp")
    }
    zeros = {name: torch.zeros(2, 1, 8) for name in ("terminated", "truncated", "age")}
    return vectors | numbers | zeros


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_retrace": True, "retrace_steps": 3},
        {"updates_per_step": 3.0},
        {"updates_per_step": 0.4},
    ],
)
def test_a_training_by_graphs_is_the_same_training(tmp_path: Path, tapes, settings):
    plain_trainer(**settings).train(60, 20, 8, str(tmp_path / "plain"), 1, 30, 15)
    trainer = graphed_trainer(**settings)
    trainer.train(60, 20, 8, str(tmp_path / "graphs"), 1, 30, 15)
    updates = round(40 * settings.get("updates_per_step", 1))
    (acting,), (learning,) = tapes["_policy_heads"], tapes["_learn"]
    assert (acting.captures, acting.repetitions) == (1, 60 - WARM_UP)
    assert (learning.captures, learning.repetitions) == (1, updates - WARM_UP)
    assert acting.generators == [] and learning.generators == trainer.agent._update.noise
    assert sum(tape.captures for tape in tapes["_write_and_read"]) >= 1
    for seed in (3, 4):
        tables = [
            pd.read_parquet(tmp_path / kind / f"seed{seed}" / "train.parquet")
            for kind in ("plain", "graphs")
        ]
        learnt, repeated = (table.drop(columns=[*CLOCKS]) for table in tables)
        assert len(learnt) == 4 and learnt.equals(repeated)


NADAM = {"class": "torch.optim.NAdam"}
MUON = {"matrices": {"class": "torch.optim.Muon"}, "rest": {"class": "adam"}}


@pytest.mark.parametrize("definition", [NADAM, MUON], ids=["nadam", "muon"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"policy_update_period": 2, "target_polyak": 0.1}, {"m_steps": 2, "warmup_updates": 30}],
)
def test_an_imported_optimizer_steps_between_captured_parts(tmp_path, tapes, definition, settings):
    own = {"optimizer_type": "mine", "optimizer_definition": definition, **settings}
    m_steps = own.pop("m_steps", 1)
    plain_trainer(**own).train(60, 20, 8, str(tmp_path / "plain"), m_steps, 30, 15)
    trainer = graphed_trainer(**own)
    steps: list[str] = []
    for kind in ("policy", "critic"):
        optimizer = getattr(trainer.agent.learners, f"{kind}_optimizer")
        assert not optimizer.capturable
        _note_steps(optimizer, kind, steps, tapes)
    trainer.train(60, 20, 8, str(tmp_path / "graphs"), m_steps, 30, 15)
    assert not tapes["_learn"]
    updates = 40 // settings.get("policy_update_period", 1)
    gradients = tapes["_gradients"][0]
    assert (gradients.captures, gradients.repetitions) == (1, updates - WARM_UP)
    assert gradients.generators == trainer.agent._update.noise
    # Once the inputs come from the other part's graph, they are elsewhere: captured anew.
    (fit,) = [tape for tape in tapes["_fit_and_step_alphas"] if tape.captures]
    assert fit.captures <= 2 and fit.repetitions >= updates * m_steps - 2 * WARM_UP
    assert steps.count("critic") == 40 and steps.count("policy") == updates * m_steps
    for seed in (3, 4):
        plain, graphed = (
            pd.read_parquet(tmp_path / kind / f"seed{seed}/train.parquet").drop(columns=[*CLOCKS])
            for kind in ("plain", "graphs")
        )
        assert len(plain) == 4 and plain.equals(graphed)


def _note_steps(optimizer: StackedOptimizer, kind: str, steps: list[str], tapes: Tapes) -> None:
    """Notes each step, and that no tape is repeating when it is taken."""
    step = optimizer.step

    def noted() -> None:
        assert not any(tape.running for own in tapes.values() for tape in own)
        steps.append(kind)
        step()

    optimizer.step = noted  # type: ignore[method-assign]


def transitions(count: int, episode: int) -> Iterator[torch.Tensor]:
    """Yields packed transitions with O = D = 1 from episodes truncated by a time limit."""
    numbers = torch.arange(count + 1.0)
    for number in range(count):
        over = (number + 1) % episode == 0
        row = [numbers[number], 0, 0, 0, number, 0, over, numbers[number + 1] + 0.5 * over]
        yield torch.tensor(row)


def test_what_is_drawn_by_graphs_is_what_is_drawn(tapes):
    """Stores so many separate successors that their tensor has to grow, and so to move."""
    drawn = []
    for graphs in (False, True):
        generator = torch_generator(5, "sample")
        replay = graphed_replay(1, 300, [5]) if graphs else Replay(1, 1, 300, [generator])
        samples = []
        for number, packed in enumerate(transitions(800, 3)):
            replay.add(0, packed)
            # Mostly one transition is added between two samples, sometimes none, two or three.
            if number > 5 and number % 40 not in (7, 20, 21):
                for _ in range(2 if number % 40 == 30 else 1):
                    windows = replay.sample(16, torch.arange(2))
                    samples.append({name: x.clone() for name, x in windows.items()})
        drawn.append(samples)
    for plain, graphed in zip(*drawn, strict=True):
        assert all(torch.equal(x, graphed[name]) for name, x in plain.items())
    made = tapes["_write_and_read"]
    assert sum(tape.captures for tape in made) > 2
    assert sum(tape.repetitions for tape in made) > 600


def test_a_state_that_is_loaded_is_learnt_from_in_a_graph_of_its_own(tapes):
    agent, other = graphed_trainer().agent, plain_trainer().agent
    windows = windows_for(agent)
    for _ in range(WARM_UP + 2):
        agent.update(windows)
    saved = copy.deepcopy([agent.state_dict(index) for index in range(2)])
    for _ in range(3):
        agent.update(windows)
    for each in (agent, other):
        each.load_state_dict(saved)
        for _ in range(WARM_UP + 2):
            each.update(windows)
    assert [tape.captures for tape in tapes["_policy_heads"]] == [0]
    assert [tape.captures for tape in tapes["_learn"]] == [1, 1]
    assert torch.equal(agent.learners.critic_optimizer.flat, other.learners.critic_optimizer.flat)


class Trace(TorchDispatchMode):
    """Records every operation with the shapes and constants that a CUDA graph would fix."""

    WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        assert name not in self.WAITS, f"{name} would make the host wait for the GPU"
        flat, _ = torch.utils._pytree.tree_flatten((args, kwargs or {}))
        assert not any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in flat) or (
            not name.startswith("index")
        ), "indexing with bools gives a size that only the GPU knows"
        self.operations.append((str(operation), [self._kept(x) for x in flat]))
        return operation(*args, **(kwargs or {}))

    @staticmethod
    def _kept(argument):
        if isinstance(argument, torch.Tensor):
            return tuple(argument.shape)
        return "generator" if isinstance(argument, torch.Generator) else repr(argument)


MODES = [
    {},
    {"n_step": 3},
    {"retrace": True, "retrace_steps": 4, "critics": "minimum", "layer_norm": "all"},
    {"weight_decay": 0.1, "warmup_updates": 3, "policy_update_period": 2},
    {"target_precision": "bfloat16"},
]


@pytest.mark.parametrize(
    ("mode", "optimizer", "m_steps"),
    [(mode, "adam", 1) for mode in MODES]
    + [({}, optimizer, 2) for optimizer in ("adamw", "sgd", "rmsprop")],
)
def test_each_update_is_the_same_operations_and_waits_for_nothing(mode, optimizer, m_steps):
    """So the constants in a graph captured from one update are right for all updates."""
    agent: MPOAgent = make_agent(optimizer=optimizer, **mode)
    windows = dict(make_windows(agent.config.window).items())
    traces = []
    for update in range(WARM_UP + 4):
        with torch.inference_mode(), Trace() as trace:
            agent._update._learn(windows, m_steps)
        if update >= WARM_UP:
            traces.append(trace.operations)
    assert len(traces[0]) > 100
    for one, other in itertools.pairwise(traces):
        assert one == other


def test_acting_is_the_same_operations_and_waits_for_nothing():
    agent = make_agent()
    obs = torch.zeros(agent.num_seeds, agent.policy.first.weight.shape[1])
    traces = []
    for _ in range(3):
        with torch.inference_mode(), Trace() as trace:
            agent._policy_heads({"obs": obs})
        traces.append(trace.operations)
    assert traces[0] == traces[1] == traces[2] and len(traces[0]) > 5


def test_hyperparameters_that_a_gpu_repeats_are_constants():
    """Graphs fix them; a schedule would have to be passed to the graph as a tensor."""
    config = Hyperparameters(policy_layer_sizes=(4,), critic_layer_sizes=(4,), replay_size=10)
    with pytest.raises(ValueError, match="frozen"):
        config.policy_lr = 1.0


@pytest.fixture
def elsewhere(monkeypatch):
    """The meta device: mixing it with another device, or reading a value, is an error."""
    monkeypatch.setattr(
        "mpo.algorithm.update.torch_generator",
        lambda seed, stream, *_: torch_generator(seed, stream),
    )
    # Fused optimizers do not support the meta device.
    monkeypatch.setattr(StackedOptimizer, "step", lambda self: self.flat.add_(self._gradient))
    return torch.device("meta")


@pytest.mark.parametrize("mode", MODES)
def test_learning_and_acting_happen_on_the_device_alone(mode, elsewhere):
    sizes = {"policy_layer_sizes": (32, 32), "critic_layer_sizes": (32, 32), "replay_size": 10}
    agent = MPOAgent(OBS, D, Hyperparameters(**sizes, **mode), range(3), elsewhere)
    windows = {name: x.to(elsewhere) for name, x in make_windows(agent.config.window).items()}
    metrics = agent.update(windows, 2)
    assert len(metrics) > 10 and all(x.is_meta for x in metrics.values())
    assert agent._heads({"obs": torch.zeros(3, OBS)})["heads"].is_meta
    assert all(x.is_meta for x in agent.learners.non_finite().values())
    agent.learners.move_targets(0.5)
    with pytest.raises(RuntimeError, match="device|meta"):
        agent.update(dict(make_windows(agent.config.window).items()))


def test_an_imported_optimizer_leaves_its_parts_on_the_device(elsewhere):
    sizes = {"policy_layer_sizes": (32, 32), "critic_layer_sizes": (32, 32), "replay_size": 10}
    config = Hyperparameters(**sizes, optimizer="mine", optimizer_definition=NADAM)
    agent = MPOAgent(OBS, D, config, range(3), elsewhere)
    agent._update._graphs = True
    # Without a GPU nothing can be captured; the parts are called as they are.
    agent._update._graphed = lambda function, generators=(): function
    windows = {name: x.to(elsewhere) for name, x in make_windows(agent.config.window).items()}
    metrics = agent.update(windows, 2)
    assert len(metrics) > 10 and all(x.is_meta for x in metrics.values())


@pytest.mark.parametrize("mode", [{}, {"use_retrace": True, "retrace_steps": 3}])
def test_what_is_stored_is_drawn_and_learnt_from_on_the_device_alone(mode, elsewhere, monkeypatch):
    trainer = MPOTrainer("Pendulum-v1", 0, elsewhere, (32,), (32,), 100, extra_seeds=(1,), **mode)
    # Actions are the only thing that comes back to the host.
    actions = np.zeros((2, 1), np.float32), np.zeros(2, np.float32)
    monkeypatch.setattr(trainer.agent, "act", lambda obs: actions)
    recorder = Recorder(2)
    for _ in range(20):
        trainer.stack.step_environments(*trainer.stack.act(recorder))
    windows = trainer.stack.draw_windows(8)
    assert windows["obs"].shape == (2, trainer.config.window, 8, 3)
    assert all(x.is_meta for x in windows.values())
    assert all(x.is_meta for x in trainer.agent.update(windows).values())
