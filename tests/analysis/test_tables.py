import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpo.analysis import collect, tables
from mpo.analysis.intervals import t_interval
from mpo.study.checksums import Damaged, sealed
from mpo.study.files import TABLE_CHECKSUMS
from mpo.study.labels import arm_label
from tests import synthetic


def rewrite(path, change):
    """Applies a change to a parquet file of a run."""
    change(pd.read_parquet(path)).to_parquet(path)


@pytest.fixture
def study(tmp_path):
    study = synthetic.plan()
    synthetic.write_runs(study, tmp_path)
    return study


def test_every_table_is_tidy_and_in_the_studys_order(study, tmp_path):
    found = collect.collect(study, tmp_path)
    assert list(found["runs"]["run_id"]) == [run.run_id for run in study.runs]
    for name in ("evals", "train"):
        assert list(found[name]["run_id"].unique()) == [run.run_id for run in study.runs]
    cells = [(run.spec.env_id, arm_label(study, run.arm)) for run in study.runs[::3]]
    scores = found["scores"].query("policy == 'mode'")
    assert list(zip(scores["env"], scores["arm"], strict=True)) == cells
    assert len(found["scores"]) == 2 * len(cells)
    assert len(found["curves"]) == 11 * len(cells)
    assert (found["curves"]["n"] == 3).all() and (found["scores"]["episodes"] == 4).all()


def test_a_seed_is_one_unit(study, tmp_path):
    run = study.runs[0]
    path = tmp_path / run.directory / "evals.parquet"
    returns = {0: [0.0, 0.0, 0.0, 40.0], 1: [20.0] * 4, 2: [33.0] * 4}
    for seed, values in returns.items():
        path = tmp_path / study.runs[seed].directory / "evals.parquet"

        def change(evals, values=values):
            evals.loc[(evals["phase"] == "final") & (evals["policy"] == "mode"), "return"] = values
            return evals

        rewrite(path, change)
    score = collect.collect(study, tmp_path)["scores"].query("policy == 'mode'").iloc[0]
    expected = t_interval([10.0, 20.0, 33.0])  # over the seeds, not over the twelve episodes
    assert (score["n"], score["mean"], score["lo"], score["hi"]) == pytest.approx(expected)
    assert (score["min"], score["max"]) == (10.0, 33.0)


def test_the_order_of_rows_in_a_run_does_not_matter(study, tmp_path):
    before = collect.collect(study, tmp_path)["scores"]
    path = tmp_path / study.runs[0].directory / "evals.parquet"
    rewrite(path, lambda evals: evals.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(collect.collect(study, tmp_path)["scores"], before)


def test_a_column_that_a_run_lacks_is_empty(study, tmp_path):
    train = collect.collect(study, tmp_path)["train"]
    on = train["run_id"].str.contains("retrace-on")
    assert train.loc[on, "trace_coefficient"].notna().all()
    assert train.loc[~on, "trace_coefficient"].isna().all()


def test_the_critics_error_is_a_column_and_missing_where_no_critic_was_kept(study, tmp_path):
    for run in study.runs[:2]:
        (tmp_path / run.directory / "evals.json").write_text(json.dumps({"eval_s": 12.5}))
    names = ["q_bias", "q_spread", "q_return", "q_states", "q_bootstrap"]
    runs = collect.collect(study, tmp_path)["runs"]
    assert {*runs[names].dtypes} == {np.dtype(float)}
    assert runs.loc[:1, names].isna().all(axis=None) and runs.loc[2:, names].notna().all(axis=None)
    record = json.loads((tmp_path / study.runs[2].directory / "evals.json").read_text())
    assert runs.loc[2, names].to_dict() == {name: record[name] for name in names}
    tables.write({"runs": runs}, tmp_path / "tables")
    assert pd.read_csv(tmp_path / "tables/runs.csv")[names].isna().all(axis=1).sum() == 2
    assert tables.units("runs", names).keys() == {*names}


def test_missing_runs_are_refused_by_name(study, tmp_path):
    for run in study.runs[:12]:
        (tmp_path / run.directory / "evals.parquet").unlink()
    with pytest.raises(collect.MissingRuns) as caught:
        collect.collect(study, tmp_path)
    message = str(caught.value)
    assert message.startswith("12 planned runs lack files")
    assert f"{study.runs[0].run_id} (planned): evals.parquet" in message and "and 2 more" in message


def test_missing_runs_that_are_allowed_are_counted_in_every_cell(study, tmp_path):
    whole = collect.collect(study, tmp_path)
    allowed = synthetic.lose(study, tmp_path, [0, 3, 4, 5])
    found = collect.collect(allowed, tmp_path)
    assert list(found["runs"]["status"][:6]) == ["failed", "ok", "ok"] + ["failed"] * 3
    assert found["runs"]["error"][0] == "RuntimeError: no luck"
    for name in ("scores", "curves"):
        assert len(found[name]) == len(whole[name])
        n = found[name].groupby(["env", "arm"], sort=False)["n"].agg(["min", "max"])
        assert n.iloc[0].tolist() == [2, 2] and n.iloc[1].tolist() == [0, 0]
        assert (n.iloc[2:] == 3).all(axis=None)
    scores = found["scores"].query("policy == 'mode'")
    evals = whole["evals"].query("phase == 'final' and policy == 'mode'")
    two = [evals[evals["run_id"] == study.runs[i].run_id]["return"].mean() for i in (1, 2)]
    expected = t_interval(two)
    assert tuple(scores.iloc[0][["n", "mean", "lo", "hi"]]) == pytest.approx(expected)
    assert scores.iloc[1][["mean", "lo", "hi", "min", "max"]].isna().all()


def test_a_study_without_any_run_is_refused_also_where_missing_ones_are_allowed(study, tmp_path):
    with pytest.raises(collect.MissingRuns, match="24 planned runs lack files"):
        collect.collect(synthetic.lose(study, tmp_path, range(24)), tmp_path)


def test_diverged_runs_count_and_are_counted(study, tmp_path):
    path = tmp_path / study.runs[1].directory / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"status": "diverged", "error": "q_mean is inf at step 3"}))
    found = collect.collect(study, tmp_path)
    assert (found["scores"]["n"] == 3).all()
    assert (
        found["scores"].groupby(["env", "arm"], sort=False)["diverged"].max().tolist()
        == [1] + [0] * 7
    )
    assert found["runs"]["error"][1] == "q_mean is inf at step 3"


def test_results_of_another_spec_are_refused(study, tmp_path):
    path = tmp_path / study.runs[1].directory / "run.json"
    record = json.loads(path.read_text())
    record["spec"]["training"]["gamma"] = 0.5
    path.write_text(json.dumps(record))
    with pytest.raises(collect.DamagedRuns, match=f"{study.runs[1].run_id}: .*another spec"):
        collect.collect(study, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda evals: evals.iloc[1:], "planned 3 episodes, found 2"),
        (lambda evals: evals.assign(**{"return": np.inf}), "finite return"),
        (lambda evals: evals[evals["env_step"] != 1000], "step 1000: planned 3 episodes, found 0"),
    ],
)
def test_uneven_evaluations_are_refused(study, tmp_path, change, message):
    rewrite(tmp_path / study.runs[2].directory / "evals.parquet", change)
    with pytest.raises(collect.DamagedRuns, match=message):
        collect.collect(study, tmp_path)


def allowed(study):
    return study.model_copy(update={"allow_missing": True})


def spoil(study, root):
    """Spoils four runs in ways of their own; returns the files that are to be named."""
    files = [root / run.directory / "evals.parquet" for run in study.runs]
    files[0].write_bytes(b"cut")
    rewrite(files[1], lambda evals: evals.iloc[1:])
    rewrite(files[2], lambda evals: evals.assign(**{"return": np.inf}))
    record = root / study.runs[7].directory / "run.json"
    record.write_text(record.read_text().replace('"gamma": 0.99', '"gamma": 0.5'))
    return [*files[:3], record]


def test_damaged_files_are_refused_all_at_once(study, tmp_path):
    spoiled = spoil(study, tmp_path)
    (tmp_path / study.runs[0].directory / "run.json").write_text("{")
    with pytest.raises(collect.DamagedRuns, match="the files of 4 of 24 runs cannot") as caught:
        collect.collect(study, tmp_path)
    for path in (*spoiled, tmp_path / study.runs[0].directory / "run.json"):
        assert f"{path}: " in str(caught.value)
    assert list(caught.value.errors) == [study.runs[i].run_id for i in (0, 1, 2, 7)]


def test_a_damaged_run_does_not_hold_up_the_others(study, tmp_path):
    whole = collect.collect(study, tmp_path)
    spoiled = spoil(study, tmp_path)
    before = [path.read_bytes() for path in spoiled]
    found = collect.collect(allowed(study), tmp_path)
    runs = found["runs"]
    assert list(runs.index[runs["status"] == "damaged"]) == [0, 1, 2, 7]
    for index, path in zip((0, 1, 2, 7), spoiled, strict=True):
        assert str(path) in runs["error"][index] and "Delete it" in runs["error"][index]
    assert [path.read_bytes() for path in spoiled] == before
    scores = found["scores"].query("policy == 'mode'")["n"]
    assert scores.tolist() == [0, 3, 2, 3, 3, 3, 3, 3]
    lost = [study.runs[i].run_id for i in (0, 1, 2, 7)]
    for name in ("evals", "train"):
        kept = whole[name][~whole[name]["run_id"].isin(lost)].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[name], kept)


def test_a_study_of_damaged_runs_only_is_refused(study, tmp_path):
    for run in study.runs:
        (tmp_path / run.directory / "evals.parquet").write_bytes(b"")
    with pytest.raises(collect.DamagedRuns, match="the files of 24 of 24 runs cannot"):
        collect.collect(allowed(study), tmp_path)


def test_tables_read_back_with_units_and_equal_bytes(study, tmp_path):
    found = collect.collect(study, tmp_path)
    for name in ("a", "b"):
        tables.write(found, tmp_path / name)
    for name, table in found.items():
        pd.testing.assert_frame_equal(tables.read(tmp_path / "a", name), table)
        first, second = (tmp_path / folder / f"{name}.csv" for folder in "ab")
        assert first.read_bytes() == second.read_bytes()
        assert len(pd.read_csv(first)) == len(table)
    metadata = pq.read_schema(tmp_path / "a" / "runs.parquet").metadata
    assert json.loads(metadata[b"units"])["wall_s"] == "s, the run's share of its process"
    assert metadata[b"schema_version"] == str(tables.SCHEMA_VERSION).encode()


def test_seeds_of_one_process_have_a_share_of_its_clocks_each(study, tmp_path):
    before = collect.collect(study, tmp_path)
    run = study.runs[1]
    record = tmp_path / run.directory / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"stacked": 4.0}))
    after = collect.collect(study, tmp_path)
    for name, clocks in (("runs", ["wall_s", "cpu_s"]), ("train", ["wall_s"])):
        own = after[name]["run_id"] == run.run_id
        assert own.any() and not own.all()
        expected = before[name][clocks].where(~own, before[name][clocks] / 4)
        pd.testing.assert_frame_equal(after[name][clocks], expected)
    assert after["runs"]["updates_per_s"][1] == pytest.approx(
        4 * before["runs"]["updates_per_s"][1]
    )


def test_a_table_whose_checksum_was_deleted_is_refused(study, tmp_path):
    tables.write(collect.collect(study, tmp_path), tmp_path / "tables")
    record = tmp_path / "tables" / TABLE_CHECKSUMS
    whole = json.loads(record.read_text())
    others = {k: v for k, v in whole["files"].items() if not k.startswith("runs")}
    for content in (sealed({"files": others}), {"files": others}, {"files": whole["files"]}, None):
        record.unlink() if content is None else record.write_text(json.dumps(content))
        with pytest.raises(Damaged, match=r"runs.parquet: its checksum is missing in \.checksums"):
            tables.read(tmp_path / "tables", "runs")


def test_a_table_of_an_older_version_is_read_unchecked(study, tmp_path):
    found = collect.collect(study, tmp_path)["runs"]
    path = tmp_path / "runs.parquet"
    table = pa.Table.from_pandas(found, preserve_index=False)
    version = {"schema_version": str(tables.SCHEMA_VERSION)}
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **version}), path)
    pd.testing.assert_frame_equal(tables.read(tmp_path, "runs"), found)


def test_a_table_of_another_schema_is_refused(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "runs.parquet")
    with pytest.raises(Damaged, match="schema_version 4, received none"):
        tables.read(tmp_path, "runs")


def test_a_further_axis_is_a_column_and_part_of_the_label(tmp_path):
    axes = {"retrace": [True], "optimizer": ["adam"], "policy_layer_sizes": [[64], [32, 32]]}
    study = synthetic.plan(environments=1, axes=axes)
    synthetic.write_runs(study, tmp_path)
    found = collect.collect(study, tmp_path)
    assert list(found["runs"]["policy_layer_sizes"].unique()) == ["64", "32x32"]
    assert list(found["scores"]["arm"].unique()) == [
        "policy layer sizes 64",
        "policy layer sizes 32x32",
    ]
