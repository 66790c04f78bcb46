# Requires: `config`. Produces: STUDY, the IDENTITIES of its cells, the runs WANTED in its tables, the
# TRAINING_RULES, and the checks that come before any job.
import gc
import logging
import os
import platform
import re
import sys
from collections import Counter
from pathlib import Path

from snakemake.exceptions import WorkflowError

from mpo import EVALUATION_VERSION
from mpo.study.config import ConfigError, EvaluationSpec, canonical_json
from mpo.report.figures import FIGURES
from mpo.study.files import PAGES, TABLED, TYPESET
from mpo.study.packs import packs
from mpo.study.status import given_up
from mpo.study.plan import Study

# Planning makes millions of objects that live to the end: to look for garbage among them as often as
# Python does by itself takes about a tenth of the time.
gc.set_threshold(1_000_000)


def parse_study():
    """The validated study; the process that was typed in also tries every environment."""
    try:
        study = Study.parse(config)
        if workflow.is_main_process:
            from mpo.environments.envs import make_env

            # dm_control logs with absl: without a handler here, that would print all of Snakemake's
            # messages again.
            logging.root.addHandler(logging.NullHandler())
            for environment in study.environments:
                make_env(environment.id).close()
    except ConfigError as error:
        raise WorkflowError(f"the config cannot be used:\n{error}")
    return study


STUDY = parse_study()
IDENTITIES = {cell.cell_id: cell.spec.identity for cell in STUDY.cells}
WANTED = [run for run in STUDY.runs if not (STUDY.allow_missing and given_up(run, Path()))]
STUDY_DIR = f"results/{STUDY.study}"
FIGURE_CODE = {name: f"{module.replace('.', '/')}.py" for name, module in FIGURES.items()}

ANY_CELL = "[^/]+/[^/]+"

# Rules call `python`: the one that runs Snakemake, whether or not its environment is activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))

# A scheduler that stops a job signals all of its processes. A shell between Snakemake and the
# training would die of it, and Snakemake would think the training dead while it saves its state.
shell.prefix("set -euo pipefail; exec ")


def training_rules():
    """Name -> seeds and budget, as they stand in paths, and a pattern of cells: each rule that trains.

    The process that was typed in sees what is to be trained. A job's own Snakemake is told the name
    of its rule, and reads the pack from it, for meanwhile others may have been trained.
    """
    rules = {"train": (["{seed}"], "{steps}", ANY_CELL)}
    if workflow.is_main_process:
        cells_of_budget = Counter(cell.total_steps for cell in STUDY.cells)
        for pack, cells in packs(STUDY, WANTED, Path()).items():
            name = f"train_{'_'.join(map(str, pack.seeds))}_to_{pack.total_steps}"
            # Most are of all cells, and patterns that name each would take seconds to compile.
            some = len(cells) < cells_of_budget[pack.total_steps]
            pattern = "|".join(map(re.escape, cells)) if some else ANY_CELL
            rules[name] = pack.seeds, pack.total_steps, pattern
    else:
        for job in filter(None, (re.match(r"train_([\d_]+)_to_(\d+):", a) for a in sys.argv)):
            rules[job[0].rstrip(":")] = job[1].split("_"), job[2], ANY_CELL
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
    cell=ANY_CELL,
    seed="[0-9]+",
    steps="[0-9]+",
    env="[^/]+",
