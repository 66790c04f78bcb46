"""The verbs that read what runs left; the docstrings are their help texts.

Imports are late, so that a verb loads only what it needs.
"""

import json
from argparse import Namespace
from pathlib import Path

from mpo.study import checksums
from mpo.study.choice import read_choice
from mpo.study.config import ConfigError
from mpo.study.files import CHOICE, write_json, write_text
from mpo.study.plan import Study


def collect(args: Namespace) -> None:
    """Collects all runs of a study in tables."""
    from mpo.analysis import collect, tables
    from mpo.study.status import write_damage

    study, root = study_of(args.study), root_of(args.study)
    try:
        found = collect.collect(study, root)
    except collect.DamagedRuns as error:
        write_damage(study, root, error.errors)
        raise
    damaged = found["runs"].query("status == 'damaged'")
    write_damage(study, root, dict(zip(damaged["run_id"], damaged["error"], strict=True)))
    tables.write(found, args.out)


def statistics(args: Namespace) -> None:
    """Computes the statistics of a study from its tables."""
    from mpo.analysis import answers, baselines, others, tables

    study = _study_of_tables(args)
    published = baselines.read(study, args.baselines)
    found = answers.compute(study, args.tables, args.references, args.random)
    found |= {"baselines": published, **others.compute(study, args.tables)}
    tables.write(found, args.tables)


def choose(args: Namespace) -> None:
    """Compares the candidates of a tuning stage, and chooses for each arm."""
    from mpo.analysis import references, tables, tuning

    study = _study_of_tables(args)
    if study.stage != "tuning":
        raise ConfigError(f"--study: expected the study of a tuning stage, received {args.study}")
    scale = references.read(study, args.references, args.random)
    found, record = tuning.compute(study, args.tables, scale)
    tables.write(found, args.tables)
    write_json(args.out, checksums.sealed(record))


def typeset(args: Namespace) -> None:
    """Writes the main tables as LaTeX and Markdown."""
    from mpo.report import paper_tables

    paper_tables.write(_study_of_tables(args), args.tables, args.out)


def figure(args: Namespace) -> None:
    """Draws one figure from the tables and writes its caption."""
    from mpo.report import figures

    study = _study_of_tables(args)
    figures.draw(args.name, study, args.tables, args.out)
    write_text(args.caption, figures.caption_rst(args.name, study, args.tables))


def summary(args: Namespace) -> None:
    """Writes the summary of a study, with its figures and tables."""
    from mpo.report import summary as report

    study = _study_of_tables(args)
    report.write(study, args.tables, args.figures, args.out, args.tuning, args.study)


def pages(args: Namespace) -> None:
    """Writes the summary, tables, config and videos as HTML pages."""
    from mpo.report import html
    from mpo.study import files

    _study_of_tables(args)
    html.summary(args.summary, args.out / "summary.html")
    html.config(args.study, args.out / "config.html")
    for name in files.PAGES:
        html.table(args.tables, name, args.out / f"{name}.html")
    if args.films:
        html.films(args.films, args.out / "films.html")


def merge(args: Namespace) -> None:
    """Copies runs of the same study from other machines into this one."""
    from mpo.jobs import merge as module

    found = module.merge(args.sources, args.into, policies=not args.without_policies)
    print(f"{args.into}: {len(found.taken)} runs taken, {len(found.present)} were there already")


def archive(args: Namespace) -> None:
    """Packs a finished study into one file, with the checksums of all that is in it."""
    from mpo.jobs.archive import contents, crate, pack

    study, root = study_of(args.study), root_of(args.study)
    found = contents.contents(study, root)
    if not args.study.samefile(found.folder / "study.json"):
        raise ConfigError(f"--study: expected {found.folder}/study.json, received {args.study}")
    about = crate.About(args.author, args.license, args.published)
    done = pack.pack(found, about, args.out)
    missing = f" Missing runs: {len(found.missing)}." if found.missing else ""
    tuned = f" Tuned in study {found.tuned_in}, which is not packed." if found.tuned_in else ""
    print(f"{args.out}: {done}.{missing}{tuned}")


def check(args: Namespace) -> None:
    """Compares all files of an archive with the checksums in it."""
    from mpo.jobs.archive.check import check as compare

    print(f"{args.archive}: all as it was packed: {compare(args.archive)}.")


def status(args: Namespace) -> None:
    """Prints the status of every run, during and after the workflow, and what is left to do."""
    from mpo.study.overview import overview

    found = [args.study] if args.study else sorted(Path("results").glob("*/study.json"))
    if not found:
        raise ConfigError("no study has been started here: no file matches results/*/study.json")
    parts = []
    for path in found:
        try:
            study = study_of(path)
            parts.append(overview(study, root_of(path), _stages(path, study)))
        except (checksums.Damaged, OSError) as error:
            if args.study:
                raise
            parts.append(str(error))
    print("\n\n".join(parts))


def failures(args: Namespace) -> None:
    """Writes a page about the runs that diverged or failed."""
    from mpo.study import overview

    study = study_of(args.study)
    write_text(args.out, overview.failures(study, root_of(args.study)))


def root_of(study: Path) -> Path:
    """The directory that contains `results/`: that of the study's file, wherever a user is."""
    return study.parents[2] if study.parts[-3:-2] == ("results",) else Path()


def study_of(path: Path) -> Study:
    """Reads the plan of a study, with what tuning has chosen for it."""
    own = path.name == "study.json"
    try:
        with checksums.reading(path):
            config = json.loads(path.read_text(encoding="utf-8"))
            study = Study.parse(config, read_choice(path.with_name(CHOICE)))
    except checksums.Damaged as error:
        if own:
            raise
        # It may be any file of the user's, which nobody should delete.
        text = f"expected the study.json of a study, received {path}: {error.__cause__}"
        raise ConfigError(text) from error
    if own and path.parts[-3:-2] == ("results",) and path.parts[-2] != study.study:
        raise checksums.Damaged(path, f"it is the plan of study {study.study}")
    return study


def _study_of_tables(args: Namespace) -> Study:
    """Reads the plan of a study, whose runs must be those of the tables."""
    from mpo.analysis import tables

    study = study_of(args.study)
    tables.refuse_other_runs(study, args.tables)
    return study


def _stages(path: Path, study: Study) -> list[Study]:
    """The studies that tune the arms of the one in a file, if they are tuned."""
    results = root_of(path) / "results"
    return [
        Study.parse(config, read_choice(results / config["study"] / CHOICE))
        for config in study.tuning_stages(json.loads(path.read_text(encoding="utf-8")))
    ]
