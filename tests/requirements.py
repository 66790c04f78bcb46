"""Programs that some tests need, how each is found and how it is installed on Debian.

A test names what it needs: `@pytest.mark.needs("slurm")`. Where that is missing, the test is
skipped. With MPO_REQUIRE_ALL set, as in `.ci/run`, the test fails instead.
"""

import importlib.util
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from tests import cluster

CURES = {
    "slurm": "as root: apt-get install slurm-wlm munge",
    "chromium": "apt-get install chromium chromium-driver",
    "compiler": "apt-get install g++",
    "renderer": "apt-get install libegl1 libgl1, or libosmesa6",
    "mount": "run the tests as root",
    "triton": "pip install triton",
}


def no_chromium() -> str | None:
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return f"no {' and no '.join(missing)}" if missing else None


def no_compiler() -> str | None:
    """A trial decides, as in a training that is to be compiled."""
    from mpo.compute.compile import available_on_cpu

    return None if available_on_cpu() else "no working C++ compiler"


def no_mount() -> str | None:
    return None if os.geteuid() == 0 else "only root may mount a file system"


def no_triton() -> str | None:
    return None if importlib.util.find_spec("triton") else "no triton"


CHECKS: dict[str, Callable[[], str | None]] = {
    "slurm": cluster.unavailable,
    "chromium": no_chromium,
    "compiler": no_compiler,
    "mount": no_mount,
    "triton": no_triton,
}
"""Each returns what is missing, or None. A film finds out by itself that no renderer works."""


def need(name: str) -> None:
    """Skips the running test if what it needs is missing; see `go_without`."""
    if missing := CHECKS[name]():
        go_without(name, missing)


def go_without(name: str, missing: str) -> None:
    """Skips the running test, or fails it if MPO_REQUIRE_ALL is set."""
    reason = f"needs {name}: {missing}; {CURES[name]}"
    if os.environ.get("MPO_REQUIRE_ALL"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def closing_line(reasons: Iterable[str], slow: int) -> str:
    """How many tests were skipped, and why; `slow` of them since they are."""
    counts = Counter(reasons)
    if slow:
        counts["slow, run by .ci/run"] = slow
    parts = [f"{count} ({reason})" for reason, count in counts.most_common()]
    return f"Skipped {counts.total()}: {'; '.join(parts)}." if parts else "No test was skipped."
