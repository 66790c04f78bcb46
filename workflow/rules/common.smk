# Requires: `config`. Produces: STUDY, its RUNS by id, those WANTED in its tables, and the checks
# that come before any job.
import os
import platform
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from mpo import EVALUATION_VERSION
from mpo.config import ConfigError, EvaluationSpec, canonical_json
from mpo.figures import FIGURES
from mpo.files import PAGES, RUN_FILES, TYPESET
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
RUNS = {run.run_id: run for run in STUDY.runs}
WANTED = [run for run in STUDY.runs if not (STUDY.allow_missing and given_up(run, Path()))]
STUDY_DIR = f"results/{STUDY.study}"
FIGURE_CODE = {name: f"{module.replace('.', '/')}.py" for name, module in FIGURES.items()}

# Rules call `python`: the one that runs Snakemake, whether or not its environment is activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))

# A scheduler that stops a job signals all of its processes. A shell between Snakemake and the
# training would die of it, and Snakemake would think the training dead while it saves its state.
shell.prefix("set -euo pipefail; exec ")


def report_failures():
    """Writes failures.md, where a study has been started."""
    study, page = f"{STUDY_DIR}/study.json", f"{STUDY_DIR}/failures.md"
    if Path(study).exists():
        shell("python -m mpo failures --study {study:q} --out {page:q}")


wildcard_constraints:
    run="[^/]+/[^/]+/seed[0-9]+",
    steps="[0-9]+",
    env="[^/]+",
