"""The drawings of the architecture page show what there is."""

import importlib.util

import pytest

from tests.pipeline import ROOT

_SPEC = importlib.util.spec_from_file_location("drawings", ROOT / "docs/drawings.py")
drawings = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(drawings)


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_the_drawings_are_up_to_date(name):
    kept = (drawings.FOLDER / name).read_text()
    assert kept == drawings.DRAWINGS[name](), "run `python docs/drawings.py`"


def test_arrows_that_others_imply_are_left_out():
    graph = {"a": set(), "b": {"a"}, "c": {"a", "b"}}
    assert drawings._reduced(graph) == {"a": set(), "b": {"a"}, "c": {"b"}}
