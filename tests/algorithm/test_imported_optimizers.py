"""Optimizers that a study imports: the trial, seeds apart, arms of two parts, and their state."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mpo.algorithm.optimizers import Settings, StackedOptimizer, classes, trial
from mpo.algorithm.optimizers.steppers import Layerwise, Stacked
from mpo.environments.fingerprint import OptimizerChanged, of_classes
from mpo.study.config import ConfigError
from mpo.study.optimizers import Definition
from mpo.trainer import MPOTrainer
from tests.algorithm.test_agent import make_agent, make_windows
from tests.algorithm.test_optimizers import LR, RAGGED, S, leaf, start_and_gradients, write
from tests.algorithm.test_options import trained
from tests.cases import first_of
from tests.test_trainer import results

HERE = "tests.algorithm.test_imported_optimizers"


class Plain(Optimizer):
    """Gradient descent, element by element."""

    def __init__(self, params, lr, size=1.0):
        super().__init__(params, {"lr": lr, "size": size})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for number, p in enumerate(group["params"]):
                self._move(p, number, group)

    def _move(self, p, number, group):
        p.sub_(group["lr"] * group["size"] * p.grad)


class LayerNormed(Plain):
    """Like LAMB: a step as long as the layer."""

    def _move(self, p, number, group):
        p.sub_(group["lr"] * p.norm() / p.grad.norm() * p.grad)


class RowNormed(Plain):
    """Mixes no seeds in one tensor, but there a row is all of a network."""

    def _move(self, p, number, group):
        p.sub_(group["lr"] * p.grad / p.grad.norm(dim=-1, keepdim=True))


class Estimating(Plain):
    """Like Prodigy: a step size from the gradients of all layers, kept in the group."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.param_groups[0]["d"] = 1e-3

    def step(self):
        group = self.param_groups[0]
        group["d"] += 1e-3 * float(sum(p.grad.abs().sum() for p in group["params"]))
        group["size"] = 1 / group["d"]
        super().step()


class Noting(Plain):
    """Notes the layers that it gets."""

    seen: list = []

    def _move(self, p, number, group):
        self.seen.append((tuple(p.shape), p.is_contiguous(), p.is_leaf))
        super()._move(p, number, group)


class Anchored(Plain):
    """Steps towards the parameters that it was made with."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        for p in self.param_groups[0]["params"]:
            self.state[p]["anchor"] = p.detach().clone()

    def _move(self, p, number, group):
        p.lerp_(self.state[p]["anchor"], 0.5).sub_(group["lr"] * p.grad / p.grad.norm())


class Raises(Plain):
    def _move(self, p, number, group):
        raise RuntimeError("no such kernel")


class Still(Plain):
    def _move(self, p, number, group):
        pass


class Noisy(Plain):
    def _move(self, p, number, group):
        p.sub_(group["lr"] * torch.randn_like(p))


class Forgetful(Plain):
    """Has a state that it does not save."""

    count = 0

    def _move(self, p, number, group):
        self.count += 1
        p.sub_(group["lr"] * self.count * p.grad)


class Unplain(Plain):
    """Saves something that a checkpoint cannot hold."""

    def _move(self, p, number, group):
        self.state[p]["rule"] = Plain
        super()._move(p, number, group)


NO_OPTIMIZER = 3

NADAM = {"class": "torch.optim.NAdam", "settings": {"betas": [0.8, 0.99]}}
MUON = {
    "matrices": {"class": "torch.optim.Muon", "settings": {"weight_decay": 0.0}},
    "rest": {"class": "adam"},
}
LAMB = {"class": f"{HERE}.LayerNormed"}


def define(value) -> Definition:
    return Definition.model_validate(value)


def own(name: str, **settings) -> dict:
    return {"class": f"{HERE}.{name}", "settings": settings}


@pytest.mark.parametrize(
    ("arm", "stacked"),
    [
        (NADAM, True),
        ({"class": "torch.optim.RAdam"}, True),
        ({"class": "lion_pytorch.Lion"}, True),
        ({"class": "torch.optim.SGD", "settings": {"momentum": 0.9, "nesterov": True}}, True),
        (own("Plain", size=2.0), True),
        ({"class": "torch.optim.Adafactor"}, False),
        (LAMB, False),
        (own("RowNormed"), False),
        (own("Estimating"), False),
    ],
    ids=lambda value: value["class"].rpartition(".")[2] if isinstance(value, dict) else None,
)
def test_a_trial_tells_what_works_element_by_element(arm, stacked):
    definition = define(arm)
    trial.check("arm", definition)
    assert trial.stackable(definition.whole, "whole") is stacked
    parameters = [leaf(x) for x in start_and_gradients(RAGGED)[0]]
    optimizer = StackedOptimizer("arm", parameters, LR, None, definition)
    assert isinstance(optimizer._steppers["whole"], Stacked if stacked else Layerwise)
    assert not optimizer.capturable


def test_muon_takes_matrices_apart():
    assert not trial.stackable(define(MUON).matrices, "matrices")
    trial.check("muon", define(MUON))


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (
            {"class": "torch.optim.Nadam"},
            "arm.class: 'torch.optim' has no 'Nadam'.*did you mean NA",
        ),
        ({"class": "no_such.Thing"}, "arm.class: importing 'no_such' raised ModuleNotFoundError"),
        ({"class": "torch.nn.Linear"}, "arm.class: expected a subclass of torch.optim.Optimizer"),
        ({"class": "torch.optim.Optimizer"}, "arm.class: expected a subclass"),
        ({"class": f"{HERE}.NO_OPTIMIZER"}, "arm.class: expected a subclass.*which is 3"),
        (
            own("Plain", speed=1),
            "arm.settings: .*'speed'.*received {'speed': 1}; its settings are s",
        ),
        (
            {"class": "torch.optim.NAdam", "settings": {"betas": [2, 3]}},
            r"arm.settings: .*Invalid beta.*received {'betas': \[2, 3\]}; .*betas, eps",
        ),
        ({"class": "torch.optim.LBFGS"}, "arm.class: a step raised TypeError: .*closure"),
        (own("Raises"), "arm.class: a step raised RuntimeError: no such kernel; received"),
        (own("Still"), "arm.class: 12 steps left a layer as it was, received .*Still"),
        (own("Noisy"), "arm.class: it does not step the same way twice"),
        (own("Forgetful"), "arm.class: after its state was saved and loaded it steps otherwise"),
        (own("Unplain"), "arm.class: saving and loading its state raised"),
        ({"class": "torch.optim.Muon"}, "arm.settings: .*only supports 2D parameters"),
        (
            {"matrices": {"class": "adam"}, "rest": own("Raises")},
            "arm.rest.class: a step raised RuntimeError",
        ),
        (
            {"matrices": {"class": "torch.optim.Muon", "settings": {"x": 1}}, "rest": own("Plain")},
            "arm.matrices.settings: .*received {'x': 1}; its settings are weight_decay, momentum",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_job(arm, message):
    with pytest.raises(ConfigError, match=f"^optimizers.{message}"):
        trial.check("arm", define(arm))


def stepped(
    arm, start: list[Tensor], gradients: list[list[Tensor]], **settings
) -> StackedOptimizer:
    parameters = [leaf(x) for x in start]
    optimizer = StackedOptimizer("arm", parameters, LR, Settings(**settings), define(arm))
    optimizer.parameters = parameters
    for step in gradients:
        write(parameters, step)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("arm", [NADAM, LAMB, MUON, own("Estimating")])
def test_a_seed_among_others_is_a_seed_alone(arm):
    start, gradients = start_and_gradients(RAGGED)
    stacked = stepped(arm, start, gradients)
    for s in range(S):
        alone = stepped(
            arm, [x[s : s + 1] for x in start], [[x[s : s + 1] for x in g] for g in gradients]
        )
        for whole, part, initial in zip(stacked.parameters, alone.parameters, start, strict=True):
            assert torch.equal(whole[s], part[0]) and not torch.equal(part[0], initial[s])
        one, other = stacked.state_dict(s), alone.state_dict(0)
        assert trial._same(one, other)


def test_layers_are_as_in_torch():
    Noting.seen.clear()
    start, gradients = start_and_gradients(RAGGED)
    parameters = [leaf(x) for x in start]
    StackedOptimizer("sgd", parameters, LR)  # makes them views of one tensor
    layerwise = Layerwise(parameters, lambda layers: Noting(layers, LR))
    write(parameters, gradients[0])
    layerwise.step()
    expected = [(5, 4), (5,), (1, 6), (12,), (9, 3)]
    assert Noting.seen == [(shape, True, True) for shape in S * expected]
    for end, initial, gradient in zip(parameters, start, gradients[0], strict=True):
        assert torch.equal(end.data, initial - LR * gradient)


def torch_layers(start: list[Tensor], s: int) -> list[nn.Parameter]:
    return [nn.Parameter((x[s].T if len(x[s]) > 1 else x[s][0]).clone()) for x in start]


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_an_arm_of_two_parts_steps_as_torch_does_on_plain_layers(factor):
    """Muon takes the weights with several inputs and outputs, as out x in, and Adam the rest."""
    arm = {**MUON, "rest": {"class": "adam", "lr_factor": factor}}
    start, gradients = start_and_gradients(RAGGED)
    found = stepped(arm, start, gradients)
    for s in range(S):
        layers = torch_layers(start, s)
        matrix = [min(x.shape[1:]) > 1 for x in start]
        muon = torch.optim.Muon(
            [p for p, m in zip(layers, matrix, strict=True) if m], lr=LR, weight_decay=0.0
        )
        adam = torch.optim.Adam(
            [p for p, m in zip(layers, matrix, strict=True) if not m], lr=LR * factor
        )
        for step in gradients:
            for layer, gradient in zip(layers, torch_layers(step, s), strict=True):
                layer.grad = gradient.detach()
            muon.step()
            adam.step()
        for own_layer, layer, is_matrix in zip(found.parameters, layers, matrix, strict=True):
            value = own_layer[s].T if is_matrix or layer.ndim > 1 else own_layer[s][0]
            if is_matrix:
                assert torch.equal(value, layer)
            else:
                torch.testing.assert_close(value, layer.detach(), rtol=1e-6, atol=1e-7)


def test_a_part_without_parameters_is_left_out():
    start, gradients = start_and_gradients(((1, 64),))
    adam = stepped({"matrices": {"class": "sgd"}, "rest": {"class": "adam"}}, start, gradients)
    assert [*adam._steppers] == ["rest"]


def test_built_ins_of_two_parts_can_be_captured_and_decay_by_part():
    arm = {"matrices": {"class": "adamw", "lr_factor": 0.5}, "rest": {"class": "sgd"}}
    start = [torch.ones(S, 4, 5), torch.ones(S, 1, 5)]
    found = stepped(arm, start, [[torch.zeros_like(x) for x in start]])
    assert found.capturable
    matrix, bias = found.parameters
    torch.testing.assert_close(matrix.data, torch.full((S, 4, 5), 1 - LR * 0.5 * 0.01))
    assert bias.eq(1).all()


@pytest.mark.parametrize("arm", [NADAM, LAMB, MUON, own("Estimating")])
def test_a_saved_optimizer_goes_on_bit_for_bit_in_any_stack(arm):
    start, gradients = start_and_gradients(RAGGED)
    calm = stepped(arm, start, gradients)
    half = stepped(arm, start, gradients[:2])
    states = [trial._saved(half.state_dict(s)) for s in range(S)]
    first = copy.deepcopy(states)
    for step in gradients[2:]:  # a state is a copy
        write(half.parameters, step)
        half.step()
    assert trial._same(states, first)
    order = [2, 0, 1]
    other = stepped(arm, [torch.zeros_like(x) for x in start], [])
    other.load_state_dict([states[s] for s in order])
    for step in gradients[2:]:
        write(other.parameters, [x[order] for x in step])
        other.step()
    for place, s in enumerate(order):
        assert torch.equal(other.flat[place], calm.flat[s])
        assert trial._same(other.state_dict(place), calm.state_dict(s))


@pytest.mark.parametrize("arm", [NADAM, LAMB, MUON, own("Estimating")])
def test_an_optimizer_that_was_reset_steps_like_a_new_one(arm):
    start, gradients = start_and_gradients(RAGGED)
    used = stepped(arm, start, gradients[:2])
    reached = [x.data.clone() for x in used.parameters]
    used.reset_()
    write(used.parameters, gradients[2])
    used.step()
    new = stepped(arm, reached, gradients[2:3])
    torch.testing.assert_close(used.flat, new.flat, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("role", ["whole", "matrices"])
def test_an_optimizer_that_is_made_anew_is_made_of_the_present_parameters(role):
    """The parameters may have changed since the last step, when networks are reset."""
    one = own("Anchored")
    arm = one if role == "whole" else {"matrices": one, "rest": {"class": "adam"}}
    start, gradients = start_and_gradients(RAGGED)
    used = stepped(arm, start, gradients[:1])
    used.flat.fill_(7.0)
    used.reset_()
    write(used.parameters, gradients[1])
    used.step()
    assert (used.flat - 7).abs().max() < 0.1


@pytest.mark.parametrize("arm", [NADAM, LAMB, MUON])
def test_decay_and_warm_up_apply_to_imported_ones(arm):
    start, gradients = start_and_gradients(RAGGED)
    plain = stepped(arm, start, [])
    plain.flat.mul_(1 - LR * 0.1)
    write(plain.parameters, gradients[0])
    plain.step()
    decayed = stepped(arm, start, gradients[:1], weight_decay=0.1)
    torch.testing.assert_close(decayed.flat, plain.flat)
    scaled = stepped(arm, start, [], weight_decay=0.1, warmup=True)
    before = scaled.flat.clone()
    scaled.scale_(0.25)
    write(scaled.parameters, gradients[0])
    scaled.step()
    torch.testing.assert_close(scaled.flat, before.lerp(decayed.flat, 0.25))


@pytest.mark.parametrize("arm", first_of([NADAM, MUON]), ids=["nadam", "muon"])
def test_a_training_is_resumed_bit_for_bit_in_a_stack_and_alone(tmp_path, arm):
    settings = {
        "optimizer": "mine",
        "optimizer_definition": arm,
        "n_step": 2,
        "optimizer_reset": "moments",
        "warmup_updates": 150,
        "network_resets": [180],
        "steps": 260,
    }
    trained(tmp_path / "calm", **settings)
    for steps in (130, 190, 260):
        trained(tmp_path / "parts", resume=tmp_path / "state", **settings | {"steps": steps})
    trained(tmp_path / "alone", seeds=(4,), **settings)
    for seed in (3, 4, 5):
        calm, parts = (results(tmp_path / name / f"seed{seed}") for name in ("calm", "parts"))
        assert calm == parts
    assert results(tmp_path / "alone") == results(tmp_path / "calm/seed4")


def test_an_import_of_adam_learns_what_the_built_in_does():
    agents = [
        make_agent(),
        make_agent(optimizer="a", optimizer_definition={"class": "torch.optim.Adam"}),
    ]
    windows = make_windows(1)
    for agent in agents:
        for _ in range(3):
            agent.update(windows)
    ours, theirs = (agent.learners.critic_optimizer.flat for agent in agents)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_trainer_needs_a_name_and_a_definition_together():
    sizes = {"policy_layer_sizes": (8,), "critic_layer_sizes": (8,), "replay_size": 10}
    make = {"env_id": "Pendulum-v1", "seed": 0, "device": torch.device("cpu"), **sizes}
    with pytest.raises(ConfigError, match="optimizer: expected .* or 'lion', received 'nadam'"):
        MPOTrainer(**make, optimizer_type="nadam")
    with pytest.raises(ConfigError, match="optimizer: 'adam' is a built-in; .* another name"):
        MPOTrainer(**make, optimizer_definition=NADAM)
    with pytest.raises(ConfigError, match="optimizer_definition.class: .* no 'X'"):
        MPOTrainer(**make, optimizer_type="x", optimizer_definition={"class": "torch.optim.X"})


MODULE = """
from torch.optim import SGD

class Mine(SGD):
    pass
"""


def test_another_version_of_ones_own_optimizer_is_not_resumed(tmp_path, monkeypatch):
    file = tmp_path / "mine_own.py"
    file.write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    settings = {
        "seeds": (3,),
        "optimizer": "mine",
        "optimizer_definition": {"class": "mine_own.Mine"},
        "resume": tmp_path / "state",
    }
    trained(tmp_path / "one", steps=20, **settings)
    record = (tmp_path / "one/run.json").read_text()
    assert '"mine_own"' in record
    trained(tmp_path / "two", steps=30, **settings)
    file.write_text(MODULE + "\nx = 1\n")
    with pytest.raises(
        OptimizerChanged, match="of the optimizer: source mine_own has changed. Del"
    ):
        trained(tmp_path / "three", steps=40, **settings)


def test_a_fingerprint_of_torchs_own_is_left_to_the_machines_record():
    found = of_classes(classes(define(NADAM)))
    assert found == {"packages": {}, "sources": {}}
    assert of_classes(classes(define({"class": "lion_pytorch.Lion"})))["packages"].keys() == {
        "lion_pytorch"
    }
    assert classes(define(MUON)) == [torch.optim.Muon] and classes(None) == []
