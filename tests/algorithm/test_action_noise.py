"""Pink noise: its marginal, its spectrum, its streams and its resumption."""

import numpy as np
import pytest

from mpo.algorithm.action_noise import PinkNoise, WhiteNoise, make_noise, pink

D = 3


def sequences(steps, count, seed=0):
    """Pink noise of many episodes, [count, T, D]."""
    generator = np.random.default_rng(seed)
    return np.stack([pink(generator, steps, D) for _ in range(count)])


@pytest.mark.parametrize("steps", [1, 2, 7, 200, 1000])
def test_each_draw_is_standard_normal(steps):
    drawn = sequences(steps, 3000)
    assert drawn.shape == (3000, steps, D) and drawn.dtype == np.float32
    at = drawn[:, [0, steps // 2, steps - 1]]
    assert np.abs(at.mean(0)).max() < 4 / 3000**0.5
    assert np.abs(at.std(0) - 1).max() < 0.06
    # Tails of a Gaussian: beyond 2, 4.55 %.
    assert np.mean(np.abs(at) > 2) == pytest.approx(0.0455, abs=0.01)


def test_the_power_falls_as_one_over_the_frequency():
    power = np.square(np.abs(np.fft.rfft(sequences(512, 400), axis=1))).mean((0, 2))[1:-1]
    frequency = np.arange(1, 256)
    slope, _ = np.polyfit(np.log(frequency), np.log(power), 1)
    assert slope == pytest.approx(-1, abs=0.03)


def test_dimensions_are_independent_and_steps_are_not():
    drawn = sequences(100, 4000)
    across = np.corrcoef(drawn[:, 40].T)
    assert np.abs(across - np.eye(D)).max() < 0.06
    along = np.corrcoef(drawn[:, 40, 0], drawn[:, 41, 0])[0, 1]
    assert along > 0.5


@pytest.mark.parametrize("kind", ["white", "pink"])
def test_a_stream_is_resumed_at_any_step(kind):
    calm = make_noise(kind, 5, D, 10)
    drawn = [calm.next() for _ in range(25)]
    for stop in (0, 3, 10, 17):
        broken, other = make_noise(kind, 5, D, 10), make_noise(kind, 5, D, 10)
        for _ in range(stop):
            broken.next()
        other.load_state_dict(broken.state_dict())
        assert np.array_equal([other.next() for _ in range(25 - stop)], drawn[stop:])


def test_seeds_and_kinds_have_streams_of_their_own():
    streams = [WhiteNoise(5, D), WhiteNoise(6, D), PinkNoise(5, D, 10), PinkNoise(6, D, 10)]
    drawn = np.array([[stream.next() for _ in range(10)] for stream in streams])
    assert all((x != y).all() for i, x in enumerate(drawn) for y in drawn[:i])


def test_an_episode_begins_with_a_new_draw_and_a_long_one_goes_on():
    noise = PinkNoise(5, D, 10)
    first = [noise.next() for _ in range(4)]
    noise.begin_episode()
    second = [noise.next() for _ in range(20)]
    whole = PinkNoise(5, D, 10)
    parts = [[whole.next() for _ in range(10)] for _ in range(3)]
    assert np.array_equal(first, parts[0][:4])
    assert np.array_equal(second, parts[1] + parts[2])


def test_without_a_known_length_an_episode_has_a_thousand_steps():
    assert PinkNoise(0, D, None)._sequence.shape == (1000, D)
