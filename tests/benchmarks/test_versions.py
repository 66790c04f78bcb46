import pandas as pd
import pytest

from benchmarks import versions
from mpo.analysis import collect, tables
from mpo.analysis.intervals import t_interval
from tests import synthetic


def twice(study, folder):
    """Two copies of the finished study."""
    synthetic.write_runs(study, folder)
    found = collect.collect(study, folder)
    for name in ("old", "new"):
        tables.write(found, folder / name / "tables")
    return study, folder / "old", folder / "new"


@pytest.fixture
def finished(tmp_path):
    return twice(synthetic.plan(), tmp_path)


def test_equal_versions_differ_by_nothing(finished):
    study, old, new = finished
    table, verdict = versions.compare(old, new)
    cells = len(study.runs) // len(study.seeds)
    assert len(table) == cells and (table["seeds"] == len(study.seeds)).all()
    assert set(table["final return"]) == {"0 [0, 0]"}
    assert verdict == f"0 of {2 * cells} intervals exclude zero."


def test_a_difference_is_of_each_seed_and_counted_where_its_interval_excludes_zero(finished):
    study, old, new = finished
    path = new / "tables" / "evals.parquet"
    evals = pd.read_parquet(path)
    gains = {run.run_id: gain for run, gain in zip(study.runs[:3], (50.0, 60.0, 70.0), strict=True)}
    final = (evals["phase"] == "final") & (evals["policy"] == "mode")
    evals.loc[final, "return"] += evals["run_id"].map(gains).fillna(0.0)
    evals.to_parquet(path)
    table, verdict = versions.compare(old, new)
    found = t_interval([50.0, 60.0, 70.0])
    assert table["final return"][0] == f"60 [{found.lo:.4g}, {found.hi:.4g}]"
    assert table[versions.MEASURES["online"]][0] == "0 [0, 0]"
    assert verdict.startswith("1 of ")


def test_one_seed_has_no_interval_and_so_none_that_excludes_zero(tmp_path):
    _, old, new = twice(synthetic.plan(seeds=1), tmp_path)
    table, verdict = versions.compare(old, new)
    assert set(table["final return"]) == {"0 [nan, nan]"}
    assert verdict.startswith("0 of ")
