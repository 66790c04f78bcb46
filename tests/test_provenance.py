import subprocess

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mpo import provenance
from mpo.report import figures
from tests import synthetic

SHOW = """PyTorch built with:
  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605
  - Intel(R) MKL-DNN v3.12.0 (Git Hash 80afa710)
  - Build settings: BLAS_INFO=mkl, BUILD_TYPE=Release
"""


def test_the_commit_is_that_of_the_source_tree(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    module = tmp_path / "mpo" / "provenance.py"
    module.parent.mkdir()
    module.touch()
    monkeypatch.setattr(provenance, "__file__", str(module))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() == "unknown"
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    assert provenance.code() == {"git_sha": head, "git_dirty": False}
    module.write_text("changed")
    assert provenance.code() == {"git_sha": head, "git_dirty": True}
    assert provenance.commit() == f"{head}, with uncommitted changes"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SHOW, "mkl, 2024.2, MKL-DNN v3.12.0"),
        ("BLAS_INFO=open, ", "open"),
        ("nothing is known", "unknown"),
    ],
)
def test_the_libraries_of_matrix_products_are_named(config, said):
    assert provenance._blas(config) == said


def test_packages_that_are_missing_are_left_out():
    assert list(provenance.packages(("no-such-package", "numpy"))) == ["numpy"]


def test_figures_and_tables_say_where_they_come_from(tmp_path):
    study = synthetic.plan(environments=1)
    synthetic.write_runs(study, tmp_path)
    tables = synthetic.write_tables(study, tmp_path)
    for name in ("runs", "scores", "aggregates"):
        assert pq.read_schema(tables / f"{name}.parquet").metadata[b"commit"].decode() == (
            provenance.commit()
        )
    outputs = [tmp_path / f"final_scores.{kind}" for kind in ("png", "svg", "pdf")]
    figures.draw("final_scores", study, tables, outputs)
    origin = (
        f"Study made-up: 12 runs, trained at commit {synthetic.PROVENANCE['git_sha']}; "
        f"drawn at commit {provenance.commit()}, with matplotlib"
    )
    assert Image.open(outputs[0]).text["Description"].startswith(origin)
    assert origin in outputs[1].read_text()
    assert f"/Subject ({origin}".encode() in outputs[2].read_bytes()
