"""The pages as a site, and that they cover what there is."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mpo.report.figures import FIGURES
from mpo.study.files import ANSWERS, TABLES
from tests.docs.pages import pages, without_blocks
from tests.pipeline import ROOT


class Resources(HTMLParser):
    """What a page loads: scripts, styles and pictures."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag in ("script", "img", "source", "video", "iframe"):
            self.found.append(values.get("src"))
        elif tag == "link":
            self.found.append(values.get("href"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: a dead link, in README.md too, or a page that is missing is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = ["make", "--old-file=.venv/installed", "docs", f"SITE={folder}"]
    command.append(f"BIN={Path(sys.executable).parent}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_is_built_strictly(site):
    for page in ("index.html", "gallery.html", "reference/trainer.html", "reference/config.html"):
        assert (site / page).is_file()
    assert "Where things are" in (site / "index.html").read_text()
    assert "keep_resume_state" in (site / "reference/trainer.html").read_text()


def test_it_loads_nothing_from_a_network(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = [value for value in Resources(text).found if value]
        assert [value for value in loaded if re.match(r"(https?:)?//", value)] == []
        assert 'class="mermaid"' not in text  # which the theme would fetch a library for
        if page.name != "404.html":
            files = [value.split("?")[0] for value in loaded if not value.startswith("data:")]
            assert [value for value in files if not (page.parent / value).is_file()] == []
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text())


def test_the_gallery_has_every_figure_in_order():
    gallery = pages()["docs/gallery.md"]
    assert re.findall(r"^## (.*)$", gallery, re.M) == list(FIGURES)
    drawn = {path.stem for path in (ROOT / "results/reference/default/figures").glob("*.png")}
    assert drawn <= set(FIGURES)
    for name in drawn:  # a figure that is newer than the kept study has no picture
        assert f"(../results/reference/default/figures/{name}.png)" in gallery


def test_the_results_have_every_study_that_is_kept():
    results = pages()["docs/results.md"]
    for page in (ROOT / "results/reference").glob("*/summary.md"):
        assert f"(../results/reference/{page.parent.name}/summary.md)" in results


def test_every_table_is_described():
    section = pages()["docs/statistics.md"].split("## Tables")[1]
    described = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.M)))
    assert sorted(described) == sorted([*TABLES, *ANSWERS])


def test_the_readme_stays_short_and_names_every_package():
    readme = pages()["README.md"]
    assert len(readme.splitlines()) <= 150
    packages = [path.parent.name for path in (ROOT / "mpo").glob("*/__init__.py")]
    assert [name for name in packages if f"`mpo/{name}/`" not in readme] == []


def test_paths_of_the_code_in_sentences_exist():
    wanted = re.compile(r"`((?:mpo|tests|benchmarks|config|workflow|profiles|docs)/[\w./-]*)`")
    missing = [
        (page, path)
        for page, text in pages().items()
        for path in wanted.findall(without_blocks(text))
        if not (ROOT / path).exists()
    ]
    assert missing == []
