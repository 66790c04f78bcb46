import json

import pandas as pd
import pytest
import torch

from mpo.jobs.verify import verify, write
from mpo.training import loop
from mpo.training.stack import Stack
from tests.processes import run_spec

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path):
    """A finished run of 200 steps whose updates start at step 100."""
    spec = run_spec("Pendulum-v1")
    directory = tmp_path / "Pendulum-v1/arm/seed0/step200"
    loop.train(Stack(spec.env_id, spec.training, [spec.seed], CPU), spec.cell, 200, [directory])
    return directory


def test_a_run_is_reproduced_as_far_as_is_asked(run):
    found = verify(run, 170, CPU)
    assert found["reproduced"] and found["differs"] is None and found["unlike"] == {}
    assert found["env_steps"] == 150 and found["run"] == "Pendulum-v1/arm/seed0"
    assert found["recorded"] == found["again"]
    assert verify(run, 1, CPU)["env_steps"] == 50
    assert verify(run, 10**6, CPU)["env_steps"] == 200


def older(run):
    """Makes the run one of an older version, which has no checksums; returns its record."""
    record = json.loads((run / "run.json").read_text())
    del record["files"], record["sha256"], record["environment"]
    (run / "run.json").write_text(json.dumps(record))
    return record


def test_the_first_difference_is_named(run):
    older(run)
    rows = pd.read_parquet(run / "train.parquet")
    rows.loc[2:, "q_mean"] += 1e-9
    rows.to_parquet(run / "train.parquet")
    assert verify(run, 100, CPU)["reproduced"]
    found = verify(run, 200, CPU)
    assert not found["reproduced"] and found["recorded"] != found["again"]
    assert found["differs"] == "from step 150 on in q_mean"


def test_the_page_counts_what_is_equal_and_says_where_it_was_recorded(run, tmp_path):
    record = older(run)
    record["provenance"]["cpu"] = "another one"
    (run / "run.json").write_text(json.dumps(record))
    found = verify(run, 100, CPU)
    bad = found | {"reproduced": False, "differs": "from step 50 on in q_mean"}
    write([found, bad], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "1 of 2 runs were reproduced bit for bit on this machine." in page
    rows = [line for line in page.splitlines() if "Pendulum-v1/arm/seed0" in line]
    assert "| yes " in rows[0] and "| cpu " in rows[0]
    assert "| no: from step 50 on in q_mean " in rows[1]
