"""Which environments have a reference score."""

import json

import pytest

from mpo.analysis import references
from mpo.analysis.runs import environment_version
from mpo.study.checksums import sealed
from mpo.study.config import JobFailed
from mpo.study.plan import Study
from tests.study.test_plan import changed

VARIANT = {"id": "dm_control/reacher-easy-v0", "kwargs": {"task_kwargs": {"time_limit": 5}}}
SLUG = "dm_control-reacher-easy-v0_task_kwargs-time_limit-5"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], 1000.0),
        (["dm_control/reacher-easy-v0,900,the plain one,s"], 900.0),
        ([f"{SLUG},400,the variant,s"], 1000.0),
    ],
)
def test_a_variant_has_a_reference_only_under_its_own_name(tmp_path, rows, expected):
    study = Study.parse(changed("environments", ["dm_control/reacher-easy-v0", VARIANT]))
    table = tmp_path / "references.csv"
    table.write_text("\n".join(["env,reference,what,source", *rows, ""]))
    random = []
    for environment in study.environments:
        found = {"env_id": environment.name, "mean": 5.0, "episodes": 2}
        random.append(tmp_path / f"{environment.slug}.json")
        random[-1].write_text(json.dumps(found))
    found = references.read(study, table, random).set_index("env")["reference"]
    assert found.index.tolist() == ["dm_control/reacher-easy-v0", SLUG]
    assert found.iloc[0] == expected
    own = [row for row in rows if row.startswith(SLUG)]
    assert found.iloc[1] == 400.0 if own else found.isna().iloc[1]


def test_a_limit_of_evaluation_lowers_the_largest_return_there_is(tmp_path):
    name = "dm_control/reacher-easy-v0"
    config = changed("evaluation.max_episode_steps", 250)
    study = Study.parse(config | {"environments": [name]})
    (tmp_path / "references.csv").write_text("env,reference,what,source\n")
    (tmp_path / "r.json").write_text(json.dumps({"env_id": name, "mean": 5.0, "episodes": 2}))
    found = references.read(study, tmp_path / "references.csv", [tmp_path / "r.json"])
    assert found["reference"].tolist() == [250.0]
    assert found["what"].iloc[0].endswith("for 250 steps")


def test_a_random_return_tells_its_environments_version_or_the_log_says_that_it_does_not(
    tmp_path, caplog
):
    study = Study.parse(changed("environments", ["Pendulum-v1", "Reacher-v5"]))
    (tmp_path / "references.csv").write_text("env,reference,what,source\n")
    made = {"packages": {"gymnasium": "1.2.0"}}
    records = [{"environment": made}, {}]
    for environment, record in zip(study.environments, records, strict=True):
        record |= {"env_id": environment.id, "mean": 5.0, "episodes": 2}
        (tmp_path / f"{environment.id}.json").write_text(json.dumps(sealed(record)))
    random = [tmp_path / f"{environment.id}.json" for environment in study.environments]
    with caplog.at_level("INFO"):
        found = references.read(study, tmp_path / "references.csv", random)
    assert found["environment_version"].isna().tolist() == [False, True]
    assert found["environment_version"].iloc[0] == environment_version({"environment": made})
    text = "the random return of {} does not record its environment"
    assert text.format("Reacher-v5") in caplog.text
    assert text.format("Pendulum-v1") not in caplog.text


def test_an_environment_that_failed_with_random_actions_has_no_scale_where_that_is_allowed(
    tmp_path, caplog
):
    config = changed("environments", ["dm_control/reacher-easy-v0", "Reacher-v5"])
    (tmp_path / "references.csv").write_text("env,reference,what,source\nReacher-v5,-4,w,s\n")
    records = [
        {"env_id": "dm_control/reacher-easy-v0", "mean": 5.0, "episodes": 2},
        {"env_id": "Reacher-v5", "error": "environment 'Reacher-v5': no luck", "episodes": 2},
    ]
    random = [tmp_path / name for name in ("a.json", "b.json")]
    for path, record in zip(random, records, strict=True):
        path.write_text(json.dumps(record))
    files = tmp_path / "references.csv", random
    with pytest.raises(JobFailed, match=r"b.json: .* of Reacher-v5 .*no luck. Delete the file to"):
        references.read(Study.parse(config), *files)
    study = Study.parse(config | {"allow_missing": True})
    found = references.read(study, *files).set_index("env")
    assert found.loc["Reacher-v5", ["random", "reference"]].isna().all()
    assert "no luck" in found.loc["Reacher-v5", "error"] and "no luck" in caplog.text
    assert found.loc["dm_control/reacher-easy-v0", "reference"] == 1000.0
