"""Runs Snakemake on a copy of the pipeline."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
TINY = yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["snakemake.cli"])


def project(folder):
    """Copies the workflow, its configs and the package into a folder."""
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("workflow", "mpo", "profiles", "config"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def start(folder, *arguments, config=None):
    """Starts Snakemake on the tiny study or on `config`, in a process group of its own."""
    (folder / "study.yaml").write_text(yaml.safe_dump(config or TINY))
    command = [sys.executable, "-m", "snakemake", *arguments, "--configfile", "study.yaml"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts background jobs with Ctrl-C ignored, and Snakemake would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def snakemake(folder, *arguments, config=None):
    """Runs Snakemake on the tiny study or on `config`, and waits until it exits."""
    if {"-n", "--dry-run"} & set(arguments):
        (folder / "study.yaml").write_text(yaml.safe_dump(config or TINY))
        return dry_run(folder, *arguments, "--configfile", "study.yaml")
    process = start(folder, *arguments, config=config)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def finished_project(folder, config=None):
    """Makes a project whose study is finished; output.txt holds what Snakemake printed."""
    project(folder)
    done = snakemake(folder, "--cores", "2", config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "output.txt").write_text(done.stdout + done.stderr)
    return folder


def dry_run(folder, *arguments):
    """Runs Snakemake in a fork of a process that has imported it, which halves a dry run's time."""
    with tempfile.TemporaryDirectory() as temporary:
        outputs = [Path(temporary) / name for name in ("stdout", "stderr")]
        process = FORKS.Process(target=_forked, args=(folder, arguments, _environment(), outputs))
        process.start()
        process.join()
        said = [output.read_text() for output in outputs]
    return subprocess.CompletedProcess(arguments, process.exitcode, *said)


def _forked(folder, arguments, environment, outputs):
    """As `python -m snakemake` in a folder, with stdout and stderr written to files."""
    for descriptor, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, str(folder))
    sys.argv = ["snakemake", *arguments]

    from snakemake.cli import main

    main()


def _environment():
    """As without an activated environment: Snakemake must find its own interpreter."""
    return {**os.environ, "PATH": "/usr/bin:/bin"}


def planned(folder, config=None, targets=()):
    """Returns how many jobs of each rule a run would do now: for everything, or for `targets`."""
    done = snakemake(folder, "--dry-run", "--cores", "2", *targets, config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    if "Nothing to be done" in done.stdout + done.stderr:
        return {}
    table = re.search(r"^job +count\n[- ]+\n(.*?)\ntotal", done.stdout, re.M | re.S)
    counts = dict(line.split() for line in table[1].splitlines())
    return {rule: int(n) for rule, n in counts.items() if rule not in ("all", "default")}


def changed(**sections):
    """Returns the tiny study's config with some keys of its sections changed."""
    config = json.loads(json.dumps(TINY))
    for name, value in sections.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    return config
