"""Finding the request that kills the engine, for every place it can have among those in flight."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbox_daemon.dispatch.suspects import Suspects, blames_no_request


def hunt(requests: int, window: int, poisons: set[int], accidents: random.Random | None = None) -> tuple[set[int], int]:
    """Run requests through an engine that dies of each poison; return who was found guilty and the number of deaths."""
    suspects = Suspects()
    left = list(range(requests))
    guilty: set[int] = set()
    deaths = 0
    while left:
        in_flight = suspects.group(left.__contains__) if suspects.narrowing else left[:window]
        if not in_flight:
            continue
        accident = accidents is not None and accidents.random() < 0.2
        if poisons & set(in_flight) or accident:
            deaths += 1
            # An engine may answer some before it dies; here the healthy first ones of the window.
            first = next((i for i, t in enumerate(in_flight) if t in poisons), 0)
            answered = in_flight[: first // 2] if not suspects.narrowing else []
            left = [t for t in left if t not in answered]
            found = suspects.death({t for t in in_flight if t not in answered})
            if found is not None:
                guilty.add(found)
                left.remove(found)
        else:
            left = [t for t in left if t not in in_flight]
    return guilty, deaths


@pytest.mark.parametrize("window", [1, 2, 3, 8, 64, 100])
def test_one_poison_is_found_within_log2_of_what_is_in_flight_plus_two_deaths(window: int) -> None:
    for poison in range(100):
        guilty, deaths = hunt(100, window, {poison})
        assert guilty == {poison}
        assert deaths <= math.ceil(math.log2(window)) + 2


@given(st.sets(st.integers(0, 59), max_size=5), st.integers(1, 40))
def test_every_poison_is_found_and_nobody_else(poisons: set[int], window: int) -> None:
    assert hunt(60, window, poisons)[0] == poisons


@given(st.sets(st.integers(0, 39), max_size=2), st.integers(2, 20), st.integers(0, 1000))
def test_all_requests_end_even_among_accidents(poisons: set[int], window: int, seed: int) -> None:
    guilty, _ = hunt(40, window, poisons, random.Random(seed))
    assert guilty >= poisons


def test_the_first_death_accuses_nobody_and_neither_do_two_without_a_common_request() -> None:
    suspects = Suspects()
    assert suspects.death({1, 2, 3}) is None
    assert not suspects.narrowing
    assert suspects.death({4, 5}) is None
    assert not suspects.narrowing


def test_a_death_of_the_machine_blames_no_request() -> None:
    assert blames_no_request(["…", "[12.3] NVRM: Xid (PCI:0000:65:00): 79, GPU has fallen off the bus."])
    assert not blames_no_request(["RuntimeError: CPU Generator does not use offset"])
