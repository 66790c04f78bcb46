"""Every command of README.md and docs/ is run, or is listed with the reason why it is not.

Commands run on the tiny study, in a copy of its finished project, so that nothing is trained twice.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import blocks, commands, function, pages
from tests.pipeline import ROOT

RUN = {
    "make study": ["pages/summary.html"],
    "make study CONFIG=config/tiny.yaml": ["pages/summary.html"],
    "make reference STUDY=small": [
        "../reference/tiny/summary.md",
        "../reference/tiny/tables/runs.csv",
    ],
    "source .venv/bin/activate": [],
    "snakemake --cores 8": ["pages/summary.html"],
    "snakemake --cores 8 --configfile config/tiny.yaml": ["pages/summary.html"],
    "snakemake --cores 8 --resources gpu=2": ["pages/summary.html"],
    "snakemake --cores 8 --config allow_missing=true": ["pages/summary.html"],
    "snakemake --cores 8 figures": ["figures/effects.png", "figures/final_scores.pdf"],
    "snakemake --cores 8 figures --configfile config/tiny.yaml": ["figures/profiles.png"],
    "snakemake --cores 1 results/default/figures/final_scores.png": ["figures/final_scores.png"],
    "snakemake --cores 1 results/default/runs/Pendulum-v1/retrace-on_optimizer-adam/seed0/"
    "step8000/video.mp4": ["runs/Pendulum-v1/retrace-on_optimizer-adam/seed0/step400/video.mp4"],
    "snakemake --cores 8 results/default/runs/Pendulum-v1/retrace-{off,on}_optimizer-{adam,sgd}/"
    "seed{0,1,2}/step8000/evals.parquet": [],
    "snakemake --cores 2 verify": ["verification.md"],
    "snakemake --cores 1 calibrate": ["calibration.json"],
    "snakemake --dry-run": [],
    "snakemake --unlock": [],
    "snakemake --report results/default/report.zip": ["report.zip"],
    "python -m mpo archive --study results/default/study.json --out default.zip": [
        "../../default.zip"
    ],
    "python -m mpo status": [],
    "python -m mpo status --study results/default/study.json": [],
    "python -m mpo video --help": [],
}
"""Command -> files of the study that it makes; those that are there are deleted first."""

_SAYS = {
    "source .venv/bin/activate": "$",
    "snakemake --dry-run": "Nothing to be done|This was a dry-run",
    "snakemake --cores 8 results/default/runs/Pendulum-v1/retrace-{off,on}_optimizer-{adam,sgd}/"
    "seed{0,1,2}/step8000/evals.parquet": "Nothing to be done",
    "python -m mpo status": "16 runs of study tiny: 16 ok",
    "python -m mpo status --study results/default/study.json": "16 runs of study tiny: 16 ok",
    "python -m mpo video --help": "--episode",
    "snakemake --unlock": "Unlock",
}
"""Of commands that make no file."""

TESTED = {
    "make docs": "tests/docs/test_site.py::test_the_site_is_built_strictly",
    "python docs/drawings.py": "tests/docs/test_drawings.py::test_the_drawings_are_up_to_date",
    "python -m benchmarks --beside my_module:make": "tests/benchmarks/test_benchmarks.py::"
    "test_another_library_s_update_is_timed_beside_ours",
    "python -m benchmarks.versions OLD NEW": "tests/benchmarks/test_versions.py::"
    "test_equal_versions_differ_by_nothing",
    "python -m mpo VERB": "tests/workflow/test_workflow.py::"
    "test_a_rules_command_can_be_pasted_and_gives_the_same_bits",
    "snakemake --cores 8 -s PIPELINE/Snakefile --configfile study.yaml": "tests/workflow/"
    "test_places.py::test_from_elsewhere_every_run_is_planned_and_nothing_is_written",
    "snakedeploy deploy-workflow PIPELINE my-study --tag TAG": "tests/workflow/test_places.py::"
    "test_a_deployment_has_all_rules_of_the_pipeline_and_its_default_target",
    "python -m mpo merge COPIED/results/default --into results/default": "tests/jobs/"
    "test_merge.py::test_the_command_says_how_many_runs_it_took",
    "python -m mpo merge results/reference/precision --into results/precision": "tests/workflow/"
    "test_workflow.py::test_from_kept_runs_without_policies_tables_are_made_again_and_nothing_is_"
    "trained",
    "snakemake --cores 8 --configfile config/precision.yaml": "tests/workflow/"
    "test_workflow.py::test_from_kept_runs_without_policies_tables_are_made_again_and_nothing_is_"
    "trained",
    **dict.fromkeys(
        (
            "workflow/scripts/part_of_study.sh 480 part.tar.gz --cores 16 --resources gpu=4",
            "mkdir COPIED",
            "tar -xzf part.tar.gz -C COPIED",
        ),
        "tests/workflow/test_part_of_study.py::"
        "test_what_is_finished_when_the_time_is_over_comes_back_as_one_file",
    ),
    "python -m mpo check --archive default.zip": "tests/jobs/"
    "test_archive.py::test_the_commands_say_how_much_there_is_and_its_checksum",
    "snakemake --profile profiles/slurm": "tests/workflow/test_slurm.py::"
    "test_every_job_that_computes_goes_through_slurm",
}
"""Command -> another test that runs it, or what it stands for."""

_HOURS = "takes from a quarter of an hour to days; test_workflow.py plans every study of config/"
_PACKAGES = "installs packages; `make test` has done so with the same constraints before any test"
NOT_RUN = {
    "make test": "runs the tests, this one among them",
    "make bench": "takes an idle machine half an hour; tests/benchmarks/ tests its parts",
    **dict.fromkeys(
        tuple(
            f"make bench PART={part}"
            for part in ("update", "levers", "environments", "evaluation", "precision")
        ),
        "takes an idle machine minutes; tests/benchmarks/ tests its parts",
    ),
    "python -m benchmarks --out benchmarks/results/xeon": "as `make bench`",
    "python -m benchmarks.gpu": "needs a GPU",
    "nvidia-cuda-mps-control -d": "needs a GPU and NVIDIA's driver",
    "pip install -c constraints.txt -e .": _PACKAGES,
    "pip install -c constraints.txt -e '.[slurm]'": _PACKAGES,
    "mkdocs serve": "serves until it is stopped; test_site.py builds the same site",
    "tensorboard --logdir results/default/tensorboard": "serves until it is stopped; "
    "test_workflow.py makes its files",
    **dict.fromkeys(
        (
            "make study CONFIG=config/optimizers.yaml",
            "make study CONFIG=config/retrace.yaml",
            "make study CONFIG=config/precision.yaml",
            "make study CONFIG=config/published.yaml",
            "make study CONFIG=config/search/exploration.yaml",
            "make study CONFIG=config/search/learning.yaml",
            "make study CONFIG=config/search/rates.yaml",
            'make study CONFIG="config/presets/fast.yaml config/gym.yaml"',
            'make study CONFIG="config/presets/fast.yaml config/suite.yaml"',
            'make study CONFIG="config/presets/fast.yaml config/small.yaml"',
            'make study CONFIG="config/presets/fast.yaml config/baselines.yaml"',
            'make study CONFIG="config/presets/fast.yaml config/search/reacher.yaml"',
            'make study CONFIG="config/presets/fast.yaml config/search/reacher_noise.yaml"',
            "snakemake --cores all --configfile config/presets/fast.yaml config/small.yaml",
            "snakemake --cores all --configfile config/muon.yaml",
            "snakemake --cores all --configfile config/presets/fast.yaml config/small.yaml "
            '--config environments="[dm_control/cartpole-swingup-v0, dm_control/reacher-easy-v0, '
            'dm_control/ball_in_cup-catch-v0]"',
            "snakemake --profile profiles/slurm --configfile config/dm_control.yaml "
            "config/presets/acme.yaml",
            "snakemake --profile profiles/slurm --configfile config/mujoco.yaml",
        ),
        _HOURS,
    ),
}
"""Command -> why no test runs it."""


BIN = Path(sys.executable).parent
"""Of the environment that runs the tests; a link to it is no environment, but for `activate`."""


def on_tiny(command: str) -> str:
    """The same command for the tiny study and two cores."""
    command = command.replace("results/default", "results/tiny").replace("step8000", "step400")
    command = command.replace("seed{0,1,2}", "seed{0,1}")
    command = re.sub(r"--cores (\d+|all)", "--cores 2", command).replace("=small", "=tiny")
    if command == "make study":
        command += " CONFIG=config/tiny.yaml"
    if command.startswith("make"):
        command += f" BIN={BIN}"
    if command.startswith("snakemake") and "--configfile" not in command:
        command += " --configfile config/tiny.yaml"
    return command


@pytest.fixture(scope="module")
def checkout(finished, tmp_path_factory):
    """A copy of the finished tiny study, as a checkout whose environment has been set up."""
    folder = tmp_path_factory.mktemp("docs") / "checkout"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("locks"))
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").mkdir()
    (folder / ".venv/bin").symlink_to(BIN)
    (folder / ".venv/installed").touch()
    return folder


def test_every_command_is_listed_once_and_nothing_else_is():
    tables = [*RUN, *TESTED, *NOT_RUN]
    found = commands()
    assert {c: found[c] for c in found if c not in tables} == {}, (
        "say how each is tested, or why not"
    )
    assert set(tables) - set(found) == set(), "listed, but on no page"
    assert len(tables) == len(set(tables))
    assert all(RUN[command] or command in _SAYS for command in RUN)


def test_the_tests_that_commands_are_left_to_exist():
    assert [reference for reference in TESTED.values() if not function(reference)] == []


def test_every_block_has_a_language():
    unnamed = [page for page, text in pages().items() if "" in dict(blocks(text))]
    assert unnamed == []


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_the_command_runs(command, checkout):
    files = [checkout / "results/tiny" / name for name in RUN[command]]
    for file in files:
        file.unlink(missing_ok=True)
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", on_tiny(command)],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [file for file in files if not file.is_file()] == []
    assert re.search(_SAYS.get(command, ""), done.stdout + done.stderr)
    assert not re.search(r"^rule (train|evaluate)", done.stdout + done.stderr, re.M)


@pytest.mark.slow
def test_the_example_of_the_trainer_runs(tmp_path):
    (code,) = [
        block
        for language, block in blocks(pages()["docs/reference/trainer.md"])
        if language == "python"
    ]
    short = code.replace("total_steps=10_000", "total_steps=1_100")
    assert short != code
    done = subprocess.run(
        [sys.executable, "-c", short],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "train.parquet",
        "policies.pt",
        "run.json",
    }
