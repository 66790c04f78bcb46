"""pyproject.toml, constraints.txt and requirements.lock agree."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.pipeline import ROOT

PIN = re.compile(r"^([\w.-]+)==([^\s;]+)", re.M)


def pins(text):
    return {canonicalize_name(package): version for package, version in PIN.findall(text)}


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text())


def test_the_lock_has_the_same_versions_but_for_torch():
    """Write the lock again with the command in its header."""
    lock = pins((ROOT / "requirements.lock").read_text())
    assert lock == {name: pin for name, pin in CONSTRAINTS.items() if name != "torch"}


def test_the_pins_are_within_the_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in map(Requirement, sum(groups, [])):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(CONSTRAINTS[canonicalize_name(requirement.name)])
