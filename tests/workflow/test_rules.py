"""What makes a rule run again, what its jobs ask for, and what is not tried twice."""

import re
import shutil

import pytest

from mpo.report.figures import FIGURES
from mpo.study.files import ANSWERS, KEPT, TABLES
from tests.pipeline import planned, snakemake

DRAWN = {f"figure_{name}": 1 for name in FIGURES}
SHOWN = {"typeset": 1, "summary": 1, "pages": 1}


@pytest.fixture
def edited(finished):
    """Appends a comment to a module of the finished study's code, and takes it back."""
    before = {}

    def edit(name):
        path = finished / "mpo" / name
        before[path] = path.read_text()
        path.write_text(before[path] + "\n# edited\n")
        return planned(finished)

    yield edit
    for path, text in before.items():
        path.write_text(text)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("training/loop.py", {}),
        ("algorithm/losses.py", {}),
        ("jobs/evaluate.py", {}),
        ("report/html.py", {"pages": 1}),
        ("report/typeset.py", SHOWN),
        ("report/figures/style.py", DRAWN | {"summary": 1, "pages": 1}),
        ("analysis/baselines.py", {"statistics": 1} | DRAWN | SHOWN),
        ("analysis/others.py", {"statistics": 1} | DRAWN | SHOWN),
        ("analysis/collect.py", {"collect": 1, "statistics": 1} | DRAWN | SHOWN),
        ("analysis/tables.py", {"collect": 1, "statistics": 1} | DRAWN | SHOWN),
        ("analysis/intervals.py", {"collect": 1, "statistics": 1} | DRAWN | SHOWN),
    ],
)
def test_an_edit_redoes_what_imports_it_and_nothing_else(edited, module, expected):
    assert edited(module) == expected


def test_every_table_that_is_made_is_listed_once(finished):
    made = {path.stem for path in (finished / "results/tiny/tables").glob("*.parquet")}
    assert made == {*TABLES, *ANSWERS} and len(made) == len(TABLES) + len(ANSWERS)
    assert {*KEPT} < made


def test_jobs_ask_for_memory_and_time_by_attempt_and_a_profile_overrides_both(finished):
    def asked(rule, *options):
        """The resources of the rule's first job, where everything would run again."""
        done = snakemake(finished, "-n", "--forceall", "--cores", "2", *options)
        assert done.returncode == 0, done.stderr
        text = re.search(rf"^(?:local)?rule {rule}:.*?resources: (.*?)$", done.stdout, re.M | re.S)
        return dict(pair.split("=", 1) for pair in text[1].split(", ") if "=" in pair)

    first, second = asked("train"), asked("train", "--attempt", "2")
    assert (first["mem_mb"], first["runtime"]) == ("8000", "720")
    assert (second["mem_mb"], second["runtime"]) == ("16000", "1440")
    small = asked("statistics")
    assert (small["mem_mb"], small["runtime"]) == ("2000", "60")
    mine = asked("statistics", "--set-resources", "statistics:mem_mb=700", "statistics:runtime=5")
    assert (mine["mem_mb"], mine["runtime"]) == ("700", "5")


@pytest.mark.slow
def test_a_refused_job_is_not_repeated_and_the_next_call_tries_it_again(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "project")
    references = folder / "config/references.csv"
    right = references.read_text()
    references.write_text(right.replace("-151.855", "-9999", 1))
    target = "results/tiny/tables/finals.csv"
    done = snakemake(folder, "--cores", "1", target)
    message = "the reference of Pendulum-v1 must be above the random return"
    assert done.returncode != 0 and message in done.stderr and "rule " not in done.stderr
    # Without the random return only its job knows.
    (folder / "results/tiny/random/Pendulum-v1.json").unlink()
    done = snakemake(folder, "--cores", "1", target)
    assert done.returncode != 0 and "rule statistics" not in done.stderr
    told = done.stdout + done.stderr
    assert told.count("refused before: ") == 3 and "Traceback" not in told
    references.write_text(right)
    done = snakemake(folder, "--cores", "1", target)
    assert done.returncode == 0 and "refused before" not in done.stderr, done.stderr
