"""The section of a study's summary on how its arms were tuned."""

import math
from pathlib import Path

import pandas as pd

from mpo.analysis.intervals import MINUS
from mpo.analysis.tables import label, read
from mpo.report.figures.style import plural
from mpo.report.typeset import NONE, inline
from mpo.study.plan import Study
from mpo.study.tuning import Tuning, arms


def section(study: Study, tables: Path) -> list[str]:
    """Says what was tuned and chosen, how surely, and what to be careful about.

    Args:
        study: the reported study.
        tables: the directory of the tables of its tuning stage.
    """
    tuning = study.tuned
    assert tuning is not None
    choices = read(tables, "choices")
    return [
        "## Tuning",
        _how(study, tuning, choices),
        *_warnings(study, tuning, choices),
        _table(choices),
        _sensitivity(read(tables, "sensitivity")),
    ]


def how_tuned(study: Study, factor: str) -> str:
    """Returns how the levels of a factor were set, to follow its name in an answer."""
    if study.tuned and factor in study.tuned.axes:
        return f", each at its tuned {' and '.join(study.tuned.keys)}"
    return ", at the settings given" if factor == "optimizer" else ""


def _how(study: Study, tuning: Tuning, choices: pd.DataFrame) -> str:
    counts = sorted({*choices["of"]})
    per_arm = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    measure = {"area": "area under the learning curve", "final": "final return"}[tuning.criterion]
    chosen = {
        "environment": "in each environment",
        "across": "for all environments together, by the mean score",
    }[tuning.choose]
    seeds = ", ".join(map(str, tuning.seeds))
    return (
        f"Before the reported runs, {per_arm} candidates per arm ({', '.join(tuning.keys)}) were "
        f"trained with the seeds {seeds} for {100 * tuning.budget:.0f} % of the budget."
        f"{_searched(study, tuning)} The one with the best {measure} was chosen {chosen}. The "
        "intervals of the answers are conditional on what was chosen: they do not hold the "
        "uncertainty of the choice."
    )


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
        notes.append(f"**Every candidate had a diverged run: {inline(said)}.**")
    return notes


def spacing(candidates: list[dict[str, object]], keys: tuple[str, ...]) -> dict[str, list[str]]:
    """Returns the ratios between neighbouring values of each tuned number, to three digits."""
    found = {}
    for key in keys:
        values = sorted({v for c in candidates if isinstance(v := c.get(key), int | float)})
        pairs = zip(values, values[1:], strict=False)
        found[key] = sorted({f"{high / low:.3g}" for low, high in pairs if low > 0})
    return found


def _table(choices: pd.DataFrame) -> str:
    table = pd.DataFrame(
        {
            "environment": choices["env"],
            "arm": choices["arm"],
            "chosen": choices["chosen"],
            "share of resamples": choices["share"].map("{:.2f}".format),
            "best here": choices["best_here"],
            "best across": choices["best_across"].fillna(""),
            "mean": choices["mean"].map("{:.4g}".format),
            "held out": choices["held_out"].map("{:.4g}".format),
            "best across, here": choices["mean_across"].map("{:.4g}".format),
        }
    )
    note = (
        "Share of resamples: how often the bootstrap over the tuning seeds makes the same choice. "
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
        "below 0. Naive: chosen and scored on the same seeds, which flatters both."
    )
    return f"{table.map(inline).to_markdown(index=False, disable_numparse=True)}\n\n{note}"


def _score(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.3f}".replace("-", MINUS)
