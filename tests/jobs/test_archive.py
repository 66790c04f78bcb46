"""A finished study as one file: it lists all that is in it, and the check misses nothing."""

import hashlib
import json
import logging
import os
import shutil
import socket
import stat
import tomllib
import warnings
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rocrate.rocrate import ROCrate

from mpo.__main__ import main
from mpo.analysis import collect, tables
from mpo.jobs.archive import crate
from mpo.jobs.archive.check import METADATA, check
from mpo.jobs.archive.contents import contents
from mpo.jobs.archive.pack import pack
from mpo.report.figures import FIGURES
from mpo.study import questions
from mpo.study.checksums import Damaged, sealed
from mpo.study.choice import read_choice
from mpo.study.config import JobFailed, canonical_json
from mpo.study.files import ANSWERS, PAGES, QUESTIONS, RUN_FILES, TABLE_CHECKSUMS, TYPESET
from mpo.study.plan import Study
from tests import synthetic
from tests.pipeline import ROOT

# A plus in a path: the list writes it as %2B.
AXES = {"temperature_init": [1.0, 1e20]}
CONFIG = synthetic.config(["Pendulum-v1", "dm_control/walker-walk-v0"], 1, AXES, snapshots=2)
STUDY = Study.parse(CONFIG)
LENIENT = Study.parse(CONFIG | {"allow_missing": True})
RUN, LAST = STUDY.runs[0], STUDY.runs[-1]
HOME = Path("results", STUDY.study)
PLAN = HOME / "study.json"


def inside(run, name):
    """The path of a run's file in an archive."""
    return (run.directory / name).relative_to(HOME).as_posix()


def write(path, content=b"made up"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def seal(folder):
    """Gives a synthetic run the checksums that its jobs would have written."""
    record = json.loads((folder / "run.json").read_text())
    record = sealed(record, [folder / "train.parquet", folder / "policies.pt"])
    write(folder / "run.json", json.dumps(record).encode())
    evaluation = json.loads((folder / "evals.json").read_text())
    evaluation["policies"] = record["files"]["policies.pt"]
    evaluation = sealed(evaluation, [folder / "evals.parquet"])
    write(folder / "evals.json", json.dumps(evaluation).encode())


def analyse(study, root, config=CONFIG):
    """Writes what a study has beside its runs; files that no verb reads are made up."""
    home = root / HOME
    config = config | {"allow_missing": study.allow_missing}
    write(root / PLAN, canonical_json(config).encode())
    asked = questions.record(config, {}, datetime(2026, 11, 27, tzinfo=UTC))
    write(home / QUESTIONS, json.dumps(asked).encode())
    tables.write(collect.collect(study, root), home / "tables")
    tables.write({name: pd.DataFrame({"a": [1.0]}) for name in ANSWERS}, home / "tables")
    for environment in study.environments:
        found = sealed({"env_id": environment.name, "mean": 1.0, "episodes": 2})
        write(home / "random" / f"{environment.slug}.json", json.dumps(found).encode())
    names = [f"figures/{name}.{end}" for name in FIGURES for end in ("png", "pdf", "svg", "rst")]
    names += [f"typeset/{name}.{end}" for name in TYPESET for end in ("tex", "md")]
    names += [f"pages/{name}.html" for name in (*PAGES, "summary", "config")]
    for name in (*names, "summary.md", "failures.md"):
        write(home / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished study, with files that do not belong in an archive."""
    root = tmp_path_factory.mktemp("made")
    synthetic.write_runs(STUDY, root)
    for run in STUDY.runs:
        seal(root / run.directory)
    analyse(STUDY, root)
    for name in ("logs/collect.log", "status/a.json", "figures/.x.png.tmp", "damaged.json"):
        write(root / HOME / name)
    write(root / HOME / inside(RUN, "video.mp4"))
    write(root / "results/.resume/state")
    return root


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """A copy of the finished study, which is the current folder."""
    folder = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(folder)
    logger = logging.getLogger("mpo")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    return folder


def packed(root, study=STUDY, about=None):
    """Packs a study; returns the archive's path."""
    pack(contents(study, root), about or crate.About(), root / "study.zip")
    return root / "study.zip"


@pytest.fixture(scope="module")
def archive(made):
    return packed(made)


@pytest.fixture
def unpacked(archive, tmp_path):
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked"


def graph(archive):
    """The entities of an archive's list, by their identifiers."""
    with zipfile.ZipFile(archive) as file:
        return {e["@id"]: e for e in json.loads(file.read(METADATA))["@graph"]}


def altered(archive, target, change):
    """Copies an archive; `change` may alter the list of its entries and their contents."""
    with zipfile.ZipFile(archive) as file:
        entries = [[info, file.read(info)] for info in file.infolist()]
    change(entries)
    with zipfile.ZipFile(target, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # names that are there twice
        for info, content in entries:
            file.writestr(info, content)
    return target


def entry(name, mode=0):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def refused(path):
    with pytest.raises(JobFailed) as error:
        check(path)
    return str(error.value)


def test_all_of_a_study_is_packed_and_nothing_else(archive, made):
    with zipfile.ZipFile(archive) as file:
        *names, last = file.namelist()
    paths = [p.relative_to(made / HOME) for p in (made / HOME).rglob("*") if p.is_file()]
    kept = {
        path.as_posix()
        for path in paths
        if path.parts[0] not in ("logs", "status", "damaged.json")
        and path.suffix not in (".tmp", ".mp4")
    }
    assert last == METADATA and names == sorted(kept)
    assert {inside(run, name) for run in STUDY.runs for name in RUN_FILES} <= kept
    assert any("+" in name for name in names)


def test_a_study_without_recorded_questions_is_packed_too(archive, root):
    with zipfile.ZipFile(archive) as file:
        assert QUESTIONS in file.namelist()
    (root / HOME / QUESTIONS).unlink()
    with zipfile.ZipFile(packed(root)) as file:
        assert QUESTIONS not in file.namelist()


def test_each_file_is_listed_with_its_size_checksum_and_kind(archive, made):
    found = graph(archive)
    files = [entity for entity in found.values() if entity["@type"] == "File"]
    assert {part["@id"] for part in found["./"]["hasPart"]} == {file["@id"] for file in files}
    with zipfile.ZipFile(archive) as zipped:
        assert sorted(file["name"] for file in files) == zipped.namelist()[:-1]
    for file in files:
        content = (made / HOME / file["name"]).read_bytes()
        assert file["contentSize"] == str(len(content))
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["encodingFormat"] and file["description"]


def test_what_was_packed_passes_the_check_also_when_unpacked(archive, unpacked):
    done = check(archive)
    with zipfile.ZipFile(archive) as file:
        content, count = file.read(METADATA), len(file.namelist())
    assert done == (count - 1, len(STUDY.runs), hashlib.sha256(content).hexdigest())
    assert check(unpacked) == done


def test_unpacked_files_can_be_read_by_all_and_written_by_their_owner(archive):
    with zipfile.ZipFile(archive) as file:
        found = {(info.create_system, info.external_attr >> 16) for info in file.infolist()}
    assert found == {(3, 0o100644)}  # 3 is Unix


def test_the_same_study_gives_the_same_bytes(archive, root):
    for path in root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert packed(root).read_bytes() == archive.read_bytes()


def test_packing_that_fails_leaves_what_was_there(root, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left")

    write(root / "study.zip", b"the one before")
    monkeypatch.setattr(crate, "metadata", fail)
    before = sorted(root.iterdir())
    with pytest.raises(OSError, match="no space left"):
        packed(root)
    assert (root / "study.zip").read_bytes() == b"the one before"
    assert sorted(root.iterdir()) == before


def test_an_unpacked_study_can_be_used_and_packed_again(archive, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(archive) as file:
        file.extractall(HOME)
    assert main(["status", "--study", str(PLAN)]) == 0
    assert "4 runs of study made-up: 4 ok." in capsys.readouterr().out
    assert packed(tmp_path).read_bytes() == archive.read_bytes()


def test_nothing_is_asked_of_a_network(archive, root, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert check(packed(root)) == check(archive)


def test_the_library_of_the_format_reads_it(archive):
    found = ROCrate(archive)
    root = found.root_dataset
    assert found.metadata["conformsTo"] == "https://w3id.org/ro/crate/1.1"
    assert root["conformsTo"].id == "https://w3id.org/ro/wfrun/process/0.5"
    assert root["license"].id == "https://spdx.org/licenses/MIT"
    assert root["datePublished"] == "2025-01-02"  # the last run finished then
    assert "author" not in root and STUDY.study in root["name"]
    assert "No planned run is missing" in root["description"]
    assert found.get("summary.md")["encodingFormat"] == "text/markdown"
    assert len(found.get_by_type("File")) == check(archive).files
    assert found.get("#packing")["result"] is found.metadata
    with zipfile.ZipFile(archive) as file:
        context = json.loads(file.read(METADATA))["@context"]
    assert context[0] == "https://w3id.org/ro/crate/1.1/context"  # which has no sha256
    assert context[1] == {"sha256": "http://schema.org/sha256"}


def test_each_training_names_its_files_its_commit_and_its_packages(archive):
    found = ROCrate(archive)
    for run in STUDY.runs:
        action = found.get(f"#training/{run.run_id.replace('+', '%2B')}")
        assert action in found.root_dataset["mentions"]
        names = ["train.parquet", "policies.pt", "run.json"]
        assert [file["name"] for file in action["result"]] == [inside(run, n) for n in names]
        assert action["endTime"] == synthetic.PROVENANCE["finished"]
        software = action["instrument"]
        assert software["softwareVersion"] == synthetic.PROVENANCE["git_sha"]
        versions = {s["name"]: s["softwareVersion"] for s in software["softwareRequirements"]}
        assert versions == {"Python": "3.12.3", **synthetic.PROVENANCE["packages"]}


def test_tables_name_the_commits_that_made_them(root):
    frame = pd.DataFrame({"a": [2.0]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "commit", lambda: "later")
        tables.write({"effects": frame}, root / HOME / "tables")
    action = ROCrate(packed(root)).get("#tables/later")
    assert [file["name"] for file in action["result"]] == [
        "tables/effects.parquet",
        "tables/effects.csv",
    ]
    assert action["instrument"]["softwareVersion"] == "later"


def test_the_software_is_that_of_the_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["authors"] == [{"name": crate.AUTHOR}]
    assert (project["name"], project["license"]) == (crate.NAME, crate.LICENSE)


def test_the_commands_say_how_much_there_is_and_its_checksum(root, capsys, archive):
    out = ("--out", "made.zip")
    assert main(["archive", "--study", str(PLAN), *out]) == 0
    said = capsys.readouterr().out
    done = check(archive)
    assert f"made.zip: {done.files} files, 4 runs. SHA-256 of {METADATA}: {done.digest}." in said
    assert Path("made.zip").read_bytes() == archive.read_bytes()
    assert main(["check", "--archive", "made.zip"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "all as it was packed" in line and done.digest in line and "4 runs" in line
    assert main(["check", "--archive", "missing.zip"]) == 2
    assert "missing.zip" in capsys.readouterr().err


def test_who_publishes_it_says_who_made_it_when_and_under_which_licence(root):
    arguments = ["--study", str(PLAN), "--out", "a.zip", "--author", "Ada Lovelace", "A Group"]
    arguments += ["--license", "CC-BY-4.0", "--published", "2027-01-31"]
    assert main(["archive", *arguments]) == 0
    found = ROCrate("a.zip").root_dataset
    assert [author["name"] for author in found["author"]] == ["Ada Lovelace", "A Group"]
    assert found["license"].id == "https://spdx.org/licenses/CC-BY-4.0"
    assert found["datePublished"] == "2027-01-31"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "a.tar"), "ends in .zip, received 'a.tar'"),
        (("--out", "a.zip", "--license", "../x"), "an SPDX identifier"),
        (("--out", "a.zip", "--published", "tomorrow"), "a day such as"),
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused(root, capsys, arguments, message):
    assert main(["archive", "--study", str(PLAN), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("a.*"))


def test_a_copy_of_the_plan_elsewhere_is_refused(root, capsys):
    shutil.copy(PLAN, "copy.json")
    assert main(["archive", "--study", "copy.json", "--out", "a.zip"]) == 2
    assert f"expected {PLAN}, received copy.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_damaged_run_is_named_and_what_was_there_stays(root, capsys, name):
    write(root / "a.zip", b"the one before")
    path = RUN.directory / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?" if content else b"?")
    assert main(["archive", "--study", str(PLAN), "--out", "a.zip"]) == 1
    said = capsys.readouterr().err
    assert str(path) in said and "Delete it" in said and "Traceback" not in said
    assert LAST.run_id not in said
    assert (root / "a.zip").read_bytes() == b"the one before"


def test_the_evaluation_of_other_policies_is_refused(root):
    for name in ("evals.json", "evals.parquet"):
        shutil.copy(LAST.directory / name, RUN.directory / name)
    record = json.loads((RUN.directory / "evals.json").read_text())
    record["policies"] = {"bytes": 1, "sha256": "of others"}
    write(RUN.directory / "evals.json", json.dumps(sealed(record)).encode())
    with pytest.raises(JobFailed, match="evaluation of other policies"):
        contents(STUDY, root)


@pytest.mark.parametrize("lenient", [False, True])
def test_an_unfinished_run_is_named(root, lenient):
    (LAST.directory / "evals.parquet").unlink()
    with pytest.raises(JobFailed, match="1 of 4 runs are unfinished") as error:
        contents(LENIENT if lenient else STUDY, root)
    assert f"{LAST.run_id} (planned): not finished" in str(error.value)
    assert RUN.run_id not in str(error.value)


def test_a_run_that_was_kept_without_its_policies_is_packed_without_them(root):
    (LAST.directory / "policies.pt").unlink()
    packed = contents(STUDY, root).files
    assert inside(LAST, "evals.parquet") in packed and inside(RUN, "policies.pt") in packed
    assert inside(LAST, "policies.pt") not in packed
    assert main(["archive", "--study", str(PLAN), "--out", "a.zip"]) == 0
    assert main(["check", "--archive", "a.zip"]) == 0


def test_a_failed_run_may_be_missing_only_if_the_study_allows_it(root, capsys):
    lenient = synthetic.lose(STUDY, root, [3])
    with pytest.raises(JobFailed, match=r"\(failed\): RuntimeError: no luck"):
        contents(STUDY, root)
    analyse(lenient, root)
    assert main(["archive", "--study", str(PLAN), "--out", "a.zip"]) == 0
    assert "3 runs. " in (said := capsys.readouterr().out) and "Missing runs: 1." in said
    assert check(Path("a.zip")).runs == 3
    found = ROCrate("a.zip")
    assert (
        f"1 of 4 planned runs are missing: {LAST.run_id} (failed)"
        in (found.root_dataset["description"])
    )
    action = found.get(f"#training/{LAST.run_id.replace('+', '%2B')}")
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert action["error"] == "RuntimeError: no luck" and "result" not in action


def test_a_study_without_any_finished_run_is_refused(root):
    with pytest.raises(JobFailed, match="no run of study made-up has finished"):
        contents(synthetic.lose(STUDY, root, range(4)), root)


def test_tables_of_other_runs_are_refused(root):
    lenient = synthetic.lose(STUDY, root, [3])
    with pytest.raises(JobFailed, match="not made of the runs that are there") as error:
        contents(lenient, root)
    assert LAST.run_id in str(error.value) and RUN.run_id not in str(error.value)


@pytest.mark.parametrize(
    "name", ["summary.md", "figures/effects.svg", "random/Pendulum-v1.json", "tables/power.csv"]
)
def test_a_missing_file_of_the_study_is_named(root, name):
    (root / HOME / name).unlink()
    with pytest.raises(JobFailed, match=f"(?s)lacks files.*{name}"):
        contents(STUDY, root)


@pytest.mark.parametrize("name", ["random/Pendulum-v1.json", "tables/effects.parquet"])
def test_a_damaged_file_of_the_study_is_named(root, name):
    path = root / HOME / name
    path.write_bytes(path.read_bytes()[:-4] + b"????")
    with pytest.raises(Damaged, match=name):
        contents(STUDY, root)


@pytest.mark.parametrize("name", ["summary.md", "typeset/effects.tex", "pages/summary.html"])
def test_a_page_of_other_tables_is_refused(root, name):
    """It shows other numbers."""
    (root / HOME / name).write_text(f"at commit x, {tables.made_of(root / HOME / 'tables')}\n")
    assert contents(STUDY, root).runs
    tables.write({"power": pd.DataFrame({"a": [2.0]})}, root / HOME / "tables")
    with pytest.raises(JobFailed, match=rf"not made of the tables that are there.*:\n  {name}$"):
        contents(STUDY, root)


def test_another_table_than_was_written_is_refused(root):
    pd.DataFrame({"a": [2.0]}).to_parquet(root / HOME / "tables/effects.parquet")
    with pytest.raises(Damaged, match="effects.parquet: it is not the file that its job wrote"):
        contents(STUDY, root)


def test_other_questions_than_were_recorded_are_refused(root):
    path = root / HOME / QUESTIONS
    record = json.loads(path.read_text())
    record["asked"]["seeds"] = [0, 1]
    write(path, json.dumps(record).encode())
    with pytest.raises(Damaged, match=f"{QUESTIONS}: its content was changed"):
        contents(STUDY, root)


@pytest.mark.parametrize("name", ["effects", "runs"])
def test_a_csv_table_that_was_altered_is_refused_if_its_checksum_is_known(root, name):
    path, record = root / HOME / f"tables/{name}.csv", root / HOME / "tables" / TABLE_CHECKSUMS
    path.write_bytes(path.read_bytes()[:-2] + b"?\n")
    with pytest.raises(Damaged, match=f"{name}.csv: it is not the file that its job wrote"):
        contents(STUDY, root)
    older = json.loads(record.read_text())
    older["files"] = {n: sum for n, sum in older["files"].items() if n.endswith(".parquet")}
    write(record, json.dumps(sealed({"files": older["files"]})).encode())
    assert contents(STUDY, root).runs


def test_runs_of_an_older_version_are_packed_and_counted(root, caplog):
    for name in ("run.json", "evals.json"):
        record = json.loads((RUN.directory / name).read_text())
        for key in ("files", "sha256", "policies"):
            record.pop(key, None)
        write(RUN.directory / name, json.dumps(record).encode())
    assert check(packed(root)).runs == 4
    assert "1 of 4 runs have no checksums of their own" in caplog.text


TUNED = CONFIG | {"tuning": {"axes": ["optimizer"], "grids": [{"q_lr": [1e-4, 1e-2]}]}}
CHOSEN = HOME / "chosen.json"


@pytest.fixture
def tuned(root):
    """Turns the study into a tuned one: other runs, trained with what was chosen."""
    rows = [
        {"env": environment.slug, "arm": {"optimizer": "adam"}, "settings": {"q_lr": 1e-2}}
        for environment in STUDY.environments
    ]
    record = sealed({"study": "made-up-tuning", "chosen": rows})
    write(CHOSEN, json.dumps(record).encode())
    study = Study.parse(TUNED, read_choice(CHOSEN))
    shutil.rmtree(HOME / "runs")
    synthetic.write_runs(study, root)
    for run in study.runs:
        seal(run.directory)
    analyse(study, root, TUNED)
    return study


def test_a_tuned_study_is_packed_with_what_was_chosen(tuned, root, capsys, monkeypatch, tmp_path):
    assert main(["archive", "--study", str(PLAN), "--out", "a.zip"]) == 0
    assert "Tuned in study made-up-tuning, which is not packed." in capsys.readouterr().out
    assert check(Path("a.zip")).runs == 4
    found = ROCrate("a.zip")
    assert "tuned in study made-up-tuning" in found.root_dataset["description"]
    assert "the settings that the runs were trained with" in found.get("chosen.json")["description"]
    action = found.get(f"#training/{tuned.runs[0].run_id.replace('+', '%2B')}")
    assert [part.id for part in action["object"]] == ["study.json", "chosen.json"]
    with zipfile.ZipFile("a.zip") as file:
        assert file.read("chosen.json") == CHOSEN.read_bytes()
        file.extractall(tmp_path / "elsewhere" / HOME)
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = Study.parse(TUNED, read_choice(CHOSEN))
    assert packed(Path(), again).read_bytes() == (root / "a.zip").read_bytes()


def test_without_its_choice_a_tuned_study_is_refused_and_no_run_is_blamed(tuned, root, capsys):
    content = CHOSEN.read_text()
    CHOSEN.unlink()
    assert main(["archive", "--study", str(PLAN), "--out", "a.zip"]) == 1
    said = capsys.readouterr().err
    assert f"{CHOSEN} is missing" in said and "Delete" not in said
    CHOSEN.write_text(content.replace("0.01", "0.02"))
    assert main(["archive", "--study", str(PLAN), "--out", "a.zip"]) == 1
    assert f"{CHOSEN}: its content was changed" in capsys.readouterr().err


def test_whatever_was_changed_is_named(archive, tmp_path):
    name, text = inside(RUN, "train.parquet"), "summary.md"

    def change(entries):
        for pair in entries:
            if pair[0].filename == name:
                pair[1] = pair[1][:-1] + b"x"
            if pair[0].filename == text:
                pair[1] += b"!"
        entries[:] = [pair for pair in entries if pair[0].filename != "failures.md"]
        entries.append([entry("notes/added.txt"), b"new"])

    said = refused(altered(archive, tmp_path / "a.zip", change))
    assert "a.zip: 4 files are not as they were packed" in said
    assert f"altered: {name} (its SHA-256 is " in said
    assert f"altered: {text} (8 bytes, expected 7)" in said
    assert "missing: failures.md" in said and "added: notes/added.txt" in said
    assert check(archive).digest in said


def test_whatever_was_changed_in_a_folder_is_named(unpacked):
    (unpacked / "summary.md").write_text("made op")
    (unpacked / "failures.md").unlink()
    write(unpacked / "notes/added.txt")
    (unpacked / "empty").mkdir()
    said = refused(unpacked)
    assert "3 files are not" in said and "altered: summary.md (its SHA-256" in said
    assert "missing: failures.md" in said and "added: notes/added.txt" in said


def test_a_changed_archive_ends_with_code_1(archive, root, capsys):
    altered(archive, root / "a.zip", lambda entries: entries.pop(0))
    assert main(["check", "--archive", "a.zip"]) == 1
    said = capsys.readouterr().err
    assert "a.zip: 1 file is not as" in said and "missing: failures.md" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "name",
    ["../out.txt", "a/../../out.txt", "/etc/out.txt", "..\\out.txt", "C:/out.txt", "../out/"],
)
def test_a_name_that_leads_out_of_an_archive_is_refused(archive, tmp_path, name):
    said = refused(
        altered(archive, tmp_path / "a.zip", lambda entries: entries.append([entry(name), b""]))
    )
    assert f"refused: {name} (its name leads out" in said
    assert not list(tmp_path.rglob("*out*"))


def listing(entries, name, content):
    """Lists a file in the metadata of an archive, with the checksum of this content."""
    found = json.loads(entries[-1][1])
    file = {"@id": name, "@type": "File", "contentSize": str(len(content))}
    found["@graph"].append(file | {"sha256": hashlib.sha256(content).hexdigest()})
    entries[-1][1] = json.dumps(found).encode()


def test_a_link_is_refused_though_it_is_listed(archive, tmp_path):
    def change(entries):
        listing(entries, "link", b"/etc/passwd")
        entries.insert(0, [entry("link", stat.S_IFLNK | 0o777), b"/etc/passwd"])

    assert "refused: link (a link)" in refused(altered(archive, tmp_path / "a.zip", change))


@pytest.mark.parametrize("name", ["../secret", "%2E%2E/secret", "linked/secret", "{}/secret"])
def test_no_file_is_read_that_the_list_names_but_the_archive_has_not(archive, tmp_path, name):
    write(tmp_path / "secret", b"outside")
    name = name.format(tmp_path)
    altered(archive, tmp_path / "a.zip", lambda entries: listing(entries, name, b"outside"))
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        file.extractall(tmp_path / "folder")
    (tmp_path / "folder/linked").symlink_to(tmp_path)
    for path in (tmp_path / "a.zip", tmp_path / "folder"):
        assert f"missing: {name.replace('%2E', '.')}" in refused(path)
    assert "refused: linked (a link)" in refused(tmp_path / "folder")


def test_a_list_that_is_a_link_is_refused(unpacked):
    (unpacked / METADATA).rename(unpacked.parent / "list.json")
    (unpacked / METADATA).symlink_to(unpacked.parent / "list.json")
    assert f"it has no {METADATA}" in refused(unpacked)


def test_a_list_of_itself_is_refused(archive, tmp_path):
    path = altered(archive, tmp_path / "a.zip", lambda entries: listing(entries, METADATA, b""))
    assert "it lists a file twice, or itself" in refused(path)


def test_a_list_that_fills_the_memory_is_refused(archive, monkeypatch):
    monkeypatch.setattr("mpo.jobs.archive.check._MAX_METADATA", 1000)
    assert "bytes, expected at most 1000" in refused(archive)


def test_a_pipe_in_a_folder_is_not_waited_for(unpacked):
    (unpacked / "summary.md").unlink()
    os.mkfifo(unpacked / "summary.md")
    assert "refused: summary.md (no plain file)" in refused(unpacked)


def test_a_name_that_is_there_twice_is_refused(archive, tmp_path):
    def change(entries):
        entries.insert(0, [entry("summary.md"), b"another"])

    assert "twice: summary.md" in refused(altered(archive, tmp_path / "a.zip", change))


def test_a_name_cannot_write_to_the_terminal(archive, tmp_path):
    def change(entries):
        entries.append([entry("a\x1b[2Jb"), b""])

    said = refused(altered(archive, tmp_path / "a.zip", change))
    assert "\x1b" not in said and r"\x1b[2Jb" in said


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "JSONDecodeError"),
        (b'{"@graph": [', "JSONDecodeError"),
        (b"\xff\xfe\xff", "UnicodeDecodeError"),
        (b"[]", "TypeError"),
        (b"{}", "KeyError"),
        (b'{"@graph": 3}', "TypeError"),
        (b'{"@graph": ["File"]}', "TypeError"),
        (b'{"@graph": [{"@type": "File", "@id": "a"}]}', "KeyError: 'contentSize'"),
        (b'{"@graph": [{"@type": "File", "@id": 3}]}', "KeyError|TypeError"),
        (
            b'{"@graph": [{"@type": ["File"], "@id": "a", "contentSize": "many", "sha256": "0"}]}',
            "ValueError.*'many'",
        ),
        (b"[" * 200_000, "RecursionError"),
    ],
)
def test_a_list_that_is_none_is_an_error_that_names_the_file(archive, tmp_path, content, what):
    def change(entries):
        entries[-1][1] = content

    path = altered(archive, tmp_path / "a.zip", change)
    with pytest.raises(JobFailed, match=rf"a.zip: {METADATA} is not the list .*({what})"):
        check(path)


def test_what_is_no_archive_is_an_error_that_names_the_file(archive, tmp_path):
    path = tmp_path / "a.zip"
    for content in (b"", b"no zip file", archive.read_bytes()[:-30]):
        path.write_bytes(content)
        assert f"{path}: it cannot be read as a zip file" in refused(path)
    altered(archive, path, lambda entries: entries.pop())
    assert f"{path}: it has no {METADATA}" in refused(path)
    assert f"{tmp_path}: it has no {METADATA}" in refused(tmp_path)


def test_flipped_bits_never_end_in_a_stack(archive, tmp_path):
    """Whatever byte is hit: the archive passes, or is refused by name."""
    content, path, failed = archive.read_bytes(), tmp_path / "a.zip", 0
    for place in range(0, len(content), max(1, len(content) // 150)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        try:
            check(path)
        except JobFailed as error:
            assert str(path) in str(error)
            failed += 1
    assert failed > 100
