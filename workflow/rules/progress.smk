# Requires: STUDIES, CONFIG, the settings of a training. Produces: what the rest of the study will cost, as
# the rule `calibrate` measures it before the first run and as Snakemake's progress line says it after.
from snakemake.logging import logger as snakemake_logger
from snakemake_interface_logger_plugins.common import LogEvent

from mpo.study.left import Progress


# A target of its own. It declares no output: another calibration may be asked for at any time.
rule calibrate:
    input:
        [f"results/{name}/study.json" for name in STUDIES],
    log:
        f"{STUDY_DIR}/logs/calibrate.log",
    threads: EXECUTION.threads
    resources:
        **job(8000, 720, f"{DEVICE} {WATCH}{COMPILE}{EAGER}"),
        gpu=GPUS,
    params:
        seeds=EXECUTION.seeds_per_job,
    shell:
        "python -m mpo calibrate --study {input:q} --seeds-per-job {params.seeds}"
        " {resources.options} --threads {threads} --log {log:q}"


def studies_now():
    """The rungs of tuning, if there are any, and the study, with what has been chosen so far."""
    return [planned(name, choice_now(name)) for name in STUDIES]


class LeftToDo(logging.Handler):
    """Adds what is left to Snakemake's progress line, once a minute at most."""

    def __init__(self):
        super().__init__()
        cores = workflow.resource_settings.cores
        self.progress = Progress(studies_now, Path(), cores or sys.maxsize)

    def emit(self, record):
        if getattr(record, "event", None) == LogEvent.PROGRESS:
            try:
                text = self.progress.said()
            except (OSError, ValueError) as error:  # the study goes on without it
                text = f"What is left is not known: {error}"
            if text:
                snakemake_logger.info(text)


def say_what_is_left():
    """From now on, Snakemake's progress line says what is left."""
    if workflow.is_main_process and not workflow.dryrun:
        snakemake_logger.addHandler(LeftToDo())
