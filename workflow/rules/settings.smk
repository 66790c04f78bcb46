# Requires: STUDIES, PLAN, WANTED, TRAINING_RULES. Produces: what the user asked Snakemake for, widened:
# stale files are planned again, and whatever names the rule `train` holds for every rule that trains.
from mpo.study.stale import stale_files


def for_all_trainings(settings, *fields):
    """Adds the rules of packs to settings that list the rule `train`, or give it a value."""
    for field in fields:
        given = getattr(settings, field)
        if "train" not in given:
            continue
        if hasattr(given, "keys"):
            setattr(settings, field, {**dict.fromkeys(TRAINING_RULES, given["train"]), **given})
            settings.__dict__.pop(f"_parsed_{field}", None)  # computed from the old values
        else:
            setattr(settings, field, {*given, *TRAINING_RULES})


def widen_dag(settings):
    """As a target, `train` stands for all trainings."""
    if "train" in settings.targets:
        known = [name for name, study in STUDIES.items() if not study.has_stand_ins]
        runs = {f"{run.directory}/run.json" for name in known for run in WANTED[name]}
        # For the sake of runs that are there already, a failed choice would not be made again.
        choices = {f"results/{name}/{CHOICE}" for name in CHOOSE}
        settings.targets = ({*settings.targets} - {"train"}) | runs | choices
    for_all_trainings(settings, "forcerun", "until", "omit_from")


def force_stale_files(dag):
    """Plans stale files again, where a target needs them. A forced file would become a target."""
    for name, study in STUDIES.items():
        dag.forcefiles.update(map(str, stale_files(study, PLAN[name], WANTED[name], Path())))


WIDEN = {
    "_dag": force_stale_files,
    "dag_settings": widen_dag,
    "scheduling_settings": lambda settings: for_all_trainings(settings, "prioritytargets"),
    "group_settings": lambda settings: for_all_trainings(settings, "overwrite_groups"),
}


class Widened(type(workflow)):
    """The workflow. Snakemake assigns it most settings only after it has read this file.

    These attributes are not documented: pyproject.toml pins the range of Snakemake, and each setting
    has a test.
    """

    def __setattr__(self, name, value):
        if name in WIDEN and value is not None:
            WIDEN[name](value)
        super().__setattr__(name, value)


if workflow.is_main_process and not MODULE:
    workflow.__class__ = Widened
    for_all_trainings(workflow.resource_settings, "overwrite_threads", "overwrite_resources")
