# Requires: STUDY, the runs WANTED. Produces: TRAINING_RULES, and what is said of `train` for them all.
ANY_CELL = "[^/]+/[^/]+"


def training_rules():
    """Name -> seeds and budget, as they stand in paths, and a pattern of cells: each rule that trains.

    The process that the user started sees what is to be trained. A job's own Snakemake is given the
    name of its rule and reads the pack from that: other runs may have been trained meanwhile.
    """
    rules = {"train": (["{seed}"], "{steps}", ANY_CELL)}
    if workflow.is_main_process:
        cells_of_budget = Counter(cell.total_steps for cell in STUDY.cells)
        for pack, cells in packs(STUDY, WANTED, Path()).items():
            name = f"train_{'_'.join(map(str, pack.seeds))}_to_{pack.total_steps}"
            # Most packs are of all cells. A pattern that names each would take seconds to compile.
            some = len(cells) < cells_of_budget[pack.total_steps]
            pattern = "|".join(map(re.escape, cells)) if some else ANY_CELL
            rules[name] = pack.seeds, pack.total_steps, pattern
    else:
        for found in filter(None, (re.match(r"train_([\d_]+)_to_(\d+):", a) for a in sys.argv)):
            rules[found[0].rstrip(":")] = found[1].split("_"), found[2], ANY_CELL
    workflow.ruleorder(*reversed(rules))
    return rules


def extend_settings(rules):
    """Makes every setting that names `train` hold for all rules that train.

    A user knows one rule `train`; packs have rules of their own names. As a target, `train` stands
    for all trainings. These attributes of `workflow` are not documented by Snakemake: its range is
    pinned in pyproject.toml, and each setting has a test.
    """
    dag, scheduling = workflow.dag_settings, workflow.scheduling_settings
    named = [(dag, "forcerun"), (dag, "until"), (dag, "omit_from"), (scheduling, "prioritytargets")]
    for settings, field in named:
        names = getattr(settings, field, frozenset())
        if "train" in names:
            setattr(settings, field, {*names, *rules})
    if "train" in dag.targets:
        runs = {f"{run.directory}/run.json" for run in WANTED}
        dag.targets = ({*dag.targets} - {"train"}) | runs
    valued = [
        (workflow.resource_settings, f"overwrite_{what}") for what in ("threads", "resources")
    ]
    for settings, field in [*valued, (workflow.group_settings, "overwrite_groups")]:
        given = getattr(settings, field)
        if "train" in given:
            setattr(settings, field, {**dict.fromkeys(rules, given["train"]), **given})
            settings.__dict__.pop(f"_parsed_{field}", None)  # computed from the old values


TRAINING_RULES = training_rules()
if workflow.is_main_process:
    extend_settings(TRAINING_RULES)
