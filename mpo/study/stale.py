"""Finished files of another plan: found by content, whatever Snakemake remembers of them.

Snakemake compares params with its own records in `.snakemake/`. These are lost when results are
copied from a cluster or a checkout is cleaned, and `--rerun-triggers mtime` ignores them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mpo.study.cells import Run
from mpo.study.checksums import Damaged
from mpo.study.choice import read_choice
from mpo.study.config import ConfigError
from mpo.study.files import CHOICE, EVALUATION_COST, RUN
from mpo.study.plan import Study


def stale_files(study: Study, plan: str, runs: Iterable[Run], root: Path) -> list[Path]:
    """Returns the files below `root` that were made from another plan than this one.

    A choice of tuning that is not the one that its job wrote, or that was made among other
    candidates or for other arms, is among them.

    Args:
        study: what is planned.
        plan: the text that study.json should hold.
        runs: the runs that are wanted.
        root: the directory that contains `results/`.

    Returns:
        Paths relative to `root`: study.json, a run's run.json or evals.json, a random return. A
        file that is missing, cannot be read or does not tell its spec is not among them.
    """
    folder = Path("results", study.study)
    found = (
        [folder / "study.json"] if _text(root / folder / "study.json") not in (None, plan) else []
    )
    evaluation = study.evaluation_spec.model_dump(mode="json")
    # Of tuned arms without a choice yet, nobody knows the spec.
    for run in runs if study.is_settled else ():
        expected = {RUN: run.spec.model_dump(mode="json"), EVALUATION_COST: evaluation}
        found += [
            run.directory / name
            for name, spec in expected.items()
            if _spec(root / run.directory / name) not in (None, spec)
        ]
    if study.tuned is not None:
        try:
            unusable = read_choice(root / folder / CHOICE) is not None and not study.is_settled
        except Damaged:
            unusable = True
        found += [folder / CHOICE] if unusable else []
    for environment in study.environments:
        path = folder / "random" / f"{environment.slug}.json"
        spec = study.random_spec(environment).model_dump(mode="json")
        if _spec(root / path) not in (None, spec):
            found.append(path)
    return found


def refuse_taken_name(study: Study, root: Path) -> None:
    """Checks that the folder of a study is not that of another study's stage of tuning.

    Args:
        study: what is planned.
        root: the directory that contains `results/`.

    Raises:
        ConfigError: one of the two is reported and the other is a stage of tuning.
    """
    path = root / "results" / study.study / "study.json"
    try:
        there = json.loads(_text(path) or "null")
    except json.JSONDecodeError:
        return
    stage = there.get("stage", "reported") if isinstance(there, dict) else study.stage
    if stage != study.stage:
        raise ConfigError(
            f"study: {path.parent} holds a study of stage {stage!r}, and this config would make it "
            f"one of stage {study.stage!r}; give the study another name"
        )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeError):
        return None


def _spec(path: Path) -> Any:
    """Returns the spec that a record tells of, or None."""
    try:
        record = json.loads(_text(path) or "null")
    except json.JSONDecodeError:
        return None
    return record.get("spec") if isinstance(record, dict) else None
