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
RETURNS = {"Pendulum-v1": -150.0, "no-reference-v0": None}
TIME = datetime(2026, 11, 27, 23, 30, 59, 7, timezone(-timedelta(hours=2)))


def test_the_record_holds_the_sections_their_checksum_and_the_time_in_utc():
    found = record(CONFIG, RETURNS, TIME)
    sections = ("environments", "seeds", "axes", "schedule", "training", "evaluation")
    asked = {k: CONFIG[k] for k in (*sections, "statistics", "contrasts")}
    assert found["asked"] == asked | {"references": RETURNS}
    text = canonical_json(found["asked"]).encode()
    assert found["sha256"] == hashlib.sha256(text).hexdigest()
    assert found["time"] == "2026-11-28T01:30:59+00:00"
    assert (
        record(dict(reversed(CONFIG.items())), RETURNS, datetime.now(UTC))["sha256"]
        == found["sha256"]
    )


@pytest.mark.parametrize("section", ASKED)
def test_an_edited_section_is_named(section):
    recorded = record(CONFIG, RETURNS, TIME)
    assert edited(recorded, CONFIG | {section: ["other"]}, RETURNS) == [section]
    changed = [section] if CONFIG.get(section) else []
    assert edited(recorded, {k: v for k, v in CONFIG.items() if k != section}, RETURNS) == changed


def test_sections_are_named_in_one_order_and_only_those_that_ask():
    recorded = record(CONFIG, RETURNS, TIME)
    other = CONFIG | {"tuning": {"axes": ["optimizer"]}, "seeds": [9], "study": "x", "extras": {}}
    assert edited(recorded, other | {"execution": {}}, RETURNS) == ["seeds", "tuning"]


def test_equal_numbers_in_another_form_are_no_edit():
    recorded = json.loads(json.dumps(record(CONFIG, RETURNS, TIME)))
    training = CONFIG["training"]
    assert edited(recorded, CONFIG | {"training": training | {"batch_size": 128.0}}, RETURNS) == []
    assert edited(recorded, CONFIG | {"training": training | {"batch_size": 129}}, RETURNS) == [
        "training"
    ]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"Pendulum-v1": -150, "no-reference-v0": None}, []),
        ({"Pendulum-v1": -140.0, "no-reference-v0": None}, ["references"]),
        ({"Pendulum-v1": None}, ["references"]),
        ({"no-reference-v0": 3.0}, ["references"]),
        ({"Pendulum-v1": -150.0, "new-v0": 1.0}, []),  # a new environment is said already
    ],
)
def test_an_edited_reference_is_said(now, said):
    assert edited(record(CONFIG, RETURNS, TIME), CONFIG, now) == said


def test_a_record_of_an_older_version_tells_nothing_of_references(tmp_path):
    older = record(CONFIG, RETURNS, TIME)
    asked = {key: value for key, value in older["asked"].items() if key != "references"}
    digest = hashlib.sha256(canonical_json(asked).encode()).hexdigest()
    (tmp_path / QUESTIONS).write_text(
        json.dumps({"time": older["time"], "sha256": digest, "asked": asked})
    )
    assert edited(read(tmp_path / QUESTIONS), CONFIG, {"Pendulum-v1": 0.0}) == []


def test_questions_are_written_once(tmp_path):
    folder = tmp_path / "results/made-up"
    assert read(folder / QUESTIONS) is None
    write_once(CONFIG, RETURNS, folder)
    before = (folder / QUESTIONS).read_bytes()
    found = read(folder / QUESTIONS)
    assert edited(found, CONFIG, RETURNS) == []
    age = datetime.now(UTC) - datetime.fromisoformat(found["time"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    write_once(CONFIG | {"seeds": [7]}, RETURNS, folder)
    assert (folder / QUESTIONS).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [QUESTIONS]


def test_after_a_run_has_begun_it_is_too_late(tmp_path):
    (tmp_path / "runs").mkdir()
    write_once(CONFIG, RETURNS, tmp_path)
    assert (tmp_path / QUESTIONS).exists()
    (tmp_path / QUESTIONS).unlink()
    (tmp_path / "runs/Pendulum-v1").mkdir()
    write_once(CONFIG, RETURNS, tmp_path)
    assert read(tmp_path / QUESTIONS) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps(record(CONFIG, RETURNS, TIME)).replace("[0, 1, 2]", "[0, 1]"),
        json.dumps(record(CONFIG, RETURNS, TIME) | {"time": "yesterday"}),
        json.dumps(record(CONFIG, RETURNS, TIME) | {"asked": []}),
        json.dumps(record(CONFIG, RETURNS, TIME)).replace("2026-11-28T01", "2026-11-27T01"),
        json.dumps({k: v for k, v in record(CONFIG, RETURNS, TIME).items() if k != "seal"}),
        json.dumps(record(CONFIG, RETURNS, TIME))[:-9],
    ],
)
def test_a_damaged_record_is_told_from_a_missing_one(tmp_path, content):
    (tmp_path / QUESTIONS).write_text(content)
    with pytest.raises(Damaged, match=QUESTIONS):
        read(tmp_path / QUESTIONS)
