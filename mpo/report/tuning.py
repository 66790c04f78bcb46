"""The section of a study's summary on how its arms were tuned."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mpo.analysis.intervals import MINUS
from mpo.analysis.tables import read
from mpo.report.numbers import grouped
from mpo.report.typeset import NONE, inline
from mpo.study.arm_values import schedule
from mpo.study.labels import label
from mpo.study.plan import Study
from mpo.study.search import is_number
from mpo.study.tuning import Tuning, arms
from mpo.study.words import plural


def section(study: Study, tables: Sequence[Path]) -> list[str]:
    """Says what was tuned and chosen, how surely, and what to be careful about.

    Args:
        study: the reported study.
        tables: the directory of the tables of its tuning stage; with halving, of each rung.
    """
    tuning = study.tuned
    assert tuning is not None
    choices, candidates = (read(tables[-1], name) for name in ("choices", "candidates"))
    return [
        "## Tuning",
        _how(study, tuning),
        *_warnings(study, tuning, choices),
        *_best_at_an_end(tuning, candidates),
        _table(tuning, choices),
        *_only_compared_early(study, tuning),
        _sensitivity(read(tables[0], "sensitivity")),
    ]


def how_tuned(study: Study, factor: str) -> str:
    """Returns how the levels of a factor were set, to follow its name in an answer."""
    if study.tuned and factor in study.tuned.axes:
        return f", each at its tuned {' and '.join(study.tuned.keys)}"
    return ", at the settings given" if factor == "optimizer" else ""


def _how(study: Study, tuning: Tuning) -> str:
    measure = {"area": "area under the learning curve", "final": "final return"}[tuning.criterion]
    places = [environment.name for environment in study.tuned_environments]
    where, chosen = "", "in each environment"
    if len(places) < len(study.environments):
        where = f"in {', '.join(places)} "
        chosen = "for all environments, by the mean score in these"
    elif tuning.choose == "across":
        chosen = "for all environments together, by the mean score"
    seeds = ", ".join(map(str, tuning.seeds))
    return (
        f"Before the reported runs, {_per_arm(study, tuning, 1)} candidates per arm "
        f"({', '.join(tuning.keys)}) were trained {where}with the seeds {seeds} for "
        f"{share_of_budget(study, tuning.rungs)} of the budget{_halved(study, tuning)}."
        f"{_searched(study, tuning)} The one with the best {measure} was chosen {chosen}. The "
        "intervals of the answers are conditional on what was chosen: they do not hold the "
        "uncertainty of the choice."
    )


def _per_arm(study: Study, tuning: Tuning, rung: int) -> str:
    """The number of each arm's candidates in a rung, or the least and the greatest."""
    counts = sorted(tuning.left(arm, rung) for arm in arms(tuning, study.axis_values))
    return f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _halved(study: Study, tuning: Tuning) -> str:
    """Says the rungs of halving and the steps of each arm; continues a sentence."""
    if tuning.halving is None:
        return ""
    rungs = ", ".join(
        f"{_per_arm(study, tuning, rung)} up to {share_of_budget(study, rung)}"
        for rung in range(1, tuning.rungs + 1)
    )
    steps = {name: grouped(count) for name, count in arm_steps(study).items()}
    each = [*steps.values()]
    if len({*each}) == 1:
        given = f"Each arm was given {each[0]} environment steps"
    else:
        given = ", ".join(f"{name} was given {count}" for name, count in steps.items())
        given = f"Of environment steps, {given}"
    return (
        " at most, by successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): the best "
        f"1/{tuning.halving.factor} of each arm went on after each rung, {rungs} of the budget. "
        f"{given}"
    )


def share_of_budget(study: Study, rung: int) -> str:
    """Returns the share of the reported runs' steps that a rung trains for, e.g. "40 to 50 %".

    It differs between environments where the budget was rounded down to a snapshot.
    """
    shares = sorted(
        100 * study.tuning_steps(each)[rung - 1] / schedule(study, each).total_steps
        for each in study.tuned_environments
    )
    low, high = (f"{share:.3g}" for share in (shares[0], shares[-1]))
    return f"{low} %" if low == high else f"{low} to {high} %"


def arm_steps(study: Study) -> dict[str, int]:
    """Returns the environment steps that tuning gives each arm, in all environments and seeds."""
    tuning = study.tuned
    assert tuning is not None
    budgets = [study.tuning_steps(environment) for environment in study.tuned_environments]
    found = {}
    for arm in arms(tuning, study.axis_values):
        counts = [tuning.left(arm, rung) for rung in range(1, tuning.rungs + 1)]
        steps = sum(
            count * (end - start)
            for ends in budgets
            for count, start, end in zip(counts, [0, *ends], ends, strict=False)
        )
        found[label(arm)] = steps * len(tuning.seeds)
    return found


def _only_compared_early(study: Study, tuning: Tuning) -> list[str]:
    """Says of halving which tables and figures hold all candidates."""
    if tuning.halving is None:
        return []
    return [
        "All candidates were trained to the end of the first rung only. The sensitivity, in the "
        f"figure and below, is therefore that at {share_of_budget(study, 1)} of the budget; the "
        "table above is of the candidates in the last rung."
    ]


def _searched(study: Study, tuning: Tuning) -> str:
    """Says what a search drew its candidates from; nothing of a grid, whose values are shown."""
    if tuning.search == "grid":
        return ""
    said = "; ".join(
        f"{label(arm)}: "
        + ", ".join(f"{key} {low:g} to {high:g}" for key, (low, high) in tuning.span(arm).items())
        for arm in arms(tuning, study.axis_values)
    )
    drawn = "at random" if tuning.search == "random" else "quasi-randomly"
    return f" They were drawn {drawn}, uniformly on a logarithmic scale ({said})."


def _warnings(study: Study, tuning: Tuning, choices: pd.DataFrame) -> list[str]:
    notes = []
    tried = {label(arm): tuning.candidates_of(arm) for arm in arms(tuning, study.axis_values)}
    counts = {name: len(candidates) for name, candidates in tried.items()}
    if len({*counts.values()}) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        notes.append(f"**The arms had different numbers of candidates: {said}.**")
    spacings = {str(spacing(candidates, tuning.keys)) for candidates in tried.values()}
    if tuning.search == "grid" and len(spacings) > 1 and len({*counts.values()}) == 1:
        notes.append("**The arms' grids have different ratios between neighbours.**")
    edge = choices[choices["on_edge"]]
    if len(edge):
        rows = edge[["arm", "env", "chosen"]].itertuples(index=False)
        said = "; ".join(f"{arm} in {env} ({chosen})" for arm, env, chosen in rows)
        end = "the end of a grid" if tuning.search == "grid" else "the end of the values tried"
        notes.append(
            f"**{plural(len(edge), 'choice')} at {end}: {inline(said)}.** A better value may lie "
            "beyond it."
        )
    bad = choices[choices["diverged"] > 0]
    if len(bad):
        rows = bad[["arm", "env"]].itertuples(index=False)
        said = "; ".join(f"{arm} in {env}" for arm, env in rows)
        where = " in some environment" if tuning.choose == "across" else ""
        notes.append(f"**Every candidate had a diverged run{where}: {inline(said)}.**")
    return notes


def _best_at_an_end(tuning: Tuning, candidates: pd.DataFrame) -> list[str]:
    """Warns where the best candidate of an environment is at an end, and another was chosen."""
    found = candidates[candidates["best_here"] & candidates["on_edge"] & ~candidates["chosen"]]
    rows = found[["arm", "env", "candidate"]].itertuples(index=False)
    said = "; ".join(f"{arm} in {env} ({candidate})" for arm, env, candidate in rows)
    text = f"Not chosen, but the best in its environment and at the end of what was tried: {said}."
    return [inline(text)] if said else []


def spacing(candidates: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, list[str]]:
    """Returns the ratios between neighbouring values of each tuned number, to three digits."""
    found = {}
    for key in keys:
        values = sorted({c[key] for c in candidates if is_number(c.get(key))})
        pairs = zip(values, values[1:], strict=False)
        found[key] = sorted({f"{high / low:.3g}" for low, high in pairs if low > 0})
    return found


def _table(tuning: Tuning, choices: pd.DataFrame) -> str:
    table = pd.DataFrame(
        {
            "environment": choices["env"],
            "arm": choices["arm"],
            "chosen": choices["chosen"],
            "share of resamples": choices["share"].map("{:.2f}".format).replace("nan", NONE),
            "best here": choices["best_here"],
            "best across": choices["best_across"].fillna(""),
            "mean": choices["mean"].map(_return),
            "held out": choices["held_out"].map(_return),
            "best across, here": choices["mean_across"].map(_return),
        }
    )
    note = (
        "Share of resamples: how often the bootstrap over the tuning seeds makes the same choice, "
        f"{'for all environments' if tuning.choose == 'across' else 'in this environment'}. "
        "Mean: of the best candidate here, over the tuning seeds, which flatters it. Held out: "
        "chosen on all tuning seeds but one, and scored on that one. Best across, here: the mean "
        "of the candidate that is best for all environments together."
    )
    return table.map(inline).to_markdown(index=False, disable_numparse=True) + f"\n\n{note}"


def _sensitivity(found: pd.DataFrame) -> str:
    """What each arm loses by one candidate for all environments."""
    known = int(found["environments"].max())
    if known < 2:
        return (
            "How sensitive the arms are to their hyperparameters is not known: it takes two "
            f"environments with a reference, and there is {'one' if known else 'none'}."
        )
    columns = {
        "tuned in each": "per_environment",
        "one for all": "across",
        "sensitivity": "index",
        "naive": "index_naive",
    }
    numbers = found[[*columns.values()]].map(_score)
    table = found[["arm", "environments"]].astype(str).join(numbers)
    table = table.rename(columns={of: name for name, of in columns.items()})
    note = (
        "Sensitivity: the mean score with the best candidate of each environment, less that with "
        "the one candidate that is best across them (Adkins et al. 2024, arXiv 2412.07165). An arm "
        "with a large index needs tuning in each environment; near 0 one setting does for all of "
        "these. Chosen on all tuning seeds but one and scored on that one, so noise can put it "
        "below 0. Naive: chosen and scored on the same seeds, which flatters both. There is no "
        f"interval: the numbers are of {plural(int(found['seeds'].max()), 'seed')}."
    )
    return f"{table.map(inline).to_markdown(index=False, disable_numparse=True)}\n\n{note}"


def _return(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.4g}"


def _score(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.3f}".replace("-", MINUS)
