"""What a study asks is written down once, before its first run, and compared with the config."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from mpo.study.checksums import Damaged
from mpo.study.config import canonical_json
from mpo.study.files import QUESTIONS
from mpo.study.questions import ASKED, edited, read, record, write_once
from tests import synthetic

CONFIG = synthetic.config(1) | {
    "execution": {"threads": 2},
    "contrasts": [{"axis": "retrace", "against": False}],
    "bundles": [],
    "tuning": None,
}
TIME = datetime(2026, 11, 27, 23, 30, 59, 7, timezone(-timedelta(hours=2)))


def test_the_record_holds_the_sections_their_checksum_and_the_time_in_utc():
    found = record(CONFIG, TIME)
    sections = ("environments", "seeds", "axes", "schedule", "training", "evaluation")
    assert found["asked"] == {k: CONFIG[k] for k in (*sections, "statistics", "contrasts")}
    text = canonical_json(found["asked"]).encode()
    assert found["sha256"] == hashlib.sha256(text).hexdigest()
    assert found["time"] == "2026-11-28T01:30:59+00:00"
    assert record(dict(reversed(CONFIG.items())), datetime.now(UTC))["sha256"] == found["sha256"]


@pytest.mark.parametrize("section", ASKED)
def test_an_edited_section_is_named(section):
    recorded = record(CONFIG, TIME)
    assert edited(recorded, CONFIG | {section: ["other"]}) == [section]
    changed = [section] if CONFIG.get(section) else []
    assert edited(recorded, {k: v for k, v in CONFIG.items() if k != section}) == changed


def test_sections_are_named_in_one_order_and_only_those_that_ask():
    recorded = record(CONFIG, TIME)
    other = CONFIG | {"tuning": {"axes": ["optimizer"]}, "seeds": [9], "study": "x", "extras": {}}
    assert edited(recorded, other | {"execution": {}}) == ["seeds", "tuning"]


def test_equal_numbers_in_another_form_are_no_edit():
    recorded = json.loads(json.dumps(record(CONFIG, TIME)))
    training = CONFIG["training"]
    assert edited(recorded, CONFIG | {"training": training | {"batch_size": 128.0}}) == []
    assert edited(recorded, CONFIG | {"training": training | {"batch_size": 129}}) == ["training"]


def test_questions_are_written_once(tmp_path):
    folder = tmp_path / "results/made-up"
    assert read(folder / QUESTIONS) is None
    write_once(CONFIG, folder)
    before = (folder / QUESTIONS).read_bytes()
    found = read(folder / QUESTIONS)
    assert edited(found, CONFIG) == []
    age = datetime.now(UTC) - datetime.fromisoformat(found["time"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    write_once(CONFIG | {"seeds": [7]}, folder)
    assert (folder / QUESTIONS).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [QUESTIONS]


def test_after_a_run_has_begun_it_is_too_late(tmp_path):
    (tmp_path / "runs").mkdir()
    write_once(CONFIG, tmp_path)
    assert (tmp_path / QUESTIONS).exists()
    (tmp_path / QUESTIONS).unlink()
    (tmp_path / "runs/Pendulum-v1").mkdir()
    write_once(CONFIG, tmp_path)
    assert read(tmp_path / QUESTIONS) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps(record(CONFIG, TIME)).replace("[0, 1, 2]", "[0, 1]"),
        json.dumps(record(CONFIG, TIME) | {"time": "yesterday"}),
        json.dumps(record(CONFIG, TIME) | {"asked": []}),
        json.dumps(record(CONFIG, TIME))[:-9],
    ],
)
def test_a_damaged_record_is_told_from_a_missing_one(tmp_path, content):
    (tmp_path / QUESTIONS).write_text(content)
    with pytest.raises(Damaged, match=QUESTIONS):
        read(tmp_path / QUESTIONS)
