"""Numbers of short runs, kept: they change only together with a version.

After a deliberate change bump `ALGORITHM_VERSION` or `EVALUATION_VERSION` in mpo/__init__.py and
run `python -m tests.test_golden` to keep the new numbers.
"""

import json
import math
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mpo import ALGORITHM_VERSION, EVALUATION_VERSION
from mpo.jobs.evaluate import evaluate
from mpo.study.specs import EvaluationSpec, RunSpec
from mpo.trainer import MPOTrainer
from mpo.training.artifacts import read_policies
from mpo.training.recorder import CLOCKS

FILE = Path(__file__).with_name("golden.json")
CASES = {
    "td": {"env_id": "Pendulum-v1"},
    "n_step": {"env_id": "Reacher-v5", "n_step": 3, "max_grad_norm": 40.0},
    "retrace_sgd": {"env_id": "Reacher-v5", "use_retrace": True, "optimizer_type": "sgd"},
    "retrace_window": {
        "env_id": "InvertedDoublePendulum-v5",
        "use_retrace": True,
        "retrace_steps": 4,
        "action_penalty": False,
        "mstep_kl_epsilon_stddev": 1e-3,
    },
}
# Other processors round otherwise, and 60 updates let that grow; a change of the algorithm shows.
TOLERANCE = {"rel": 1e-3, "abs": 1e-5}


def trace(**settings):
    """Every recorded number of a run of 60 updates, and of the evaluation of what it learnt."""
    torch.set_num_threads(1)
    trainer = MPOTrainer(
        seed=7,
        device=torch.device("cpu"),
        policy_layer_sizes=(32, 32),
        critic_layer_sizes=(32, 32),
        replay_size=150,
        temperature_lr=1e-2,
        # Fast enough for a small change to show within the run.
        target_networks_update_period=5,
        **{"policy_lr": 3e-3, "q_lr": 3e-3, **settings},
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(200, 140, 16, folder, snapshot_interval=200, log_interval=50)
        rows = pq.read_table(Path(folder, "train.parquet")).drop_columns(list(CLOCKS)).to_pylist()
        spec = RunSpec.model_validate(
            json.loads(Path(folder, "run.json").read_text(encoding="utf-8"))["spec"]
        )
        policies = read_policies(Path(folder, "policies.pt"))
    episodes = evaluate(spec, policies, EvaluationSpec(online_episodes=1, final_episodes=2), 200)
    return {
        "train": [value for row in rows for value in row.values() if not math.isnan(value)],
        "evaluate": [episode["return"] for episode in episodes],
    }


def kept():
    return json.loads(FILE.read_text())


def test_the_kept_numbers_are_of_these_versions():
    versions = {"algorithm": ALGORITHM_VERSION, "evaluation": EVALUATION_VERSION}
    assert kept()["versions"] == versions, f"keep the new numbers: {__doc__}"


@pytest.mark.parametrize("case", CASES)
def test_numbers_change_only_with_a_version(case):
    found, expected = trace(**CASES[case]), kept()["traces"][case]
    assert found["train"] == pytest.approx(expected["train"], **TOLERANCE)
    assert found["evaluate"] == pytest.approx(expected["evaluate"], **TOLERANCE)


@pytest.mark.parametrize(
    "change", [{"gamma": 0.985}, {"kl_epsilon": 0.11}, {"epsilon_penalty": 0.002}]
)
def test_a_small_change_of_the_algorithm_would_show(change):
    changed = trace(**CASES["td"], **change)["train"]
    assert changed != pytest.approx(kept()["traces"]["td"]["train"], **TOLERANCE)


if __name__ == "__main__":
    versions = {"algorithm": ALGORITHM_VERSION, "evaluation": EVALUATION_VERSION}
    content = {"versions": versions, "traces": {name: trace(**c) for name, c in CASES.items()}}
    FILE.write_text(json.dumps(content, indent=1) + "\n")
