# Requires: STUDIES. Produces: what the rest of the study will cost, as Snakemake's progress line says it.
from snakemake.logging import logger as snakemake_logger
from snakemake_interface_logger_plugins.common import LogEvent

from mpo.study.remaining_text import Progress


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
