"""Whether tuning has the references that it needs."""

import json
import shutil

import pytest

from mpo.study import references
from mpo.study.config import ConfigError
from mpo.study.plan import Study
from tests.pipeline import ROOT, project
from tests.study import test_tuning
from tests.study.test_config_files import dry_run

HEAD = "env,reference,what,source\n"


def across(environments, **tuning):
    return Study.parse(test_tuning.config(environments, choose="across", **tuning))


@pytest.mark.parametrize("rows", ["", "A-v0,,w,s\n", "B-v0,1,w,s\n"])
def test_a_choice_across_needs_a_reference(tmp_path, rows):
    table = tmp_path / "references.csv"
    table.write_text(HEAD + rows)
    message = "tuning.choose: expected 'environment', .*references.csv, received 'across' with A-v0"
    with pytest.raises(ConfigError, match=message):
        references.check(across(["A-v0"]), table, tmp_path)
    references.check(Study.parse(test_tuning.config(["A-v0"])), table, tmp_path)
    references.check(across(["A-v0", "dm_control/walker-walk-v0"]), table, tmp_path)
    table.write_text(HEAD + "A-v0,1,w,s\n")
    references.check(across(["A-v0", "B-v0"]), table, tmp_path)
    few = test_tuning.tuned_in(["Pendulum-v1"], choose="across")
    with pytest.raises(ConfigError, match="candidates are trained .* 'across' with Pendulum-v1$"):
        references.check(Study.parse(few), table, tmp_path)


def test_a_reference_below_a_random_return_is_refused_where_that_is_known(tmp_path):
    table = tmp_path / "references.csv"
    table.write_text(HEAD + "A-v0,-5,w,s\n")
    study = Study.parse(test_tuning.config(["A-v0"]))
    references.check(study, table, tmp_path)
    random = tmp_path / f"results/{study.study}/random/A-v0.json"
    random.parent.mkdir(parents=True)
    random.write_text(json.dumps({"mean": -6.0}))
    references.check(study, table, tmp_path)
    random.write_text(json.dumps({"mean": -5.0}))
    message = "references.csv: the reference of A-v0 must be above .* -5, received -5.0"
    with pytest.raises(ConfigError, match=message):
        references.check(study, table, tmp_path)
    random.write_text(json.dumps({"mean": -5.0})[:-1])
    references.check(study, table, tmp_path)


@pytest.mark.slow
def test_it_is_refused_before_any_job(tmp_path):
    folder = project(tmp_path)
    shutil.copy(ROOT / "config/tiny.yaml", folder / "study.yaml")
    (folder / "config/references.csv").write_text(HEAD)
    with (folder / "study.yaml").open("a") as file:
        file.write("\ntuning: {axes: [optimizer], grids: [{q_lr: [0.1, 0.2]}], choose: across}\n")
    said = dry_run(folder, "--configfile", "study.yaml")
    assert "tuning.choose: expected 'environment'" in said and "received 'across'" in said
