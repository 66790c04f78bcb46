"""What the summary says of the stage of tuning."""

import numpy as np
import pandas as pd
import pytest

from mpo.analysis import tables
from mpo.report import tuning
from mpo.study.plan import Study
from tests.study.test_tuning import config


def choice(env, arm, **changed):
    names = {"chosen": "q lr 0.001", "best_here": "q lr 0.001", "best_across": "q lr 0.01"}
    numbers = {"of": 3, "share": 0.75, "mean": 4.0, "held_out": 3.0, "mean_across": 2.0}
    return {"env": env, "arm": arm, "on_edge": False, "diverged": 0, **names, **numbers} | changed


def sensitive(arm, environments=2, terms=(0.9, 0.7, 0.2, 0.25)):
    names = ("per_environment", "across", "index", "index_naive")
    values = dict(zip(names, terms, strict=True))
    return {"arm": arm, "environments": environments, "seeds": 3, **values}


@pytest.fixture
def said(tmp_path):
    """The section of a study on its tuning, from tables of the stage."""

    def section(choices=(), sensitivity=(), **settings):
        choices = choices or [choice("Pendulum-v1", arm) for arm in ("adam", "sgd")]
        sensitivity = sensitivity or [sensitive(arm) for arm in ("adam", "sgd")]
        frames = {"choices": pd.DataFrame(choices), "sensitivity": pd.DataFrame(sensitivity)}
        tables.write(frames, tmp_path)
        return "\n".join(tuning.section(Study.parse(config(**settings)), tmp_path))

    return section


def test_the_sensitivity_of_each_arm_is_told_with_what_it_means(said):
    rows = [sensitive("adam"), sensitive("sgd", terms=(0.5, 0.55, -0.05, 0.0))]
    text = said(sensitivity=rows)
    assert "| adam  | 2              | 0.900           | 0.700         | 0.200         |" in text
    minus = "\N{MINUS SIGN}"
    assert f"{minus}0.050" in text
    assert "An arm with a large index needs tuning in each environment" in text


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
