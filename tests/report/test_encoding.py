"""Files are UTF-8 whatever the locale: a minus sign must not end a study."""

import json
import os
import subprocess
import sys

import pytest

from tests import synthetic
from tests.cases import first_of
from tests.pipeline import ROOT

ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with the tables of a study whose numbers are negative."""
    root = tmp_path_factory.mktemp("study")
    plan = synthetic.plan(environments=1)
    synthetic.write_runs(plan, root)
    synthetic.write_tables(plan, root)
    config = json.dumps(synthetic.config(environments=1))
    (root / "study.json").write_text(config, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("verb", "made"),
    first_of(
        [
            ("summary --figures learning_curves.png --out summary.md", "summary.md"),
            ("typeset --out typeset", "typeset/final_scores.md"),
            ("figure --name critic --out f.svg --caption f.rst", "f.rst"),
        ]
    ),
)
def test_a_locale_without_a_minus_sign_does(study, verb, made):
    command = [sys.executable, "-m", "mpo", *verb.split()]
    command += ["--study", "study.json", "--tables", "tables"]
    environment = {**os.environ, **ASCII}
    done = subprocess.run(command, cwd=study, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (study / made).read_text(encoding="utf-8").isascii()
