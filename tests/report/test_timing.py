import pandas as pd
import pytest

from mpo.report.timing import how_timed, in_unit

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
    assert "GPU-seconds are the wall-clock" in how_timed(runs(device="cuda"))
    assert "arms may not be comparable" in how_timed(runs(device=["cpu", "cuda"]))
