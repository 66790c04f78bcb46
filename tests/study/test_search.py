"""Values that candidates take from ranges, against points computed by hand."""

import os
import random
import subprocess
import sys

import pytest

from mpo.study import search
from mpo.study.search import draw


@pytest.mark.parametrize(
    ("base", "points"),
    [
        (2, [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8, 1 / 16]),
        (3, [0, 1 / 3, 2 / 3, 1 / 9, 4 / 9, 7 / 9, 2 / 9, 5 / 9, 8 / 9, 1 / 27]),
        (5, [0, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 1 / 25, 6 / 25]),
    ],
)
def test_the_points_are_those_of_the_halton_sequence(base, points):
    assert search._halton(base, len(points), 0.0) == pytest.approx(points)
    shifted = [(point + 0.75) % 1 for point in points]
    assert search._halton(base, len(points), 0.75) == pytest.approx(shifted)


@pytest.mark.parametrize(
    ("low", "high", "share", "value"),
    [
        (1e-4, 1e-2, 0.0, 1e-4),
        (1e-4, 1e-2, 0.5, 1e-3),
        (1e-4, 1e-2, 0.25, 3.16e-4),
        (0.9, 0.999, 0.5, 0.948),
        (1.2349e-4, 1e-2, 0.0, 1.2349e-4),  # 1.23e-4 would be below the range
        (1.0, 1.9999, 0.99999, 1.9999),
        (16, 256, 0.5, 64),
        (16, 256, 0.3, 37),
    ],
)
def test_a_share_of_a_range_is_one_of_its_logarithm(low, high, share, value):
    found = search._within(low, high, share)
    assert found == value and isinstance(found, type(value))


def test_a_key_takes_its_values_from_a_stream_or_a_shift_of_its_own():
    ranges = {"q_lr": (1e-4, 1e-2), "gamma": (0.9, 0.99)}
    found = draw("random", ranges, 3, "7 arm")
    assert [*found[0]] == ["q_lr", "gamma"]
    for key, (low, high) in ranges.items():
        stream = random.Random(f"7 arm {key}")
        expected = [low * (high / low) ** stream.random() for _ in range(3)]
        assert [candidate[key] for candidate in found] == pytest.approx(expected, rel=5e-3)
    found = draw("quasi-random", ranges, 3, "7 arm")
    for (key, (low, high)), base in zip(sorted(ranges.items()), (2, 3), strict=True):
        shift = random.Random(f"7 arm {key}").random()
        shares = [shift, (1 / base + shift) % 1, ((1 / 4 if base == 2 else 2 / 3) + shift) % 1]
        expected = [low * (high / low) ** share for share in shares]
        assert [candidate[key] for candidate in found] == pytest.approx(expected, rel=5e-3)


def test_quasi_random_values_leave_no_part_of_a_range_out():
    """Of 16 points, one in each sixteenth of the range, whatever the shift."""
    for seed in range(20):
        values = [c["q_lr"] for c in draw("quasi-random", {"q_lr": (1.0, 2.0**16)}, 16, f"{seed}")]
        ordered = sorted(values)
        ratios = [b / a for a, b in zip(ordered, ordered[1:], strict=False)]
        assert ratios == pytest.approx([2.0] * 15, rel=2e-2)


@pytest.mark.parametrize("kind", ["random", "quasi-random"])
def test_another_process_draws_the_same(kind):
    code = (
        "from mpo.study.search import draw\n"
        f"print(draw({kind!r}, {{'q_lr': (1e-4, 1e-2)}}, 5, '0 arm'))"
    )
    command = [sys.executable, "-c", code]
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"{draw(kind, {'q_lr': (1e-4, 1e-2)}, 5, '0 arm')}\n"
