import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mpo.analysis import baselines, intervals, others, tables
from mpo.report import paper_tables, typeset
from mpo.report.numbers import number
from mpo.study.files import TYPESET
from tests import synthetic

NAN = math.nan


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study with 3 environments, 4 arms and 5 seeds, and its tables."""
    root = tmp_path_factory.mktemp("made")
    study = synthetic.plan(environments=3, seeds=5)
    synthetic.write_runs(study, root)
    return study, synthetic.write_tables(study, root)


def hand_made(folder, returns, diverged=()):
    """Tables from final returns {env: {arm: [one per seed; NaN for a missing run]}}."""
    scores, finals, runs = [], [], []
    for env, arms in returns.items():
        for arm, values in arms.items():
            found = [x for x in values if not math.isnan(x)]
            interval = (
                intervals.t_interval(found) if found else intervals.Interval(0, NAN, NAN, NAN)
            )
            cell = {"env": env, "arm": arm}
            count = sum((env, arm, seed) in diverged for seed in range(len(values)))
            score = cell | interval._asdict() | {"episodes": 20, "diverged": count}
            worse = {"mean": interval.mean - 1000, "policy": "sample"}
            scores += [score | {"policy": "mode"}, score | worse]
            for seed, x in enumerate(values):
                finals.append(cell | {"seed": seed, "return": x, "score": x})
                cost = {"wall_s": 3600.0, "eval_s": 12.34, "updates_per_s": 98.76, "cpu_s": 7200.0}
                status = "failed" if math.isnan(x) else "ok"
                taken = dict.fromkeys([*cost, "max_rss_mb"], NAN)
                if status == "ok":
                    taken = cost | {"max_rss_mb": 400.0 + seed}
                runs.append(cell | {"seed": seed, "status": status} | taken)
    frames = {"scores": scores, "finals": finals, "runs": runs}
    none = {"baselines": baselines.read(synthetic.plan(), None)}
    none |= others.compute(synthetic.plan(), folder)
    found = {name: pd.DataFrame(rows) for name, rows in frames.items()}
    tables.write(found | none, folder)
    return folder


def bold(folder, arms, diverged=()):
    """The bold arms of an environment, by the frame; LaTeX and Markdown must agree with it."""
    table = paper_tables.final_scores(synthetic.plan(), hand_made(folder, {"E-v1": arms}, diverged))
    marked = list(table.frame.index[table.marked["E-v1"]])
    for text, sign in (
        (typeset.latex(table, "tab:x"), r"\textbf{"),
        (typeset.markdown(table), "**"),
    ):
        rows = [line for line in text.splitlines() if sign in line]
        assert [row.strip("| ").split(" ")[0] for row in rows] == marked
    return marked, table.note


SEEDS = [10.0, 20.0, 30.0, 40.0, 50.0]


def test_overlapping_intervals_are_bold_where_every_pair_differs_alike(tmp_path):
    lower = [9.0, 18.9, 29.1, 39.0, 48.9]
    assert intervals.t_interval(lower).hi > intervals.t_interval(SEEDS).lo
    marked, note = bold(tmp_path, {"low": lower, "high": SEEDS})
    assert marked == ["high"]
    assert note.endswith(
        "Bold: an arm that beats every other arm in that environment: the t intervals of its "
        "paired differences (same seed) are all above zero, simultaneously at 95 % (Bonferroni "
        "over the other arms)."
    )


def test_separated_means_of_one_seed_are_not_bold(tmp_path):
    marked, note = bold(tmp_path, {"low": [0.0], "high": [1000.0]})
    assert marked == [] and "Bold" not in note and "n = 1 seed (exploratory)" in note


def test_the_better_mean_is_not_bold_where_pairs_disagree(tmp_path):
    marked, note = bold(tmp_path, {"low": [1.0, 9.0, 2.0], "high": [9.0, 8.0, 1.0]})
    assert marked == [] and note.endswith("(Bonferroni over the other arms); there is none.")


def test_the_level_is_shared_among_the_other_arms(tmp_path):
    # Differences 2, 3, 4: 3 - 4.303 / sqrt(3) = 0.52 at 95 %, 3 - 6.205 / sqrt(3) < 0 at 97.5 %.
    high, low = [2.0, 13.0, 24.0], [0.0, 10.0, 20.0]
    assert bold(tmp_path / "2", {"high": high, "low": low})[0] == ["high"]
    assert bold(tmp_path / "3", {"high": high, "low": low, "same": low})[0] == []


def test_pairs_are_of_the_same_seed(tmp_path):
    # Only seeds 1 and 2 are paired: differences 1.0 and 1.1. Unpaired, the first arm would lose.
    arms = {"high": [11.0, 21.0, 31.1, NAN], "low": [NAN, 20.0, 30.0, 60.0]}
    assert bold(tmp_path, arms)[0] == ["high"]


def test_no_arm_beats_one_that_is_missing(tmp_path):
    arms = {"high": SEEDS, "low": [x - 9 - x / 100 for x in SEEDS], "lost": [NAN] * 5}
    marked, note = bold(tmp_path, arms)
    assert marked == [] and "Missing: no run has finished." in note


def test_a_single_arm_beats_nobody(tmp_path):
    marked, note = bold(tmp_path, {"alone": SEEDS})
    assert marked == [] and "Bold" not in note


def test_cells_say_what_sets_their_runs_apart(tmp_path):
    returns = {
        "A_b-v1": {"one": [1.0, 2.0, 3.0], "two": [4.0, NAN, 6.0]},
        "C-v1": {"one": [NAN] * 3, "two": [7.0, NAN, NAN]},
    }
    folder = hand_made(tmp_path, returns, {("A_b-v1", "one", 1), ("A_b-v1", "two", 0)})
    table = paper_tables.final_scores(synthetic.plan(), folder)
    assert table.frame.to_dict("index") == {
        "one": {"A_b-v1": "2.0 [−0.5, 4.5] (1 div.)", "C-v1": "missing"},
        "two": {"A_b-v1": "5 [−8, 18] (n = 2, 1 div.)", "C-v1": "7.00 (n = 1)"},
    }
    assert "n = 1 to 3 seeds (exploratory), 3 unless stated in the cell, each" in table.note
    assert "20 evaluation episodes" in table.note and "div.: diverged runs" in table.note
    assert "nan" not in typeset.latex(table, "tab:x") + typeset.markdown(table)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((1234.5678, 1222.2, 1246.9), "1235 [1222, 1247]"),
        ((9321.4, 9191.0, 9452.0), "9320 [9190, 9450]"),
        ((0.9676, 0.9628, 0.9704), "0.9676 [0.9628, 0.9704]"),
        ((0.5, 0.4004, 0.5996), "0.50 [0.40, 0.60]"),  # half-width 0.0996 rounds to 0.10
        ((-0.04, -1.4, 1.3), "0.0 [−1.4, 1.3]"),
        ((1000.0, 1000.0, 1000.0), "1000.00 [1000.00, 1000.00]"),
        ((0.0, 0.0, 0.0), "0.0 [0.0, 0.0]"),
        ((-168.14, NAN, NAN), "−168"),
        ((0.012345, NAN, NAN), "0.0123"),
        ((NAN, NAN, NAN), "–"),
    ],
)
def test_an_interval_says_how_many_digits_there_are(numbers, text):
    assert number(*numbers) == text


def test_latex_is_escaped_and_ruled(tmp_path):
    odd = "50 % #1_a & {b} [c] − ~d"
    folder = hand_made(tmp_path, {"dm_control/walker-walk-v0": {odd: SEEDS, "[2]": [-9.0] * 5}})
    text = typeset.latex(paper_tables.final_scores(synthetic.plan(), folder), "tab:made-up-x")
    lines = text.splitlines()
    assert lines[0] == r"\begin{table}[tbp]" and lines[-1] == r"\end{table}"
    assert r"\caption{Final return after the whole budget, study made-up.}" in lines
    assert r"\label{tab:made-up-x}" in lines
    rules = [line for line in lines if line in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert r"arm & dm\_control/walker-walk-v0 \\" in lines
    row = r"50~\% \#1\_a \& \{b\} {[}c{]} $-$ \textasciitilde{}d & \textbf{30 {[}10, 50{]}} \\"
    assert row in lines
    assert r"{[}2{]} & $-$9.00000 {[}$-$9.00000, $-$9.00000{]} \\" in lines
    assert r"simultaneously at 95~\% (Bonferroni" in text
    assert text.isascii() and text.count(r"\begin{") == text.count(r"\end{")


def many(environments, arms, seeds=3):
    rng = np.random.default_rng(0)
    names = [f"dm_control/quadruped-run{e}-v0" for e in range(environments)]
    labels = [f"Retrace off, adamw, gamma 0.{a + 10}" for a in range(arms)]
    return {env: {arm: list(rng.normal(-500, 90, seeds)) for arm in labels} for env in names}


@pytest.mark.parametrize(("environments", "arms"), [(1, 1), (3, 4), (15, 12), (1, 60)])
@pytest.mark.parametrize("name", ["final_scores", "costs"])
def test_every_cell_is_on_one_page(tmp_path, name, environments, arms):
    returns = many(environments, arms)
    folder = hand_made(tmp_path, returns)
    table = getattr(paper_tables, name)(synthetic.plan(), folder)
    text = typeset.latex(table, "tab:x")
    floats = text.split(r"\begin{table}")[1:]
    assert text.count(r"\label{") == 1 and r"\label{" in floats[0]
    assert text.count(r"\addtocounter{table}{-1}") == len(floats) - 1
    note = typeset._tex(table.note)
    assert [note in page for page in floats] == [False] * (len(floats) - 1) + [True]
    # At 9.5 pt per line, a page of 550 pt also has space for the caption and gaps between parts.
    assert max(page.count("\\\\\n") for page in floats) <= 54
    rows = [line.split(" & ") for line in text.splitlines() if "Retrace off" in line]
    cells = [cell.removesuffix(r" \\") for row in rows for cell in row[1:]]
    assert sorted(cells) == sorted(table.frame.map(typeset._tex).to_numpy().ravel())
    seen = [" & ".join(row).translate(str.maketrans("", "", "${}")) for row in rows]
    assert max(map(len, seen)) <= 100
    assert len(floats) == {(15, 12, "costs"): 5, (15, 12, "final_scores"): 2}.get(
        (environments, arms, name), 1 + (arms == 60)
    )


def test_wide_tables_are_split_alike_for_markdown(tmp_path):
    folder = hand_made(tmp_path, many(15, 12))
    text = typeset.markdown(paper_tables.final_scores(synthetic.plan(), folder))
    heads = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("| arm")]
    assert [len(head) - 1 for head in heads] == [3] * 5
    assert sum(f"run{e}-v0" in text for e in range(15)) == 15


def test_long_names_are_broken_where_they_can_be():
    assert typeset._broken("InvertedDoublePendulum-v5", 16) == ["InvertedDouble", "Pendulum-v5"]
    assert typeset._broken("dm_control/walker-walk-v0", 15) == ["dm_control/", "walker-walk-v0"]
    assert typeset._broken("Retrace on, n step 3, gamma 0.9", 22) == [
        "Retrace on, n step 3,",
        "gamma 0.9",
    ]
    assert typeset._broken("Swimmer-v5", 3) == ["Swimmer-v5"]


def test_aggregates_have_their_intervals_and_no_winner(made):
    study, folder = made
    table = paper_tables.aggregates(study, folder)
    assert list(table.frame) == ["IQM", "Mean", "Median", "Optimality gap"]
    assert list(table.frame.index) == list(tables.read(folder, "finals")["arm"].unique())
    found = tables.read(folder, "aggregates").set_index(["arm", "metric"])
    iqm = found.loc[("Retrace on, sgd", "iqm"), ["estimate", "lo", "hi"]]
    assert table.frame.loc["Retrace on, sgd", "IQM"] == number(*iqm)
    assert not table.marked.any(axis=None) and "Bold" not in table.note
    assert "500 replicates, given two or more seeds." in table.note
    assert "Over 3 environments and 15 runs per arm" in table.note
    assert "n = 5 seeds per environment." in table.note and "exploratory" not in table.note


def test_aggregates_count_the_seeds_of_the_environments_that_are_pooled(tmp_path):
    study = synthetic.plan(axes={"optimizer": ["adam", "sgd"]})
    synthetic.write_runs(study, tmp_path)
    study = synthetic.lose(study, tmp_path, [7, 9, 10, 11])  # leaves no sgd in the second one
    table = paper_tables.aggregates(study, synthetic.write_tables(study, tmp_path))
    assert "Over 1 environment and 3 runs per arm; n = 3 seeds (exploratory" in table.note


def test_aggregates_without_a_reference_say_so(tmp_path):
    folder = hand_made(tmp_path, {"E-v1": {"one": SEEDS, "two": SEEDS}})
    nothing = pd.DataFrame(columns=["arm", "metric", "estimate", "lo", "hi"])
    tables.write({"aggregates": nothing}, folder)
    table = paper_tables.aggregates(synthetic.plan(), folder)
    assert table.frame.to_numpy().tolist() == [["–"] * 4] * 2
    assert table.note.startswith("No environment has a reference score")


def test_effects_are_bold_where_the_interval_excludes_zero(made):
    study, folder = made
    table = paper_tables.effects(study, folder)
    found = tables.read(folder, "effects")
    assert list(table.frame) == ["return", "score", "n", "r"]
    for row in found.to_dict("records"):
        name = f"{row['level']} − {row['against']}"
        if row["against"] == "their sum":
            name = "Retrace on and sgd, beyond their sum"
        cell = (name, row["env"]), row["unit"]
        assert table.frame.loc[cell] == number(row["estimate"], row["lo"], row["hi"])
        assert table.marked.loc[cell] == (row["lo"] > 0 or row["hi"] < 0)
        assert table.frame.loc[cell[0], ["n", "r"]].tolist() == [
            str(row["n"]),
            f"{row['correlation']:z.2f}".replace("-", "−"),
        ]
    assert 0 < table.marked.sum(axis=None) < len(found) and not table.marked[["n", "r"]].any(
        axis=None
    )
    assert len(table.frame) == 12  # (two factors + one interaction) x (three environments + pooled)
    pooled = table.frame.xs("pooled", level="environment")
    assert list(pooled["return"]) == ["–"] * 3
    assert table.marked.sum(axis=None) == typeset.latex(table, "tab:x").count(r"\textbf{")
    assert r"\makebox[0pt][l]{\emph{Retrace on $-$ Retrace off}} &  &  &  &  \\" in typeset.latex(
        table, "tab:x"
    )


def test_an_environment_without_a_reference_has_an_effect_in_return_alone(tmp_path):
    common = {"factor": "retrace", "level": "Retrace on", "against": "Retrace off", "n": 3}
    effect = {"estimate": 2.0, "lo": 1.0, "hi": 3.0, "correlation": NAN}
    tables.write(
        {"effects": pd.DataFrame([common | effect | {"env": "E-v1", "unit": "return"}])}, tmp_path
    )
    table = paper_tables.effects(synthetic.plan(), tmp_path)
    assert table.frame.iloc[0].tolist() == ["2.0 [1.0, 3.0]", "–", "3", "–"]
    assert table.marked.iloc[0].tolist() == [True, False, False, False]
    assert "n = 3 seeds (exploratory)" in table.note


def test_one_arm_has_no_effects(tmp_path):
    study = synthetic.plan(environments=1, seeds=1, axes={})
    synthetic.write_runs(study, tmp_path)
    paper_tables.write(study, synthetic.write_tables(study, tmp_path), tmp_path / "typeset")
    text = (tmp_path / "typeset" / "effects.tex").read_text()
    assert "No factor is varied" in text and r"\textbf" not in text and r"\bottomrule" in text
    assert "Bold" not in (tmp_path / "typeset" / "final_scores.md").read_text()


def test_costs_are_of_finished_runs(tmp_path):
    returns = {"E-v1": {"one": [1.0, NAN, 3.0], "two": [NAN] * 3}}
    table = paper_tables.costs(synthetic.plan(), hand_made(tmp_path, returns))
    assert table.frame.loc["E-v1"].to_dict("index") == {
        "one": {
            "runs": "2 of 3",
            "training, s": "3600",
            "updates/s": "98.8",
            "evaluation, s": "12.3",
            "memory, MB": "402",
            "CPU, h": "4.00",
        },
        "two": {"runs": "0 of 3"}
        | dict.fromkeys(["training, s", "updates/s", "evaluation, s", "memory, MB", "CPU, h"], "–"),
    }
    assert "In all 2.01 hours" in table.note  # 2 * (3600 + 12.34) s


def test_both_forms_of_every_table_are_written_and_repeat(made, tmp_path):
    study, folder = made
    paper_tables.write(study, folder, tmp_path / "1")
    paper_tables.write(study, folder, tmp_path / "2")
    names = [f"{name}.{form}" for name in TYPESET for form in ("md", "tex")]
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == sorted(names)
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    for name in TYPESET:
        table = getattr(paper_tables, name)(study, folder)
        text = (tmp_path / "1" / f"{name}.md").read_text()
        made_of = tables.made_of(folder)
        assert tables.MADE_OF.fullmatch(made_of)
        assert text.endswith(f"|\n\n{table.caption} {table.note}\n\n<!-- {made_of} -->\n")
        latex = (tmp_path / "1" / f"{name}.tex").read_text()
        assert latex.endswith(f"\n% {made_of}\n")
        assert rf"\label{{tab:made-up-{name}}}" in latex and typeset._tex(table.note) in latex


def test_the_mean_action_is_shown(made):
    study, folder = made
    mode = tables.read(folder, "scores").query("policy == 'mode'").iloc[0]
    cell = paper_tables.final_scores(study, folder).frame.loc[mode["arm"], mode["env"]]
    assert cell == number(mode["mean"], mode["lo"], mode["hi"])


def test_no_drawing_or_learning_library_is_needed():
    code = "import sys, mpo.report.paper_tables; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "matplotlib", "seaborn", "gymnasium"} & set(done.stdout.split())
