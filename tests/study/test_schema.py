import copy
import json
import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from docs.config_reference import COMMAND, REFERENCE, SCHEMA, json_schema, reference
from mpo.study.cells import SETTABLE
from mpo.study.optimizers import Definition
from mpo.study.plan import Study

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "config.yaml", *sorted((ROOT / "config").rglob("*.yaml"))]
VALIDATOR = Draft202012Validator(json_schema())


def read(path):
    return yaml.safe_load(path.read_text())


def test_the_schema_is_one():
    Draft202012Validator.check_schema(json_schema())


def test_the_generated_files_are_up_to_date():
    schema = json_schema()
    page = reference(schema, read(ROOT / "config.yaml"))
    assert json.loads(SCHEMA.read_text()) == schema, f"out of date; run: {COMMAND}"
    assert REFERENCE.read_text() == page, f"out of date; run: {COMMAND}"


def test_every_key_has_a_description():
    schema = json_schema()
    sections = {"": schema, "axes": schema["properties"]["axes"], **schema["$defs"]}
    found = {
        f"{name}.{key}": node.get("description", "").strip()
        for name, section in sections.items()
        for key, node in section.get("properties", {}).items()
        if "/properties/" not in node.get("$ref", "")  # where it points, it is described
    }
    expected = {f"Training.{key}" for key in SETTABLE}
    expected |= {f".{key}" for key in Study.model_fields} | {"Execution.device", "axes.gamma"}
    assert expected <= set(found)
    assert [key for key, text in found.items() if not text] == []


def models(kind):
    """Every section that a type is made of, at any depth."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from models(field.annotation)
    for part in get_args(kind):
        yield from models(part)


def test_the_page_has_a_row_for_every_key_of_every_section():
    rows = re.findall(r"^\| `(\w+)` \|", REFERENCE.read_text(), re.M)
    kinds = set(models(Study)) - {Definition}  # made from what `optimizers` says
    fields = [item for kind in kinds for item in kind.model_fields.items()]
    expected = Counter(field.alias or key for key, field in fields)
    # They are written beside the id or name, or made from what `optimizers` says.
    del expected["overrides"], expected["optimizer_definition"]
    assert {"wrappers", "kwargs", "gamma", "threads"} <= expected.keys()
    assert Counter(rows) == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_is_valid_and_names_the_schema(path):
    VALIDATOR.validate(read(path))
    first = path.read_text().partition("\n")[0]
    form, _, target = first.partition("=")
    assert form == "# yaml-language-server: $schema"
    assert (path.parent / target).resolve() == SCHEMA


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sedes", [1], "'sedes' was unexpected"),
        ("training.gama", 0.9, "'gama' was unexpected"),
        ("training.gamma", "high", "'high' is not of type 'number'"),
        ("training.gamma", True, "True is not of type 'number'"),
        ("training.gamma", 1.01, "1.01 is greater than the maximum of 1"),
        ("training.policy_lr", 0, "0 is less than or equal to the minimum of 0"),
        ("training.sgd_momentum", 1, "1 is greater than or equal to the maximum of 1"),
        ("training.target_polyak", 2, "2 is not valid under any of the given schemas"),
        ("training.batch_size", 1.5, "1.5 is not of type 'integer'"),
        ("training.optimizer", "a/b", "'a/b' is not valid under any"),
        ("training.dual_optimizer", "adm", "'adm' is not one of"),
        ("training.optimizer_definition", {"class": "a.B"}, "'optimizer_definition' was unexp"),
        ("training.policy_layer_sizes", [], r"\[\] should be non-empty"),
        ("training.policy_layer_sizes", [0], "0 is less than the minimum of 1"),
        ("axes.gama", [0.9], "'gama' was unexpected"),
        ("axes.total_steps", [1], "'total_steps' was unexpected"),
        ("axes.gamma", 0.9, "0.9 is not of type 'array'"),
        ("axes.gamma", [0.9, 2], "2 is greater than the maximum"),
        ("axes.gamma", [], r"\[\] should be non-empty"),
        ("axes.gamma", [0.9, 0.9], "non-unique"),
        ("optimizers.sdg", {}, "not valid under any"),
        ("optimizers.my/arm", {"class": "a.B"}, "'my/arm' does not match"),
        ("optimizers.mine", {"class": "a.B", "lr": 1}, "not valid under any"),
        ("optimizers.mine", {"matrices": {"class": "a.B"}}, "not valid under any"),
        ("optimizers.adam", {"class": "a.B"}, "'class' was unexpected"),
        ("optimizers.sgd.lr", 1.0, "'lr' was unexpected"),
        ("optimizers.sgd.retrace", True, "'retrace' was unexpected"),
        ("optimizers.sgd.policy_lr", -1, "-1 is less than or equal to the minimum"),
        ("environments", [], r"\[\] should be non-empty"),
        ("environments", ["../up-v0"], "not valid under any"),
        ("environments", [{"gamma": 0.9}], "not valid under any"),
        ("environments", [{"id": "A-v0", "gama": 0.9}], "not valid under any"),
        ("environments", [{"id": "A-v0", "gamma": 2}], "not valid under any"),
        ("environments", [{"id": "A-v0", "retrace": True}], "not valid under any"),
        ("seeds", [-1], "-1 is less than the minimum of 0"),
        ("seeds", [3, 3], "non-unique"),
        ("study", "a/b", "'a/b' does not match"),
        ("execution.gpu", 1, "'gpu' was unexpected"),
    ],
)
def test_a_mistake_is_refused(key, value, message):
    config = copy.deepcopy(read(ROOT / "config.yaml"))
    *parents, last = key.split(".")
    section = config
    for name in parents:
        section = section.setdefault(name, {})
    section[last] = value
    problems = list(VALIDATOR.iter_errors(config))
    assert len(problems) == 1 and re.search(message, problems[0].message), problems


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"training": {"gamma": 1}},
        {"environments": ["my_module:Mine-v0", {"id": "A-v0", "total_steps": 10, "n_step": 3}]},
        {"axes": {"policy_layer_sizes": [[16], [32, 32]], "target_polyak": [None, 0.005]}},
        {"optimizers": {"lion": {"policy_lr": 1e-4}}},
        {"environments": [{"id": "A-v0", "kwargs": {"a": [1]}, "wrappers": ["m:W"], "gamma": 1}]},
        {"optimizers": {"mine": {"class": "a.B", "settings": {"x": [1]}, "q_lr": 1e-4}}},
        {"optimizers": {"two": {"matrices": {"class": "a.B"}, "rest": {"class": "adam"}}}},
        {"axes": {"optimizer": ["adam", "mine"]}},
    ],
)
def test_an_overlay_leaves_keys_out(config):
    VALIDATOR.validate(config)
