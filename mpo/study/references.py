"""Reference returns, which are a score of 1: those of a user's table, and those built in."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mpo.study import user_tables
from mpo.study.checksums import Damaged, read_record
from mpo.study.config import ConfigError
from mpo.study.plan import Study
from mpo.study.user_tables import Reference

_DM_CONTROL_STEPS = 1000


def of_study(study: Study, table: Path) -> list[Reference]:
    """Returns a row for each environment of a study, in their order.

    Args:
        study: the study.
        table: csv of reference returns, see `user_tables.references`.

    Returns:
        The row of the table, else what is built in; without either, a row without a reference.

    Raises:
        ConfigError: see `user_tables.references`.
    """
    names = [environment.name for environment in study.environments]
    return of_environments(names, table, study.evaluation.max_episode_steps)


def of_environments(names: Sequence[str], table: Path, limit: int | None) -> list[Reference]:
    """As `of_study`; `limit` is the greatest length of an evaluation's episodes."""
    rows = {row.env: row for row in user_tables.references(table)}
    return [rows.get(name) or _built_in(name, limit) for name in names]


def refuse_low(row: Reference, random: float, table: Path) -> None:
    """Checks that a reference is above the random return.

    Raises:
        ConfigError: it is not.
    """
    if row.reference is not None and row.reference <= random:
        raise ConfigError(
            f"{table}: the reference of {row.env} must be above the random return "
            f"{random:.4g}, received {row.reference}"
        )


def check(study: Study, table: Path, root: Path) -> None:
    """Checks that the references can be read and used, and that there is one if tuning needs one.

    Args:
        study: the study.
        table: csv of reference returns.
        root: the directory that contains `results/`, in which random returns may be known.

    Raises:
        ConfigError: see `user_tables.references`; or a reference is not above the random return,
            where that is known; or one candidate is to be chosen for all environments, and none in
            which candidates are trained has a reference.
    """
    every = of_study(study, table)
    for environment, row in zip(study.environments, every, strict=True):
        path = root / "results" / study.study / "random" / f"{environment.slug}.json"
        with suppress(OSError, Damaged):  # what is not there or is damaged will be made again
            random = read_record(path).get("mean")
            if isinstance(random, float):
                refuse_low(row, random, table)
    tuned = {environment.name for environment in study.tuned_environments}
    found = [row for row in every if row.env in tuned]
    across = study.tuned is not None and study.tuned.choose == "across"
    if across and all(row.reference is None for row in found):
        raise ConfigError(
            "tuning.choose: expected 'environment', since no environment in which candidates are "
            f"trained has a reference in {table}, received 'across' with "
            f"{', '.join(row.env for row in found)}"
        )


def _built_in(name: str, limit: int | None) -> Reference:
    """The reference of an environment that the table lacks; `limit` is of evaluation's episodes."""
    if not name.startswith("dm_control/"):
        return Reference(env=name, reference=None, what=None, source=None)
    steps = min(_DM_CONTROL_STEPS, limit or _DM_CONTROL_STEPS)
    return Reference(
        env=name,
        reference=float(steps),
        what="the largest return there is: dm_control's tasks reward 0 to 1 a step for "
        f"{steps} steps",
        source="arXiv 1801.00690",
    )
