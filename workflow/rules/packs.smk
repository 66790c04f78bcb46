# Requires: STUDIES, the runs WANTED. Produces: TRAINING_RULES, one for each pack of seeds beside `train`.
ANY_CELL = "[^/]+/[^/]+"


def training_rules():
    """Name -> seeds and budget, as they stand in paths, and a pattern of cells: each rule that trains.

    The process that the user started sees what is to be trained. A job's own Snakemake reads the
    pack from its rule's name, for other runs may have been trained meanwhile.
    """
    rules = {"train": (["{seed}"], "{steps}", ANY_CELL)}
    if workflow.is_main_process:
        every, found = Counter(), defaultdict(list)
        for study in STUDIES.values():
            every.update((study.seeds, cell.total_steps) for cell in study.cells)
            for pack, cells in packs(study, WANTED[study.study], Path()).items():
                found[study.seeds, pack] += cells
        # Rungs of tuning share their seeds, in two environments perhaps a budget, too; no seed is
        # both tuned on and reported. So the names differ.
        for (seeds, pack), cells in found.items():
            name = f"train_{'_'.join(map(str, pack.seeds))}_to_{pack.total_steps}"
            # Most packs are of all cells. A pattern that names each would take seconds to compile.
            some = len(cells) < every[seeds, pack.total_steps]
            pattern = "|".join(map(re.escape, cells)) if some else ANY_CELL
            rules[name] = pack.seeds, pack.total_steps, pattern
    else:
        # In another workflow, a prefix may stand before the name.
        pattern = re.compile(r"\w*?(train_([\d_]+)_to_(\d+)):")
        for found in filter(None, map(pattern.match, sys.argv)):
            rules[found[1]] = found[2].split("_"), found[3], ANY_CELL
    workflow.ruleorder(*reversed(rules))
    return rules


TRAINING_RULES = training_rules()
