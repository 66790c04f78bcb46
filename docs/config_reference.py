"""Writes docs/reference/config.md and config/schema.json: `python docs/config_reference.py`.

Both are made from the pydantic schema in `mpo/study/`. `tests/study/test_schema.py` fails when one
of them is out of date.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from mpo.study.cells import CORE_AXES, DEFINITION, SETTABLE
from mpo.study.config import MAX_COUNT, Schedule
from mpo.study.optimizers import ARM, BUILT_IN
from mpo.study.plan import Study
from mpo.study.specs import ENVIRONMENT_ID

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference" / "config.md"
SCHEMA = ROOT / "config" / "schema.json"
COMMAND = "python docs/config_reference.py"

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""Keywords that pydantic writes for numbers with a validator of their own -> those of the draft."""

_ITEMS = {
    "Environment": "ids or [mappings](#environments)",
    "Bundle": "[mappings](#bundles)",
    "Contrast": "[mappings](#contrasts)",
    "Others": "[mappings](#others)",
}
"""What the items of a list are, by the section that describes them."""

_NAMES = {"object": "mapping"}
"""YAML's names of JSON's types, where they differ."""

_INTRODUCTION = f"""\
# Every key of the config

<!-- Made by `{COMMAND}` from the schema in mpo/study/; change it there. -->

[config.yaml](../../config.yaml) is the default study; its comments give the reasons for its values.
A file given by `--configfile` is laid over it: sections merge key by key, lists are replaced.
[Studies](../../config/README.md) lists the files that come with the project.

*Default* is the value of a key that no file sets; the next column has its value in the default
study. Unknown keys, values of another type, values out of range and a key that a file gives twice
are refused before any job starts. No integer may exceed 10^{len(str(MAX_COUNT)) - 1}.

Each file names `config/schema.json` in its first line. An editor with a YAML language server (VS
Code with the extension *YAML*, Neovim, Emacs) then completes keys, shows their meaning and marks
mistakes. It checks each key by itself. Rules between keys, such as that `snapshot_interval` divides
`total_steps`, are checked when Snakemake starts.

2018a and 2018b are Abdolmaleki et al., [arXiv 1806.06920](https://arxiv.org/abs/1806.06920) and
[1812.02256](https://arxiv.org/abs/1812.02256). [The algorithm](../algorithm.md) has the formulas.
"""

_ENTRIES = {
    "environments": """\
An entry that is a mapping may have these keys, and any key of [schedule](#schedule) and
[training](#training) but `retrace` and `optimizer`, with its value in this environment.
""",
    "bundles": """\
An entry has a name, and any keys of [training](#training) but `retrace` and `optimizer`, with their
values in this bundle.
""",
    "contrasts": """\
An entry compares two values of an axis, written as `axes` has them, or two names of
[bundles](#bundles).
""",
    "others": """\
An entry names a file of scores and says how to read it.
[Changing a study](../changing-a-study.md#other-peoples-scores) has examples.
""",
    "optimizers": """\
An entry may have any keys of [training](#training) but `retrace` and `optimizer`. One that is no
built-in also has `class` and `settings`, or `matrices` and `rest`, which have these keys each:
`matrices` is the optimizer of the weights, `rest` that of all other parameters.
[Bring your own optimizer](../optimizers.md) has examples.
""",
}
"""What stands above the keys of an entry."""


def json_schema() -> dict[str, Any]:
    """Returns the JSON schema (draft 2020-12) of config.yaml and of the files laid over it.

    No section requires a key, since an overlay leaves keys out.
    """
    study = _draft(Study.model_json_schema())
    keys, sections = study["properties"], study["$defs"]
    halving = sections["Tuning"]["properties"]["halving"]
    for node in (keys["tuning"], halving):  # null is the same as leaving them out
        node |= node.pop("anyOf")[0]
        del node["default"]
    for node in keys.values():
        if "$ref" in node:
            node["description"] = _target(sections, node)["description"]
    training = {key: _key("Training", key) for key in SETTABLE}
    own = {key: ref for key, ref in training.items() if key not in CORE_AXES}
    timing = {key: _key("Schedule", key) for key in Schedule.model_fields}
    name = sections["Environment"]["properties"]["id"] | {"pattern": ENVIRONMENT_ID}
    more = {key: sections["Environment"]["properties"][key] for key in ("kwargs", "wrappers")}
    more["kwargs"]["default"] = {}
    entry = _object({"id": name, **more, **timing, **own}) | {"required": ["id"]}
    sections["Environment"] = {"anyOf": [name, entry]}
    bundle = {"name": sections["Bundle"]["properties"]["name"], **own}
    sections["Bundle"] = _object(bundle) | {"required": ["name"]}
    sections["Contrast"]["required"] = ["axis", "against"]
    del sections["Contrast"]["properties"]["level"]["default"]  # to leave it out is not null
    sections["Others"]["required"] = ["path", "columns", "source"]
    sections["Others"]["properties"]["environments"]["default"] = {}
    _describe_optimizers(sections, own)
    keys["environments"]["uniqueItems"] = keys["seeds"]["uniqueItems"] = True
    parts: dict[str, Any] = {
        "axes": {axis: _values(sections["Training"]["properties"], axis) for axis in training},
        "optimizers": {choice: {"$ref": "#/$defs/Optimizer"} for choice in BUILT_IN},
    }
    for key, properties in parts.items():
        found = _object(properties) | {"default": {}}
        if key == "optimizers":
            found |= {"additionalProperties": {"$ref": "#/$defs/Arm"}}
            found |= {"propertyNames": {"pattern": ARM}}
        keys[key] = found | {"description": keys[key]["description"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"Made by `{COMMAND}` from the schema in mpo/study/; change it there.",
        "title": "A study, or settings to lay over one",
        **study,
    }


def _describe_optimizers(sections: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Adds what `optimizers` may say of a built-in and of any other arm.

    Args:
        sections: the schema's definitions; changed in place.
        own: the keys of `training` that an optimizer can have values of its own for.
    """
    keys = sections["Training"]["properties"]
    del keys[DEFINITION], sections["Definition"]  # written in `optimizers`, in another form
    del keys["optimizer"]["type"], keys["optimizer"]["pattern"]
    keys["optimizer"]["anyOf"] = [{"enum": [*BUILT_IN]}, {"type": "string", "pattern": ARM}]
    part = {key: {"$ref": f"#/$defs/Part/properties/{key}"} for key in ("class", "settings")}
    both = {key: {"$ref": "#/$defs/Part"} for key in ("matrices", "rest")}
    sections["Part"]["required"] = ["class"]
    sections["Part"]["properties"]["settings"]["default"] = {}
    sections["Optimizer"] = _object(own)
    sections["Arm"] = {
        "anyOf": [
            _object({**part, **own}) | {"required": ["class"]},
            _object({**both, **own}) | {"required": [*both]},
        ]
    }


def _draft(node: Any) -> Any:
    """Turns pydantic's schema into one of the draft in which every key may be left out."""
    if isinstance(node, list):
        return [_draft(item) for item in node]
    if not isinstance(node, dict):
        return node
    found: dict[str, Any] = {}
    for keyword, value in node.items():
        if keyword in ("properties", "$defs"):
            found[keyword] = {name: _draft(part) for name, part in value.items()}
        elif keyword == "description":
            found[keyword] = " ".join(value.split())
        elif keyword == "default" and isinstance(value, dict):
            continue  # the keys of the section say their own
        elif keyword not in ("required", "title"):
            found[_BOUNDS.get(keyword, keyword)] = _draft(value)
    return found


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": dict(properties)}


def _values(keys: Mapping[str, Any], axis: str) -> dict[str, Any]:
    """An axis: a list of values of a training key."""
    form = {"type": "array", "items": _key("Training", axis), "minItems": 1, "uniqueItems": True}
    return form | {"description": keys[axis]["description"]}


def _target(sections: Mapping[str, Any], node: Mapping[str, Any]) -> Any:
    return sections[node["$ref"].rpartition("/")[2]]


def _key(section: str, key: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{section}/properties/{key}"}


def reference(schema: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Returns the page that describes every key.

    Args:
        schema: see `json_schema`.
        config: the default study.
    """
    keys = schema["properties"]
    parts = [_INTRODUCTION, "## The study\n", _table(keys, config)]
    for key, node in keys.items():
        if key in _ENTRIES:
            item = _target(schema["$defs"], node.get("items", {"$ref": "#/$defs/Part"}))
            entry = item.get("anyOf", [item])[-1]
            own = {name: part for name, part in entry["properties"].items() if "$ref" not in part}
            table = _table(own, {}, optional={*own} - {*entry["required"]})
            parts += [f"## {key}\n", _ENTRIES[key], table]
        if "$ref" in node:
            section = _target(schema["$defs"], node)["properties"]
            table = _table(section, config.get(key, {}))
            parts += [f"## {key}\n", f"{node['description']}\n", table]
            for inner, part in section.items():
                if "$ref" in part:
                    table = _table(_target(schema["$defs"], part)["properties"], {})
                    parts += [f"### {inner}\n", f"{part['description']}\n", table]
    return "\n".join(parts)


def _table(
    keys: Mapping[str, Any], config: Mapping[str, Any], optional: Collection[str] = ()
) -> str:
    """Returns a Markdown table with one row per key.

    Args:
        keys: the schema of each.
        config: the default study's values.
        optional: keys that may be left out though they have no default.
    """
    rows = [("key", "type", "default", "`config.yaml`", "meaning"), ("---",) * 5]
    for key, node in keys.items():
        row = [f"`{key}`", f"[section](#{key})", "", "", node["description"]]
        if "$ref" not in node:
            row[1] = _type(node)
            missing = "" if key in optional else "required"
            row[2] = _code(node["default"]) if "default" in node else missing
            row[3] = _code(config[key]) if key in config else ""
        rows.append(tuple(cell.replace("|", "&#124;") for cell in row))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _type(node: Mapping[str, Any]) -> str:
    """Returns the type of a key, with its choices or range."""
    if "$ref" in node:
        return _ITEMS[node["$ref"].rpartition("/")[2]]
    if not {"enum", "anyOf", "type"} & node.keys():
        return "any value"
    if "enum" in node:
        return ", ".join(map(_code, node["enum"]))
    if "anyOf" in node:
        return ", or ".join(map(_type, node["anyOf"]))
    if node["type"] == "array":
        return re.sub(r"\b(integer|string)\b", r"\1s", f"list of {_type(node['items'])}")
    if node["type"] == "null":
        return _code(None)
    return f"{_NAMES.get(node['type'], node['type'])}{_range(node)}"


def _range(node: Mapping[str, Any]) -> str:
    """Returns the range of a number: ' > 0', ' in [0, 1)', or nothing."""
    low, above = node.get("minimum"), node.get("exclusiveMinimum")
    high, below = node.get("maximum"), node.get("exclusiveMaximum")
    if high == MAX_COUNT:
        high = None  # the introduction says it once
    if high is None and below is None:
        return f" ≥ {low}" if low is not None else f" > {above}" if above is not None else ""
    left = f"[{low}" if low is not None else f"({above}"
    return f" in {left}, {f'{high}]' if high is not None else f'{below})'}"


def _code(value: Any) -> str:
    """Returns a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return f"`{text.splitlines()[0]}`"


def main() -> None:
    """Writes both files."""
    schema = json_schema()
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
    REFERENCE.parent.mkdir(exist_ok=True)
    REFERENCE.write_text(
        reference(schema, yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")))
    )


if __name__ == "__main__":
    main()
