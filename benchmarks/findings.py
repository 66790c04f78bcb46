"""The results of a benchmark: measured values with a reference from the same run.

Values depend on the machine, so only ratios are saved.
"""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from mpo import provenance


class Finding(NamedTuple):
    """A measured value and its reference, in the same unit."""

    part: str
    case: str
    value: float
    against: str
    """Name of the reference."""
    reference: float
    unit: str
    at_most: float | None = None
    """Goal: upper bound of the ratio, if there is one."""

    @property
    def ratio(self) -> float:
        """The value divided by the reference."""
        return self.value / self.reference

    def __str__(self) -> str:
        """One line, including the goal and whether it is met."""
        text = f"{self.part}: {self.case}: {self.value:.4g} {self.unit}, {self.ratio:.3g} x "
        text += f"{self.against} ({self.reference:.4g} {self.unit})"
        if self.at_most is not None:
            verdict = "met" if self.ratio <= self.at_most else "missed"
            text += f"; goal: at most {self.at_most:g}, {verdict}"
        return text


def table(findings: list[Finding]) -> pd.DataFrame:
    """The ratios, one row per finding."""
    rows = [
        {
            "part": found.part,
            "case": found.case,
            "against": found.against,
            "ratio": float(f"{found.ratio:.3g}"),
            "at most": found.at_most,
        }
        for found in findings
    ]
    return pd.DataFrame(rows)


def machine() -> str:
    """Describes the machine, the packages and the commit, as a Markdown list."""
    found = provenance.machine(torch.device("cpu"))
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    lines = {
        "CPU": f"{found['cpu']}, {found['cpu_capability']}, {found['threads']} thread",
        "system": f"{found['platform']}, Python {found['python']}",
        "matrix products": found["blas"],
        "packages": packages,
        "commit": provenance.commit(),
    }
    return "\n".join(f"- {name}: {text}" for name, text in lines.items())


def write(findings: list[Finding], shares: pd.DataFrame, folder: Path) -> None:
    """Writes ratios.csv, shares.csv, shares.png and a README.md that shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    ratios = table(findings)
    ratios.to_csv(folder / "ratios.csv", index=False)
    shares.to_csv(folder / "shares.csv", float_format="%.4f")
    draw(shares, folder / "shares.png")
    shown = ratios.astype(object).where(ratios.notna(), "")
    (folder / "README.md").write_text(
        "# How fast\n\nMade by `make bench`. Each ratio is of two values that were measured in one "
        "run, on this machine:\n\n"
        f"{machine()}\n\n{shown.to_markdown(index=False)}\n\n"
        "![Where the time of a training step goes](shares.png)\n"
    )


def draw(shares: pd.DataFrame, path: Path) -> None:
    """Draws where the time goes: one bar per row, one segment per column, in percent."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.45 * len(shares) + 1.6), layout="constrained")
    axes = figure.subplots()
    (100 * shares[::-1]).plot.barh(stacked=True, ax=axes, colormap="tab20", width=0.75)
    axes.set(xlabel="share of a training step, %", ylabel="", xlim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=5, frameon=False)
    figure.savefig(path, dpi=120)
