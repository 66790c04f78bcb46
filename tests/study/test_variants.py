"""Arguments and wrappers of an environment, in identities, paths and names."""

import json

import pytest

from mpo.study.config import ConfigError
from mpo.study.plan import Study
from mpo.study.specs import CellSpec, EnvironmentSpec, RandomSpec, RunSpec
from tests.study.test_plan import changed

HOPPER = {
    "id": "Hopper-v5",
    "kwargs": {"terminate_when_unhealthy": False},
    "wrappers": ["my_module:MyWrapper"],
}
SLUG = "Hopper-v5_terminate_when_unhealthy-off_MyWrapper"


def plan(*environments):
    return Study.parse(changed("environments", [*environments]))


def test_a_plain_environment_has_the_identity_and_the_path_that_it_always_had():
    for entry in ("Hopper-v5", {"id": "Hopper-v5", "kwargs": {}, "wrappers": []}):
        study = plan(entry)
        run, random = study.runs[0], study.random_spec(study.environments[0])
        for spec in (run.spec, random, study.cells[0].spec):
            assert spec.env_name == "Hopper-v5" and spec.environment.id == "Hopper-v5"
            assert not {"env_kwargs", "env_wrappers"} & json.loads(spec.identity).keys()
        assert run.env_slug == "Hopper-v5" and study.environments[0].name == "Hopper-v5"


def test_two_variants_of_an_environment_stand_in_one_study():
    study = plan("Hopper-v5", HOPPER)
    plain, variant = study.cells[0], study.cells[-1]
    assert (plain.env_slug, variant.env_slug) == ("Hopper-v5", SLUG)
    assert json.loads(variant.spec.identity)["env_kwargs"] == HOPPER["kwargs"]
    assert json.loads(variant.spec.identity)["env_wrappers"] == HOPPER["wrappers"]
    alone = plan(HOPPER)
    assert alone.cells[-1] == variant
    assert [run.directory for run in alone.runs] == [
        run.directory for run in study.runs if run.env_slug == SLUG
    ]
    for spec, kind in (
        (variant.spec, CellSpec),
        (variant.spec.of_seed(0), RunSpec),
        (study.random_spec(study.environments[1]), RandomSpec),
    ):
        assert kind.parse(spec.identity) == spec
        assert spec.environment == EnvironmentSpec(**HOPPER) and spec.env_name == SLUG
    assert variant.spec.of_seed(0).cell == variant.spec


@pytest.mark.parametrize(
    ("kwargs", "shown"),
    [
        ({"b": 1, "a": -0.5}, "_a--0.5_b-1"),
        ({"a": True, "b": None, "c": 1e-5}, "_a-on_b-None_c-1e-05"),
        ({"xml_file": "/home/u/my ant.xml"}, "_xml_file--home-u-my-ant.xml"),
        ({"range": [0.1, 2]}, "_range-0.1x2"),
        ({"size": {"h": 1, "w": [2, 3]}}, "_size-h-1.w-2x3"),
    ],
)
def test_arguments_are_readable_in_paths_and_their_order_has_no_meaning(kwargs, shown):
    study = plan({"id": "Hopper-v5", "kwargs": kwargs})
    again = plan({"id": "Hopper-v5", "kwargs": dict(reversed(kwargs.items()))})
    assert study.environments[0].slug == f"Hopper-v5{shown}"
    assert study.runs[0].spec.identity == again.runs[0].spec.identity


LOOP = {}
LOOP["again"] = [LOOP]
"""As YAML's aliases make it: `&loop {again: [*loop]}`."""


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": "A-v0", "kwargs": {"a": LOOP}}, "kwargs: a: expected at most 200 values"),
        ({"id": "A-v0", "kwargs": {"a": [0] * 200}}, "kwargs: a: expected at most 200 values"),
        ({"id": "A-v0", "kwargs": [1]}, "kwargs: .*received"),
        ({"id": "A-v0", "kwargs": {"not a name": 1}}, "kwargs: expected names of arguments"),
        ({"id": "A-v0", "kwargs": {"render_mode": "human"}}, "kwargs: 'render_mode' is set by"),
        ({"id": "A-v0", "kwargs": {"disable_env_checker": True}}, "is set by the program"),
        ({"id": "A-v0", "kwargs": {"id": "B-v0"}}, "kwargs: 'id' is set by"),
        ({"id": "A-v0", "kwargs": {"a": float("nan")}}, "kwargs: a: expected .*received nan"),
        ({"id": "A-v0", "kwargs": {"a": {"b": [{1, 2}]}}}, "kwargs: a.b.0: expected"),
        ({"id": "A-v0", "kwargs": {"a": {1: 2}}}, "kwargs: a: expected text as keys"),
        ({"id": "A-v0", "kwargs": {"a": 10**400}}, "kwargs: a: expected .*10{20}"),
        ({"id": "A-v0", "kwargs": {"a": "x" * 300}}, "at most 200 characters"),
        ({"id": "A-v0", "wrappers": ["MyWrapper"]}, r"wrappers.0: .*module:Wrapper"),
        ({"id": "A-v0", "wrappers": ["m:W()"]}, r"wrappers.0: .*module:Wrapper"),
        ({"id": "A-v0", "wrappers": "m:W"}, "wrappers: "),
        ({"id": "A-v0", "kwarg": {}}, "unknown key 'kwarg'.*did you mean 'kwargs'"),
    ],
)
def test_a_mistake_is_refused_with_its_key_and_value(entry, message):
    with pytest.raises(ConfigError, match=message):
        plan(entry)


def test_variants_that_would_share_a_path_are_refused():
    one = {"id": "Hopper-v5", "wrappers": ["a:W"]}
    with pytest.raises(ConfigError, match="duplicate environment 'Hopper-v5_W'"):
        plan(one, {"id": "Hopper-v5", "wrappers": ["b:W"]})
    with pytest.raises(ConfigError, match="duplicate environment"):
        plan({"id": "A-v0", "kwargs": {"a": "off"}}, {"id": "A-v0", "kwargs": {"a": False}})


def test_a_variant_overrides_keys_as_any_environment_does():
    study = plan(HOPPER | {"gamma": 0.5, "total_steps": 900})
    assert study.runs[0].spec.training.gamma == 0.5 and study.runs[0].total_steps == 900
