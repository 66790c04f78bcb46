"""How the numbers of tables are written, and how long tables become wide ones."""

import math
from collections.abc import Sequence

import pandas as pd

from mpo.analysis.intervals import MINUS
from mpo.report.typeset import NONE


def number(value: float, lo: float = math.nan, hi: float = math.nan) -> str:
    """Formats a value and its bounds, rounded to the second digit of the interval's half-width.

    The value has at most six significant digits, or three if it has no interval.
    """
    if math.isnan(value):
        return NONE
    if math.isnan(lo):
        return digits(value, _decimals(abs(value) / 10))
    decimals = _decimals(max((hi - lo) / 2, abs(value) / 10_000))
    return "{} [{}, {}]".format(*(digits(x, decimals) for x in (value, lo, hi)))


def digits(x: float, decimals: int) -> str:
    """Formats a number with as many decimal places; fewer than none round to tens and so on."""
    return f"{round(x, decimals):z.{max(decimals, 0)}f}".replace("-", MINUS)


def places(lo: float, hi: float) -> int:
    """Decimal places that show the first digit of an interval's half-width, two at least."""
    return 2 if math.isnan(lo) else max(2, _decimals((hi - lo) / 2) - 1)


def wide(long: pd.DataFrame, rows: Sequence[str], column: str, value: str) -> pd.DataFrame:
    """Pivots to wide form, keeping rows and columns in their order of appearance."""
    return long.set_index([*rows, column])[value].unstack(sort=False).rename_axis(columns=None)


def grouped(count: int) -> str:
    """A whole number, its thousands apart: 216 000."""
    return f"{count:_}".replace("_", " ")


def _decimals(x: float) -> int:
    """Decimal places down to the second significant digit of x; negative if x is 100 or more."""
    return 1 - int(f"{x:.1e}".partition("e")[2])
