import json
import re

import pytest

from mpo.analysis import tables
from mpo.report import summary
from mpo.study.checksums import sealed
from tests import synthetic


def page(tmp_path, study):
    synthetic.write_tables(study, tmp_path)
    figures = [tmp_path / "figures" / f"{name}.png" for name in ("learning_curves", "final_scores")]
    summary.write(study, tmp_path / "tables", figures, tmp_path / "summary.md")
    return (tmp_path / "summary.md").read_text()


def test_the_page_says_what_was_run_and_found(tmp_path):
    study = synthetic.plan()
    synthetic.write_runs(study, tmp_path)
    text = page(tmp_path, study)
    assert "24 runs" in text and "Pendulum-v1 (10000)" in text
    assert "- optimizer: adam, sgd" in text and "- seed: 0, 1, 2" in text
    assert "(figures/learning_curves.png)" in text and "(figures/final_scores.png)" in text
    score = tables.read(tmp_path / "tables", "scores").query("policy == 'mode'").iloc[0]
    scores = text[text.index("## Final scores") :].splitlines()
    row = next(line for line in scores if line.startswith(f"| {score['arm']}"))
    minus = "\N{MINUS SIGN}"
    assert f"{score['mean']:.0f} [{score['lo']:.0f}, {score['hi']:.0f}]".replace("-", minus) in row
    assert synthetic.PROVENANCE["git_sha"] in text
    assert "exploratory" in text and "differ in" not in text


def record_environments(tmp_path, study, trained, evaluated):
    """Writes what each run's environment was made of into its records; None writes nothing."""
    for run, *versions in zip(study.runs, trained, evaluated, strict=True):
        for name, version in zip(("run.json", "evals.json"), versions, strict=True):
            path = tmp_path / run.directory / name
            record = json.loads(path.read_text())
            if version is not None:
                record = sealed(record | {"environment": {"sources": {"mine": version}}})
            path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("trained", "evaluated", "shown"),
    [
        ([None, None, None], [None, None, None], ""),
        (["a", "a", "a"], ["a", "a", "a"], ""),
        (["a", "a", None], ["a", "a", "a"], ""),
        (["a", "b", "a"], ["a", "b", "a"], "2 versions of the environment: {0}, seeds 0, 1, 2"),
        (["a", "a", "a"], ["a", "a", "b"], "2 versions of the environment: {0}, seeds 0, 1, 2"),
    ],
)
def test_cells_that_mix_versions_of_an_environment_are_named(tmp_path, trained, evaluated, shown):
    study = synthetic.plan(environments=1)
    synthetic.write_runs(study, tmp_path)
    more = [None] * (len(study.runs) - 3)
    record_environments(tmp_path, study, trained + more, evaluated + more)
    text = page(tmp_path, study)
    assert ("versions of the environment" in text) == bool(shown)
    assert shown.format(study.cells[0].cell_id) in text


@pytest.mark.parametrize(
    ("trained", "measured", "flagged"),
    [
        ("1.0", "2.0", True),
        ("1.0", "1.0", False),
        (None, "2.0", False),
        ("1.0", None, False),
        (None, None, False),
    ],
)
def test_a_random_return_of_another_version_of_the_environment_is_named(
    tmp_path, monkeypatch, trained, measured, flagged
):
    def tell(path, version):
        if version:
            record = json.loads(path.read_text()) | {"environment": {"packages": {"mine": version}}}
            path.write_text(json.dumps(sealed(record)))

    study = synthetic.plan(environments=2)
    synthetic.write_runs(study, tmp_path)
    for run in study.runs:
        path = tmp_path / run.directory / "run.json"
        tell(path, trained)
    plain = synthetic.write_scale

    def write_scale(*arguments):
        table, (first, second) = plain(*arguments)
        tell(first, measured)
        tell(second, trained)
        return table, [first, second]

    monkeypatch.setattr(synthetic, "write_scale", write_scale)
    text = page(tmp_path, study)
    assert ("**The random return in Pendulum-v1 is of another version" in text) is flagged
    assert ("`results/made-up/random/Pendulum-v1.json`" in text) is flagged
    assert "The random return in dm_control" not in text


def test_the_summary_is_written_from_tables_of_an_older_version(tmp_path):
    study = synthetic.plan(environments=1)
    synthetic.write_runs(study, tmp_path)
    folder = synthetic.write_tables(study, tmp_path)
    older = tables.read(folder, "references").drop(columns=["environment_version", "error"])
    tables.write({"references": older}, folder)
    summary.write(study, folder, [], tmp_path / "summary.md")
    assert "random return in" not in (tmp_path / "summary.md").read_text()


def test_five_seeds_are_not_called_exploratory(tmp_path):
    study = synthetic.plan(environments=1, seeds=5)
    synthetic.write_runs(study, tmp_path)
    assert "exploratory" not in page(tmp_path, study)


def test_one_seed_has_no_interval(tmp_path):
    study = synthetic.plan(environments=1, seeds=1)
    synthetic.write_runs(study, tmp_path)
    assert "[nan" not in page(tmp_path, study)


def test_runs_made_unlike_are_said_aloud(tmp_path):
    study = synthetic.plan(environments=1)
    synthetic.write_runs(study, tmp_path)
    path = tmp_path / study.runs[0].directory / "run.json"
    record = json.loads(path.read_text())
    record["provenance"]["packages"]["mujoco"] = "2.0.0"
    record["provenance"]["git_dirty"] = True
    path.write_text(json.dumps(record))
    text = page(tmp_path, study)
    assert "differ in: uncommitted changes (True, False); mujoco (2.0.0, 3.3.0)" in text


def test_missing_and_diverged_runs_are_said_before_any_number(tmp_path):
    study = synthetic.plan(environments=1)
    synthetic.write_runs(study, tmp_path)
    path = tmp_path / study.runs[1].directory / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"status": "diverged", "error": "q_mean is inf at step 3"}))
    study = synthetic.lose(study, tmp_path, [0, 3, 4, 5])
    text = page(tmp_path, study)
    missing = f"**4 runs of 12 missing: {study.runs[0].run_id} (failed), "
    assert text.index(missing) < text.index("## Final scores")
    assert f"1 run diverged (scored by the last finite policy): {study.runs[1].run_id}" in text
    scores = text[text.index("## Final scores") :].splitlines()
    rows = [line.split("|")[2].strip() for line in scores if line.startswith("| Retrace ")][:4]
    assert rows[0].endswith("(n = 2, 1 div.)") and rows[1] == "missing"
    assert not any("n =" in row for row in rows[2:])
    assert not re.search(r"\bnan\b", text)
