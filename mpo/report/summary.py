"""Writes a study's `summary.md`: plan, answers, tables, figures, costs and provenance."""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pandas as pd

from mpo.analysis.baselines import comparable, in_words
from mpo.analysis.tables import made_of, read
from mpo.provenance import commit, packages
from mpo.report import answers, others, paper_tables, planned, tuning
from mpo.report import figures as drawings
from mpo.report.numbers import number
from mpo.report.typeset import inline, markdown
from mpo.study import questions
from mpo.study.checksums import Damaged, read_object
from mpo.study.files import QUESTIONS, write_text
from mpo.study.plan import Study
from mpo.study.status import FINISHED
from mpo.study.words import plural

_ORIGIN = {
    "git_sha": "commit",
    "git_dirty": "uncommitted changes",
    "algorithm_version": "algorithm version",
    "device_name": "device",
    "cpu": "CPU",
    "blas": "BLAS",
    "host": "host",
    "threads": "threads per run",
    "compiled": "compiled by torch",
    "python": "Python",
    "torch": "torch",
    "gymnasium": "gymnasium",
    "mujoco": "mujoco",
    "dm_control": "dm_control",
    "numpy": "numpy",
}
"""Provenance columns of `runs`, with their labels."""

_ANALYSIS = ("numpy", "pandas", "scipy", "matplotlib", "seaborn")
_NAMED = 10


def write(
    study: Study,
    tables: Path,
    figures: Sequence[Path],
    output: Path,
    tuning_tables: Sequence[Path] = (),
    plan: Path | None = None,
) -> None:
    """Writes the summary.

    Args:
        study: the study's plan.
        tables: the directory of its tables.
        figures: PNG files, named like their figures; linked relative to `output`.
        output: the Markdown file.
        tuning_tables: the directory of the tables of the tuning stage, if arms were tuned; with
            halving, of each rung.
        plan: the study.json, beside which the study's questions were recorded; if given, what was
            edited since is named.
    """
    runs = read(tables, "runs")
    parts = [
        f"# Study `{study.study}`",
        *(_edited(study, plan, read(tables, "references")) if plan else []),
        planned.section(study),
        *_missing(runs),
        *_unlike(runs),
        *_mixed(runs),
        *_no_scale(read(tables, "references")),
        *_other_scale(study, runs, read(tables, "references")),
        *answers.section(study, tables),
        *(tuning.section(study, tuning_tables) if tuning_tables else []),
        "## Final scores",
        markdown(paper_tables.final_scores(study, tables)).rstrip(),
        *_before_training(tables),
        markdown(paper_tables.aggregates(study, tables)).rstrip(),
        *others.section(study, tables),
        *_published(comparable(read(tables, "baselines"), study)),
        "## Figures",
        *(
            _figure(study, _source(path, tables, tuning_tables), path, output.parent)
            for path in figures
        ),
        "## Cost",
        markdown(paper_tables.costs(study, tables)).rstrip(),
        "## Provenance",
        _provenance(runs, tables),
    ]
    write_text(output, "\n\n".join(parts) + "\n")


def _edited(study: Study, plan: Path, references: pd.DataFrame) -> list[str]:
    """A warning at the top of the page if the config is not the one that the study began with."""
    try:
        recorded = questions.read(plan.with_name(QUESTIONS))
    except (Damaged, OSError):
        return [f"**{QUESTIONS} is damaged: whether the questions were edited is unknown.**"]
    if recorded is None:
        text = "The study's questions were not recorded before its first run."
        return [text] if study.contrasts else []
    known = references[references["random"].notna()]  # else the reference was not used
    returns = known["reference"].astype(object).where(known["reference"].notna(), None)
    now = dict(zip(known["env"], returns, strict=True))
    sections = questions.edited(recorded, read_object(plan), now)
    day = datetime.fromisoformat(recorded["time"]).date()
    text = f"**Edited after the study was first started ({day}): {', '.join(sections)}.**"
    return [text] if sections else []


def _missing(runs: pd.DataFrame) -> list[str]:
    """Warnings at the top of the page: runs that are missing, and runs that diverged."""
    notes = []
    missing = runs[~runs["status"].isin(FINISHED)]
    if len(missing):
        names = ", ".join(f"{r.run_id} ({r.status})" for r in missing.head(_NAMED).itertuples())
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        notes.append(f"**{plural(len(missing), 'run')} of {len(runs)} missing: {names}{more}.**")
    diverged = runs[runs["status"] == "diverged"]
    if len(diverged):
        notes.append(
            f"{plural(len(diverged), 'run')} diverged (scored by the last finite policy): "
            + "; ".join(
                f"{r.run_id}, {inline(r.error)}" for r in diverged.head(_NAMED).itertuples()
            )
            + (f"; and {len(diverged) - _NAMED} more." if len(diverged) > _NAMED else ".")
        )
    return notes


def _before_training(tables: Path) -> list[str]:
    """Says where training began, and which arms have ended below that."""
    curves, scores = read(tables, "curves"), read(tables, "scores").query("policy == 'mode'")
    start = curves[curves["env_step"] == 0].set_index(["env", "arm"])["mean"]
    if start.isna().all():
        return []
    each = ", ".join(
        f"{env} {number(mean)}" for env, mean in start.groupby("env", sort=False).mean().items()
    )
    ended = scores.set_index(["env", "arm"])["mean"]
    below = ended.index[ended < start.reindex(ended.index)]
    said = "; ".join(
        f"{arm} in {env} ({number(ended[env, arm])}, from {number(start[env, arm])})"
        for env, arm in below
    )
    text = f"Mean return before training, of the mean action, over all arms: {each}."
    return [f"{text} **Ended below where they began: {said}.**" if said else text]


def _published(baselines: pd.DataFrame) -> list[str]:
    """The section on the published returns to compare with; empty without any."""
    if baselines.empty:
        return []
    table = pd.DataFrame(
        {
            "environment": baselines["env"],
            "algorithm": baselines["algorithm"],
            "steps": baselines["steps"],
            "return": [in_words(row) for row in baselines.to_dict("records")],
            "runs": baselines["n"].map("{:g}".format, na_action="ignore").fillna(""),
            "source": baselines["source"],
            # Tables of an older version have none.
            "notes": baselines.reindex(columns=["notes"])["notes"].fillna(""),
        }
    )
    return [
        "## Published returns",
        "Of each algorithm the row with the most steps within the budget, or else with the fewest. "
        "All rows are in tables/baselines.",
        table.map(inline).to_markdown(index=False, disable_numparse=True),
    ]


def _source(figure: Path, tables: Path, tuning_tables: Sequence[Path]) -> Path:
    """The directory of the tables that a figure is drawn from."""
    return tuning_tables[0] if figure.stem in drawings.TUNING_FIGURES and tuning_tables else tables


def _figure(study: Study, tables: Path, path: Path, page: Path) -> str:
    link = os.path.relpath(path, page)
    return f"![{path.stem}]({link})\n\n{inline(drawings.caption(path.stem, study, tables))}"


def _provenance(runs: pd.DataFrame, tables: Path) -> str:
    lines = [
        f"Trained from {runs['started'].dropna().min()} to {runs['finished'].dropna().max()}.",
        "",
    ]
    lines += [f"- {words}: {', '.join(found)}" for words, found in _origins(runs).items()]
    versions = ", ".join(f"{name} {version}" for name, version in packages(_ANALYSIS).items())
    made = f"- this page and its figures: commit {commit()}, {versions}, {made_of(tables)}"
    return "\n".join([*lines, made])


def _unlike(runs: pd.DataFrame) -> list[str]:
    """A warning at the top of the page if runs differ in code, packages or hardware."""
    differing = [
        f"{words} ({', '.join(found)})" for words, found in _origins(runs).items() if len(found) > 1
    ]
    warning = f"**The runs differ in: {'; '.join(differing)}.**"
    return [warning] if differing else []


def _versions(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the `version` of their environment, one row for each if a run has several."""
    known = runs.dropna(subset="environment_version")
    versions = known["environment_version"].astype(str).str.split("+")
    return known.assign(version=versions).explode("version")


def _other_scale(study: Study, runs: pd.DataFrame, references: pd.DataFrame) -> list[str]:
    """Warnings at the top of the page: random returns of another version of the environment."""
    if "environment_version" not in references:  # tables of an older version
        return []
    known = _versions(runs)
    slugs = {environment.name: environment.slug for environment in study.environments}
    notes = []
    for env, version in references[["env", "environment_version"]].dropna().itertuples(index=False):
        own = set(known.loc[known["env"] == env, "version"])
        if own and version not in own:
            path = f"results/{study.study}/random/{slugs[env]}.json"
            notes.append(
                f"**The random return in {env} is of another version of the environment than its "
                f"runs.** Their scores are not comparable. Delete `{path}` to measure it again; if "
                "the runs are of the older version, delete and train them."
            )
    return notes


def _no_scale(references: pd.DataFrame) -> list[str]:
    """Warnings at the top of the page: environments that failed with random actions."""
    if "error" not in references:  # tables of an older version
        return []
    return [
        f"**No scores in {env}: its random return could not be measured.** {inline(error)}"
        for env, error in references[["env", "error"]].dropna().itertuples(index=False)
    ]


def _mixed(runs: pd.DataFrame) -> list[str]:
    """Warnings at the top of the page: cells that used another version of their environment."""
    known = _versions(runs)
    known = known.assign(cell=known["run_id"].str.rsplit("/", n=1).str[0])
    notes = []
    for env, own in known.groupby("env", sort=False):
        versions = own["version"].value_counts()
        unusual = own.loc[own["version"] != versions.index[0], "cell"]
        cells = own[own["cell"].isin(unusual)].groupby("cell", sort=False)["seed"]
        if len(versions) > 1:
            names = "; ".join(
                f"{cell}, seeds {', '.join(map(str, sorted({*seeds})))}" for cell, seeds in cells
            )
            text = f"{len(versions)} versions of the environment: {names}"
            notes.append(f"**The runs in {env} mix {text}.** Their returns are not comparable.")
    return notes


def _origins(runs: pd.DataFrame) -> dict[str, list[str]]:
    """All distinct values of each provenance column, by its label."""
    return {
        words: [inline(value) for value in runs[column].dropna().unique()]
        for column, words in _ORIGIN.items()
    }
