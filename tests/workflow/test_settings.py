"""Whoever names the rule `train` means every rule that trains, those of packs too."""

import re

import pytest
import yaml

from tests.pipeline import changed, project, snakemake

PACKS = changed(
    environments=["Pendulum-v1"],
    seeds=[0, 1, 2],
    axes={"retrace": [False], "optimizer": ["adam", "sgd"]},
    execution={"seeds_per_job": 2},
)
PACK = "train_0_1_to_400"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The pipeline before its first run."""
    return project(tmp_path_factory.mktemp("fresh"))


def plan(folder, *options):
    """Jobs by rule, and what is said of the first job of the pack."""
    done = snakemake(folder, "-n", "--cores", "4", *options, config=PACKS)
    assert done.returncode == 0, done.stdout + done.stderr
    table = re.search(r"^job +count\n[- ]+\n(.*?)\ntotal", done.stdout, re.M | re.S)
    jobs = {rule: int(n) for rule, n in (line.split() for line in table[1].splitlines())}
    said = re.search(rf"^rule {PACK}:\n(.*?)\n\n", done.stdout, re.M | re.S)
    return jobs, said[1] if said else ""


def trainings(jobs):
    return {rule: n for rule, n in jobs.items() if rule.startswith("train")}


ALL = {"train": 2, PACK: 2}
"""A pack of two seeds and a third seed alone, in two cells."""


def test_until(fresh):
    jobs, _ = plan(fresh, "--until", "train")
    assert jobs == ALL


def test_omit_from(fresh):
    jobs, _ = plan(fresh, "--omit-from", "train")
    assert not trainings(jobs) and jobs["study"] == 1


def test_as_a_target(fresh):
    jobs, _ = plan(fresh, "train")
    assert jobs == ALL


def test_forced(fresh):
    jobs, said = plan(fresh, "-R", "train")
    assert trainings(jobs) == ALL and jobs["evaluate"] == 6
    assert "reason: Forced execution" in said


def test_prioritized(fresh):
    _, said = plan(fresh, "--prioritize", "train")
    assert "priority: highest" in said


def test_threads(fresh):
    _, said = plan(fresh, "--set-threads", "train=3")
    assert "threads: 3" in said


def test_resources(fresh):
    _, said = plan(fresh, "--set-resources", "train:mem_mb=123", "train:runtime=7")
    assert "mem_mb=123" in said and "runtime=7" in said


def test_groups(fresh):
    """Local execution knows no groups; the rule must take one all the same."""
    jobs, _ = plan(fresh, "--groups", "train=together")
    assert trainings(jobs) == ALL


def test_in_a_profile(fresh):
    profile = fresh / "profiles/mine/config.yaml"
    profile.parent.mkdir()
    profile.write_text(yaml.safe_dump({"set-resources": {"train": {"mem_mb": 77}}}))
    _, said = plan(fresh, "--profile", "profiles/mine")
    assert "mem_mb=77" in said
