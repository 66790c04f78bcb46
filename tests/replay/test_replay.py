from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from mpo.replay.replay import Replay
from tests.cases import first_of

OBS, D = 4, 2


def make(capacity: int, seeds: tuple[int, ...] = (0,), staged: bool | None = None) -> Replay:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return Replay(OBS, D, capacity, generators, staged=staged)


def row(number: float) -> Tensor:
    """Packed transition `number`; each element encodes the transition and the column."""
    return number + torch.arange(2 * OBS + 2 * D + 4) / 100


def fill(replay: Replay, numbers: range, gaps: tuple[int, ...] = (), seed_index: int = 0) -> None:
    """Adds transitions with these numbers; a gap at i means that i does not follow i - 1."""
    for number in numbers:
        if number in gaps:
            replay.break_segment(seed_index)
        replay.add(seed_index, row(number))


def drawn(replay: Replay, window: int, batch: int = 400, seed_index: int = 0) -> Tensor:
    """Samples windows and returns the numbers of their transitions, [T, B]."""
    sample = replay.sample(batch, torch.arange(window))
    return sample["obs"][seed_index, :, :, 0].round().long()


def assert_windows_start_at(replay: Replay, window: int, starts: list[int]) -> None:
    """Asserts that all windows are consecutive and that their starts are exactly these."""
    numbers = drawn(replay, window)
    assert torch.equal(numbers, numbers[0] + torch.arange(window)[:, None])
    assert sorted(set(numbers[0].tolist())) == starts


def test_fields_have_their_shapes_and_their_elements():
    seeds, steps, batch = 3, 4, 5
    replay = make(20, (1, 2, 3))
    for i in range(seeds):
        fill(replay, range(100 * i, 100 * i + 20), seed_index=i)
    sample = replay.sample(batch, torch.arange(steps))
    assert sample["reward"].shape == (seeds, steps, batch)
    # Each field's columns, in the order of the packed row.
    layout = {
        "obs": [0, 1, 2, 3],
        "action": [4, 5],
        "action_raw": [6, 7],
        "behaviour_logp": 8,
        "reward": 9,
        "terminated": 10,
        "truncated": 11,
        "next_obs": [12, 13, 14, 15],
    }
    assert list(sample.keys()) == [*layout, "first_obs", "age"]
    number = sample["obs"][..., 0]
    for name, columns in layout.items():
        value = sample[name]
        width = (len(columns),) if isinstance(columns, list) else ()
        assert value.shape == (seeds, steps, batch, *width)
        assert value.dtype == torch.float32
        expected = number.unsqueeze(-1) if width else number
        torch.testing.assert_close(value, expected + torch.tensor(columns) / 100)
    assert torch.equal(number.div(100).long(), torch.arange(3)[:, None, None].expand(number.shape))


def test_widths_are_those_of_the_packed_row():
    assert make(3).widths == (OBS, D, D, 1, 1, 1, 1, OBS)


def test_size_and_pointer_follow_the_ring():
    replay = make(5)
    seen = []
    for number in range(12):
        seen.append((replay.size(), replay.pointer()))
        replay.add(0, row(number))
    assert seen == [(min(n, 5), n % 5) for n in range(12)]


def test_the_oldest_transition_is_overwritten_first():
    replay = make(5)
    for number in range(13):
        replay.add(0, row(number))
        held = sorted(set(drawn(replay, 1, batch=200)[0].tolist()))
        assert held == list(range(max(0, number - 4), number + 1))


@pytest.mark.parametrize("added", [3, 6, 7, 8, 10, 14, 17])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_windows_are_consecutive_and_never_join_newest_to_oldest(added, window):
    replay = make(7)
    fill(replay, range(added))
    oldest = max(0, added - 7)
    assert_windows_start_at(replay, window, list(range(oldest, added - window + 1)))


def test_a_window_of_the_whole_ring_starts_at_the_oldest():
    replay = make(6)
    fill(replay, range(16))
    assert_windows_start_at(replay, 6, [10])


@pytest.mark.parametrize(
    ("added", "gaps"), [(30, ()), (47, ()), (30, (11, 12, 20)), (47, (25, 30, 44))]
)
def test_starts_are_uniform(added, gaps):
    capacity, window, batch = 30, 3, 30_000
    replay = make(capacity, (4,))
    fill(replay, range(added), gaps)
    starts = [
        i
        for i in range(max(0, added - capacity), added - window + 1)
        if not any(i < gap < i + window for gap in gaps)
    ]
    counts = np.bincount(drawn(replay, window, batch)[0].numpy(), minlength=added)
    assert np.flatnonzero(counts).tolist() == starts
    expected = batch / len(starts)
    # A chi-square statistic of k cells has mean k - 1 and variance 2 (k - 1).
    freedom = len(starts) - 1
    chi_square = ((counts[starts] - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


def test_no_window_spans_a_gap():
    replay = make(10)
    fill(replay, range(8), gaps=(3,))
    assert_windows_start_at(replay, 1, list(range(8)))
    assert_windows_start_at(replay, 2, [0, 1, 3, 4, 5, 6])
    assert_windows_start_at(replay, 3, [0, 3, 4, 5])
    assert_windows_start_at(replay, 5, [3])


def test_no_window_spans_any_of_several_gaps():
    replay = make(20)
    fill(replay, range(14), gaps=(2, 3, 9))
    assert_windows_start_at(replay, 2, [0, 3, 4, 5, 6, 7, 9, 10, 11, 12])
    assert_windows_start_at(replay, 5, [3, 4, 9])
    assert_windows_start_at(replay, 6, [3])


def test_refusals_in_a_row_are_one_gap_and_a_last_one_waits_for_the_next_transition():
    replay = make(10)
    fill(replay, range(3))
    for _ in range(3):
        replay.break_segment(0)
    assert_windows_start_at(replay, 2, [0, 1])
    fill(replay, range(3, 6))
    assert_windows_start_at(replay, 2, [0, 1, 3, 4])


def test_a_gap_before_the_first_transition_is_none():
    replay = make(10)
    replay.break_segment(0)
    fill(replay, range(4))
    assert_windows_start_at(replay, 2, [0, 1, 2])


def test_an_overwritten_gap_is_gone():
    replay = make(6)
    fill(replay, range(8), gaps=(4,))  # holds 2 ... 7
    assert_windows_start_at(replay, 3, [4, 5])
    fill(replay, range(8, 9))  # holds 3 ... 8
    assert_windows_start_at(replay, 3, [4, 5, 6])
    fill(replay, range(9, 10))  # holds 4 ... 9: the gap lies before the oldest
    assert_windows_start_at(replay, 3, [4, 5, 6, 7])
    fill(replay, range(10, 15))
    assert_windows_start_at(replay, 3, [9, 10, 11, 12])


@pytest.mark.parametrize("seed", range(6))
def test_starts_are_those_of_a_plain_search_whatever_was_refused(seed):
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(3, 9))
    replay = make(capacity, (seed,))
    held: list[tuple[int, int]] = []  # transition number and environment step
    clock = 0
    for number in range(25):
        while rng.random() < 0.2:
            replay.break_segment(0)
            clock += 1
        replay.add(0, row(number))
        held = [*held, (number, clock)][-capacity:]
        clock += 1
        for window in (1, 2, 3):
            starts = []
            for i in range(len(held) - window + 1):
                clocks = [c for _, c in held[i : i + window]]
                if all(b == a + 1 for a, b in pairwise(clocks)):
                    starts.append(held[i][0])
            if starts:
                assert_windows_start_at(replay, window, starts)
            else:
                with pytest.raises(RuntimeError, match=f"no {window} consecutive transitions"):
                    replay.sample(4, torch.arange(window))


def test_an_end_of_an_episode_is_no_gap():
    replay = make(10)
    for number in range(6):
        packed = row(number)
        packed[-OBS - 2] = float(number == 2)  # terminated
        packed[-OBS - 1] = float(number == 4)  # truncated
        replay.add(0, packed)
    assert_windows_start_at(replay, 3, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("added", "gaps", "window"), [(0, (), 1), (2, (), 3), (6, (2, 4), 3), (17, (10, 12, 14), 4)]
)
def test_no_window_is_an_error_that_says_what_is_held(added, gaps, window):
    replay = make(8)
    fill(replay, range(added), gaps)
    with pytest.raises(RuntimeError, match=f"{window} consecutive transitions") as error:
        replay.sample(5, torch.arange(window))
    assert str(min(added, 8)) in str(error.value)


def test_one_seed_without_a_window_is_named():
    replay = make(8, (0, 1, 2))
    for i, count in enumerate((5, 2, 5)):
        fill(replay, range(count), seed_index=i)
    replay.sample(3, torch.arange(2))
    with pytest.raises(RuntimeError, match="seed 1"):
        replay.sample(3, torch.arange(3))


def test_a_seeds_samples_do_not_depend_on_its_neighbours():
    seeds, counts, gaps = (7, 21, 3), (9, 4, 15), ((), (2,), (10, 12))
    stack = make(10, seeds)
    for number in range(max(counts)):
        for i in range(3):
            fill(stack, range(number, min(number + 1, counts[i])), gaps[i], seed_index=i)
    stacked = [stack.sample(11, torch.arange(2)) for _ in range(3)]
    for i in range(3):
        alone = make(10, seeds[i : i + 1])
        fill(alone, range(counts[i]), gaps[i])
        assert (alone.size(), alone.pointer()) == (stack.size(i), stack.pointer(i))
        for sample in stacked:
            single = alone.sample(11, torch.arange(2))
            assert all(torch.equal(single[key][0], sample[key][i]) for key in single.keys())


def test_samples_follow_from_the_generator_alone():
    first, second, other = make(10, (5,)), make(10, (5,)), make(10, (6,))
    for replay in (first, second, other):
        fill(replay, range(10))
    torch.manual_seed(0)
    one = drawn(first, 2)
    torch.manual_seed(1)
    assert torch.equal(one, drawn(second, 2))
    assert not torch.equal(one, drawn(other, 2))
    assert not torch.equal(one, drawn(first, 2))


def test_a_sample_is_a_copy():
    replay = make(5)
    fill(replay, range(5))
    sample = replay.sample(50, torch.arange(1))
    before = sample["obs"].clone()
    fill(replay, range(50, 55))
    assert torch.equal(sample["obs"], before)


@pytest.mark.parametrize("seed", range(4))
def test_first_obs_is_what_the_steps_episode_began_with(seed):
    """Three interleaved seeds, each with its own ends, refusals and number of transitions."""
    rng = np.random.default_rng(seed)
    capacity, seeds = 12, 3
    replay = make(capacity, tuple(range(seeds)))
    began: list[int | None] = [None] * seeds
    held: list[dict[int, int]] = [{} for _ in range(seeds)]  # transition -> its episode's first
    behind_the_seam = 0
    for number in range(50):
        for i in np.flatnonzero(rng.random(seeds) < 0.8).tolist():
            name = 100 * i + number
            if rng.random() < 0.08:
                replay.break_segment(i)
                began[i] = None
            began[i] = name if began[i] is None else began[i]
            ends = torch.tensor(rng.random(2) < 0.12).float()  # terminated, truncated or both
            packed = row(name)
            packed[-OBS - 2 : -OBS] = ends
            replay.add(i, packed)
            held[i] = dict([*held[i].items(), (name, began[i])][-capacity:])
            if ends.any():
                began[i] = None
        if number < 8:
            continue
        sample = replay.sample(100, torch.arange(2))
        assert sample["first_obs"].shape == (seeds, 2, 100, OBS)
        for i in range(seeds):
            slots = {x: (replay.pointer(i) + k) % capacity for k, x in enumerate(held[i])}
            obs, first = (sample[key][i].flatten(0, 1) for key in ("obs", "first_obs"))
            for name, found in zip(obs[:, 0].round().int().tolist(), first, strict=True):
                expected = held[i][name]
                if expected in held[i]:
                    assert torch.equal(found, row(expected)[:OBS]), (name, expected)
                    behind_the_seam += len(held[i]) == capacity and slots[expected] > slots[name]
                else:  # overwritten: a newer observation takes its place
                    assert round(float(found[0])) in held[i]
    assert behind_the_seam > 0


class Plain:
    """A reference replay in plain Python: one list of whole transitions per seed."""

    def __init__(self, capacity: int, seeds: tuple[int, ...]) -> None:
        self.capacity = capacity
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.held: list[list[tuple[Tensor, int, int]]] = [[] for _ in seeds]  # row, first, segment
        self.first, self.over = [0 for _ in seeds], [True for _ in seeds]
        self.segment = [0 for _ in seeds]

    def add(self, i: int, packed: Tensor) -> None:
        if self.over[i]:
            self.first[i] = len(self.held[i])
        self.over[i] = bool(packed[-OBS - 2] or packed[-OBS - 1])
        self.held[i].append((packed.clone(), self.first[i], self.segment[i]))

    def break_segment(self, i: int) -> None:
        self.segment[i] += 1
        self.over[i] = True

    def starts(self, i: int, window: int) -> list[int]:
        held = self.held[i]
        oldest = max(0, len(held) - self.capacity)
        return [
            n
            for n in range(oldest, len(held) - window + 1)
            if held[n][2] == held[n + window - 1][2]
        ]

    def sample(self, batch: int, window: int) -> dict[str, Tensor]:
        seeds = []
        for i, generator in enumerate(self.generators):
            held, starts = self.held[i], self.starts(i, window)
            drawn = [starts[k] for k in torch.randint(len(starts), (batch,), generator=generator)]
            numbers = [[start + t for start in drawn] for t in range(window)]
            packed = torch.stack([torch.stack([held[n][0] for n in line]) for line in numbers])
            # The newest observation in each slot, which may have replaced an episode's first one.
            newest = {n % self.capacity: held[n][0][:OBS] for n in range(len(held))}
            first_obs = torch.stack(
                [
                    torch.stack([newest[held[n][1] % self.capacity] for n in line])
                    for line in numbers
                ]
            )
            age = len(held) - torch.tensor(numbers, dtype=torch.float32)
            seeds.append((packed, first_obs, age))
        packed, first_obs, age = (torch.stack(parts) for parts in zip(*seeds, strict=True))
        names = ("obs", "action", "action_raw", "behaviour_logp", "reward")
        names += ("terminated", "truncated", "next_obs")
        widths = (OBS, D, D, 1, 1, 1, 1, OBS)
        fields = dict(zip(names, packed.split(widths, dim=-1), strict=True))
        fields = {
            n: part.squeeze(-1) if part.shape[-1] == 1 else part for n, part in fields.items()
        }
        return fields | {"first_obs": first_obs, "age": age}


def stream(seed: int, count: int) -> Iterator[Tensor | None]:
    """Yields the transitions of random episodes; None for a refused one."""
    rng = np.random.default_rng(seed)

    def observation() -> np.ndarray:
        # Few values, so that a successor sometimes equals an observation of another episode; and
        # both zeros, which are equal but differ in their bits.
        return rng.choice(np.float32([-1, -0.0, 0.0, 1]), OBS if seed % 2 else 1).repeat(
            1 if seed % 2 else OBS
        )

    obs = observation()
    for _ in range(count):
        after = observation()
        ends = (rng.random(2) < 0.1).astype(np.float32)
        if rng.random() < 0.08:
            yield None
        else:
            middle = rng.standard_normal(2 * D + 2, dtype=np.float32)
            yield torch.from_numpy(np.concatenate([obs, middle, ends, after]))
        # Sometimes the next observation is unrelated, without an end or a gap in between.
        obs = observation() if ends.any() or rng.random() < 0.1 else after


def assert_samples_are_those_of(plain: Plain, *replays: Replay) -> None:
    for window in (1, 2, 3, 4):
        if not all(plain.starts(i, window) for i in range(len(plain.held))):
            continue
        expected = plain.sample(20, window)
        for replay in replays:
            found = replay.sample(20, torch.arange(window))
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                same = found[name].view(torch.int32) == value.contiguous().view(torch.int32)
                assert found[name].shape == value.shape and same.all(), name


def play(replays: list[Plain | Replay], packed: Tensor | None, seed_index: int) -> None:
    for replay in replays:
        if packed is None:
            replay.break_segment(seed_index)
        else:
            replay.add(seed_index, packed)


@pytest.mark.parametrize("capacity", [1, 2, 7, 40, 300])
@pytest.mark.parametrize("seed", first_of(range(4)))
def test_samples_are_to_the_bit_those_of_a_plain_replay(seed, capacity):
    """Compares three replays: unstaged, staged, and staged with occasional resumption from a
    journal in several pieces."""
    seeds = (1, 2, 3)
    rng = np.random.default_rng(seed)
    plain = Plain(capacity, seeds)
    replay, staged, resumed = (
        make(capacity, seeds, staged=staged) for staged in (False, True, True)
    )
    journals: list[list[dict[str, Tensor]]] = [[] for _ in seeds]
    added, saved = [0] * 3, [0] * 3
    streams = [stream(100 * seed + i, 400) for i in seeds]
    for number in range(400):
        for i in np.flatnonzero(rng.random(3) < 0.9).tolist():
            packed = next(streams[i])
            added[i] += packed is not None
            play([plain, replay, staged, resumed], packed, i)
        if rng.random() < 0.1:
            assert_samples_are_those_of(plain, replay, staged, resumed)
        if number > 20 and rng.random() < 0.05:
            fresh = make(capacity, seeds, staged=True)
            for i in range(3):
                journals[i].append(resumed.newest(i, added[i] - saved[i]))
                fresh.load_state_dict(i, resumed.state_dict(i), journals[i])
            resumed, saved = fresh, list(added)
    assert_samples_are_those_of(plain, replay, staged, resumed)
    assert max(added) > 300


def test_more_transitions_than_wait_on_the_host_are_staged():
    replay, staged = make(900, (1, 2), staged=False), make(900, (1, 2), staged=True)
    for i in range(2):
        for packed in stream(i, 2000):
            play([replay, staged], packed, i)
    samples = (r.sample(500, torch.arange(3)) for r in (replay, staged))
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in samples), strict=True))


def test_each_observation_is_held_about_once():
    obs_dim, capacity = 348, 5000
    replay = Replay(obs_dim, 1, capacity, [torch.Generator()])
    chain = torch.randn(97, obs_dim)
    for number in range(3 * capacity):
        over = torch.tensor([float(number % 97 == 96), 0])
        # The last successor of an episode is the obs of no transition.
        after = -chain[0] if over.any() else chain[(number + 1) % 97]
        replay.add(0, torch.cat([chain[number % 97], torch.zeros(4), over, after]))
    assert replay.nbytes < 1.05 * 4 * capacity * (obs_dim + 8)
    journal = replay.newest(0, capacity)
    assert sum(x.nbytes for x in journal.values()) < 1.05 * 4 * capacity * (obs_dim + 8)
    after = replay.sample(2000, torch.arange(1))
    last = after["terminated"] == 1
    assert last.any() and (after["next_obs"][last] == -chain[0]).all()


def test_overwritten_transitions_leave_their_room():
    replay = make(100)
    sizes = []
    for number in range(1000):
        replay.add(0, row(number))  # no successor is the obs of another transition
        sizes.append(replay.nbytes)
    assert sizes[-1] == sizes[130] > sizes[0]
