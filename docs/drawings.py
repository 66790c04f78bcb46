"""Draws the graph of rules and the layers of the package: `python docs/drawings.py`.

Both come from what they show: Snakemake's own graph of the tiny study's rules, and the layers of
`[tool.importlinter]` with the imports that there really are. `tests/docs/test_drawings.py` fails
when a drawing is out of date.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "drawings"

_STYLE = (
    "text { font: 13px system-ui, sans-serif; fill: #222; text-anchor: middle } "
    ".name { font-weight: 600 } .small { font-size: 11px; fill: #555 } "
    "rect { fill: #eef0fa; stroke: #5c6bc0; rx: 5px } .paper { fill: white; stroke: none } "
    "path { fill: none; stroke: #888; stroke-width: 1.5; marker-end: url(#arrow) }"
)
_ARROW = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0 8 4 0 8z" style="fill: #888; stroke: none"/></marker>'
)
_HEIGHT, _GAP = 34, 26  # of a box, and between two rows, in pixels
_FIGURE = re.compile("figure_.*")


def rules() -> str:
    """The rules of a study; an arrow leads from a rule to one that reads its files."""
    after = _reduced(_rule_graph())
    rows = {name: _depth(name, after) for name in after}
    # What needs nothing stands just above the first that needs it.
    for name in [name for name in after if not after[name]]:
        rows[name] = min(rows[other] for other in after if name in after[other]) - 1
    main = _longest_path(after)
    width, boxes, arrows = 190, [], []
    left = {name: 20 if name in main else 20 + width + 60 for name in after}
    top = {name: 20 + rows[name] * (_HEIGHT + _GAP) for name in after}
    for name in after:
        boxes += _box(left[name], top[name], width, [name])
        for source in sorted(after[name]):
            x, y = left[source] + width / 2, top[source] + _HEIGHT
            to, end = left[name] + width / 2, top[name]
            bend, half = end - _GAP, _GAP / 2
            arrows.append(
                f'<path d="M{x:g} {y} V{bend} C{x:g} {bend + half:g} {to:g} {bend + half:g} '
                f'{to:g} {end - 2}"/>'
            )
    return _svg(2 * width + 100, max(top.values()) + _HEIGHT + 20, [*arrows, *boxes])


def layers() -> str:
    """The layers of the package, the lowest at the bottom: what each package imports of others."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]
    (found,) = (c["layers"] for c in config["contracts"] if c["type"] == "layers")
    rows = [layer.split(" | ") for layer in found]
    names = [name for layer in rows for name in layer]
    uses = _imports(names)
    total, space, height, parts = 900, 12, 66, []
    for row, layer in enumerate(rows):
        width = (total - space * (len(layer) - 1)) / len(layer)
        for column, name in enumerate(layer):
            words = f"imports {', '.join(uses[name])}" if uses[name] else "imports no other"
            lines = [name, *_wrapped(words, int(width / 6.2))]
            x, y = 20 + column * (width + space), 20 + row * (height + space)
            parts += _box(x, y, width, lines, height)
    return _svg(total + 40, 28 + len(rows) * (height + space), parts)


def _rule_graph() -> dict[str, set[str]]:
    """Rule -> the rules whose files it reads; all figures are one."""
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "dot"]
    command += ["--configfile", "config/tiny.yaml"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    label = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)', done.stdout, re.M))
    name = {key: _FIGURE.sub("figure (one each)", text) for key, text in label.items()}
    after: dict[str, set[str]] = {text: set() for text in sorted(set(name.values()))}
    for source, target in re.findall(r"^\s*(\d+) -> (\d+)", done.stdout, re.M):
        after[name[target]].add(name[source])
    return after


def _reduced(after: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same order without the arrows that others imply."""
    return {
        name: {
            source
            for source in sources
            if not any(source in _all_before(other, after) for other in sources - {source})
        }
        for name, sources in after.items()
    }


def _all_before(name: str, after: Mapping[str, set[str]]) -> set[str]:
    return after[name].union(*(_all_before(source, after) for source in after[name]))


def _depth(name: str, after: Mapping[str, set[str]]) -> int:
    return 1 + max((_depth(source, after) for source in after[name]), default=-1)


def _longest_path(after: Mapping[str, set[str]]) -> set[str]:
    name: str | None = max(sorted(after), key=lambda name: _depth(name, after))
    path = set()
    while name is not None:
        path.add(name)
        name = max(sorted(after[name]), key=lambda name: _depth(name, after), default=None)
    return path


def _imports(names: Iterable[str]) -> dict[str, list[str]]:
    """Each package and top module -> those that it imports, also where only types are wanted."""
    graph = grimp.build_graph("mpo", cache_dir=None)
    return {
        name: [
            other
            for other in names
            if other != name
            and graph.direct_import_exists(
                importer=f"mpo.{name}", imported=f"mpo.{other}", as_packages=True
            )
        ]
        for name in names
    }


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _box(x: float, y: float, width: float, lines: list[str], height: int = _HEIGHT) -> list[str]:
    parts = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height}"/>']
    first = y + height / 2 + 5 - 8 * (len(lines) - 1)
    for index, line in enumerate(lines):
        kind = "small" if index else "name"
        parts.append(
            f'<text class="{kind}" x="{x + width / 2:g}" y="{first + 16 * index:g}">'
            f"{escape(line)}</text>"
        )
    return parts


def _svg(width: float, height: float, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
    head += f'width="{width:g}" height="{height:g}">'
    paper = '<rect class="paper" width="100%" height="100%"/>'
    body = [head, f"<style>{_STYLE}</style>", f"<defs>{_ARROW}</defs>", paper, *parts, "</svg>"]
    return "\n".join(body) + "\n"


DRAWINGS = {"rules.svg": rules, "layers.svg": layers}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout's package, wherever another one is installed
    for name, draw in DRAWINGS.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
