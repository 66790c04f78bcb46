"""Opens the report of a finished study in a real browser, without a network."""

import shutil
import zipfile

import pandas as pd
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from mpo.report.figures import FIGURES
from tests.pipeline import snakemake

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium")]


class Browser:
    """Headless Chromium that shows a report."""

    def __init__(self, page):
        paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
        options = webdriver.ChromeOptions()
        options.binary_location = paths[0]
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        options.add_argument("--headless=new")
        options.add_argument("--no-sandbox")  # Chromium has no sandbox for root
        options.add_argument("--disable-dev-shm-usage")
        options.add_argument("--window-size=1500,1000")
        options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
        service = webdriver.ChromeService(paths[1])
        self.driver = webdriver.Chrome(options=options, service=service)
        self.page = page

    def until(self, found):
        """Waits until `found` returns something true, and returns it."""
        return WebDriverWait(self.driver, 20).until(lambda _: found())

    def text(self):
        return self.driver.find_element(By.TAG_NAME, "body").text

    def named(self, tag, words):
        return [e for e in self.driver.find_elements(By.TAG_NAME, tag) if e.text == words]

    def open(self, section):
        """Loads the first page and opens a section."""
        self.driver.get(f"file://{self.page}")
        self.until(lambda: self.named("a", section))[0].click()

    def show(self, section, label, sign=0):
        """Opens the result with this label (sign 0) or its description (sign 1)."""
        self.open(section)
        self.until(lambda: self.named("td", label))
        rows = self.driver.find_elements(By.TAG_NAME, "tr")
        (row,) = [row for row in rows if self.label(row) == label]
        row.find_elements(By.TAG_NAME, "a")[sign].click()

    def label(self, row):
        return next((cell.text for cell in row.find_elements(By.TAG_NAME, "td")), None)

    def inner_page(self):
        """Switches to the page inside the report's frame."""
        frame = self.until(lambda: self.driver.find_elements(By.TAG_NAME, "iframe"))[0]
        self.driver.switch_to.frame(frame)
        self.until(self.text)

    def widths(self):
        """Returns the width of each picture in pixels, 0 while it is not loaded."""
        images = self.driver.find_elements(By.TAG_NAME, "img")
        return [image.get_property("naturalWidth") for image in images]

    def colours(self, canvas):
        """Returns how many colours a drawing has, 0 while there is none."""
        for element in self.driver.find_elements(By.CSS_SELECTOR, canvas):
            return self.driver.execute_script(
                "const c = arguments[0], all = c.getContext('2d');"
                "const seen = all.getImageData(0, 0, c.width, c.height).data.buffer;"
                "return new Set(new Uint32Array(seen)).size",
                element,
            )
        return 0


@pytest.fixture(scope="module", params=["html", "zip"])
def browser(tiny_study, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("report") / "project"
    shutil.copytree(tiny_study, folder)
    done = snakemake(folder, "--report", f"report.{request.param}")
    assert done.returncode == 0, done.stdout + done.stderr
    page = folder / "report.html"
    if request.param == "zip":
        zipfile.ZipFile(folder / "report.zip").extractall(folder)
        page = folder / "report" / "report.html"
    browser = Browser(page)
    browser.tables = folder / "results/tiny/tables"
    yield browser
    browser.driver.quit()


def test_it_opens_without_errors_and_is_not_blank(browser, tmp_path):
    browser.open("Summary")
    severe = [e for e in browser.driver.get_log("browser") if e["level"] == "SEVERE"]
    assert severe == []
    assert browser.driver.save_screenshot(str(tmp_path / "report.png"))
    assert len(Image.open(tmp_path / "report.png").getcolors(1 << 24)) > 100


def test_the_summary_answers_and_shows_figures_and_provenance(browser):
    browser.show("Summary", "the study")
    browser.inner_page()
    text = browser.text()
    assert "Retrace on \N{MINUS SIGN} Retrace off: " in text and "algorithm version: " in text
    widths = browser.until(lambda: all(browser.widths()) and browser.widths())
    assert len(widths) == len(FIGURES) and min(widths) > 300


def test_figures_have_captions_with_their_numbers(browser):
    browser.open("Figures")
    browser.until(lambda: browser.named("td", "aggregates"))
    for name in FIGURES:
        assert browser.named("td", name.replace("_", " "))
    browser.show("Figures", "aggregates")
    assert browser.until(lambda: [w for w in browser.widths() if w > 300])
    browser.show("Figures", "aggregates", sign=1)
    browser.until(lambda: "DESCRIPTION" in browser.text())
    caption = "Bars: 95 % stratified bootstrap intervals, 1000 resamples of the seeds"
    assert caption in browser.text()


def test_tables_and_config_can_be_read(browser):
    browser.show("Tables", "scores")
    browser.inner_page()
    mean = pd.read_parquet(browser.tables / "scores.parquet")["mean"].iloc[0]
    assert f"{mean:.5g}" in browser.text()
    browser.show("Config", "config")
    browser.inner_page()
    assert "update_after: 100" in browser.text() and "temperature_lr: 0.01" in browser.text()


def test_the_rules_and_their_run_times_are_drawn(browser):
    for section, drawing in (
        ("Workflow", "rulegraph"),
        ("Statistics", "runtimes"),
        ("Statistics", "timeline"),
    ):
        browser.open(section)
        assert browser.until(lambda name=drawing: browser.colours(f"div#{name} canvas")) > 5
    nodes = browser.driver.execute_script("return rulegraph_spec.data[0].values")
    assert {"train", "evaluate", "statistics", "summary"} <= {node["rule"] for node in nodes}
