"""Who may import whom; see the README's "Inside"."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mpo"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
PURE = {
    "returns",
    "losses",
    "duals",
    "graphs",
    "intervals",
    "resampling",
    "seeding",
    "progress",
    "files",
    "layout",
    "signals",
    "gpus",
    "memory",
    "moments",
    "fusion",
    "kernels",
    "efficiency",
    "provenance",
    "ring",
}
"""Modules that import nothing of ours."""
MAY_NOT = {
    "layers": set(MODULES) - {"products"},
    "networks": set(MODULES) - {"layers", "products"},
    "products": set(MODULES) - {"kernels"},
    "envs": set(MODULES) - {"config"},
    "optim": set(MODULES) - {"config", "fusion"},
    "rows": set(MODULES) - {"graphs"},
    "replay": set(MODULES) - {"ring", "rows"},
    "targets": set(MODULES) - {"config", "losses", "networks", "returns"},
    "agent": {"envs", "episodes", "evaluate", "recorder", "records", "study", "trainer"},
    "checkpoint": set(MODULES) - {"config", "files", "signals"},
    "stats": set(MODULES) - {"resampling"},
    "effects": set(MODULES) - {"intervals"},
    "heartbeat": set(MODULES) - {"envs", "files", "signals"},
    "study": set(MODULES) - {"config", "layout"},
    "status": set(MODULES) - {"files", "study"},
    "packs": set(MODULES) - {"files", "status", "study"},
    "session": {"agent", "envs", "replay", "study", "trainer"},
    "loop": {"agent", "envs", "episodes", "replay", "study", "trainer"},
    "typeset": set(MODULES),
    "publication": {"agent", "trainer", "envs", "networks", "summary", "figures.style"},
    "statistics": {"agent", "trainer", "envs", "networks"},
    "trainer": {"study", "tables", "intervals", "stats", "summary"},
    "tables": {"agent", "trainer", "envs", "networks"},
    "summary": {"agent", "trainer", "envs", "networks"},
}


def ours(name):
    """The modules of this package that a module imports, type-checking imports left out."""
    tree = ast.parse(MODULES[name].read_text())
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in guarded:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mpo"):
            base = node.module.removeprefix("mpo").removeprefix(".")
            found |= {base} if base else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {n.removeprefix("mpo.") for n in names if n.startswith("mpo.")}
    return found & set(MODULES)


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_import_nothing_of_ours(name):
    assert ours(name) == set()


@pytest.mark.parametrize("name", sorted(MAY_NOT))
def test_forbidden_imports(name):
    assert not ours(name) & MAY_NOT[name]


def test_nothing_imports_snakemake():
    for name, path in MODULES.items():
        assert "import snakemake" not in path.read_text(), name
        assert "from snakemake" not in path.read_text(), name


def test_rules_and_schema_stay_light():
    heavy = {"torch", "gymnasium", "pandas", "matplotlib", "scipy", "tensordict", "pyarrow"}
    code = "import sys, mpo.study.plan, mpo.study.status, mpo.report.figures, mpo.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mpo.study.plan" in done.stdout.split()
    assert not heavy & set(done.stdout.split())
