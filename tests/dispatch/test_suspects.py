"""Finding the request that kills engines, for every place it can have among those in flight, on one engine or two."""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import IN_MEMORY, error_of, jsonl, lines, request

from inbox_daemon import config
from inbox_daemon.batch.queue import _WITHHELD, Queue
from inbox_daemon.config import EngineSettings
from inbox_daemon.config.models import Model
from inbox_daemon.daemon import Daemon
from inbox_daemon.dispatch.suspects import Suspects, blames_no_request
from inbox_daemon.dispatch.traffic import Traffic
from inbox_daemon.engine import Place
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.errors import EngineDied
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.records import EngineInfo, Outcome, Request, place_of


def hunt(requests: int, window: int, poisons: set[int], accidents: random.Random | None = None) -> tuple[set[int], int]:
    """Run requests through an engine that dies of each poison; return who was found guilty and the number of deaths."""
    suspects = Suspects()
    left = list(range(requests))
    guilty: set[int] = set()
    deaths = 0
    while left:
        in_flight = suspects.group(left.__contains__) if suspects.court({1: 0}) else left[:window]
        if not in_flight:
            continue
        accident = accidents is not None and accidents.random() < 0.2
        if poisons & set(in_flight) or accident:
            deaths += 1
            # An engine may answer some before it dies; here the healthy first ones of the window.
            first = next((i for i, t in enumerate(in_flight) if t in poisons), 0)
            answered = in_flight[: first // 2] if not suspects.narrowing else []
            suspects.answered(answered)
            left = [t for t in left if t not in answered]
            found = suspects.death(1, {t for t in in_flight if t not in answered})
            if found is not None:
                guilty.add(found)
                left.remove(found)
        else:
            suspects.answered(in_flight)
            left = [t for t in left if t not in in_flight]
    return guilty, deaths


def bound(window: int) -> int:
    """How many deaths one poison among so many requests in flight may cost."""
    return math.ceil(math.log2(window)) + 2


@pytest.mark.parametrize("window", [1, 2, 3, 8, 64, 100])
def test_one_poison_is_found_within_log2_of_what_is_in_flight_plus_two_deaths(window: int) -> None:
    for poison in range(100):
        guilty, deaths = hunt(100, window, {poison})
        assert guilty == {poison}
        assert deaths <= bound(window)


@given(st.sets(st.integers(0, 59), max_size=5), st.integers(1, 40))
def test_every_poison_is_found_and_nobody_else(poisons: set[int], window: int) -> None:
    assert hunt(60, window, poisons)[0] == poisons


@given(st.sets(st.integers(0, 39), max_size=2), st.integers(2, 20), st.integers(0, 1000))
def test_all_requests_end_even_among_accidents(poisons: set[int], window: int, seed: int) -> None:
    guilty, _ = hunt(40, window, poisons, random.Random(seed))
    assert guilty >= poisons


def test_the_first_death_accuses_nobody_and_neither_do_two_without_a_common_request() -> None:
    suspects = Suspects()
    assert suspects.death(1, {1, 2, 3}) is None
    assert not suspects.narrowing
    assert suspects.death(1, {4, 5}) is None
    assert not suspects.narrowing


def test_who_was_in_flight_at_a_death_of_any_engine_is_suspected_at_the_death_of_another() -> None:
    suspects = Suspects()
    assert suspects.death(1, {1, 2, 3}) is None
    assert suspects.death(2, {3, 4, 5}) is None
    assert suspects.listed == [3]


def test_what_has_been_answered_since_is_suspected_no_more_whichever_engine_answered() -> None:
    suspects = Suspects()
    suspects.death(1, {1, 2, 3})
    suspects.answered([2, 3])
    suspects.death(2, {1, 4})
    assert suspects.listed == [1]


def test_the_court_is_the_engine_with_least_to_do_and_another_one_where_it_is_gone() -> None:
    suspects = Suspects()
    for engine in (1, 2):
        suspects.death(engine, {7, 8})
    assert suspects.court({}) is None
    assert suspects.court({1: 5, 3: 2}) == 3
    assert suspects.court({1: 0, 3: 2}) == 3  # it is on its way
    assert suspects.court({1: 5}) == 1


def test_a_death_beside_the_court_adds_suspects_and_acquits_none() -> None:
    suspects = Suspects()
    suspects.death(1, {1, 2, 3, 4})
    suspects.death(1, {1, 2, 3, 4})
    assert suspects.court({1: 0, 2: 9}) == 1 and suspects.group(lambda ticket: True) == [1, 2]
    suspects.death(2, {8, 9})
    suspects.death(2, {8, 9})
    assert sorted(suspects.listed) == [1, 2, 3, 4, 8, 9]
    assert suspects.death(1, {2}) == 2


def test_a_death_of_the_machine_blames_no_request() -> None:
    assert blames_no_request(["…", "[12.3] NVRM: Xid (PCI:0000:65:00): 79, GPU has fallen off the bus."])
    assert not blames_no_request(["RuntimeError: CPU Generator does not use offset"])


# -- with engines


POISON = b"poison"
ANSWERED_AT_A_LOOK = 2


class Fragile(NullEngine):
    """An engine that loads for some looks, answers two requests at a look, and dies when it comes to a poison.

    Args:
        loads: looks until it is loaded; infinite: it dies while it loads.
        has_an_accident: asked at each look whether it dies of something else.
    """

    def __init__(
        self, settings: EngineSettings, place: Place | None, loads: float, has_an_accident: Callable[[], bool]
    ) -> None:
        super().__init__(settings, place)
        self._has_an_accident = has_an_accident
        self._loaded, self.info = self.info, None
        self._loads = loads
        self._has: deque[Request] = deque()

    def room(self) -> int:
        return self.info.in_flight - len(self._has) if self.info else 0

    def send(self, requests: Sequence[Request]) -> None:
        self._has.extend(requests)

    def receive(self) -> list[Outcome]:
        self._loads -= 1
        if self._has_an_accident():
            raise EngineDied("an accident")
        if self._loads == math.inf:
            raise EngineDied("its GPU is gone")
        if self.info is None and self._loads < 0:
            self.info: EngineInfo | None = self._loaded
        answers: list[Outcome] = []
        while self._has and len(answers) < ANSWERED_AT_A_LOOK and POISON not in self._has[0].line:
            answers.append(self._answer(self._has.popleft()))
        if not answers and self._has:
            raise EngineDied("the poison was reached", ("RuntimeError: poison",))
        return answers


class Hunt:
    """A daemon with two such engines, driven pass by pass.

    Args:
        window: requests that each of them has at a time.

    Attributes:
        loads: looks for which an engine loads, by its place; what the other one has room for goes there meanwhile.
        accidents: what decides that an engine dies of nothing that it was sent; None: none does.
    """

    def __init__(self, spool: Path, poisons: set[int], window: int, requests: int) -> None:
        engine = {"kind": "null", "in_flight": 2 * window, "max_deaths": 1000, "null": {"engines": 2}}
        inbox = {"settle": 0.0, "settle_unproven": 0.0, "watch": "poll"}
        read = config.build({"spool": str(spool), "engine": engine, "inbox": inbox}, "test")
        self.loads: dict[int, float] = {1: 3, 2: 3}
        self.accidents: random.Random | None = None

        def made(model: Model, start: int, place: Place | None) -> Fragile:
            return Fragile(read.engine, place, self.loads[place.number if place else 1], self._has_an_accident)

        self.daemon = Daemon(read, made, Notifier({}), drain=False)
        self._outbox = spool / "outbox" / "b"
        self._now = time.monotonic()
        asked = [request(f"r{n}", "poison" if n in poisons else f"say {n}") for n in range(requests)]
        (spool / "inbox" / "b.jsonl").write_bytes(jsonl(asked))

    def _has_an_accident(self) -> bool:
        return self.accidents is not None and self.accidents.random() < 0.03

    def steps(self) -> Iterator[list[Traffic]]:
        """Step until the batch has ended; yield the engines' traffic after each."""
        for _ in range(1000):
            if (self._outbox / "receipt.json").exists():
                return
            self._now += 1.0
            self.daemon.step(self._now)
            yield list(self.daemon._dispatcher)
        raise AssertionError("the batch does not end")

    @property
    def queue(self) -> Queue | None:
        return next((life.queue for life in self.daemon._batches if life.running), None)

    @property
    def suspects(self) -> Suspects:
        """Those of the one model that there is."""
        return self.daemon._dispatcher._suspects.get("", Suspects())

    def guilty(self) -> set[int]:
        """The places of the requests that were found to kill engines."""
        errors = lines(self._outbox / "errors.jsonl")
        assert {error_of(one).code for one in errors} <= {"engine_crash"}
        return {int(one["custom_id"].removeprefix("r")) for one in errors}

    def deaths(self) -> list[int]:
        """How many engines died in each slot."""
        return [slot.deaths for slot in self.daemon._fleet]

    def answered(self) -> int:
        return int(orjson.loads((self._outbox / "receipt.json").read_bytes())["answers"])


@contextmanager
def hunting(poisons: set[int], window: int = 16, requests: int = 150) -> Iterator[Hunt]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        made = Hunt(Path(folder) / "spool", poisons, window, requests)
        try:
            yield made
        finally:
            made.daemon._shut_down()


def withheld(queue: Queue | None) -> set[int]:
    """The places that only the engine that seeks among them is given."""
    return {place for place, state in enumerate(queue.state if queue else b"") if state == _WITHHELD}


HOPPING = (20, 33, 48, 75, 100, 127)  # places of which the poison hops between the engines before it is found


@pytest.mark.parametrize("poison", HOPPING)
def test_a_poison_that_hops_between_two_engines_is_found_within_as_many_deaths_in_total(poison: int) -> None:
    with hunting({poison}) as hunt:
        for _ in hunt.steps():
            pass
        assert hunt.guilty() == {poison}
        assert hunt.answered() == 149
        assert min(hunt.deaths()) >= 1, "it killed both"
        assert sum(hunt.deaths()) <= bound(16)


@pytest.mark.parametrize("poison", HOPPING)
def test_a_suspect_is_not_handed_to_another_engine_while_it_is_sought(poison: int) -> None:
    sought = 0
    with hunting({poison}) as hunt:
        for traffic in hunt.steps():
            listed = set(hunt.suspects.listed)
            having = [one for one in traffic if listed & set(one._turns)]
            assert len(having) <= 1
            assert all(set(one._turns) <= listed for one in having)
            sought += hunt.suspects._court is not None
    assert sought > 0


@pytest.mark.parametrize("poison", HOPPING)
def test_while_one_engine_seeks_the_other_goes_on_with_everything_else(poison: int) -> None:
    settled: list[int] = []
    with hunting({poison}, requests=300) as hunt:
        for traffic in hunt.steps():
            if hunt.suspects.narrowing and hunt.suspects._court:
                settled += [one.settled for one in traffic if one.slot.number != hunt.suspects._court]
    assert max(settled) - min(settled) > 10


@pytest.mark.parametrize("poisons", [{poison} for poison in HOPPING] + [{20, 21, 22}, {0, 149}, {33, 90}])
def test_what_was_withheld_is_released_when_suspicion_ends(poisons: set[int]) -> None:
    most = 0
    with hunting(poisons) as hunt:
        for _ in hunt.steps():
            listed = {place_of(ticket) for ticket in hunt.suspects.listed}
            most = max(most, len(withheld(hunt.queue)))
            assert withheld(hunt.queue) <= listed
        assert hunt.guilty() == poisons
        assert hunt.answered() == 150 - len(poisons)
    assert most > 0


@pytest.mark.slow
@settings(max_examples=25)
@given(st.sets(st.integers(0, 79), max_size=4), st.integers(1, 24), st.integers(0, 5), st.integers(0, 5))
def test_two_engines_find_every_poison_and_nobody_else(poisons: set[int], window: int, first: int, second: int) -> None:
    with hunting(poisons, window, requests=80) as hunt:
        hunt.loads = {1: first, 2: second}
        for _ in hunt.steps():
            pass
        assert hunt.guilty() == poisons
        assert hunt.answered() == 80 - len(poisons)


@settings(max_examples=25)
@given(st.sets(st.integers(0, 79), max_size=2), st.integers(1, 24), st.integers(0, 1000))
def test_two_engines_end_all_requests_even_among_accidents(poisons: set[int], window: int, seed: int) -> None:
    with hunting(poisons, window, requests=80) as hunt:
        hunt.accidents = random.Random(seed)
        for _ in hunt.steps():
            assert withheld(hunt.queue) <= {place_of(ticket) for ticket in hunt.suspects.listed}
        assert hunt.guilty() >= poisons


@pytest.mark.parametrize("poison", HOPPING)
def test_suspects_of_an_engine_that_does_not_come_back_are_left_to_the_other(poison: int) -> None:
    with hunting({poison}) as hunt:
        for _ in hunt.steps():
            if (court := hunt.suspects._court) and math.inf not in hunt.loads.values():
                hunt.loads[court] = math.inf
        assert hunt.guilty() == {poison}
        assert hunt.answered() == 149
