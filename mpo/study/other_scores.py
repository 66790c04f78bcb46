"""The rows of files with other people's scores, checked one by one.

pandas and pyarrow are not imported here, since csv files are checked while Snakemake plans.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo.study.config import MAX_COUNT, ConfigError, nearest
from mpo.study.others import Column, Others
from mpo.study.user_tables import csv_rows, row_of

Row = dict[str, Any]
"""`algorithm`, `env`, `env_step` and the columns of one of the forms. Empty cells are NaN."""

_MAY_BE_EMPTY = ("sd", "half_width", "lo", "hi")  # of one seed they are unknown

_NAMED = 8  # names in a message


def of_csv(others: Others, environments: Collection[str]) -> list[Row]:
    """Reads a csv file, see `rows_of`.

    Raises:
        ConfigError: as in `rows_of`, or the file cannot be read.
    """
    path = Path(others.path)
    lines = csv_rows(path)
    _, head = next(lines, (1, []))
    refuse_missing_columns(others, head)
    table = (
        (f"{path}, line {line}", row_of(f"{path}, line {line}", head, values))
        for line, values in lines
    )
    return rows_of(others, table, environments)


def refuse_missing_columns(others: Others, head: Sequence[str]) -> None:
    """Checks that a file has the columns that its entry names, each once.

    Raises:
        ConfigError: it has not.
    """
    for key, name in others.columns.items():
        if head.count(name) != 1:
            raise ConfigError(
                f"{others.path}: expected one column {name!r} (columns.{key}), received "
                f"{', '.join(head)[:200] or 'nothing'}"
            )


def rows_of(
    others: Others, table: Iterable[tuple[str, Mapping[str, Any]]], environments: Collection[str]
) -> list[Row]:
    """Reads the rows that a study compares with, and checks them.

    Args:
        others: the entry of the config.
        table: for each row where it is, for messages, and its cells by the file's columns.
        environments: the names of the study's environments.

    Raises:
        ConfigError: a value is wrong, two rows are of the same point, `environments` of the entry
            has a name that the file lacks, or no row is of an environment of the study.
    """
    found: dict[tuple[Any, ...], tuple[str, Row]] = {}
    named: dict[str, dict[str, None]] = {"env": {}, "algorithm": {}}
    for where, cells in table:
        own: dict[str, str] = {
            key: _text(others, where, cells, key)
            for key in others.columns
            if key in ("env", "algorithm")
        }
        for key, name in own.items():
            named[key][name] = None
        env, algorithm = others.environments.get(own["env"], own["env"]), own.get("algorithm")
        if env not in environments or algorithm not in (None, others.algorithm or algorithm):
            continue
        row = {
            "algorithm": algorithm or others.algorithm,
            "env": env,
            **_numbers(others, where, cells),
        }
        same = tuple(row.get(key) for key in ("algorithm", "env", "env_step", "seed"))
        if same in found:
            shown = ", ".join(str(part) for part in same if part is not None)
            raise ConfigError(f"{where}: a second row for {shown}; the first is {found[same][0]}")
        found[same] = where, row
    _refuse_unknown_names(others, named, environments, bool(found))
    return [row for _, row in found.values()]


def _refuse_unknown_names(
    others: Others,
    named: Mapping[str, Mapping[str, None]],
    environments: Collection[str],
    any_row: bool,
) -> None:
    column = others.columns["env"]
    for name in others.environments:
        if name not in named["env"]:
            raise ConfigError(
                f"{others.path}: environments: expected names in the column {column!r} "
                f"({_some(named['env'])}), received {name!r}"
            )
    for name, target in others.environments.items():
        if target in named["env"] and target not in others.environments:
            raise ConfigError(
                f"{others.path}: environments.{name}: expected an environment that the column "
                f"{column!r} does not name itself, received {target!r}"
            )
    if "algorithm" in others.columns and others.algorithm not in (None, *named["algorithm"]):
        raise ConfigError(
            f"{others.path}: algorithm: expected one in the column "
            f"{others.columns['algorithm']!r} ({_some(named['algorithm'])}), received "
            f"{others.algorithm!r}"
        )
    if not any_row:
        raise ConfigError(
            f"{others.path}: expected rows of the study's environments ({_some(environments)}), "
            f"received {_some(named['env']) or 'none'} in the column {column!r}; `environments` "
            "can translate names"
        )


def _numbers(others: Others, where: str, cells: Mapping[str, Any]) -> Row:
    """The seed and the numbers of a row, checked."""
    row: Row = {}
    for key, name in others.columns.items():
        if key == "seed":
            row[key] = _seed(f"{where}, {name}", _text(others, where, cells, key))
        elif key not in ("env", "algorithm"):
            row[key] = _number(f"{where}, {name}", cells[name], key in _MAY_BE_EMPTY)
    factor = others.step_factor
    for key, least, most in (
        ("env_step", 0, MAX_COUNT / factor),
        ("n", 1, MAX_COUNT),
        ("sd", 0, math.inf),
        ("half_width", 0, math.inf),
    ):
        value = row.get(key, math.nan)
        if value < least or value > most or (key == "n" and value % 1 > 0):
            wanted = f"a {'whole ' if key == 'n' else ''}number of at least {least}"
            more = "" if most == math.inf else f" and at most {most:g}"
            name = others.columns[key]
            raise ConfigError(f"{where}, {name}: expected {wanted}{more}, received {value:g}")
    row["env_step"] = round(row["env_step"] * factor)
    if "lo" in row and math.isnan(row["lo"]) != math.isnan(row["hi"]):
        received = f"{row['lo']:g} and {row['hi']:g}"
        raise ConfigError(f"{where}: expected lo and hi, or neither, received {received}")
    if "lo" in row and not math.isnan(row["lo"]):
        if not row["lo"] <= row["mean"] <= row["hi"]:
            received = ", ".join(f"{row[key]:g}" for key in ("lo", "mean", "hi"))
            raise ConfigError(f"{where}: expected lo <= mean <= hi, received {received}")
    return row


def _text(others: Others, where: str, cells: Mapping[str, Any], key: Column) -> str:
    name = others.columns[key]
    value = "" if cells[name] is None else str(cells[name]).strip()
    if not value:
        raise ConfigError(f"{where}, {name}: expected a name, received {cells[name]!r}")
    return value


def _seed(where: str, text: str) -> str:
    """The name of a seed, the same for a whole number in any form."""
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        raise ConfigError(f"{where}: expected a seed, received {text!r}")
    return str(int(number)) if number.is_integer() else text


def _number(where: str, value: Any, may_be_empty: bool) -> float:
    if may_be_empty and (value is None or value == "" or value != value):
        return math.nan
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{where}: expected a finite number, received {value!r}")
    return number


def _some(names: Collection[str]) -> str:
    listed = [*names]
    return ", ".join(listed[:_NAMED]) + (", ..." if len(listed) > _NAMED else "")


def refuse_shared(files: Iterable[tuple[Others, Sequence[Row]]]) -> None:
    """Checks that no two files have scores of the same algorithm in the same environment.

    Raises:
        ConfigError: two have.
    """
    found: dict[tuple[str, str], str] = {}
    for others, rows in files:
        for key in dict.fromkeys((row["algorithm"], row["env"]) for row in rows):
            if key in found:
                raise ConfigError(
                    f"{others.path}: expected each algorithm in an environment in one file, "
                    f"received {' in '.join(key)} here and in {found[key]}"
                )
            found[key] = others.path


def check(files: Sequence[Others], environments: Collection[str]) -> None:
    """Checks the files that a study names, as far as that is cheap.

    Of a parquet file only whether it exists; its content is checked where it is read.

    Raises:
        ConfigError: see `of_csv` and `refuse_shared`, or there is no such file, or a name is
            translated to one that no environment of the study has.
    """
    for others in files:
        for name, target in others.environments.items():
            if target not in environments:
                raise ConfigError(
                    f"{others.path}: environments.{name}: {nearest(target, environments)}expected "
                    f"an environment of the study ({_some(environments)}), received {target!r}"
                )
        if not Path(others.path).is_file():
            raise ConfigError(f"{others.path} cannot be read: expected a file, received none")
    tables = [others for others in files if others.path.endswith(".csv")]
    refuse_shared([(others, of_csv(others, environments)) for others in tables])
