"""Part of a study, trained on a machine that is lent for some time."""

import os
import subprocess
import sys
import tarfile

import pytest
import yaml

from mpo.jobs.merge import merge
from tests.pipeline import ROOT, TINY, changed, planned, project

SCRIPT = ROOT / "workflow/scripts/part_of_study.sh"


def part(folder, *arguments):
    path = os.pathsep.join([os.path.dirname(sys.executable), "/usr/bin", "/bin"])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_what_is_finished_when_the_time_is_over_comes_back_as_one_file(finished, tmp_path):
    endless = {"id": "Walker2d-v5", "total_steps": 10**6}
    longer = changed(
        environments=[*TINY["environments"], endless],
        execution={"compile_on_cpu": False},
    )
    (finished / "study.yaml").write_text(yaml.safe_dump(longer))
    done = part(finished, 40, "part.tar.gz", "--cores", "2", "--configfile", "study.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The time is over." in done.stdout
    assert [*finished.glob("results/.resume/Walker2d-v5/*/*/seed*/checkpoint-*.pt")]
    with tarfile.open(finished / "part.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    taken = merge([tmp_path / "results/tiny"], tmp_path / "home/results/tiny").taken
    assert len(taken) == 16 and not any("Walker2d" in name for name in taken)
    assert planned(finished, longer)["train"] == 8


@pytest.mark.slow
def test_the_evaluation_of_a_run_as_a_target_trains_that_run_and_makes_no_table(tmp_path):
    """So machines share a study out between them, each with the whole config."""
    runs = [
        f"Pendulum-v1/retrace-off_optimizer-{name}/seed{n}"
        for name in ("adam", "sgd")
        for n in (0, 1)
    ]
    targets = [f"results/tiny/runs/{run}/step400/evals.parquet" for run in runs]
    assert planned(project(tmp_path), targets=targets) == {"train": 4, "evaluate": 4}


@pytest.mark.parametrize("arguments", [[], ["0", "a.tar.gz", "-n"], ["60", "a.zip", "-n"]])
def test_wrong_arguments_are_named_before_anything_starts(tmp_path, arguments):
    done = part(tmp_path, *arguments)
    assert done.returncode == 2 and "usage: " in done.stderr
    assert " ".join(arguments) in done.stderr and not [*tmp_path.iterdir()]


def test_a_snakemake_that_fails_is_not_taken_for_success(tmp_path):
    done = part(tmp_path, 60, "a.tar.gz", "--no-such-option")
    assert done.returncode != 0 and "exit status" in done.stderr
