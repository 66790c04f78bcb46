"""Cases of a test."""

from collections.abc import Iterable

import pytest


def first_of(cases: Iterable[object]) -> list[object]:
    """Returns all cases, of which `make test` tries the first only and the full check every one.

    A case that is a tuple has a value for each argument.
    """
    first, *others = cases
    values = (case if isinstance(case, tuple) else (case,) for case in others)
    return [first, *(pytest.param(*value, marks=pytest.mark.slow) for value in values)]
