"""The tables that users edit: reference returns and published returns, checked row by row.

pandas is not imported here, since the tables are checked while Snakemake plans.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import BeforeValidator, StringConstraints, ValidationError, model_validator

from mpo.study.config import ConfigError, Count, Float, Section, explain

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Cell = BeforeValidator(lambda value: None if value == "" else value)
"""For values that may be left empty."""


class Reference(Section):
    """The return that is a score of 1 in an environment: one row of `config/references.csv`."""

    env: Text
    reference: Annotated[Float | None, Cell]
    """Undiscounted return; empty if the environment has none."""
    what: Annotated[str | None, Cell]
    """What reaches this return."""
    source: Annotated[str | None, Cell]


class Baseline(Section):
    """A published result: one row of `config/baselines.csv`; lo, hi, n and notes may be empty."""

    env: Text
    algorithm: Text
    steps: Count
    """Environment steps of training."""
    mean: Float
    """Undiscounted return."""
    lo: Annotated[Float | None, Cell]
    """Lower bound of an interval of the mean; `source` says which interval. Needs `hi`."""
    hi: Annotated[Float | None, Cell]
    """Upper bound of that interval; needs `lo`."""
    n: Annotated[Count | None, Cell]
    """Number of training runs."""
    source: Text
    notes: Annotated[str | None, Cell] = None
    """How the result came about: version of the environment, action repeat, updates per step,
    evaluation. The column may be left out."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lo is self.hi is None:
            return self
        if self.lo is None or self.hi is None or not self.lo <= self.mean <= self.hi:
            received = f"{self.lo}, {self.mean}, {self.hi}"
            raise ValueError(f"expected lo <= mean <= hi, received {received}")
        return self


Row = TypeVar("Row", bound=Section)


def references(table: Path) -> list[Reference]:
    """Reads reference returns.

    Args:
        table: csv file with the fields of `Reference` as columns.

    Raises:
        ConfigError: the file cannot be read, a column is missing or unknown, a value is wrong, or
            two rows are of one environment. The message names the line and the column.
    """
    return _read(table, Reference, ("env",))


def baselines(table: Path) -> list[Baseline]:
    """Reads published returns.

    Args:
        table: csv file with the fields of `Baseline` as columns.

    Raises:
        ConfigError: as in `references`; two rows may not have the same environment, algorithm and
            steps.
    """
    return _read(table, Baseline, ("env", "algorithm", "steps"))


def csv_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields each row of a csv file that is not empty, after the number of its last line.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        # Spreadsheets begin their files with a mark of the encoding.
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.reader(lines, strict=True)
            for values in rows:
                if values:
                    yield rows.line_num, values
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ConfigError(f"{table}: expected text in UTF-8, received {byte:#04x}") from None
    except csv.Error as error:
        raise ConfigError(f"{table}, line {rows.line_num}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{table} cannot be read: {error.strerror}") from None


def row_of(where: str, head: list[str], values: list[str]) -> dict[str, str]:
    """Returns a row's values by the names of their columns.

    Args:
        where: the file and the line, for messages.
        head: the names of the columns.
        values: of the row.

    Raises:
        ConfigError: there are more or fewer values than columns.
    """
    if len(values) != len(head):
        raise ConfigError(
            f"{where}: expected {len(head)} values, received {len(values)}: {', '.join(values)}"
        )
    return dict(zip(head, values, strict=True))


def _read(table: Path, kind: type[Row], key: tuple[str, ...]) -> list[Row]:
    found: dict[tuple[object, ...], tuple[int, Row]] = {}
    rows = csv_rows(table)
    _, head = next(rows, (1, []))
    _check_head(table, kind, head)
    for line, values in rows:
        row = _row(f"{table}, line {line}", kind, head, values)
        same = tuple(getattr(row, name) for name in key)
        if same in found:
            raise ConfigError(
                f"{table}, line {line}: a second row for {', '.join(map(str, same))}; the "
                f"first is in line {found[same][0]}"
            )
        found[same] = line, row
    return [row for _, row in found.values()]


def _check_head(table: Path, kind: type[Row], head: list[str]) -> None:
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    optional = [name for name in kind.model_fields if name not in required]
    wanted = [*required, *(name for name in optional if name in head)]
    if sorted(head) != sorted(wanted):
        more = f" (and {', '.join(optional)}, which may be left out)" if optional else ""
        raise ConfigError(
            f"{table}: expected the columns {', '.join(required)}{more} in the first line, "
            f"received {', '.join(head)[:200] or 'nothing'}"
        )


def _row(where: str, kind: type[Row], head: list[str], values: list[str]) -> Row:
    try:
        return kind.model_validate(row_of(where, head, values))
    except ValidationError as error:
        problems = explain(error).splitlines()
        raise ConfigError("\n".join(f"{where}, {problem}" for problem in problems)) from None
