import base64
import json

import pytest
import yaml

from mpo.analysis import tables
from mpo.report import html
from tests import synthetic


def text_of(path):
    text = path.read_text()
    assert text.startswith("<!doctype html>") and text.endswith("</html>")
    assert "http" not in text  # the page loads nothing from elsewhere
    return text


def test_the_summary_holds_its_tables_and_pictures(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"picture")
    source = (
        "# Study\n\n- **bold**: x < y\n\n![a](figures/a.png)\n\n| a | b |\n|---|---|\n| 1 | two |\n"
    )
    (tmp_path / "summary.md").write_text(source)
    html.summary(tmp_path / "summary.md", tmp_path / "summary.html")
    text = text_of(tmp_path / "summary.html")
    assert "<h1>Study</h1>" in text and "<strong>bold</strong>: x &lt; y" in text
    assert "<td>two</td>" in text
    assert f"data:image/png;base64,{base64.b64encode(b'picture').decode()}" in text
    assert "figures/a.png" not in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("runs", "environment steps: env_steps"),
        ("scores", "undiscounted sum of rewards: mean, lo, hi, min, max"),
        ("effects", "as `unit` says: estimate, lo, hi, sd"),
        ("aggregates", "1 of the reference: estimate, lo, hi"),
        ("improvements", "probability: estimate, lo, hi"),
        ("cost_ratios", "ratio of two costs: estimate, lo, hi"),
        ("baselines", "undiscounted sum of rewards: mean, lo, hi"),
    ],
)
def test_a_table_has_every_row_and_its_units(tmp_path, name, said):
    study = synthetic.plan(environments=1)
    synthetic.write_runs(study, tmp_path)
    folder = synthetic.write_tables(study, tmp_path)
    html.table(folder, name, tmp_path / "t.html")
    text, frame = text_of(tmp_path / "t.html"), tables.read(folder, name)
    assert text.count("<tr") == len(frame) + 1 and "nan" not in text.lower()
    assert said in text
    if name == "scores":
        assert f"<td>{frame.loc[0, 'mean']:.5g}</td>" in text


def test_the_config_can_be_read_back(tmp_path):
    config = synthetic.config() | {"study": "a<b"}
    (tmp_path / "study.json").write_text(json.dumps(config))
    html.config(tmp_path / "study.json", tmp_path / "config.html")
    text = text_of(tmp_path / "config.html")
    inner = text[text.index("<pre>") + 5 : text.index("</pre>")]
    assert yaml.safe_load(inner.replace("&lt;", "<").replace("&#x27;", "'")) == config


def test_films_stand_under_their_runs(tmp_path):
    path = tmp_path / "runs" / "A-v0" / "retrace-on" / "seed3" / "step100" / "video.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"film")
    html.films([path], tmp_path / "films.html")
    text = text_of(tmp_path / "films.html")
    assert "<h2>A-v0/retrace-on/seed3/step100</h2><video controls" in text
    assert f"data:video/mp4;base64,{base64.b64encode(b'film').decode()}" in text
