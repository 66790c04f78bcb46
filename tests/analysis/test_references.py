"""Which environments have a reference score."""

import json

import pytest

from mpo.analysis import references
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
