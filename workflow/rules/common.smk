# Requires: `config`. Produces: STUDY, its CELLS by id, the runs WANTED in its tables, the
# TRAINING_RULES, and the checks that come before any job.
import os
import platform
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from mpo import EVALUATION_VERSION
from mpo.config import ConfigError, EvaluationSpec, canonical_json
from mpo.figures import FIGURES
from mpo.files import RUN_FILES
from mpo.packs import packs
from mpo.status import given_up
from mpo.study import Study


def parse_study():
    """The validated study; the process that was typed in also tries every environment."""
    try:
        study = Study.parse(config)
        if workflow.is_main_process:
            from mpo.envs import make_env

            for environment in study.environments:
                make_env(environment.id).close()
    except ConfigError as error:
        raise WorkflowError(f"the config cannot be used:\n{error}")
    return study


STUDY = parse_study()
CELLS = {cell.cell_id: cell for cell in STUDY.cells}
WANTED = [run for run in STUDY.runs if not (STUDY.allow_missing and given_up(run, Path()))]
STUDY_DIR = f"results/{STUDY.study}"
FIGURE_CODE = {name: f"{module.replace('.', '/')}.py" for name, module in FIGURES.items()}

# Rules call `python`: the one that runs Snakemake, whether or not its environment is activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))

# A scheduler that stops a job signals all of its processes. A shell between Snakemake and the
# training would die of it, and Snakemake would think the training dead while it saves its state.
shell.prefix("set -euo pipefail; exec ")


def training_rules():
    """Name -> seeds, as they stand in paths, and pattern of the cells of each rule that trains.

    The process that was typed in sees which seeds are to be trained. A job's own Snakemake is told
    its rule's name, and reads the seeds from it: meanwhile others may have been trained.
    """
    any_cell = "[^/]+/[^/]+"
    rules = {"train": (["{seed}"], any_cell)}
    if not workflow.is_main_process:
        names = {target.rulename for target in workflow.dag_settings.target_jobs}
        for name in sorted(name for name in names if name.startswith("train_")):
            rules[name] = name.split("_")[1:], any_cell
        return rules
    for seeds, cells in packs(STUDY, WANTED, Path()).items():
        rules["_".join(["train", *map(str, seeds)])] = seeds, "|".join(map(re.escape, cells))
    workflow.ruleorder(*reversed(rules))
    # What a profile sets for `train` is meant for packs too.
    settings = workflow.resource_settings._parsed_overwrite_resources
    for name in rules if "train" in settings else ():
        settings.setdefault(name, settings["train"])
    return rules


TRAINING_RULES = training_rules()


def report_failures():
    """Writes failures.md, where a study has been started."""
    study, page = f"{STUDY_DIR}/study.json", f"{STUDY_DIR}/failures.md"
    if Path(study).exists():
        shell("python -m mpo failures --study {study:q} --out {page:q}")


wildcard_constraints:
    cell="[^/]+/[^/]+",
    seed="[0-9]+",
    steps="[0-9]+",
    env="[^/]+",
