"""The verbs' arguments: what no verb can use is refused in one line, with the code 2."""

import logging
import os
import re
import shlex
import subprocess
import sys

import pytest

from mpo.__main__ import main
from mpo.report import figures
from mpo.study.plan import Study
from mpo.study.specs import EvaluationSpec, RandomSpec
from tests.pipeline import ROOT
from tests.study.test_plan import SMALL

RUN = "results/a/runs/b/c/seed0/step600"
CELL = Study.parse(SMALL).cells[0].spec.identity
TRAIN = ("train", "--cell", CELL, "--out", f"{RUN}/run.json")
EVALUATE = ("evaluate", "--run", RUN, "--config", EvaluationSpec().identity)
VERIFY = ("verify", "--runs", RUN, "--out", "page.md", "--steps")
VIDEO = ("video", "--run", RUN, "--out", "film.gif")
RANDOM = ("random", "--config", RandomSpec(env_id="Pendulum-v1", episodes=2).identity)
FIGURE = ("figure", "--study", "study.json", "--tables", "tables", "--caption", "caption.rst")
SHOWN = ("--name", "effects", "--out")
SUMMARY = (
    *("summary", "--study", "study.json", "--tables", "tables", "--out", "page.md"),
    "--figures",
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a run, tables, a plan and a file, all of them empty."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / RUN).mkdir(parents=True)
    (tmp_path / "tables").mkdir()
    for name in ("study.json", "file"):
        (tmp_path / name).touch()
    logger = logging.getLogger("mpo")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    return tmp_path


def place(seed, steps):
    """The arguments of a training with this seed and budget in its path."""
    return *TRAIN[:-1], f"results/a/runs/b/c/seed{seed}/step{steps}/run.json"


@pytest.mark.parametrize(
    ("arguments", "option", "message"),
    [
        ((*TRAIN, TRAIN[-1]), "--out", "each run once, received results/a/.*/step600 twice"),
        (
            (*TRAIN, f"file/../{TRAIN[-1]}"),
            "--out",
            "expected a path in a folder, .*file is a file",
        ),
        ((*TRAIN, f"tables/../{TRAIN[-1]}"), "--out", "each run once, received .* twice"),
        (place(0, 0), "--out", "a budget from 1 to .* steps, received '.*/step0'"),
        (place(0, -5), "--out", "a budget from 1 to .* steps, received '.*/step-5'"),
        (place(0, 10**20), "--out", "a budget from 1 to .* steps, received '.*/step10{20}'"),
        (place(2**40, 600), "--out", "a seed from 0 to 4294967295, received '.*/seed1099511627776"),
        (place(-1, 600), "--out", "a seed from 0 to 4294967295, received '.*/seed-1/"),
        ((*TRAIN[:-1], "run.json"), "--out", "a run's directory has the form results/STUDY/"),
        (("train", "--cell", "{}", *TRAIN[3:]), "--cell", "CellSpec as JSON: env_id: Field requir"),
        (("train", "--cell", "x", *TRAIN[3:]), "--cell", "CellSpec as JSON: Invalid JSON.*'x'"),
        ((*TRAIN, "--threads", "0"), "--threads", "whole number from 1 to 1024, received '0'"),
        ((*TRAIN, "--threads", "-3"), "--threads", "whole number from 1 to 1024, received '-3'"),
        ((*TRAIN, "--threads", "2.5"), "--threads", "whole number from 1 to 1024, received '2.5'"),
        ((*TRAIN, "--threads", "9" * 5000), "--threads", r"'9+'\.\.\. \(5000 characters\)"),
        ((*TRAIN, "--runs-per-gpu", "0"), "--runs-per-gpu", "whole number from 1 .*received '0'"),
        ((*TRAIN, "--attempt", "0"), "--attempt", "whole number from 1 .*received '0'"),
        ((*TRAIN, "--device", "tpu"), "--device", "invalid choice: 'tpu' .*auto.*cpu.*cuda"),
        *(
            (
                (*verb, option, value),
                option,
                f"seconds above 0, at most 10000000, received '{value}'",
            )
            for verb in (TRAIN, EVALUATE)
            for option in ("--environment-timeout", "--checkpoint-interval")
            for value in ("0", "-1", "nan", "inf", "1e10", "soon")
            if verb is TRAIN or option == "--environment-timeout"
        ),
        (("evaluate", "--run", f"{RUN}0", *EVALUATE[3:]), "--run", "a folder, received nothing at"),
        (
            (*EVALUATE[:-1], '{"online_episodes": 0}'),
            "--config",
            "EvaluationSpec as JSON: online_episodes: .*received 0",
        ),
        ((*VERIFY, "-5"), "--steps", "whole number from 1 .*received '-5'"),
        ((*VERIFY, "0"), "--steps", "whole number from 1 .*received '0'"),
        ((*VERIFY, "5", "--threads", "0"), "--threads", "whole number from 1 .*received '0'"),
        ((*VERIFY, "5", "--runs", "file"), "--runs", "a folder, received a file at 'file'"),
        ((*VIDEO, "--episode", str(10**12)), "--episode", "from 0 to 999, received '10{12}'"),
        ((*VIDEO, "--episode", "-1"), "--episode", "from 0 to 999, received '-1'"),
        ((*VIDEO[:-1], "film.avi"), "--out", "ends in .mp4 or .gif, received 'film.avi'"),
        *(
            (
                ("random", "--config", RANDOM[2].replace(":2,", f":{n},", 1), "--out", "x.json"),
                "--config",
                f"RandomSpec as JSON: episodes: .*received {n}$",
            )
            for n in (0, -1)
        ),
        ((*RANDOM, "--out", "tables"), "--out", "a file to write, received the folder 'tables'"),
        ((*RANDOM, "--out", "x", "--budget", "-1"), "--budget", "from 0 to .*received '-1'"),
        (
            (*FIGURE, "--name", "unheard", "--out", "a.png"),
            "--name",
            "invalid choice: 'unheard' .*learning_curves",
        ),
        ((*FIGURE, *SHOWN, "a.bmp"), "--out", "ends in .pdf or .svg or .png, received 'a.bmp'"),
        ((*FIGURE, *SHOWN, "a.png", "b"), "--out", "ends in .pdf or .svg or .png, received 'b'"),
        (
            (*FIGURE, *SHOWN, "a.png", "--study", "no"),
            "--study",
            "a file, received nothing at 'no'",
        ),
        *(
            (
                (*SUMMARY, name),
                "--figures",
                f"expected FIGURE.png, .*costs.*, received '{name}'$",
            )
            for name in ("picture.png", "costs.txt", "costs", "tables")
        ),
        (
            (*FIGURE, *SHOWN, "caption.rst.png", "caption.rst.png"),
            "--out",
            "is already given by --",
        ),
        ((*FIGURE, *SHOWN, "a.png", "--log", "a.png"), "--log", "a.png is already given by"),
        ((*FIGURE, *SHOWN, "a.png", "--log", "./caption.rst"), "--log", "given by --caption"),
        (
            (*FIGURE, *SHOWN, "a.png", "--log", "study.json"),
            "--log",
            "json is already given by --st",
        ),
        ((*EVALUATE, "--log", f"{RUN}/run.json"), "--log", "run.json is already given by --run"),
        ((*TRAIN, "--log", f"{RUN}/policies.pt"), "--log", "policies.pt is already given by --out"),
        (("events", "--run", RUN, "--out", f"{RUN}/evals.json"), "--out", "already given by --run"),
        ((*RANDOM, "--out", "x.json", "--log", "x.json"), "--log", "x.json is already given by --"),
        (("status", "--study", "tables"), "--study", "a file, received a folder at 'tables'"),
        (("status", "--log", "tables"), "--log", "a file to write, received the folder 'tables'"),
        (("status", "--log", "file/log"), "--log", "expected a path in a folder, .*file is a file"),
        (
            ("collect", "--study", "study.json", "--out", "file"),
            "--out",
            "expected a path in a folder, received 'file'; file is a file",
        ),
        (("collect", "--study", "study.json"), "--out", "the following arguments are required"),
        (("status", "--colour"), "--colour", "unrecognized arguments: --colour"),
    ],
)
def test_an_argument_that_no_verb_can_use_is_refused(capsys, arguments, option, message):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.startswith("error: mpo") and said.err.count("\n") == 1
    assert option in said.err and re.search(message, said.err.rstrip()), said.err


def test_a_plan_that_is_no_text_is_named_without_a_traceback(folder, caplog, capsys):
    (folder / "study.json").write_bytes(b"\x89PNG\r\n\x00")
    assert main(["collect", "--study", "study.json", "--out", "made"]) in (1, 2)
    said = capsys.readouterr().err + caplog.text
    assert "study.json" in said and "Traceback" not in said


@pytest.mark.parametrize("content", ["", "env,reference\n", "{}", "[1]"])
def test_a_file_that_is_no_plan_is_named_and_nobody_is_told_to_delete_it(folder, capsys, content):
    (folder / "mine.csv").write_text(content)
    assert main(["status", "--study", "mine.csv"]) == 2
    said = capsys.readouterr().err
    assert "expected the study.json of a study, received mine.csv: " in said
    assert "elete" not in said and "Traceback" not in said


@pytest.mark.parametrize("option", ["--out", "--log"])
def test_a_device_or_pipe_is_not_replaced_by_a_file(folder, capsys, option):
    os.mkfifo(folder / "pipe")
    assert main((*RANDOM, "--out", "x.json", option, "pipe")) == 2
    message = f"argument {option}: expected a file to write, received a device or pipe, 'pipe'"
    assert message in capsys.readouterr().err and (folder / "pipe").is_fifo()


@pytest.mark.parametrize(("closed", "code"), [("2>&-", 2), (">&- 2>&-", 2)])
def test_without_stderr_a_verb_ends_with_its_code(closed, code):
    command = f"{sys.executable} -m mpo status {closed}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, shell=True, env=environment, check=False).returncode == code


def test_without_stderr_a_verb_does_its_work(folder):
    command = shlex.join([sys.executable, "-m", "mpo", *RANDOM, "--out", "x.json"]) + " 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, shell=True, env=environment, check=True)
    assert (folder / "x.json").exists()


def test_every_format_of_figures_is_taken():
    assert set(figures._METADATA) == {".pdf", ".svg", ".png"}
