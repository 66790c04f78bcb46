"""Arms of `optimizers` that say what they are, in identities and plans."""

import json

import pytest

from mpo.study.cells import DEFINITION
from mpo.study.config import ConfigError
from mpo.study.hyperparameters import Training
from mpo.study.optimizers import Definition
from mpo.study.plan import Study
from mpo.study.specs import CellSpec, RunSpec
from tests.study.test_plan import DEFAULT, SMALL, changed

NADAM = {"class": "torch.optim.NAdam", "settings": {"betas": [0.9, 0.99]}}
MUON = {
    "matrices": {"class": "torch.optim.Muon", "lr_factor": 20.0},
    "rest": {"class": "adam"},
}


def plan(optimizers: dict, arms: list[str], **more) -> Study:
    config = changed("optimizers", optimizers) | {"environments": ["Pendulum-v1"], **more}
    config["axes"] = {"optimizer": arms}
    return Study.parse(config)


def test_the_identity_of_a_run_with_a_built_in_has_no_new_key():
    for config in (DEFAULT, SMALL):
        for cell in Study.parse(config).cells:
            training = json.loads(cell.spec.identity)["training"]
            later = {
                DEFINITION,
                "observation_bound",
                "target_precision",
            }  # absent at their defaults
            assert training.keys() == Training.model_fields.keys() - later
            assert CellSpec.parse(cell.spec.identity) == cell.spec


def test_another_arm_in_the_study_moves_no_run():
    alone = plan({"sgd": {"policy_lr": 0.02}}, ["adam", "sgd"])
    more = plan({"sgd": {"policy_lr": 0.02}, "nadam": NADAM}, ["adam", "sgd", "nadam"])
    before, after = ({run.run_id: run.spec.identity for run in s.runs} for s in (alone, more))
    assert before.items() < after.items() and len(after) == 6


def test_what_an_arm_is_is_part_of_its_identity_and_reads_back():
    optimizers = {"nadam": {**NADAM, "policy_lr": 0.5}, "muon": MUON}
    study = plan(optimizers, ["adam", "nadam", "muon"])
    adam, nadam, muon = study.cells
    assert [cell.variant for cell in study.cells] == [
        f"retrace-off_optimizer-{name}" for name in ("adam", "nadam", "muon")
    ]
    for cell, what in ((nadam, NADAM), (muon, MUON)):
        assert json.loads(cell.spec.identity)["training"][DEFINITION] == what
        assert CellSpec.parse(cell.spec.identity) == cell.spec
        assert RunSpec.parse(cell.spec.of_seed(1).identity).cell == cell.spec
    assert (nadam.spec.training.policy_lr, muon.spec.training.policy_lr) == (0.5, 3e-4)
    assert study.definitions == {
        "nadam": Definition.model_validate(NADAM),
        "muon": Definition.model_validate(MUON),
    }
    other = {"class": NADAM["class"], "settings": {"betas": [0.9, 0.999]}}
    assert (
        plan({"nadam": other}, ["nadam"]).cells[0].spec != plan({"nadam": NADAM}, ["nadam"]).cells
    )


def test_settings_that_are_left_out_leave_no_trace():
    short, long = {"class": "a.B"}, {"class": "a.B", "settings": {}}
    first, second = (plan({"x": value}, ["x"]).cells[0].spec.identity for value in (short, long))
    assert first == second and json.loads(first)["training"][DEFINITION] == short
    part = {**MUON, "rest": {"class": "adam", "settings": {}, "lr_factor": 1}}
    assert Definition.model_validate(part).model_dump() == MUON


def test_an_arm_can_be_a_built_in_with_other_values():
    study = plan({"slow": {"class": "adam", "policy_lr": 1e-5}}, ["adam", "slow"])
    adam, slow = study.cells
    assert slow.arm["optimizer"] == "slow" and "optimizer-slow" in slow.variant
    training = json.loads(slow.spec.identity)["training"]
    assert training == json.loads(adam.spec.identity)["training"] | {"policy_lr": 1e-5}


def test_the_base_value_can_name_an_arm():
    config = changed("optimizers", {"nadam": NADAM}) | {"axes": {}}
    config["training"] = {**SMALL["training"], "optimizer": "nadam"}
    study = Study.parse(config)
    assert study.cells[0].spec.training.optimizer_definition == study.definitions["nadam"]
    assert Study.parse(json.loads(json.dumps(config, sort_keys=True))).runs == study.runs


def test_an_unknown_arm_is_told_those_of_the_study():
    with pytest.raises(ConfigError, match="axes.optimizer: expected 'nadam', 'adam', .*'nadm'"):
        plan({"nadam": NADAM}, ["nadm"])
    with pytest.raises(ConfigError, match="^optimizers.unused: without `class`"):
        plan({"unused": {}}, ["adam"])


def test_rules_between_keys_hold_for_arms():
    with pytest.raises(ConfigError, match="'time' needs adam or adamw, received 'nadam'"):
        plan({"nadam": {**NADAM, "optimizer_reset": "time"}}, ["nadam"])
    assert plan({"a": {"class": "adamw", "optimizer_reset": "time"}}, ["a"]).runs
    moments = plan({"nadam": {**NADAM, "optimizer_reset": "moments"}}, ["nadam"])
    assert moments.cells[0].spec.training.optimizer_reset == "moments"


def test_a_spec_whose_optimizer_is_unknown_is_refused():
    spec = json.loads(plan({}, ["adam"]).cells[0].spec.identity)
    for name, what, message in (
        ("adm", None, "optimizer: expected 'adam', .* received 'adm'"),
        ("adam", NADAM, "optimizer: 'adam' is a built-in; a definition needs another name"),
    ):
        training = spec["training"] | {"optimizer": name, DEFINITION: what}
        with pytest.raises(ConfigError, match=message):
            CellSpec.parse(json.dumps(spec | {"training": training}))
