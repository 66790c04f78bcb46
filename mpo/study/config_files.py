"""Reads config files, and refuses what YAML parsers silently take: a key that is given twice."""

import json
from pathlib import Path
from typing import Any

import yaml

from mpo.study.config import JSON_TYPES, ConfigError, nested, shown


def read(path: Path) -> dict[str, Any]:
    """Reads a config file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds no keys.
    """
    text = _text(path)
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(found, dict):
        kind = "nothing" if found is None else f"a {type(found).__name__}"
        raise ConfigError(f"{path}: expected keys and their values, received {kind}")
    return found


def refuse_duplicate_keys(path: Path) -> None:
    """Checks that no mapping of a YAML or JSON file, at any depth, gives a key twice.

    Raises:
        ConfigError: a key is given twice, or the file cannot be read.
    """
    text = _text(path)
    try:
        json.loads(text)
        text = text.replace("\t", " ")  # JSON is YAML, but for tabs between its tokens
    except ValueError:
        pass
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if root is not None:
        _refuse_duplicates(path, root, "", set())


def refuse_other_types(config: dict[str, Any]) -> None:
    """Checks that a config holds nothing that JSON lacks, as YAML's sets and days.

    Raises:
        ConfigError: it holds something else.
    """
    for where, part in nested("", config):
        if not isinstance(part, JSON_TYPES):
            wanted = "text, a number, true, false, null, a list or a mapping"
            raise ConfigError(f"{where}: expected {wanted}, received {shown(part)}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected text in UTF-8, received the byte {error.object[error.start]:#04x} "
            f"at position {error.start}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _refuse_duplicates(path: Path, node: yaml.Node, where: str, seen: set[int]) -> None:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _refuse_duplicates(path, item, f"{where}{index}.", seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
        same = (key.tag, str(key.value))
        if same in lines:
            raise ConfigError(
                f"{path}, line {line}: the key {where + name!r} was already given in line "
                f"{lines[same]}; keep one of them"
            )
        lines[same] = line
        _refuse_duplicates(path, value, f"{where}{name}.", seen)
