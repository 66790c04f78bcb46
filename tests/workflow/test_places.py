"""The pipeline started from another folder, and as a module of another workflow."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.pipeline import ROOT, TINY, changed, snakemake

ONE = changed(
    study="hosted",
    environments=["Pendulum-v1"],
    seeds=[0],
    axes={"retrace": [False], "optimizer": ["adam"]},
)
HOST = """
rule mine:
    output: "mine.txt"
    shell: "echo one > {output}; echo two >> {output}"

module mpo:
    snakefile: "SNAKEFILE"
    config: CONFIG

use rule * from mpo as mpo_*
"""


def run(folder, *arguments):
    """Runs Snakemake in a folder that holds nothing of the pipeline."""
    path = os.pathsep.join([os.path.dirname(sys.executable), "/usr/bin", "/bin"])
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *map(str, arguments)]
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_from_elsewhere_every_run_is_planned_and_nothing_is_written(tmp_path, snakefile):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(TINY))
    said = run(tmp_path, "-n", "-s", ROOT / snakefile, "--configfile", "study.yaml")
    assert re.search(r"^train +16$", said, re.M) and re.search(r"^pages +1$", said, re.M)
    assert {path.name for path in tmp_path.iterdir()} <= {"study.yaml", ".snakemake"}


def test_a_finished_study_stays_finished_from_elsewhere(finished, tmp_path):
    (finished / "study.yaml").write_text(yaml.safe_dump(TINY))
    place = ("--directory", finished, "--configfile", finished / "study.yaml")
    assert "Nothing to be done" in run(tmp_path, "-n", "-s", finished / "Snakefile", *place)


@pytest.mark.slow
def test_a_host_keeps_its_default_target_its_shells_and_its_rules(tmp_path):
    host = HOST.replace("SNAKEFILE", str(ROOT / "workflow/Snakefile")).replace("CONFIG", repr(ONE))
    (tmp_path / "Snakefile").write_text(host)
    said = run(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "one\ntwo\n"
    assert "mpo_train" not in said and not (tmp_path / "results").exists()
    said = run(tmp_path, "-n", "mpo_all")
    for rule in ("mpo_study", "mpo_train", "mpo_evaluate", "mpo_pages"):
        assert re.search(rf"^{rule} +1$", said, re.M), said


@pytest.mark.slow
def test_a_host_makes_a_study_to_its_pages(tmp_path):
    host = HOST.replace("SNAKEFILE", str(ROOT / "workflow/Snakefile")).replace("CONFIG", repr(ONE))
    (tmp_path / "Snakefile").write_text(host)
    run(tmp_path, "mpo_all", "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "one\ntwo\n"
    assert "1 run" in (tmp_path / "results/hosted/summary.md").read_text()
    assert "Nothing to be done" in run(tmp_path, "-n", "mpo_all", "mine.txt")


def test_a_deployment_has_all_rules_of_the_pipeline_and_its_default_target(tmp_path):
    """As snakedeploy lays it: a copy of config/, and a workflow that takes every rule."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/Snakefile").write_text(
        'configfile: "config/config.yaml"\n\n\nmodule mpo:\n    snakefile:\n'
        f'        "{ROOT / "workflow/Snakefile"}"\n    config:\n        config\n\n\n'
        "use rule * from mpo\n"
    )
    said = run(tmp_path, "-n")
    assert re.search(r"^train_0_1_2_to_4000 +4$", said, re.M), said
    assert re.search(r"^pages +1$", said, re.M) and "results/deployed/summary.md" in said


def test_what_an_environment_prints_stays_out_of_the_graph(tmp_path, finished):
    """Whatever is printed while environments are made goes to stderr."""
    (finished / "loud.py").write_text(
        "import gymnasium as gym\nfrom gymnasium.envs.classic_control import PendulumEnv\n\n\n"
        "class Loud(PendulumEnv):\n    def __init__(self, **options):\n"
        "        print('I am loud')\n        super().__init__(**options)\n\n\n"
        "gym.register('Loud-v0', Loud, max_episode_steps=200)\n"
    )
    done = snakemake(finished, "--rulegraph", config=changed(environments=["loud:Loud-v0"]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.lstrip().startswith("digraph") and "I am loud" in done.stderr
