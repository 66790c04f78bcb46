"""Primary contrasts as a config names them."""

import json

import pytest

from mpo.study.config import ConfigError, canonical_json
from mpo.study.plan import Study
from tests import synthetic

AXES = {
    "retrace": [False, True],
    "optimizer": ["adam", "sgd", "mine"],
    "gamma": [0.9, 0.99],
    "policy_layer_sizes": [[64], [32, 32]],
    "target_polyak": [None, 0.005],
    "n_step": [1],
}
BUNDLES = [{"name": "base"}, {"name": "pink", "action_noise": "pink"}]
MINE = {"mine": {"class": "torch.optim.NAdam"}}
SGD = {"axis": "optimizer", "level": "sgd", "against": "adam"}


def config(*contrasts):
    found = synthetic.config(1, 1, AXES) | {"bundles": BUNDLES, "optimizers": MINE}
    return found | {"contrasts": [*contrasts]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (SGD, [("optimizer", "sgd", "adam")]),
        (
            {"axis": "optimizer", "against": "sgd"},
            [("optimizer", "adam", "sgd"), ("optimizer", "mine", "sgd")],
        ),
        ({"axis": "retrace", "against": False}, [("retrace", True, False)]),
        # Inside of `--config` Snakemake leaves every value a string.
        ({"axis": "retrace", "level": "true", "against": "false"}, [("retrace", True, False)]),
        ({"axis": "gamma", "level": "0.9", "against": 0.99}, [("gamma", 0.9, 0.99)]),
        (
            {"axis": "policy_layer_sizes", "level": [32, 32], "against": [64]},
            [("policy_layer_sizes", (32, 32), (64,))],
        ),
        (
            {"axis": "target_polyak", "level": None, "against": 0.005},
            [("target_polyak", None, 0.005)],
        ),
        ({"axis": "bundle", "level": "pink", "against": "base"}, [("bundle", "pink", "base")]),
    ],
)
def test_values_are_those_of_the_axis(given, expected):
    study = Study.parse(config(given))
    assert list(study.primary) == expected
    for axis, level, against in study.primary:
        assert level in study.axis_values[axis] and against in study.axis_values[axis]
    assert Study.parse(json.loads(canonical_json(config(given)))).primary == study.primary


@pytest.mark.parametrize(
    ("contrasts", "message"),
    [
        ([SGD | {"level": "lion"}], r"contrasts.0.level: expected one of \['sgd', 'mine'\], .*'l"),
        ([SGD | {"level": "adam"}], r"contrasts.0.level: .*\['sgd', 'mine'\], received 'adam'"),
        ([SGD | {"level": None}], r"contrasts.0.level: .*\['sgd', 'mine'\], received None"),
        ([SGD, SGD | {"against": "adm"}], r"contrasts.1.against: .*'mine'\], received 'adm'"),
        (
            [{"axis": "gama", "against": 0.9}],
            r"contrasts.0.axis: expected an axis with several values \(retrace, optimizer, gamma, "
            r"policy_layer_sizes, target_polyak, bundle\), received 'gama'",
        ),
        ([{"axis": "n_step", "against": 1}], "contrasts.0.axis: .*received 'n_step'"),
        ([{"axis": "gamma", "against": True}], r"against: .*\[0.9, 0.99\], received True"),
        ([{"axis": "gamma", "against": "high"}], r"against: .*\[0.9, 0.99\], received 'high'"),
        ([{"axis": "bundle", "against": ["base"]}], r"against: .*'pink'\], received \['base'\]"),
        ([SGD, SGD], "contrasts.1: expected every contrast once, received optimizer 'sgd' against"),
        ([{"axis": "optimizer", "against": "adam"}, SGD], "contrasts.1: expected every contrast"),
        ([SGD, SGD | {"level": "adam", "against": "sgd"}], "contrasts.1: .*'adam' against 'sgd' a"),
        ([SGD | {"levle": 1}], "contrasts.0: unknown key 'levle' with value 1; did you mean 'lev"),
        ([{"axis": "optimizer"}], "contrasts.0.against: Field required"),
        (["optimizer"], "contrasts.0: expected a mapping, received 'optimizer'"),
        (SGD, "contrasts: expected a list"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_key_and_the_value(contrasts, message):
    with pytest.raises(ConfigError, match=message):
        Study.parse(config() | {"contrasts": contrasts})


def test_without_a_varied_axis_there_is_none_to_name():
    given = synthetic.config(1, 1, {"retrace": [True]}) | {"contrasts": [SGD]}
    with pytest.raises(ConfigError, match=r"several values \(there is none\), received 'optim"):
        Study.parse(given)


def test_contrasts_are_part_of_no_spec():
    plain, named = Study.parse(config()), Study.parse(config(SGD))
    assert named.runs == plain.runs and plain.primary == ()
    assert named.evaluation_spec == plain.evaluation_spec
    (environment,) = plain.environments
    assert named.random_spec(environment) == plain.random_spec(environment)


def test_the_stage_of_tuning_names_none():
    """There an axis of theirs may have one value only."""
    grids = [{"q_lr": [1e-3, 1e-2]}]
    given = config({"axis": "gamma", "against": 0.9}) | {
        "tuning": {"axes": ["optimizer"], "grids": grids}
    }
    stage = Study.parse(given).tuning_stages(given)[0]
    assert "contrasts" not in stage and Study.parse(stage).primary == ()
