import pandas as pd
import pytest

from mpo.analysis import tables
from mpo.report import answers
from mpo.report.timing import how_timed, in_unit
from tests import synthetic

ALIKE = {
    "device": "cpu",
    "device_name": "cpu",
    "stacked": 3.0,
    "compiled": True,
    "threads": 1,
    "cpu": "A",
    "host": "a",
}


def runs(**columns):
    return pd.DataFrame([ALIKE, ALIKE]).assign(**columns)


@pytest.mark.parametrize(
    ("largest", "unit", "length"),
    [(299, "core-seconds", 1), (300, "core-minutes", 60), (18_000, "core-hours", 3600)],
)
def test_time_is_in_the_unit_that_fits(largest, unit, length):
    assert in_unit("core-seconds", largest) == (unit, length)


def test_what_changes_the_cost_of_runs_is_named():
    assert "differ" not in how_timed(runs())
    assert "Core-seconds are the CPU time" in how_timed(runs())
    text = how_timed(runs(stacked=[1.0, 2.9], compiled=[True, False], host=["a", None]))
    assert "The runs differ in seeds per process (1 to 2.9), compiled by torch (no, yes)," in text
    assert "per process (2 to 10)," in how_timed(runs(stacked=[10.0, 2.0]))
    assert "threads (2, 10)," in how_timed(runs(threads=[10, 2]))
    assert "GPU-seconds are the wall-clock" in how_timed(runs(device="cuda"))
    assert "arms may not be comparable" in how_timed(runs(device=["cpu", "cuda"]))


def test_the_answers_say_what_a_level_costs(tmp_path):
    study = synthetic.plan(environments=2, axes={"retrace": [False, True]})
    synthetic.write_runs(study, tmp_path)
    folder = synthetic.write_tables(study, tmp_path)
    found = tables.read(folder, "cost_ratios").assign(estimate=1.3, lo=1.246, hi=1.354)
    tables.write({"cost_ratios": found}, folder)
    text = "\n".join(answers.section(study, folder))
    assert (
        "Cost: what an environment step takes in core-seconds, as a ratio at equal steps." in text
    )
    said = "- **Retrace on / Retrace off**: 1.30 times"
    data = "over 2 environments, 6 timings"
    assert f"{said} [1.25, 1.35], {data} in all (exploratory)." in text
    tables.write({"cost_ratios": found.assign(lo=float("nan"), hi=float("nan"))}, folder)
    text = "\n".join(answers.section(study, folder))
    assert f"{said}, {data}: no interval, since some arm was timed once only." in text
    tables.write({"cost_ratios": found.iloc[:0]}, folder)
    assert "Cost:" not in "\n".join(answers.section(study, folder))
