"""Writes a table of text in LaTeX (booktabs) and Markdown, split into parts that fit a page."""

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mpo.analysis.intervals import MINUS

NONE = "\N{EN DASH}"

# At \footnotesize, for text 5.5 inches wide.
_WIDTH, _GAP, _INDENT = 397, 8, 8  # of the text, between columns, of grouped rows; in points
_LINES, _ROWS = 54, 42  # lines of a float, and of the rows of one part of it
_STUB, _HEAD = 30, 8  # characters before a break: of a row's name, at least of a column's name

_POINTS = {
    **dict.fromkeys(string.ascii_uppercase + "mw%", 6.2),
    **dict.fromkeys(" .,:;[]()/-ijlt", 2.8),
    MINUS: 6.6,
}
"""Widths of characters in points; all others are about 4.4 points wide."""

_BREAK = re.compile(r"(?<=, )|(?<=:)|(?<=[/-])(?!v?\w$)|(?<=[a-z])(?=[A-Z])")
"""Positions where a name may be broken across lines."""

_LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        **{c: f"{{{c}}}" for c in "[]"},  # else the \\ before would read them as its argument
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": "$<$", ">": "$>$", "|": "$|$", MINUS: "$-$", NONE: "--"},
    }
)


_MARKDOWN = str.maketrans({"<": "&lt;", "|": "\\|", "`": "\\`"})


class Table(NamedTuple):
    """A table of text cells."""

    frame: pd.DataFrame
    """Text; the index names the rows. With two levels, the first becomes a heading of its rows."""
    marked: pd.DataFrame
    """Which cells are bold; same index and columns as `frame`."""
    caption: str
    note: str
    """Explains the numbers."""


def latex(table: Table, label: str) -> str:
    """Formats the table for LaTeX: one table environment per page, with the parts it contains."""
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
    """Formats the table for Markdown, followed by its caption and note."""
    frame = table.frame.map(inline)
    cells = frame.where(~table.marked, "**" + frame + "**")
    parts = [
        cells.iloc[:, part]
        .rename(index=inline, columns=inline)
        .reset_index()
        .to_markdown(index=False, disable_numparse=True)
        for part in _parts(table.frame)
    ]
    return "\n\n".join([*parts, f"{inline(table.caption)} {inline(table.note)}\n"])


def inline(text: object) -> str:
    """Formats text from a file, a config or an error as Markdown: one line that is read as text.

    It cannot hold HTML, links, cells of a table or code. Other Markdown, such as the brackets of an
    interval, stays as it is.
    """
    return " ".join(str(text).split()).translate(_MARKDOWN).replace("](", "]\\(")


def _parts(frame: pd.DataFrame) -> list[np.ndarray]:
    """Splits the columns into as few parts as the page width allows; returns their positions."""
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
    """The approximate width of the widest text, in points."""
    return max(sum(_POINTS.get(c, 4.4) for c in text) for text in texts)


def _tabulars(table: Table) -> Iterator[tuple[int, str]]:
    """Yields the parts of a table, none higher than a page: number of lines and LaTeX code."""
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
            # The box centres a part that is wider than the text.
            boxed = f"\\makebox[\\linewidth]{{%\n{code.rstrip()}}}"
            yield int(lines[rows].sum()) + max(map(len, heads)) + 2, boxed


def _packed(heights: Iterable[float], room: float) -> list[int]:
    """Assigns a page to each of a sequence of heights; a page holds `room` in all."""
    pages, used = [0], 0.0
    for height in heights:
        full = used > 0 and used + height > room
        used = height if full else used + height
        pages.append(pages[-1] + full)
    return pages[1:]


def _headed(cells: pd.DataFrame) -> pd.DataFrame:
    """Turns the index into a LaTeX column; the first of two levels becomes heading rows."""
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
    """Breaks a column's name into lines about as wide as its cells."""
    return _broken(str(column.name), max(_HEAD, *map(len, column), 0))


def _broken(text: str, width: int) -> list[str]:
    """Breaks a text into lines of at most `width` characters where possible."""
    lines = [""]
    for piece in _BREAK.split(text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _stacked(lines: Sequence[str], place: str, side: str) -> str:
    """Stacks lines in one cell, aligned at the first (`place` "t") or the last line ("b")."""
    text = r" \\ ".join(map(_tex, lines))
    if len(lines) == 1:
        return text
    return rf"\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}{text}\end{{tabular}}"


def _tex(text: str) -> str:
    return text.translate(_LATEX).replace(r" \%", r"~\%")
