"""Whether the runs of a cell are compiled."""

import json
import logging
import os

import pytest

from mpo.jobs import compiling
from mpo.jobs.compiling import compiled
from mpo.study.checksums import sealed
from mpo.study.files import RUN, write_json
from tests import processes

LARGE = {"critic_layer_sizes": (256, 256, 256), "batch_size": 256}


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    """Stands for a compiler that works; tests may take it away."""
    works = [True]
    monkeypatch.setattr(compiling, "compiles", lambda device, on_cpu: works[0] and on_cpu)
    return works


def decide(folder, steps=100_000, wish="auto", seed=0, study="study", **training):
    spec = processes.run_spec("Pendulum-v1", **training)
    place = processes.place(folder, spec, steps, seed, study)
    return compiled(spec.cell, place, steps, wish)


def finish(folder, was, seed=0, device="cpu", **training):
    """Leaves the record of a finished run."""
    spec = processes.run_spec("Pendulum-v1", seed, **training)
    provenance = {"device": device, "compiled": was}
    record = {"spec": spec.model_dump(mode="json"), "provenance": provenance}
    path = processes.results(folder, spec, 600) / RUN
    write_json(path, sealed(record))
    return path


@pytest.mark.parametrize(
    ("steps", "training", "expected"),
    [
        (400, {}, False),
        (3000, {}, False),
        (5000, {}, True),
        (5000, {"updates_per_step": 0.25}, False),
        (20_000, {"updates_per_step": 0.25}, True),
        (1500, {}, False),
        (1500, LARGE, True),
        (300, LARGE, False),
        (50_000, {"update_after": 49_000}, False),
    ],
)
def test_it_is_where_it_saves_more_than_it_takes(tmp_path, steps, training, expected):
    assert decide(tmp_path, steps, **training) is expected


def test_later_runs_do_as_the_first(tmp_path):
    assert not decide(tmp_path, 400)
    assert not decide(tmp_path, 100_000)
    assert not decide(tmp_path, 100_000, seed=5, study="another")
    assert decide(tmp_path, 100_000, gamma=0.5), "another cell"
    assert decide(tmp_path, 400, gamma=0.5)


def test_two_first_jobs_may_decide_at_once(tmp_path, monkeypatch):
    """The second writes its record while the first is about to."""
    second, replace = [], os.replace

    def interrupted(*paths):
        monkeypatch.setattr(os, "replace", replace)
        second.append(decide(tmp_path, 400, seed=1))
        replace(*paths)

    monkeypatch.setattr(os, "replace", interrupted)
    assert [decide(tmp_path, 400), *second] == [False, False]
    assert not decide(tmp_path, 100_000, seed=2)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_wish_comes_first_and_is_said(tmp_path, caplog):
    assert decide(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert not decide(tmp_path, wish="false")
    assert "runs of this cell before were compiled" in caplog.text
    assert decide(tmp_path), "a single wish is not kept to"
    assert decide(tmp_path, 400, wish="true", gamma=0.5)
    assert decide(tmp_path, 400, gamma=0.5)


def test_finished_runs_tell_where_the_record_was_deleted(tmp_path):
    finish(tmp_path, was=False)
    assert not decide(tmp_path, seed=1)
    finish(tmp_path, was=True, seed=2, gamma=0.5)
    finish(tmp_path, was=True, seed=3, device="cuda", gamma=0.9)
    assert decide(tmp_path, 400, gamma=0.5)
    assert not decide(tmp_path, 400, gamma=0.9), "a GPU's run says nothing"


@pytest.mark.parametrize("content", ["", "[]", '{"compiled"', "{}"])
def test_damaged_records_are_done_without(tmp_path, content):
    assert decide(tmp_path)
    (record,) = tmp_path.rglob(compiling.RECORD)
    record.write_text(content)
    run = finish(tmp_path, was=False)
    assert not decide(tmp_path)
    record.write_text(content)
    run.write_text("{")
    assert decide(tmp_path)


def test_without_a_compiler_nothing_is_compiled_and_that_is_kept(tmp_path, compiler):
    compiler[0] = False
    assert not decide(tmp_path)
    compiler[0] = True
    assert not decide(tmp_path)
    (record,) = tmp_path.rglob(compiling.RECORD)
    assert json.loads(record.read_text()) == {"compiled": False}


@pytest.mark.slow
@pytest.mark.needs("compiler")
def test_a_pack_follows_and_has_the_bits_of_single_seeds(tmp_path):
    spec, steps = processes.run_spec("Pendulum-v1"), 200

    def trained(name, seeds, wish="auto"):
        folder = tmp_path / name
        processes.finish(
            processes.train(folder, spec, steps, "--compile-on-cpu", wish, seeds=seeds)
        )
        return [processes.results(folder, spec, steps, seed=seed) for seed in seeds]

    (one,) = trained("alone", [1], "true")
    before = processes.bits(one)
    assert json.loads((one / RUN).read_text())["provenance"]["compiled"]
    # A second seed of the same cell follows, and both together have the same bits.
    (other,) = trained("alone", [2])
    assert json.loads((other / RUN).read_text())["provenance"]["compiled"]
    pack = trained("pack", [1, 2], "true")
    assert [processes.bits(run) for run in pack] == [before, processes.bits(other)]
