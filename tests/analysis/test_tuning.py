"""What is chosen among candidates, and how surely, against cases computed by hand."""

import itertools
import operator

import numpy as np
import pandas as pd
import pytest

from mpo.analysis import candidates, sensitivity, tuning
from mpo.analysis.candidates import Scores
from mpo.analysis.intervals import t_interval
from mpo.study.config import ConfigError, JobFailed
from mpo.study.plan import Study
from mpo.study.tuning import key_of
from tests.study.test_tuning import config

ADAM = np.array([[1.0, 2.0, 3.0], [4.0, 4.0, 1.0], [0.0, 0.0, 0.0]])
SGD = np.array([[5.0, 5.0, 5.0], [5.0, 5.0, 5.0], [9.0, 9.0, 9.0]])
WALKER = {"adam": ADAM[::-1] * 100, "sgd": SGD[::-1] * 100}
"""The area of each candidate and seed, in two environments."""
SCALE = pd.DataFrame(
    {
        "env": ["Pendulum-v1", "dm_control/walker-walk-v0"],
        "random": [0.0, 0.0],
        "reference": [10.0, 1000.0],
    }
)

TERMS = ["per_environment", "across", "index"]


@pytest.fixture
def choose(monkeypatch):
    """Compares candidates with given criteria, of which some runs diverged."""

    def chosen(diverged=(), scale=SCALE, missing=(), **settings):
        given = config(**settings)
        study = Study.parse(Study.parse(given).tuning_stages(given)[0])
        cells = [ADAM, SGD, WALKER["adam"], WALKER["sgd"]]
        values = np.concatenate([cell.flatten() for cell in cells])
        ids = [run.run_id for run in study.runs]
        found = pd.Series(values, ids).drop([ids[place] for place in missing])
        status = ["diverged" if place in diverged else "ok" for place in range(len(ids))]
        runs = pd.DataFrame({"run_id": ids, "status": status})
        monkeypatch.setattr(candidates, "_criterion", lambda *_: found)
        monkeypatch.setattr(candidates, "read", lambda *_: runs)
        tables, record = tuning.compute(study, None, scale)
        return tables, {
            (row["env"], row["arm"]["optimizer"]): row["settings"]["q_lr"]
            for row in record["chosen"]
        }

    return chosen


def test_each_environment_has_its_best_candidate(choose):
    tables, chosen = choose()
    assert chosen == {
        ("Pendulum-v1", "adam"): 1e-3,
        ("Pendulum-v1", "sgd"): 1.0,
        ("dm_control-walker-walk-v0", "adam"): 1e-3,
        ("dm_control-walker-walk-v0", "sgd"): 1e-2,
    }
    row = tables["candidates"].iloc[1]
    expected = t_interval([4.0, 4.0, 1.0])
    assert row[["mean", "lo", "hi", "n"]].tolist() == [expected.mean, *expected[2:], 3]
    assert row["chosen"] and not row["on_edge"]
    edges = tables["choices"].set_index(["env", "arm"])["on_edge"]
    assert edges.tolist() == [False, True, False, True]


def test_one_candidate_for_all_has_the_best_mean_score(choose):
    tables, chosen = choose(choose="across")
    # sgd: 0.5, 0.5, 0.9 in one environment and 0.9, 0.5, 0.5 in the other. Of equals, the first.
    assert {rate for (_, arm), rate in chosen.items() if arm == "sgd"} == {1e-2}
    assert {rate for (_, arm), rate in chosen.items() if arm == "adam"} == {1e-3}
    choices = tables["choices"].set_index(["env", "arm"])
    assert choices.loc[("Pendulum-v1", "sgd"), ["mean", "mean_across"]].tolist() == [9.0, 5.0]
    assert choices.loc[("Pendulum-v1", "sgd"), "best_here"] == "q lr 1"


def test_a_candidate_that_diverged_is_behind_all_others(choose):
    _, chosen = choose(diverged=[5])  # adam's best on Pendulum, its third seed
    assert chosen["Pendulum-v1", "adam"] == 1e-4
    _, chosen = choose(diverged=range(9))
    assert chosen["Pendulum-v1", "adam"] == 1e-4  # all of them: the first
    _, chosen = choose(diverged=range(9), missing=[0])
    assert chosen["Pendulum-v1", "adam"] == 1e-3  # the first that lacks no run


@pytest.mark.parametrize("scale", [SCALE, SCALE.assign(reference=[10.0, np.nan])])
def test_across_a_candidate_that_diverged_anywhere_is_behind(choose, scale):
    """Also where there is no reference. The best of adam is its second, then its first."""
    _, chosen = choose(choose="across", scale=scale)
    assert {rate for (_, arm), rate in chosen.items() if arm == "adam"} == {1e-3}
    for flaw in ({"diverged": [18 + 4]}, {"missing": [18 + 4]}):
        tables, chosen = choose(choose="across", scale=scale, **flaw)
        assert {rate for (_, arm), rate in chosen.items() if arm == "adam"} == {1e-4}
        choices = tables["choices"].set_index(["env", "arm"])
        assert choices.loc[("dm_control/walker-walk-v0", "adam"), "diverged"] == 0


@pytest.mark.parametrize("choice", ["environment", "across"])
def test_without_a_complete_candidate_none_is_chosen(choose, choice):
    with pytest.raises(JobFailed, match=r"no candidate of adam in .* has a run of every tuning"):
        choose(choose=choice, missing=[0, 4, 8])


def test_a_candidate_without_a_run_of_every_seed_is_not_chosen(choose):
    tables, chosen = choose(missing=[3])
    assert chosen["Pendulum-v1", "adam"] == 1e-4
    assert tables["candidates"]["n"].tolist()[:3] == [3, 2, 3]


def test_the_share_counts_all_resamples_of_the_seeds(choose):
    shares = choose()[0]["candidates"]["share"].to_numpy().reshape(4, 3)
    # The second candidate leads unless the third seed, where it has 1 and the first 3, is drawn
    # twice or more: with one of three, 4 + 4 + 1 > 1 + 2 + 3, with two 4 + 1 + 1 < 2 + 3 + 3.
    twice = 3 * 2 + 1
    assert shares[0].tolist() == pytest.approx([twice / 27, 20 / 27, 0])
    assert shares.sum(1).tolist() == pytest.approx([1] * 4)


def test_across_the_share_is_of_the_choice_for_all_environments(choose):
    rows = choose(choose="across")[0]["candidates"]
    shares = rows["share"].to_numpy().reshape(4, 3)
    assert (shares[:2] == shares[2:]).all() and shares.sum(1).tolist() == pytest.approx([1] * 4)
    # All 27 x 27 resamples of adam's seeds, those of the walker apart from those of Pendulum.
    sums = [
        [sum(a[[*here]]) + sum(b[[*there]]) for a, b in zip(ADAM, ADAM[::-1], strict=True)]
        for here, there in itertools.product(itertools.product(range(3), repeat=3), repeat=2)
    ]
    alone, tied = (
        np.mean([compare(second, max(first, third)) for first, second, third in sums])
        for compare in (operator.gt, operator.eq)
    )
    assert 0 < tied < 0.02 < alone  # equal sums of floats may differ in the last digit
    assert alone <= shares[0][1] <= alone + tied


def test_choosing_on_all_seeds_but_one_is_scored_on_that_one(choose):
    held = choose()[0]["choices"]["held_out"]
    # Without the first seed: (2+3)/2 = (4+1)/2, so the first of both, 1. Without the second: the
    # second, (4+1)/2 > (1+3)/2, 4. Without the third: the second, 1.
    equal = (1.0 if 2 + 3 >= 4 + 1 else 4.0) + (2.0 if 1 + 3 >= 4 + 1 else 4.0) + 1.0
    assert held.iloc[0] == pytest.approx(equal / 3)


def test_the_expected_best_of_k_is_a_mean_over_all_subsets(choose):
    best = choose()[0]["best_of"]
    own = best[(best["env"] == "Pendulum-v1") & (best["arm"] == "adam")]["expected"]
    assert own.tolist() == pytest.approx([(2 + 3 + 0) / 3, (3 + 3 + 2) / 3, 3])


def test_a_choice_for_all_needs_a_reference(choose):
    unknown = SCALE.assign(reference=np.nan)
    with pytest.raises(ConfigError, match="'across' needs a reference of at least one environ"):
        choose(scale=unknown, choose="across")
    choices = choose(scale=unknown)[0]["choices"]
    assert choices["best_across"].isna().all() and choices["mean_across"].isna().all()


def test_sensitivity_is_what_one_candidate_for_all_environments_loses(choose):
    """Leaving out a seed at a time, of three, against sums by hand; the walker's are mirrored."""
    table = choose()[0]["sensitivity"].set_index("arm")
    assert [*table.columns] == ["environments", "seeds", *TERMS, "index_naive"]
    assert table["environments"].tolist() == [2, 2] and table["seeds"].tolist() == [3, 3]
    # sgd's third candidate leads on Pendulum by 0.9, 0.5, 0.5, its first on the walker. Each has
    # 0.9 and 0.5 across, so the first is taken.
    assert table.loc["sgd", TERMS].tolist() == pytest.approx([0.9, 0.7, 0.2])
    assert table.loc["sgd", "index_naive"] == pytest.approx(0.2)
    # adam on Pendulum without seed 1: the first two have 2.5, so the first, 1. Without seed 2: 2.5
    # beats 2, the second, 4. Without seed 3: 4 beats 1.5, the second, 1. On the walker the first is
    # the third: of the same two the second comes first, and has 4.
    own = (1 + 4 + 1 + 4 + 4 + 1) / 60
    # Across: 2.5, 5, 2.5 without seed 1, and so on: always the second, with 4, 4, 1 in both.
    across = (4 + 4 + 1) / 30
    assert table.loc["adam", TERMS].tolist() == pytest.approx([own, across, own - across])
    assert own < across  # noise: no better than one choice
    assert table.loc["adam", "index_naive"] == pytest.approx(0.0)


def test_a_candidate_ranks_last_where_it_diverged_on_the_seeds_it_is_chosen_on(choose):
    """Of sgd the third on Pendulum, seed 2, and the first on the walker, seed 3."""
    table = choose(diverged=[16, 29])[0]["sensitivity"].set_index("arm")
    # Naively: the first on Pendulum, the second on the walker, 0.5 each; across, the second, 0.5.
    assert table.loc["sgd", "index_naive"] == pytest.approx(0.0)
    # Without seed 2 the third leads on Pendulum again, without seed 3 the first on the walker.
    assert table.loc["sgd", "per_environment"] == pytest.approx((0.5 + 0.7 + 0.7) / 3)


def test_a_candidate_without_a_run_of_every_seed_is_in_no_turn_chosen(choose):
    """The third seed of adam's second candidate on Pendulum is missing."""
    tables = choose(missing=[5])[0]
    assert tables["choices"]["held_out"].iloc[0] == pytest.approx((1 + 2 + 3) / 3)
    table = tables["sensitivity"].set_index("arm")
    # On the walker as before; across, the second has no value and the first 0.1, 0.2, 0.3 and 0.
    assert table.loc["adam", "per_environment"] == pytest.approx((6 + 4 + 4 + 1) / 60)
    assert table.loc["adam", "across"] == pytest.approx(6 / 60)


def test_sensitivity_needs_two_seeds_and_two_environments_with_a_reference(choose):
    one = SCALE.assign(reference=[10.0, np.nan])
    row = choose(scale=one)[0]["sensitivity"].iloc[0]
    assert row["environments"] == 1 and row["per_environment"] == row["across"] == pytest.approx(
        0.2
    )
    assert np.isnan(row["index"]) and np.isnan(row["index_naive"])
    none = choose(scale=SCALE.assign(reference=np.nan))[0]["sensitivity"]
    assert none["environments"].tolist() == [0, 0] and none[TERMS].isna().all(axis=None)
    single = Scores(
        np.array([[[0.2], [0.9]], [[0.7], [0.5]]]),
        np.zeros((2, 2, 1), bool),
        np.zeros((2, 2), bool),
    )
    assert np.isnan(sensitivity.held_out(single)).all()
    assert sensitivity.naive(single).lost == pytest.approx((0.9 + 0.7) / 2 - (0.9 + 0.5) / 2)


FOUR = {"optimizer": "adam", "q_lr": [1e-4, 1e-3, 1e-2, 1e-1]}
RUNGS = [FOUR | {"optimizer": name} for name in ("adam", "sgd")]


@pytest.fixture
def rung(monkeypatch):
    """As `choose`, of the first of two rungs that halve four candidates of each arm."""

    def chosen(values, diverged=(), **settings):
        halving = {"factor": 2, "rungs": 2}
        given = config(grids=RUNGS, halving=halving, budget=0.8, seeds=[1000], **settings)
        study = Study.parse(Study.parse(given).tuning_stages(given)[0])
        ids = [run.run_id for run in study.runs]
        status = ["diverged" if place in diverged else "ok" for place in range(len(ids))]
        runs = pd.DataFrame({"run_id": ids, "status": status})
        found = pd.Series(np.concatenate(values), ids)
        monkeypatch.setattr(candidates, "_criterion", lambda *_: found)
        monkeypatch.setattr(candidates, "read", lambda *_: runs)
        tables, record = tuning.compute(study, None, SCALE)
        names = {}
        for row in record["chosen"]:
            place = FOUR["q_lr"].index(row["settings"]["q_lr"])
            names.setdefault((row["env"].split("-")[0], row["arm"]["optimizer"]), []).append(place)
        return tables, names

    return chosen


# Of adam and sgd in Pendulum-v1, and of both in the walker.
VALUES = [[1.0, 4.0, 3.0, 2.0], [5.0, 5.0, 5.0, 6.0], [400, 100, 200, 300], [0, 0, 900, 800]]


def test_the_best_of_each_arm_go_on_to_the_next_rung(rung):
    tables, chosen = rung(VALUES)
    assert chosen == {
        ("Pendulum", "adam"): [1, 2],
        ("Pendulum", "sgd"): [3, 0],  # of equals, the first
        ("dm_control", "adam"): [0, 3],
        ("dm_control", "sgd"): [2, 3],
    }
    table = tables["candidates"]["chosen"].to_numpy().reshape(4, 4)
    assert [[*np.flatnonzero(row)] for row in table] == [[1, 2], [0, 3], [0, 3], [2, 3]]
    assert tables["candidates"]["share"].isna().all()  # one seed tells nothing of the others
    assert tables["choices"]["chosen"].tolist()[0] == "q lr 0.001"


def test_a_candidate_that_diverged_goes_on_only_where_no_other_is_left(rung):
    _, chosen = rung(VALUES, diverged=[1])
    assert chosen["Pendulum", "adam"] == [2, 3]
    _, chosen = rung(VALUES, diverged=[0, 1, 2])
    assert chosen["Pendulum", "adam"] == [3, 0]


def test_for_all_environments_the_same_candidates_go_on(rung):
    _, chosen = rung(VALUES, choose="across")
    # adam: 0.1 + 0.4, 0.4 + 0.1, 0.3 + 0.2, 0.2 + 0.3 are equal but for rounding; sgd: the last
    # two have 0.5 + 0.9 and 0.6 + 0.8, the others 0.5.
    assert chosen["Pendulum", "sgd"] == chosen["dm_control", "sgd"]
    assert sorted(chosen["Pendulum", "sgd"]) == [2, 3]
    assert chosen["Pendulum", "adam"] == chosen["dm_control", "adam"]


def test_in_a_later_rung_environments_with_other_candidates_are_not_compared(monkeypatch):
    """What each has kept is read in the order of the plan, and one of two is chosen."""
    given = config(grids=RUNGS, halving={"factor": 2, "rungs": 2}, budget=0.8, seeds=[1000])
    kept = {("Pendulum-v1", "adam"): [1, 2], ("Pendulum-v1", "sgd"): [0, 3]}
    kept |= {("dm_control-walker-walk-v0", arm): [0, 1] for arm in ("adam", "sgd")}
    choice = {
        (env, key_of({"optimizer": arm})): [
            {"q_lr": FOUR["q_lr"][place], "policy_lr": FOUR["q_lr"][place] * 0.5}
            for place in places
        ]
        for (env, arm), places in kept.items()
    }
    study = Study.parse(Study.parse(given).tuning_stages(given)[1], choice)
    assert study.is_settled
    ids = [run.run_id for run in study.runs]
    monkeypatch.setattr(
        candidates, "_criterion", lambda *_: pd.Series([1.0, 2, 4, 3, 6, 5, 7, 8], ids)
    )
    runs = pd.DataFrame({"run_id": ids, "status": "ok"})
    monkeypatch.setattr(candidates, "read", lambda *_: runs)
    tables, record = tuning.compute(study, None, SCALE)
    places = [FOUR["q_lr"].index(row["settings"]["q_lr"]) for row in record["chosen"]]
    assert places == [2, 0, 0, 1]
    assert tables["choices"]["best_across"].isna().all()
    assert tables["sensitivity"]["environments"].tolist() == [0, 0]
    assert tables["choices"]["of"].tolist() == [2] * 4
