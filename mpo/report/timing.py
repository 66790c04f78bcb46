"""Words about the cost of training: its units, and how it was measured."""

import pandas as pd

from mpo.analysis.costs import clock

_MEASURED = {
    "core-seconds": "Core-seconds are the CPU time of training",
    "GPU-seconds": "GPU-seconds are the wall-clock time of training on a GPU",
    "seconds": "Seconds are the wall-clock time of training: some runs were trained on a CPU and "
    "some on a GPU, so arms may not be comparable",
}
_MIXED = {
    "stacked": "seeds per process",
    "compiled": "compiled by torch",
    "threads": "threads",
    "device_name": "device",
    "cpu": "CPU",
    "host": "host",
}
"""Columns of `runs` that a run's cost depends on, with their labels."""


def in_unit(unit: str, largest: float) -> tuple[str, float]:
    """Returns a readable unit of time for an axis, and its length in seconds.

    Args:
        unit: ends in "seconds".
        largest: the largest value, in seconds.
    """
    name, length = ("seconds", 1.0) if largest < 300 else ("minutes", 60.0)
    if largest >= 18_000:
        name, length = "hours", 3600.0
    return unit.removesuffix("seconds") + name, length


def how_timed(runs: pd.DataFrame) -> str:
    """Returns sentences on what the cost of runs is, and in what the runs differ that sets it."""
    mixed = []
    for column, words in _MIXED.items():
        values = {*runs[column].dropna()}
        found = sorted(values, key=None if column in ("stacked", "threads") else str)
        if len(found) > 1:
            shown = f"{found[0]:g} to {found[-1]:g}" if column == "stacked" else _listed(found)
            mixed.append(f"{words} ({shown})")
    unlike = f" The runs differ in {', '.join(mixed)}, which changes their cost." if mixed else ""
    return (
        f"{_MEASURED[clock(runs).unit]}; seeds trained in one process share it equally, and what "
        "was repeated after a stop is not counted. It was measured as the runs ran, so other work "
        f"on the same machine may have slowed them.{unlike}"
    )


def _listed(values: list[object]) -> str:
    return ", ".join("yes" if x is True else "no" if x is False else str(x) for x in values)
