"""Text from files that others wrote is shown as text: in pages, captions, Markdown and LaTeX."""

import json
from html.parser import HTMLParser

import jinja2
import pandas as pd
import pytest

from mpo.analysis import tables
from mpo.report import figures, html, paper_tables, summary, typeset
from mpo.study.files import PAGES, TYPESET
from mpo.study.overview import failures
from tests import synthetic

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>[link](javascript:alert(3)) | `a` $x^$ "
    "{{ 7 * 7 }}{% for %}\n\n.. raw:: html\n\n   <script>alert(4)</script>\n\n```\n# heading"
)


class Live(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [tag] * (tag in ("script", "iframe", "object"))
        self.found += [name for name, value in attrs if name.startswith("on")]
        self.found += [value for _, value in attrs if (value or "").startswith("javascript:")]
        self.found += [value for name, value in attrs if name == "src" and value == "x"]


def live(text):
    parser = Live()
    parser.feed(text)
    return parser.found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A study whose runs, machine, errors, references and baselines hold hostile text."""
    root = tmp_path_factory.mktemp("hostile")
    study = synthetic.plan(environments=1)
    synthetic.write_runs(study, root)
    for run in study.runs[:2]:
        path = root / run.directory / "run.json"
        record = json.loads(path.read_text())
        record["provenance"] |= {"host": HOSTILE, "device_name": HOSTILE, "cpu": HOSTILE}
        path.write_text(json.dumps(record | {"status": "diverged", "error": HOSTILE}))
    folder = synthetic.write_tables(study, root)
    env = study.environments[0].id
    facts = {"env": env, "steps": 10_000, "mean": -150.0, "lo": -160.0, "hi": -140.0, "n": 3.0}
    text = {"algorithm": HOSTILE, "source": HOSTILE, "what": HOSTILE}
    columns = tables.read(folder, "baselines").columns
    frame = pd.DataFrame([{**dict.fromkeys(columns), **facts, **text}])[list(columns)]
    references = tables.read(folder, "references").assign(what=HOSTILE, source=HOSTILE)
    tables.write({"baselines": frame, "references": references}, folder)
    return study, folder, root


def test_the_summary_shows_it_as_text(hostile, tmp_path):
    study, folder, _ = hostile
    summary.write(study, folder, [tmp_path / "learning_curves.png"], tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    assert "alert(1)" in text and not live(text) and "\n# heading" not in text
    (tmp_path / "learning_curves.png").write_bytes(b"picture")
    html.summary(tmp_path / "summary.md", tmp_path / "summary.html")
    page = (tmp_path / "summary.html").read_text()
    assert "alert(1)" in page and not live(page)


def test_html_in_a_summary_is_text_wherever_it_comes_from(tmp_path):
    (tmp_path / "summary.md").write_text(f"# Study\n\n<script>alert(0)</script>\n\n{HOSTILE}\n")
    html.summary(tmp_path / "summary.md", tmp_path / "summary.html")
    page = (tmp_path / "summary.html").read_text()
    assert "alert(0)" in page and "script" not in live(page)


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_of_tables_show_it_as_text(hostile, tmp_path, name):
    _, folder, _ = hostile
    html.table(folder, name, tmp_path / "page.html")
    assert not live((tmp_path / "page.html").read_text())


def test_a_film_and_a_config_show_it_as_text(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({"study": HOSTILE}))
    html.config(tmp_path / "study.json", tmp_path / "config.html")
    assert not live((tmp_path / "config.html").read_text())
    film = tmp_path / "<script>" / "arm" / "seed0" / "step1" / "video.mp4"
    film.parent.mkdir(parents=True)
    film.write_bytes(b"film")
    html.films([film], tmp_path / "films.html")
    assert not live((tmp_path / "films.html").read_text())


@pytest.mark.parametrize("name", figures.FIGURES)
def test_captions_hold_no_directive_and_no_template(hostile, name):
    study, folder, _ = hostile
    text = figures.caption_rst(name, study, folder)
    assert len(text.splitlines()) == 1
    shown = jinja2.Template(text).render()
    if "alert" in shown:
        assert "{{ 7 \\* 7 }}" in shown


def test_a_figure_draws_it_as_text(hostile, tmp_path):
    study, folder, _ = hostile
    figures.draw("learning_curves", study, folder, [tmp_path / "f.svg"])
    assert "<script" not in (tmp_path / "f.svg").read_text()


@pytest.mark.parametrize("name", TYPESET)
def test_typeset_tables_show_it_as_text(hostile, name):
    study, folder, _ = hostile
    table = getattr(paper_tables, name)(study, folder)
    assert not live(typeset.markdown(table))
    latex = typeset.latex(table, "tab:x")
    assert "$x^" not in latex and "\\script" not in latex


def test_the_page_of_failures_shows_it_as_text(hostile, tmp_path):
    study, _, root = hostile
    text = failures(study, root)
    outside = "".join(text.split("````")[::2])
    assert "alert(1)" in text and "alert(1)" not in outside and "# heading" not in outside
