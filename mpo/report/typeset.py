"""How a table in words is set: in LaTeX (booktabs) and in Markdown, in parts that fit a page."""

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mpo.analysis.intervals import MINUS

NONE = "\N{EN DASH}"

# At \footnotesize, what fits a text 5.5 inches wide, in points, and a page, in lines: of a float,
# and of the rows of one part of it.
_WIDTH, _GAP, _INDENT = 397, 8, 8
_LINES, _ROWS = 54, 42
_STUB, _HEAD = 30, 8  # characters of a row's name, and least ones of a column's, before a break

_POINTS = {
    **dict.fromkeys(string.ascii_uppercase + "mw%", 6.2),
    **dict.fromkeys(" .,:;[]()/-ijlt", 2.8),
    MINUS: 6.6,
}
"""How wide characters are that are not about 4.4 points."""

_BREAK = re.compile(r"(?<=, )|(?<=:)|(?<=[/-])(?!v?\w$)|(?<=[a-z])(?=[A-Z])")
"""Where a name can go on in the next line."""

_LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        **{c: f"{{{c}}}" for c in "[]"},  # at the start of a row, \\ would take them for its own
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": "$<$", ">": "$>$", "|": "$|$", MINUS: "$-$", NONE: "--"},
    }
)


class Table(NamedTuple):
    """A table in words."""

    frame: pd.DataFrame
    """Text; the index names the rows. Of two levels, the first heads the rows that share it."""
    marked: pd.DataFrame
    """Which cells are bold; index and columns of `frame`."""
    caption: str
    note: str
    """What a reader must know to read the numbers."""


def latex(table: Table, label: str) -> str:
    """The table for LaTeX: a table environment a page, in it the parts of a wide table."""
    parts = list(_tabulars(table))
    heights = [lines for lines, _ in parts]
    heights[-1] += len(table.note) // 90 + 1
    pages = _packed(heights, _LINES)
    caption = _tex(table.caption)
    floats = []
    for page in range(pages[-1] + 1):
        head = f"\\caption{{{caption}}}\n\\label{{{label}}}"
        if page:
            head = f"\\addtocounter{{table}}{{-1}}\n\\caption{{{caption} Continued.}}"
        body = [code for (_, code), place in zip(parts, pages, strict=True) if place == page]
        if page == pages[-1]:
            body.append(f"\\parbox{{\\linewidth}}{{{_tex(table.note)}}}")
        floats.append("\n\\par\\smallskip\n".join([head, *body]))
    start = "\\begin{table}[tbp]\n\\centering\n\\footnotesize\n\\setlength{\\tabcolsep}{4pt}"
    return "\n".join(f"{start}\n{text}\n\\end{{table}}\n" for text in floats)


def markdown(table: Table) -> str:
    """The table for Markdown, then its caption and its note."""
    cells = table.frame.where(~table.marked, "**" + table.frame + "**")
    parts = [
        cells.iloc[:, part].reset_index().to_markdown(index=False, disable_numparse=True)
        for part in _parts(table.frame)
    ]
    return "\n\n".join([*parts, f"{table.caption} {table.note}\n"])


def _parts(frame: pd.DataFrame) -> list[np.ndarray]:
    """The positions of the columns that stand side by side: as few parts as the width allows."""
    names = frame.index.get_level_values(-1)
    lines = [line for name in names for line in _broken(name, _STUB)]
    stub = _points([str(frame.index.names[-1]), *lines])
    stub += _INDENT * (frame.index.nlevels - 1)
    widths = np.array([_GAP + _points([*frame[name], *_head(frame[name])]) for name in frame])
    for parts in range(1, len(widths)):
        split = np.array_split(np.arange(len(widths)), parts)
        if all(stub + widths[part].sum() <= _WIDTH for part in split):
            return split
    return np.array_split(np.arange(len(widths)), len(widths))


def _points(texts: Iterable[str]) -> float:
    """How wide the widest text is, about, in points."""
    return max(sum(_POINTS.get(c, 4.4) for c in text) for text in texts)


def _tabulars(table: Table) -> Iterator[tuple[int, str]]:
    """The parts of a table, each at most as high as a page: their lines and LaTeX code."""
    index = table.frame.index
    lines = np.array([len(_broken(name, _STUB)) for name in index.get_level_values(-1)], dtype=int)
    blocks = np.arange(len(lines))
    if index.nlevels > 1:
        first = ~index.get_level_values(0).duplicated()
        lines += first
        groups = first.cumsum() - 1
        if max(np.bincount(groups, lines), default=0) <= _ROWS:
            blocks = groups
    page = np.take(_packed(np.bincount(blocks, lines), _ROWS), blocks)
    cells = table.frame.map(_tex)
    cells = cells.where(~table.marked, r"\textbf{" + cells + "}")
    for part in _parts(table.frame):
        heads = [_head(table.frame[name]) for name in table.frame.columns[part]]
        for rows in np.split(np.arange(len(page)), np.flatnonzero(np.diff(page)) + 1):
            shown = _headed(cells.iloc[rows, part])
            shown.columns = [index.names[-1], *(_stacked(head, "b", "r") for head in heads)]
            code = shown.to_latex(index=False, escape=False, column_format="l" + "r" * len(heads))
            # In a box, for what is wider than the text to stand out on both sides alike.
            boxed = f"\\makebox[\\linewidth]{{%\n{code.rstrip()}}}"
            yield int(lines[rows].sum()) + max(map(len, heads)) + 2, boxed


def _packed(heights: Iterable[float], room: float) -> list[int]:
    """The page of each of things that stand below one another: a new one where room runs out."""
    pages, used = [0], 0.0
    for height in heights:
        full = used > 0 and used + height > room
        used = height if full else used + height
        pages.append(pages[-1] + full)
    return pages[1:]


def _headed(cells: pd.DataFrame) -> pd.DataFrame:
    """The index as a column, in LaTeX; the first of two levels as rows of their own."""
    names = [_stacked(_broken(name, _STUB), "t", "l") for name in cells.index.get_level_values(-1)]
    rows = cells.reset_index(drop=True)
    if cells.index.nlevels == 1:
        rows.insert(0, "", names)
        return rows
    rows.insert(0, "", [rf"\quad {name}" for name in names])
    groups = cells.index.get_level_values(0)
    heads = pd.DataFrame("", np.flatnonzero(~groups.duplicated()), rows.columns)
    heads[""] = [rf"\makebox[0pt][l]{{\emph{{{_tex(group)}}}}}" for group in groups.unique()]
    return pd.concat([heads, rows]).sort_index(kind="stable")


def _head(column: pd.Series) -> list[str]:
    """A column's name, in lines about as wide as its cells."""
    return _broken(str(column.name), max(_HEAD, *map(len, column), 0))


def _broken(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` characters, as far as it can be broken."""
    lines = [""]
    for piece in _BREAK.split(text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _stacked(lines: Sequence[str], place: str, side: str) -> str:
    """Lines below one another in a cell, which stands on its first (t) or last (b) one."""
    text = r" \\ ".join(map(_tex, lines))
    if len(lines) == 1:
        return text
    return rf"\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}{text}\end{{tabular}}"


def _tex(text: str) -> str:
    return text.translate(_LATEX).replace(r" \%", r"~\%")
