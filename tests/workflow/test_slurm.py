"""Studies on a real Slurm cluster: all jobs use sbatch, and one resumes after its time limit."""

import contextlib
import json
import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import yaml

from mpo.report.figures import FIGURES
from mpo.study.specs import RunSpec
from tests import processes
from tests.cluster import cluster
from tests.pipeline import changed, project, start

pytestmark = [pytest.mark.slow, pytest.mark.needs("slurm")]

TINY = changed(execution={"device": "auto"})  # asks for a GPU
LONGER = changed(
    environments=["Pendulum-v1"],
    seeds=[0, 1],
    axes={"retrace": [True], "optimizer": ["adam"]},
    schedule={"total_steps": 1200, "snapshot_interval": 600, "log_interval": 300},
    training={"policy_layer_sizes": [32], "critic_layer_sizes": [32]},
    execution={"device": "auto", "checkpoint_interval_s": 0.5, "seeds_per_job": 2},
)
CELL = "results/tiny/runs/Pendulum-v1/retrace-on_optimizer-adam"
PROFILE = "profiles/slurm/config.yaml"


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Two studies side by side: a whole one, and one pack with the shortest time limit."""
    whole, limited = (project(tmp_path_factory.mktemp(name)) for name in ("whole", "limited"))
    edit_profile(whole)
    edit_profile(limited, runtime=1)
    with (
        cluster(tmp_path_factory.mktemp("slurm"), memory_mb=32000),
        contextlib.ExitStack() as stack,
    ):
        arguments = ["--profile", "profiles/slurm"]
        processes = [
            start(limited, f"{CELL}/seed0/step1200/run.json", *arguments, config=LONGER),
            start(whole, *arguments, config=TINY),
        ]
        for process in processes:
            stack.callback(process.kill)
        pause_training(limited, processes[0])
        with ThreadPoolExecutor() as pool:  # or a full pipe would block one
            said = list(pool.map(lambda process: process.communicate(timeout=1200), processes))
        found = []
        for folder, process, output in zip((limited, whole), processes, said, strict=True):
            assert process.returncode == 0, "".join(output)
            ids = re.findall(r"has been submitted with SLURM jobid (\d+)", "".join(output))
            found.append(SimpleNamespace(folder=folder, jobs=[job(number) for number in ids]))
    return SimpleNamespace(limited=found[0], whole=found[1])


def edit_profile(folder, **train):
    """Edits the users' profile: less waiting, and resources of the rule `train`."""
    profile = yaml.safe_load((folder / PROFILE).read_text())
    profile["slurm-init-seconds-before-status-checks"] = 2
    profile["set-resources"]["train"] |= train
    (folder / PROFILE).write_text(yaml.safe_dump(profile))


def pause_training(folder, process):
    """Pauses the training from its first checkpoint to its time limit, however fast the machine.

    Slurm wakes a paused process (SIGCONT) when it tells it to end (SIGTERM).
    """
    processes.wait_for_checkpoint(process, folder)
    trainer = processes.trainer(folder)
    # A shell between them would die of SIGTERM and end the job before the training is saved.
    assert "snakemake" in trainer.parent().cmdline()
    trainer.suspend()


def job(number):
    """Returns what Slurm knows about a job."""
    command = ["scontrol", "--oneliner", "show", "job", number]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    fields = dict(re.findall(r"(\S+?)=(\S*)", text))
    rule = fields["Comment"].removeprefix("rule_").partition("_wildcards_")[0]
    return SimpleNamespace(number=number, rule=rule, fields=fields)


def test_every_job_that_computes_goes_through_slurm(studies):
    assert Counter(job.rule for job in studies.whole.jobs) == {
        "train": 16,
        "evaluate": 16,
        "random": 2,
        **dict.fromkeys(("collect", "statistics", "typeset", "summary", "pages"), 1),
        **{f"figure_{name}": 1 for name in FIGURES},
    }
    assert {job.fields["JobState"] for job in studies.whole.jobs} == {"COMPLETED"}
    results = studies.whole.folder / "results/tiny"
    assert "16 runs" in (results / "summary.md").read_text()
    assert (results / "figures/learning_curves.png").exists()


def test_the_scheduler_gives_each_training_a_gpu_and_nothing_else_one(studies):
    for job in studies.whole.jobs:
        assert job.fields.get("TresPerJob") == ("gres:gpu:1" if job.rule == "train" else None)
    devices = {
        json.loads(path.read_text())["provenance"]["visible_devices"]
        for path in (studies.whole.folder / "results/tiny/runs").rglob("run.json")
    }
    assert devices == {"0", "1"}


def test_a_pack_that_meets_its_time_limit_is_submitted_again_and_resumes(studies, tmp_path):
    # On a busy machine the time limit may end a second job, too.
    *ended, last = studies.limited.jobs
    assert {job.fields["JobState"] for job in ended} == {"TIMEOUT"}
    assert last.fields["JobState"] == "COMPLETED"
    for job in ended:
        (log,) = (studies.limited.folder / ".snakemake/slurm_logs").rglob(f"{job.number}.log")
        assert "DUE TO TIME LIMIT" in log.read_text()
    assert {job.rule for job in studies.limited.jobs} == {"train_0_1_to_1200"}
    for seed in (0, 1):
        found = studies.limited.folder / CELL / f"seed{seed}/step1200"
        record = json.loads((found / "run.json").read_text())
        assert 0 < record["provenance"]["resumed"][0]["env_step"] < 1200
        spec = RunSpec.model_validate(record["spec"])
        processes.finish(processes.train(tmp_path, spec, 1200))
        assert processes.bits(found) == processes.bits(processes.results(tmp_path, spec, 1200))
