import os
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests import requirements
from tests.pipeline import finished_project

SLOW = pytest.StashKey[int]()
LONGEST = ("workflow", "training", "docs", "compute", "algorithm")
"""Folders of tests, by how long a file of theirs takes."""


def pytest_collection_modifyitems(items):
    """Starts with the longest files, or a worker would end alone with one of them.

    The first file makes the tiny study. The others that use it come a minute or two later, or their
    workers would wait for it.
    """
    rank = {folder: place for place, folder in enumerate(LONGEST)}
    sharing = list(dict.fromkeys(i.path for i in items if "tiny_study" in i.fixturenames))

    def place(item):
        if item.path in sharing:
            return rank["training"] + 0.5 if item.path != sharing[0] else -1
        return rank.get(item.path.parent.name, len(rank))

    items.sort(key=place)


def pytest_runtest_setup(item):
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            requirements.need(name)


def pytest_deselected(items):
    """Counts the slow tests that are left out; a worker sends the count to the main process."""
    config = items[0].config
    left_out = sum(item.get_closest_marker("slow") is not None for item in items)
    config.stash[SLOW] = left_out
    if hasattr(config, "workeroutput"):
        config.workeroutput["slow"] = left_out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Takes the count from a worker; they all have the same one."""
    node.config.stash[SLOW] = getattr(node, "workeroutput", {}).get("slow", 0)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Says in the last line of the run how many tests were skipped for what."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and not hasattr(session.config, "workerinput"):
        skipped = reporter.stats.get("skipped", [])
        reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in skipped]
        slow = session.config.stash.get(SLOW, 0)
        reporter.write_line(requirements.closing_line(reasons, slow))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Uses one thread, as in training; comes before the fixtures of files, which may train.

    With more threads, the number of stacked seeds may change how a matrix product is split and so
    its rounding. They are also slow beside other processes: a small operation waits for them.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory):
    """The folder of the finished tiny study. All workers share it, so nobody may change it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "tiny-study"
    with FileLock(shared / "tiny-study.lock"):
        if not folder.exists():
            finished_project(tmp_path_factory.mktemp("project")).rename(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tiny_study, tmp_path_factory) -> Path:
    """A copy of the finished tiny study, which the tests of a file may change."""
    return shutil.copytree(tiny_study, tmp_path_factory.mktemp("finished") / "project")
