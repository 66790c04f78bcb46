"""Reference returns, which are a score of 1: those of a user's table, and those built in."""

from pathlib import Path

from mpo.study import user_tables
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
    rows = {row.env: row for row in user_tables.references(table)}
    limit = study.evaluation.max_episode_steps
    names = [environment.name for environment in study.environments]
    return [rows.get(name) or _built_in(name, limit) for name in names]


def check(study: Study, table: Path) -> None:
    """Checks that the references can be read, and that there is one if tuning needs one.

    Raises:
        ConfigError: see `user_tables.references`; or one candidate is to be chosen for all
            environments, and none in which candidates are trained has a reference.
    """
    tuned = {environment.name for environment in study.tuned_environments}
    found = [row for row in of_study(study, table) if row.env in tuned]
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
