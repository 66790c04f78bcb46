import json
import re
from datetime import UTC, datetime

import pytest

from mpo.__main__ import main
from mpo.analysis import tables
from mpo.analysis.intervals import MINUS
from mpo.report import planned, summary
from mpo.report.numbers import number
from mpo.study.checksums import sealed
from mpo.study.config import canonical_json
from mpo.study.files import QUESTIONS
from mpo.study.plan import Study
from mpo.study.questions import record
from tests import synthetic

RETRACE = {"axis": "retrace", "level": True, "against": False}
SGD = {"axis": "optimizer", "level": "sgd", "against": "adam"}


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
    assert "(exploratory" not in page(tmp_path, study)


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


def test_settings_are_told_with_the_runs_that_they_are_of(tmp_path):
    given = synthetic.config(2) | {"optimizers": {"sgd": {"q_lr": 0.02, "sgd_momentum": 0.5}}}
    given["environments"][0] = {"id": "Pendulum-v1", "policy_init_scale": 1.0}
    study = Study.parse(given)
    text = planned.section(study)
    shared = next(line for line in text.splitlines() if line.startswith("Settings that are not"))
    assert "policy_layer_sizes 64x64" in shared and "policy_lr 0.0003" in shared
    assert "retrace" not in shared and "gamma" not in shared  # an axis, a default
    assert "- policy_init_scale: 1 (Pendulum-v1); 0.5 (dm_control/walker-walk-v0)" in text
    arms = [f"Retrace {state}, sgd" for state in ("off", "on")]
    assert f"0.02 ({', '.join(arms)})" in text and f"0.5 ({', '.join(arms)})" in text
    assert text in page(tmp_path_with_runs(tmp_path, study), study)


def test_a_value_of_one_environment_and_arm_is_told_with_both():
    given = synthetic.config(2, axes={"optimizer": ["adam", "sgd"]})
    study = Study.parse(given)
    cells = [run for run in study.runs if run.seed == 0]
    told = planned._by_place(study, cells, [1, 2, 2, 2])
    assert told.startswith("1 (Pendulum-v1 with adam); 2 (Pendulum-v1 with sgd, dm_control/")


def tmp_path_with_runs(tmp_path, study):
    synthetic.write_runs(study, tmp_path)
    return tmp_path


def test_an_arm_that_ended_below_where_it_began_is_named(tmp_path):
    study = synthetic.plan(environments=1)
    assert "Ended below" not in page(tmp_path_with_runs(tmp_path, study), study)
    folder = tmp_path / "tables"
    scores = tables.read(folder, "scores")
    worst = scores["arm"] == "Retrace on, sgd"
    tables.write({"scores": scores.assign(mean=scores["mean"].mask(worst, -5000.0))}, folder)
    summary.write(study, folder, [], tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    start = tables.read(folder, "curves").query("env_step == 0 and arm == 'Retrace on, sgd'")
    began = number(start["mean"].item())
    minus = "\N{MINUS SIGN}"
    name = f"Retrace on, sgd in Pendulum-v1 ({minus}5000, from {began})"
    assert f"**Ended below where they began: {name}" in text


@pytest.mark.parametrize("lost", [[3, 4, 5], [0, 4, 5]])
def test_what_has_no_complete_pair_is_not_called_unvaried(tmp_path, lost):
    """All of sgd's runs failed, or all but that of a seed that adam lacks."""
    study = Study.parse(synthetic.config(1, axes={"optimizer": ["adam", "sgd"]}))
    synthetic.write_runs(study, tmp_path)
    text = page(tmp_path, synthetic.lose(study, tmp_path, lost))
    assert "No factor is varied" not in text
    assert "no environment with a score for every arm has a seed with a complete pair" in text


def answered(tmp_path, contrasts, scores=None, **options):
    """The answers of a study, with these scores of its arms in every environment, if given."""
    study = Study.parse(synthetic.config(**options) | {"contrasts": contrasts})
    synthetic.write_runs(study, tmp_path)
    folder = synthetic.write_tables(study, tmp_path)
    if scores is not None:
        frame = tables.read(folder, "contrasts")
        tables.write({"contrasts": frame.assign(**scores)}, folder)
    summary.write(study, folder, [], tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    return text.split("## Answers\n\n")[1].split("\n\n| ")[0]


def test_primary_contrasts_come_first_and_are_told_once(tmp_path):
    said = answered(tmp_path, [SGD], environments=1, seeds=5)
    head, first, middle, *others = said.split("\n\n")
    assert head == "Primary contrasts, named in the study's config:" and middle == "Exploratory:"
    number = r"[+-]?\d\.\d\d"
    assert re.match(
        rf"- \*\*sgd {MINUS} adam, at the settings given\*\*: {number} \[{number}, "
        rf"{number}\] in normalised score, p (= 0\.\d{{3}}|< 0\.001), Holm-adjusted p "
        r"(= 0\.\d{3}|< 0\.001), pooled over 1 environment, 5 seeds each: ",
        first,
    )
    assert first.count("\n") == 0 and others[0].count("\n- ") == 1
    assert f"Retrace on {MINUS} Retrace off**" in others[0]
    assert "their sum" in others[0] and "p = " not in others[0]


@pytest.mark.parametrize(
    ("contrasts", "lists"),
    [
        # Any direction of a named contrast is the same question.
        ([SGD | {"level": "adam", "against": "sgd"}], [1, 2]),
        ([SGD, RETRACE], [2, 1]),
    ],
)
def test_what_is_primary_is_not_exploratory(tmp_path, contrasts, lists):
    parts = answered(tmp_path, contrasts, environments=1).split("\n\n")[1::2]
    assert [part.count("\n") + 1 for part in parts] == lists


def test_a_study_of_its_contrasts_alone_has_nothing_exploratory(tmp_path):
    said = answered(tmp_path, [RETRACE], environments=1, axes={"retrace": [False, True]})
    assert "Exploratory:" not in said and "all effects below" not in said


def test_without_named_contrasts_all_is_exploratory(tmp_path):
    said = answered(tmp_path, [], environments=1)
    line = "No contrast was named before the study, so all effects below are exploratory.\n\n- **"
    assert said.startswith(line) and "Holm" not in said


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"lo": -0.051, "hi": 0.119, "p": 0.4, "p_holm": 0.8},
            "p = 0.400, Holm-adjusted p = 0.800, pooled over 1 environment, 3 seeds each "
            "(exploratory): no effect shown; the interval excludes effects below -0.05 and above "
            "+0.12.",
        ),
        (
            {"lo": 0.01, "hi": 0.3, "p": 0.04, "p_holm": 0.08},
            "p = 0.040, Holm-adjusted p = 0.080, pooled over 1 environment, 3 seeds each "
            "(exploratory): no effect shown after Holm's adjustment; the interval excludes effects "
            "below +0.01 and above +0.30.",
        ),
        (
            {"estimate": 0.0015, "lo": -0.0017, "hi": 0.0047, "p": 0.3, "p_holm": 0.3},
            "+0.002 [-0.002, 0.005] in normalised score",
        ),
        (
            {"lo": -0.0017, "hi": 0.0047, "p": 0.3, "p_holm": 0.3},
            "excludes effects below -0.002 and above +0.005.",
        ),
        ({"lo": 0.1, "hi": 0.3, "p": 1e-4, "p_holm": 2e-4}, "p < 0.001, Holm-adjusted p < 0.001"),
        ({"lo": 0.1, "hi": 0.3, "p": 0.01, "p_holm": 0.02}, "(exploratory): higher."),
        ({"lo": -0.3, "hi": -0.1, "p": 0.01, "p_holm": 0.02}, "(exploratory): lower."),
        ({"sd": 0.1}, "with 80 % power would need 10 seeds per environment."),
        ({"lo": float("nan"), "hi": float("nan")}, "3 seeds each: no interval, so no conclusion."),
        (
            {"environments": 2, "n": 12, "n_min": 2},
            "pooled over 2 environments, 2 seeds or more each, 12 in all (exploratory)",
        ),
        (
            {"environments": 2, "n": 12, "n_min": 6},
            "pooled over 2 environments, 6 seeds each: ",
        ),
        ({"environments": 0, "n": 0}, "no estimate, since no environment with a score for"),
    ],
)
def test_a_verdict_is_by_the_adjusted_p_value_or_says_what_is_excluded(tmp_path, changed, expected):
    said = answered(tmp_path, [RETRACE], changed, environments=1)
    assert expected in said.split("\n\n")[1]


def test_an_exploratory_effect_that_is_not_shown_says_what_is_excluded(tmp_path):
    said = answered(tmp_path, [], environments=1, axes={"gamma": [0.9, 0.99]}, seeds=2)
    found = re.search(r"\[(-\d\.\d\d), (\d\.\d\d)\].*: no effect shown; (.*?)\. D", said)
    low, high, excluded = found.groups()
    assert excluded == f"the interval excludes effects below {low} and above +{high}"


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Writes the study.json of a finished study, and its questions as they once were."""
    monkeypatch.chdir(tmp_path)
    config = synthetic.config(1) | {"contrasts": [SGD]}
    synthetic.write_runs(Study.parse(config), tmp_path)
    folder = tmp_path / "results/made-up"
    scale = tables.read(synthetic.write_tables(Study.parse(config), tmp_path), "references")
    returns = dict(zip(scale["env"], scale["reference"], strict=True))

    def said(questions, **changed):
        (folder / "study.json").write_text(canonical_json(config | changed))
        synthetic.write_tables(Study.parse(config | changed), tmp_path)
        if questions is not None:
            (folder / QUESTIONS).write_text(questions)
        files = ["--tables", "tables", "--figures", "learning_curves.png", "--out", "summary.md"]
        assert main(["summary", "--study", "results/made-up/study.json", *files]) == 0
        head, _, rest = (tmp_path / "summary.md").read_text().partition("\n\n12 runs: ")
        assert "questions" not in rest and "Edited" not in rest
        return head.removeprefix("# Study `made-up`").strip()

    time = datetime(2026, 11, 27, 12, tzinfo=UTC)
    asked = [json.dumps(record(config, known, time)) for known in (returns, dict.fromkeys(returns))]
    return said, *asked


def test_the_page_says_what_was_edited_after_the_study_was_started(recorded):
    said, asked, _ = recorded
    assert said(asked) == ""
    assert said(asked, execution={"threads": 2}) == ""
    line = "**Edited after the study was first started (2026-11-27): statistics, contrasts.**"
    assert said(asked, contrasts=[RETRACE], statistics={"replicates": 400}) == line


def test_the_page_says_that_a_reference_was_edited(recorded):
    said, _, without = recorded
    assert said(without).endswith("first started (2026-11-27): references.**")


def test_questions_that_were_not_recorded_are_missed_only_by_named_contrasts(recorded):
    said, *_ = recorded
    assert said(None) == "The study's questions were not recorded before its first run."
    assert said(None, contrasts=[]) == ""


@pytest.mark.parametrize("change", [lambda t: t[:50], lambda t: t.replace("sgd", "lion")])
def test_damaged_questions_are_said_and_stop_nothing(recorded, change):
    said, asked, _ = recorded
    line = "**questions.json is damaged: whether the questions were edited is unknown.**"
    assert said(change(asked)) == line
