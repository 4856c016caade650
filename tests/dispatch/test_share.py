"""How much each batch gets of an engine's room, and how much each engine of what there is to do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbox_daemon.batch.queue import Lane, Queue
from inbox_daemon.dispatch.share import runs, share

LOADS = st.lists(st.integers(0, 5000), min_size=1, max_size=8)


def lane(requests: int, in_flight: int = 0, priority: int = 0) -> Lane:
    queue = Queue(requests)
    queue.lanes[0].take(in_flight)
    queue.priority = priority
    return queue.lanes[0]


# -- batches, of one engine's room


@given(st.integers(0, 300), st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(-2, 2)), max_size=6))
def test_no_more_is_shared_than_there_is_room_for_and_no_batch_gets_more_than_it_has(
    room: int, batches: list[tuple[int, int, int]]
) -> None:
    lanes = {
        number: lane(left + in_flight, in_flight, priority)
        for number, (left, in_flight, priority) in enumerate(batches, 1)
    }
    shared = share(room, lanes.items())
    given_out = dict(shared)
    assert len(given_out) == len(shared)
    assert all(0 < count <= lanes[number].takeable for number, count in shared)
    assert sum(given_out.values()) == min(room, sum(one.takeable for one in lanes.values()))
    for number, one in lanes.items():
        if one.takeable > given_out.get(number, 0):  # it could have had more: all before it have what they want
            higher = [other for other in lanes.values() if other.priority < one.priority]
            assert not any(given_out.get(n, 0) for n, other in lanes.items() if other in higher)


def test_what_is_held_or_withheld_gets_nothing() -> None:
    held, suspected = lane(100), Queue(3)
    held._queue.held = True
    for place in range(2):
        suspected.withhold(place)
    assert share(50, [(1, held), (2, suspected.lanes[0])]) == [(2, 1)]


def test_a_batch_counts_what_it_has_in_all_engines() -> None:
    """Else one with much on another engine would get half of this one as well."""
    assert dict(share(20, [(1, lane(1000, in_flight=100)), (2, lane(1000))])) == {2: 20}


# -- engines, of what there is to do


@pytest.mark.parametrize(
    ("loads", "count"),
    [([0], 7), ([0, 0], 3), ([0, 0], 2048), ([900, 1000], 300), ([5] * 8, 4096), ([0, 0, 0], 1), ([4, 4], 0)],
)
def test_engines_get_equal_shares_in_runs_of_neighbours(loads: list[int], count: int) -> None:
    shared = runs(loads, count)
    have = after(loads, shared)
    assert sum(have) == sum(loads) + count
    assert max(have) - min(have) <= 1 + max(have) // 8
    assert len(shared) <= 40 * len(loads)


def after(loads: Sequence[int], shared: Sequence[tuple[int, int]]) -> list[int]:
    have = list(loads)
    for engine, length in shared:
        have[engine] += length
    return have


@given(LOADS, st.integers(0, 20_000))
def test_the_whole_count_is_given_and_each_run_goes_to_the_engine_that_has_least_then(
    loads: list[int], count: int
) -> None:
    shared = runs(loads, count)
    assert sum(length for _, length in shared) == count
    have = list(loads)
    for engine, length in shared:
        assert length > 0
        assert have[engine] == min(have)
        have[engine] += length


@given(LOADS, st.integers(0, 20_000))
def test_no_engine_that_got_something_has_much_more_than_another(loads: list[int], count: int) -> None:
    """A sixteenth of what it has, or of an equal share of what all get: its queue does not notice."""
    shared = runs(loads, count)
    have = after(loads, shared)
    for engine in {engine for engine, _ in shared}:
        assert have[engine] - min(have) <= 1 + max(have[engine], count // len(loads)) // 16


@given(LOADS, st.integers(1, 20_000))
def test_runs_are_long_enough_for_neighbours_to_stay_together(loads: list[int], count: int) -> None:
    shared = runs(loads, count)
    assert len(shared) <= 32 * len(loads)
    if len(loads) == 1:
        assert shared == [(0, count)]


def test_an_engine_that_has_much_gets_nothing_while_another_has_room() -> None:
    assert {engine for engine, _ in runs([1000, 10], 100)} == {1}


def test_an_engine_that_has_just_come_gets_all_until_it_has_as_much_as_the_others() -> None:
    shared = runs([500, 500, 0], 600)
    ends = list(accumulate(length for _, length in shared))
    first_for_others = next(at for at, (engine, _) in enumerate(shared) if engine != 2)
    assert 470 <= ends[first_for_others - 1] <= 560
    assert max(after([500, 500, 0], shared)) <= 570
