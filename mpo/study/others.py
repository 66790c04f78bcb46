"""The files of other people's scores that a study names, and how each is to be read."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from mpo.study.config import FilePath, Positive, Section, check_keys
from mpo.study.user_tables import Text

Column = Literal[
    "env",
    "algorithm",
    "env_step",
    "seed",
    "return",
    "mean",
    "n",
    "sd",
    "half_width",
    "lo",
    "hi",
]

_FORMS: tuple[set[str], ...] = (
    {"seed", "return"},
    {"mean", "n", "sd"},
    {"mean", "n", "half_width"},
    {"mean", "n", "lo", "hi"},
)
"""What a row can be: the score of a seed, or the mean of n seeds with its spread."""


class Others(Section):
    """A file of scores of other people's runs, as a config names it."""

    path: Annotated[FilePath, Field(pattern=r"\.(csv|parquet)$")]
    """The file, .csv or .parquet."""

    columns: dict[Column, Text]
    """The file's own names of its columns. Always `env`, `env_step`, and one of four forms: `seed`
    and `return`, if a row is a score of one seed; or `mean`, `n` (seeds) and `sd` (of the seeds),
    `half_width` or `lo` and `hi` (of a 95 % interval), if it is a mean. Also `algorithm`, if the
    file has several."""

    algorithm: Text | None = None
    """Name of the algorithm. If `columns` has `algorithm`, too, only its rows are read; with that
    column alone, those of every algorithm."""

    environments: dict[Text, Text] = {}
    """The file's own names of environments, with the names in the study, which must have them.
    Those that are the same need no entry. Rows of other environments are left out."""

    step_factor: Positive = 1.0
    """Environment steps per step of the file, for example 2 if it counts decisions with action
    repeat 2."""

    source: Text
    """Where the file comes from."""

    notes: Text | None = None
    """What a reader must know to compare, such as the version of the environment and how the runs
    were evaluated."""

    @field_validator("columns", mode="before")
    @classmethod
    def _known_columns(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            check_keys(value, get_args(Column))
        return value

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = {*self.columns} - {"algorithm"}
        if given not in [{"env", "env_step", *form} for form in _FORMS]:
            raise ValueError(
                "columns: expected env and env_step with seed, return or mean, n and one of sd, "
                f"half_width or lo, hi; received {', '.join(self.columns)}"
            )
        if twice := _repeated(self.columns):
            raise ValueError(f"columns: expected each column once, received {twice!r} twice")
        if twice := _repeated(self.environments):
            raise ValueError(
                "environments: expected one name of the file for each environment, received "
                f"two for {twice!r}"
            )
        if self.algorithm is None and "algorithm" not in self.columns:
            raise ValueError("expected algorithm, its name, or columns.algorithm; received neither")
        return self


def _repeated(names: Mapping[Any, str]) -> str | None:
    """The first value that several keys have."""
    return next((name for name, count in Counter(names.values()).items() if count > 1), None)
