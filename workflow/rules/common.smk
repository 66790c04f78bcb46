# Requires: `config`. Produces: STUDY, and RUNGS of the studies that tune its arms, if it is tuned; for all
# STUDIES, by name, the runs WANTED in its tables and the PLAN that its study.json holds; which checkpoint
# has to CHOOSE for a study; the resources of a `job`, the digest `code_of` modules, and all checks of
# the config.
import functools
import gc
import hashlib
import logging
import os
import re
import shlex
import sys
from collections import Counter, defaultdict
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

import mpo
from mpo.study import config_files, other_scores, questions, references, user_tables
from mpo.study.checksums import Damaged
from mpo.study.config import ConfigError, canonical_json
from mpo.report.figures import FIGURES, TUNING_FIGURES
from mpo.study.files import ANSWERS, CHOICE, PAGES, TABLED, TABLES, TABLE_KINDS, TUNED, TYPESET
from mpo.study.packs import packs
from mpo.study.stale import refuse_taken_name
from mpo.study.status import given_up, noted_damage
from mpo.study.plan import Study
from mpo.study.choice import read_choice

# As a module in another workflow, this one must leave the other's settings and rules alone.
MODULE = workflow.modifier.parent_modifier is not None


def source(path):
    """A file of the pipeline, wherever Snakemake was started."""
    return workflow.source_path(f"../../{path}")


def merged_config():
    """The default study, with the user's config files and `--config` laid over it."""
    default = Path(source("config.yaml"))
    try:
        found = config_files.read(default)
        if workflow.is_main_process:
            # Snakemake has read the user's files. Of a key that is given twice it keeps the last.
            for path in map(Path, [default, *workflow.configfiles]):
                if path.is_file():  # a pipe can be read once only
                    config_files.refuse_duplicate_keys(path)
        for key in {"stage", "rung"} & {*config}:
            raise ConfigError(f"{key}: only the pipeline sets it, received {config[key]!r}")
        config_files.refuse_other_types(config)
    except ConfigError as error:
        raise WorkflowError(f"the config cannot be used:\n{error}")
    if "axes" in config:
        found.pop("contrasts", None)  # they ask for the default study's own axes
    update_config(found, config)
    return found


def user_table(study, name):
    """A table that users may replace: the one in the working directory, else the pipeline's."""
    path, given = getattr(study.tables, name), name in study.tables.model_fields_set
    return path if given or Path(path).exists() else source(path)


def choice_so_far(name):
    """What tuning has chosen for a study; a damaged choice is none, and will be made again."""
    try:
        return read_choice(Path(f"results/{name}/{CHOICE}"))
    except (Damaged, OSError):  # the name may not be one, which is said later
        return None


def parse_study():
    """The validated study. The process that the user started also tries what it imports."""
    try:
        study = Study.parse(CONFIG, choice_so_far(CONFIG.get("study")))
        if workflow.is_main_process:
            refuse_taken_name(study, Path())
            references.check(study, Path(user_table(study, "references")), Path())
            user_tables.baselines(Path(user_table(study, "baselines")))
            other_scores.check(
                study.others, [environment.name for environment in study.environments]
            )
            from mpo.environments.envs import check

            # dm_control logs with absl, which would print all of Snakemake's messages a second
            # time unless the root logger has a handler.
            logging.root.addHandler(logging.NullHandler())
            for environment in study.environments:
                check(environment)
            if study.definitions:
                from mpo.algorithm.optimizers import trial

                for arm, definition in study.definitions.items():
                    trial.check(arm, definition)
    except ConfigError as error:
        raise WorkflowError(f"the config cannot be used:\n{error}")
    return study


def parse_rungs():
    """The config and the study of each rung of tuning; one without halving, none without tuning."""
    found = []
    try:
        for given in STUDY.tuning_stages(CONFIG):
            rung = Study.parse(given, choice_so_far(given["study"]))
            if workflow.is_main_process:
                refuse_taken_name(rung, Path())
            found.append((given, rung))
    except ConfigError as error:
        raise WorkflowError(f"the config cannot be used:\nin the stage of tuning: {error}")
    return found


CONFIG = merged_config()
STUDY = parse_study()
STAGES = [*parse_rungs(), (CONFIG, STUDY)]
CONFIGS = {given["study"]: given for given, _ in STAGES}
STUDIES = {study.study: study for _, study in STAGES}
RUNGS = [study for _, study in STAGES[:-1]]
STUDY_DIR = f"results/{STUDY.study}"
# Of each study but the first, the one before it says what is trained: the checkpoint that does.
CHOOSE = {
    name: "choose" if name == STUDY.study else f"choose_for_rung_{number}"
    for number, name in enumerate(STUDIES, start=1)
    if number > 1
}


def wanted(study):
    """The runs in a study's tables."""
    return [run for run in study.runs if not (study.allow_missing and given_up(run, Path()))]


WANTED = {name: wanted(study) for name, study in STUDIES.items()}
# How runs execute changes no result, so the section is left out.
PLAN = {
    name: canonical_json({key: given[key] for key in given if key != "execution"})
    for name, given in CONFIGS.items()
}


UNKNOWN = "known after tuning"  # no training takes it; a dry run before the choice shows it


@functools.cache
def planned(name, choice):
    """A study; `choice` is the content of the file that says what is trained, as it is now."""
    return Study.parse(CONFIGS[name], choice_so_far(name)) if name in CHOOSE else STUDIES[name]


@functools.cache
def identities(name, choice):
    """The identity of each cell of a study; for `choice` see `planned`."""
    study = planned(name, choice)
    return {c.cell_id: c.spec.identity if study.is_settled else UNKNOWN for c in study.cells}


def choice_now(name):
    """The content of the file that a checkpoint may have written since this file was read."""
    choice = Path(f"results/{name}/{CHOICE}")
    return choice.read_bytes() if name in CHOOSE and choice.is_file() else None


def identity(wildcards):
    """What a training depends on. It is asked for after tuning has chosen, if it has to."""
    # The first rung has all candidates; in later ones they are the same but for their budget.
    name = STUDY.study if wildcards.study == STUDY.study else RUNGS[0].study
    return identities(name, choice_now(name))[wildcards.cell]


if not MODULE:
    config.update(CONFIG)  # for the report
    # Planning makes millions of objects that live to the end. Python's usual garbage collection would
    # take about a tenth of the time.
    gc.set_threshold(1_000_000)
    # Rules call `python`: let that be the one that runs Snakemake, also without an activated
    # environment.
    os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))
    # A scheduler that stops a job signals all of its processes. A shell between Snakemake and the
    # training would die of the signal, and Snakemake would take the training for dead while it saves.
    shell.prefix("set -euo pipefail; exec ")


@functools.cache
def imports():
    """Which module of the package imports which."""
    import grimp

    return grimp.build_graph("mpo", cache_dir=None, exclude_type_checking_imports=True)


@functools.cache
def code_of(*modules):
    """A digest of the source of these modules and of all that they import from the package.

    As a param of a rule it makes an edit redo what depends on it, and nothing else.
    """
    used = set(modules).union(*map(imports().find_upstream_modules, modules))
    # Importing a module runs the packages above it.
    split = [name.split(".") for name in used]
    used |= {".".join(parts[:n]) for parts in split for n in range(1, len(parts))}
    found = hashlib.sha256()
    for name in sorted(used):
        path = Path(mpo.__file__).parent.joinpath(*name.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        found.update(b"\0".join((name.encode(), path.read_bytes(), b"")))
    return found.hexdigest()[:16]


def content_of(*paths):
    """A digest of files that users edit: one that replaces another may be older than the results."""
    return hashlib.sha256(b"\0".join(Path(path).read_bytes() for path in paths)).hexdigest()[:16]


def job(mem_mb, minutes, options=""):
    """The resources of a job: memory and run time grow with each attempt; a profile may set both."""
    return {
        "mem_mb": lambda wildcards, attempt: mem_mb * attempt,
        "runtime": lambda wildcards, attempt: minutes * attempt,
        "options": lambda wildcards, attempt: f"{options} --attempt {attempt}".lstrip(),
    }


# The runs of a stage of tuning are shorter than the reported ones, and may be of the same cell.
BUDGETS = dict(sorted((c.env_slug, c.total_steps) for s in STUDIES.values() for c in s.cells))


def training_job(mem_mb, minutes, options):
    """As `job`, of a training that is compiled if that pays in the environment's longest runs."""
    found = job(mem_mb, minutes, options)

    def all_options(wildcards, attempt):
        steps = BUDGETS[wildcards.cell.split("/")[0]]
        return f"{found['options'](wildcards, attempt)} --planned-steps {steps}"

    return found | {"options": all_options}


def parallel_job(mem_mb, minutes, options):
    """As `job`, told its threads. In the shell command they would make older results anew."""
    found = job(mem_mb, minutes, options)

    def all_options(wildcards, attempt, threads):
        return f"{found['options'](wildcards, attempt)} --threads {threads}"

    return found | {"options": all_options}


small_job = functools.partial(job, 2000, 60)


def chosen(wildcards):
    """What a run waits for, if tuning chooses for it. That it was written again trains nothing."""
    if wildcards.study not in CHOOSE:
        return []
    return ancient(checkpoint_for(wildcards.study).get().output.choice)


def checkpoint_for(name):
    """The checkpoint that chooses for a study."""
    return getattr(checkpoints, CHOOSE[name])


def files_of(runs):
    """The files of runs that tables are made from."""
    return [f"{run.directory}/{name}" for run in runs for name in TABLED]


def tables_of(study, names):
    return [f"results/{study.study}/tables/{name}.{kind}" for name in names for kind in TABLE_KINDS]


def runs_of_rung(wildcards):
    """The files of a rung's runs, once the rung before has chosen them."""
    if wildcards.study in CHOOSE:
        checkpoint_for(wildcards.study).get()
    return files_of(wanted(planned(wildcards.study, choice_now(wildcards.study))))


def record_questions():
    """Writes down what the study asks, before its first run. A calibration is none."""
    if workflow.is_main_process and {*workflow.dag_settings.targets} != {"calibrate"}:
        scale = references.of_study(STUDY, Path(user_table(STUDY, "references")))
        returns = {row.env: row.reference for row in scale}
        questions.write_once(CONFIG, returns, Path(STUDY_DIR))


def report_failures():
    """Writes failures.md, where a study has been started."""
    for name in STUDIES:
        study, page = f"results/{name}/study.json", f"results/{name}/failures.md"
        if Path(study).exists():
            shell("python -m mpo failures --study {study:q} --out {page:q}")


wildcard_constraints:
    study="|".join(map(re.escape, STUDIES)),
    cell="[^/]+/[^/]+",
    seed="[0-9]+",
    steps="[0-9]+",
    env="[^/]+",
