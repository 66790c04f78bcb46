"""What the summary says of the stage of tuning."""

import numpy as np
import pandas as pd
import pytest

from mpo.analysis import tables
from mpo.report import tuning
from mpo.report.figures import sensitivity as figure
from mpo.study.plan import Study
from tests.study.test_halving import config as halving
from tests.study.test_tuning import config, search, tuned_in


def choice(env, arm, **changed):
    names = {"chosen": "q lr 0.001", "best_here": "q lr 0.001", "best_across": "q lr 0.01"}
    numbers = {"of": 3, "share": 0.75, "mean": 4.0, "held_out": 3.0, "mean_across": 2.0}
    return {"env": env, "arm": arm, "on_edge": False, "diverged": 0, **names, **numbers} | changed


def candidate(arm, **changed):
    names = {"env": "Reacher-v5", "arm": arm, "candidate": "q lr 0.03"}
    return names | {"best_here": True, "on_edge": False, "chosen": False} | changed


def sensitive(arm, environments=2, terms=(0.9, 0.7, 0.2, 0.25)):
    names = ("per_environment", "across", "index", "index_naive")
    values = dict(zip(names, terms, strict=True))
    return {"arm": arm, "environments": environments, "seeds": 3, **values}


@pytest.fixture
def said(tmp_path):
    """The section of a study on its tuning, from tables of the stage."""

    def section(choices=(), sensitivity=(), candidates=(), of=config, **settings):
        choices = choices or [choice("Pendulum-v1", arm) for arm in ("adam", "sgd")]
        sensitivity = sensitivity or [sensitive(arm) for arm in ("adam", "sgd")]
        candidates = candidates or [candidate("adam")]
        frames = {"choices": pd.DataFrame(choices), "sensitivity": pd.DataFrame(sensitivity)}
        frames["candidates"] = pd.DataFrame(candidates)
        tables.write(frames, tmp_path)
        return "\n".join(tuning.section(Study.parse(of(**settings)), [tmp_path]))

    return section


def test_the_sensitivity_of_each_arm_is_told_with_what_it_means(said):
    rows = [sensitive("adam"), sensitive("sgd", terms=(0.5, 0.55, -0.05, 0.0))]
    text = said(sensitivity=rows)
    assert "| adam  | 2              | 0.900           | 0.700         | 0.200         |" in text
    minus = "\N{MINUS SIGN}"
    assert f"{minus}0.050" in text
    assert "An arm with a large index needs tuning in each environment" in text


def test_the_environments_of_the_candidates_are_told_if_they_are_not_all(said):
    all_of_them = said(choose="across")
    assert "per arm (q_lr) were trained with the seeds 1000" in all_of_them
    text = said(of=lambda: tuned_in(["Pendulum-v1"], choose="across"))
    assert "per arm (q_lr) were trained in Pendulum-v1 with the seeds 1000" in text
    assert "chosen for all environments together" in all_of_them
    assert "chosen for all environments, by the mean score in these" in text


def test_an_index_of_one_seed_has_no_value_but_the_naive_one(said):
    rows = [sensitive(arm, terms=(np.nan, np.nan, np.nan, 0.1)) for arm in ("adam", "sgd")]
    line = next(
        line for line in said(sensitivity=rows).splitlines() if line.startswith("| adam  |")
    )
    assert [cell.strip() for cell in line.split("|")][3:-1] == ["\N{EN DASH}"] * 3 + ["0.100"]


@pytest.mark.parametrize(("known", "words"), [(0, "none"), (1, "one")])
def test_without_two_references_it_says_what_the_sensitivity_takes(said, known, words):
    rows = [sensitive(arm, known, [np.nan] * 4) for arm in ("adam", "sgd")]
    expected = f"it takes two environments with a reference, and there is {words}."
    assert expected in said(sensitivity=rows)


def test_a_grid_is_warned_of_for_its_ends_and_its_ratios(said):
    text = said([choice("Pendulum-v1", "adam", on_edge=True), choice("Pendulum-v1", "sgd")])
    assert "3 candidates per arm (q_lr) were trained with the seeds 1000, 1001, 1002" in text
    assert "**1 choice at the end of a grid: adam in Pendulum-v1 (q lr 0.001).**" in text
    assert "drawn" not in text and "different ratios" not in text
    grids = [{"optimizer": "adam", "q_lr": [1e-3, 1e-2]}, {"optimizer": "sgd", "q_lr": [0.1, 0.2]}]
    assert "grids have different ratios between neighbours" in said(grids=grids)


@pytest.mark.parametrize(
    ("kind", "words"), [("random", "at random"), ("quasi-random", "quasi-randomly")]
)
def test_a_search_is_told_with_its_ranges_and_warned_of_only_for_its_ends(said, kind, words):
    choices = [
        choice("Pendulum-v1", "adam", on_edge=True, of=4),
        choice("Pendulum-v1", "sgd", of=4),
    ]
    text = said(choices, of=search, search=kind)
    ranges = "adam: q_lr 0.0001 to 0.01; sgd: q_lr 0.001 to 1"
    assert f"They were drawn {words}, uniformly on a logarithmic scale ({ranges})." in text
    assert "**1 choice at the end of the values tried: adam in Pendulum-v1" in text
    assert "ratios" not in text and "grid" not in text


def test_the_figure_joins_the_candidates_of_a_search_in_the_order_of_their_values(tmp_path):
    given = search(1, axes=["retrace"], ranges=[{"q_lr": [1e-4, 1e-2]}])
    study = Study.parse(Study.parse(given).tuning_stages(given)[0])
    rates = [candidate["q_lr"] for candidate in study.tuned.candidates_of({"retrace": False})]
    frame = pd.DataFrame({"q_lr": rates, "mean": range(4), "lo": -1.0, "hi": 5.0, "diverged": 0})
    frame = frame.assign(env="Pendulum-v1", arm="Retrace off", candidate="", chosen=False)
    choices = pd.DataFrame([choice("Pendulum-v1", "Retrace off", on_edge=True)])
    tables.write({"candidates": frame, "choices": choices}, tmp_path)
    line = figure.draw(study, tmp_path).axes[0].lines[0]
    assert rates != sorted(rates) and [*line.get_xdata()] == sorted(rates)
    assert [*line.get_ydata()] == [*np.argsort(rates)]
    caption = figure.caption(study, tmp_path)
    assert "the end of the values tried for Retrace off in Pendulum-v1." in caption


def test_halving_is_told_with_its_rungs_and_the_steps_of_each_arm(said):
    text = said([choice("Pendulum-v1", arm, of=2) for arm in ("adam", "sgd")], of=halving)
    assert "8 candidates per arm (q_lr)" in text and "1/3 of each arm went on" in text
    assert "8 up to 30 %, 2 up to 90 % of the budget." in text
    # Two environments, three seeds: eight candidates for 3,000 steps and two for 6,000 more.
    assert "Each arm was given 216 000 environment steps." in text
    assert "is therefore that at 30 % of the budget" in text
    assert "different numbers" not in text


def test_the_steps_of_arms_with_different_numbers_of_candidates_differ_and_are_all_told(said):
    grids = [
        {"optimizer": "adam", "q_lr": [1e-4, 1e-3, 1e-2, 1e-1]},
        {"optimizer": "sgd", "q_lr": [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 2.0]},
    ]
    text = said(budget=0.8, grids=grids, halving={"factor": 2, "rungs": 2})
    assert "4 to 6 candidates per arm" in text and "4 to 6 up to 40 %, 2 to 3 up to 80 %" in text
    # Six runs of each: 4 for 4,000 steps and 2 for 4,000 more; 6 and 3.
    assert "Of environment steps, adam was given 144 000, sgd was given 216 000." in text
    assert "**The arms had different numbers of candidates: adam 4, sgd 6.**" in text


def test_the_share_of_the_budget_is_what_candidates_were_trained_for(said, tmp_path):
    """Half of 5,000 steps is two snapshots of 1,000; half of 10,000 is five."""
    given = config(budget=0.5)
    given["environments"][0] = {"id": "Pendulum-v1", "total_steps": 5000}
    assert "were trained with the seeds 1000, 1001, 1002 for 40 to 50 % of the budget." in said(
        of=lambda: given
    )
    study = Study.parse(given)
    rows = [choice("Pendulum-v1", "adam")]
    tables.write({"choices": pd.DataFrame(rows)}, tmp_path)
    caption = figure.caption(Study.parse(study.tuning_stages(given)[0]), tmp_path)
    assert "of each candidate after 2 000 to 5 000 environment steps, the mean over" in caption
    assert "with its 95 % t interval; n = 3 seeds (exploratory)." in caption


@pytest.mark.parametrize(
    "changed", [{}, {"chosen": True}, {"on_edge": False}, {"best_here": False}]
)
def test_a_best_candidate_at_an_end_is_told_though_another_was_chosen(said, changed):
    text = said(
        candidates=[candidate("adam", on_edge=True), candidate("sgd", on_edge=True) | changed]
    )
    end = "the best in its environment and at the end of what was tried: adam in Reacher-v5 (q lr"
    assert end in text and ("sgd in Reacher-v5 (q lr 0.03)." in text) == (not changed)


def test_the_choice_for_all_environments_is_told_as_that(said):
    rows = [choice(env, "adam", diverged=1) for env in ("Pendulum-v1", "Reacher-v5")]
    text = said(rows, choose="across")
    assert "the same choice, for all environments. " in text
    assert "**Every candidate had a diverged run in some environment: adam in Pendulum" in text


def test_the_sensitivity_of_halving_is_that_of_the_first_rung(tmp_path):
    rows = [sensitive("adam"), sensitive("sgd")]
    first = {"sensitivity": pd.DataFrame(rows), "choices": pd.DataFrame()}
    tables.write(first, tmp_path / "first")
    last = pd.DataFrame([sensitive(arm, 0, [np.nan] * 4) for arm in ("adam", "sgd")])
    choices = [choice("Pendulum-v1", arm, of=2) for arm in ("adam", "sgd")]
    frames = {"sensitivity": last, "choices": pd.DataFrame(choices)}
    tables.write(frames | {"candidates": pd.DataFrame([candidate("adam")])}, tmp_path / "last")
    study = Study.parse(halving())
    text = "\n".join(tuning.section(study, [tmp_path / "first", tmp_path / "last"]))
    assert "| adam  | 2              | 0.900" in text and "q lr 0.001" in text
    stage = Study.parse(study.tuning_stages(halving())[0])
    choices = [choice("Pendulum-v1", "adam", on_edge=True)]
    tables.write({"choices": pd.DataFrame(choices)}, tmp_path / "first")
    caption = figure.caption(stage, tmp_path / "first")
    assert "after 3 000 environment steps (the first rung of successive halving)" in caption
    assert "A ring marks the candidates that went on. " in caption
