import pandas as pd
import pytest

from benchmarks import versions
from mpo.analysis import collect, tables
from mpo.analysis.intervals import t_interval
from tests import synthetic


@pytest.fixture
def finished(tmp_path):
    """Two copies of one finished study."""
    study = synthetic.plan()
    synthetic.write_runs(study, tmp_path)
    found = collect.collect(study, tmp_path)
    for name in ("old", "new"):
        tables.write(found, tmp_path / name / "tables")
    return study, tmp_path / "old", tmp_path / "new"


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
