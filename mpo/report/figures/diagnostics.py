"""MPO's own diagnostics during training: temperature, KL divergences and standard deviation.

They show whether the E-step and the M-step stay within their bounds, and how the policy develops.
"""

from pathlib import Path

from matplotlib.figure import Figure

from mpo.report.figures import quantities
from mpo.report.figures.quantities import NOTHING, Quantity
from mpo.study.plan import Study

_QUANTITIES = {
    "temperature": Quantity("Temperature", log=True),
    "kl_q_relative": Quantity("E-step KL / bound", log=True, bound=True),
    "kl_mean_relative": Quantity("KL of mean / bound", log=True, bound=True),
    "kl_stddev_relative": Quantity("KL of stddev / bound", log=True, bound=True),
    "policy_stddev": Quantity("Policy stddev"),
}


def draw(study: Study, tables: Path) -> Figure:
    """Draws the quantities; see `quantities.draw`."""
    return quantities.draw(study, tables, _QUANTITIES, "Diagnostics")


def caption(study: Study, tables: Path) -> str:
    """Describes the figure: quantities, seeds and bands."""
    found = quantities.seeds_and_bands(study, tables, _QUANTITIES)
    if found is None:
        return f"Diagnostics: {NOTHING}"
    return (
        f"Diagnostics of MPO's updates during training: {found[0]} Temperature and KL divergences "
        "have logarithmic axes. The KL divergences of the E-step (weights) and of the M-step (the "
        "policy's mean and stddev) are relative to their bounds (dashed). Multipliers enforce the "
        "bounds of the M-step step by step: above the line they do not hold yet. Diverged runs are "
        "included until they diverge; the axis limits ignore them."
    )
