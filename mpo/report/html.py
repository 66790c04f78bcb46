"""Self-contained HTML pages: the summary, tables, the config and films."""

import base64
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import markdown
import yaml

from mpo.analysis.tables import read, units
from mpo.study.files import write_text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 75em; margin: 2em auto;
  padding: 0 1em; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; }
th, td { padding: 0.25em 0.8em; text-align: right; border-bottom: 1px solid #ddd;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { border-bottom: 1px solid #222; position: sticky; top: 0; background: white; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr:hover { background: #f4f4f4; }
img, video { max-width: 100%; display: block; margin-top: 1.5em; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; }
"""
_DIGITS = 5
_IMAGE = re.compile(r'(<img[^>]* src=")([^":]+)(")')
_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".mp4": "video/mp4"}


def summary(text: Path, output: Path) -> None:
    """Writes a Markdown file as a page, with its pictures embedded.

    HTML in the file is shown as text: names and errors come from files that others wrote.
    """
    writer = markdown.Markdown(extensions=["tables"])
    writer.preprocessors.deregister("html_block")
    writer.inlinePatterns.deregister("html")
    body = writer.convert(text.read_text(encoding="utf-8"))
    body = _IMAGE.sub(lambda found: found[1] + _inside(text.parent / found[2]) + found[3], body)
    _write(text.stem, body, output)


def table(tables: Path, name: str, output: Path) -> None:
    """Writes the page of a table: all rows, numbers to five digits, and the columns' units."""
    frame = read(tables, name)
    columns: dict[str, list[str]] = {}
    for column, unit in units(name, frame.columns).items():
        columns.setdefault(unit, []).append(column)
    words = "; ".join(f"{unit}: {', '.join(of)}" for unit, of in columns.items())
    note = f"<p>Units: {html.escape(words)}.</p>" if words else ""
    rows = frame.to_html(index=False, border=0, na_rep="", float_format=f"{{:.{_DIGITS}g}}".format)
    _write(name, f"<h1>{name}</h1>{note}{rows}", output)


def config(study: Path, output: Path) -> None:
    """Writes a study's complete config as a page, in YAML."""
    content = json.loads(study.read_text(encoding="utf-8"))
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
    _write("config", f"<h1>config</h1><pre>{html.escape(text)}</pre>", output)


def films(paths: Sequence[Path], output: Path) -> None:
    """Writes a page of films, each under the name of its run, `environment/arm/seedN/stepN`."""
    body = "".join(
        f"<h2>{html.escape('/'.join(path.parts[-5:-1]))}</h2>"
        f'<video controls loop src="{_inside(path)}"></video>'
        for path in paths
    )
    _write("films", f"<h1>Films of the final policies</h1>{body}", output)


def _inside(path: Path) -> str:
    """Encodes a file as a data URI."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"data:{_TYPES[path.suffix]};base64,{data}"


def _write(title: str, body: str, output: Path) -> None:
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    page = f"<!doctype html><html><head>{head}</head><body>{body}</body></html>"
    write_text(output, page)
