"""Start-up stays light; who may import whom is `[tool.importlinter]` in pyproject.toml."""

import subprocess
import sys


def test_rules_and_schema_stay_light():
    heavy = {"torch", "gymnasium", "pandas", "matplotlib", "scipy", "tensordict", "pyarrow"}
    names = ("mpo.study.plan", "mpo.study.status", "mpo.report.figures", "mpo.__main__")
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(names) <= set(done.stdout.split())
    assert not heavy & set(done.stdout.split())
