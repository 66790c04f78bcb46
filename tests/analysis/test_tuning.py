"""What is chosen among candidates, and how surely, against cases computed by hand."""

import numpy as np
import pandas as pd
import pytest

from mpo.analysis import tuning
from mpo.analysis.intervals import t_interval
from mpo.study.config import ConfigError
from mpo.study.plan import Study
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


@pytest.fixture
def choose(monkeypatch):
    """Compares candidates with given criteria, of which some runs diverged."""

    def chosen(diverged=(), scale=SCALE, missing=(), **settings):
        given = config(**settings)
        study = Study.parse(Study.parse(given).tuning_stage(given))
        cells = [ADAM, SGD, WALKER["adam"], WALKER["sgd"]]
        values = np.concatenate([cell.flatten() for cell in cells])
        ids = [run.run_id for run in study.runs]
        found = pd.Series(values, ids).drop([ids[place] for place in missing])
        status = ["diverged" if place in diverged else "ok" for place in range(len(ids))]
        runs = pd.DataFrame({"run_id": ids, "status": status})
        monkeypatch.setattr(tuning, "_criterion", lambda *_: found)
        monkeypatch.setattr(tuning, "read", lambda *_: runs)
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
