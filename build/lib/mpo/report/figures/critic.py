"""Why a critic learns well or badly: what its targets and data are, and how its network moves."""

from pathlib import Path

from matplotlib.figure import Figure

from mpo.report.figures import quantities
from mpo.report.figures.quantities import NOTHING, Quantity
from mpo.study.plan import Study

_QUANTITIES = {
    "critic_rank": Quantity("Rank of features"),
    "sample_age": Quantity("Age of samples", log=True),
    "critic_step_before_copy": Quantity("Step before copy", log=True),
    "critic_step_after_copy": Quantity("Step after copy", log=True),
    "trace_coefficient": Quantity("Trace coefficient"),
    "trace_length_new": Quantity("Trace length, new"),
    "trace_length_old": Quantity("Trace length, old"),
}
_WORDS = {
    "critic_rank": "Rank of features: in how many directions the critic's last hidden layer varies "
    "over a batch.",
    "sample_age": "Age of samples: updates since they were stored.",
    "critic_step_before_copy": "Step before and after copy: length of the critic's update just "
    "before and just after its target network becomes a copy of it.",
    "trace_coefficient": "Trace coefficient: the mean of c over the steps after a window's first; "
    "with Retrace, c = \N{GREEK SMALL LETTER LAMDA} min(1, \N{GREEK SMALL LETTER PI} / b). Trace "
    "length: the mean of 1 + c_1 + c_1 c_2 + ..., over the windows that are younger (new) and "
    "older (old) than the batch's mean.",
}


def draw(study: Study, tables: Path) -> Figure:
    """Draws the quantities; see `quantities.draw`."""
    return quantities.draw(study, tables, _QUANTITIES, "Critic")


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: quantities, seeds and bands."""
    found = quantities.seeds_and_bands(study, tables, _QUANTITIES)
    if found is None:
        return f"Critic: {NOTHING}"
    seeds, names = found
    words = " ".join(text for name, text in _WORDS.items() if name in names)
    return (
        f"The critic during training: {seeds} {words} Ages and steps have logarithmic axes. "
        "Diverged runs are included until they diverge; the axis limits ignore them."
    )
