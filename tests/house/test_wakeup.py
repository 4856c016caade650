"""The loop sleeps until there is something to do, however many files it has open."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from inbox_daemon.config import Config, EngineSettings, NullSettings
from inbox_daemon.config.models import Model
from inbox_daemon.engine import Place
from inbox_daemon.engine.fleet import Fleet
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.settings import Settings
from inbox_daemon.wakeup import Wakeup

LONG = 60.0  # seconds; whoever sleeps so long was not woken


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(30)
def test_an_engine_whose_descriptor_is_beyond_select_is_heard(many_files: None) -> None:
    read, write = os.pipe()
    engine = 3000
    os.dup2(read, engine)
    os.write(write, b"an answer")
    Wakeup().sleep(LONG, engine)
    for descriptor in (read, write, engine):
        os.close(descriptor)


@pytest.mark.timeout(30)
def test_word_from_another_thread_ends_the_sleep() -> None:
    wakeup = Wakeup()
    teller = threading.Thread(target=wakeup.wake)
    teller.start()
    wakeup.sleep(LONG, None)
    teller.join()


# -- several engines


ENGINES = 3


class Speaking(NullEngine):
    """An engine with a descriptor, as one with a worker has it; `theirs` is the worker's end."""

    def __init__(self, settings: EngineSettings, place: Place | None) -> None:
        super().__init__(settings, place)
        self.ours, self.theirs = socket.socketpair()

    def fileno(self) -> int | None:
        return self.ours.fileno()

    def kill(self) -> None:
        super().kill()
        for end in (self.ours, self.theirs):
            end.close()


class Several:
    """A fleet of such engines, all started. Attributes: engines: those that live now, by their place."""

    def __init__(self) -> None:
        settings = EngineSettings(kind="null", null=NullSettings(engines=ENGINES))
        self.engines: dict[int, Speaking] = {}

        def made(model: Model, start: int, place: Place | None) -> Speaking:
            number = place.number if place else 1
            self.engines[number] = Speaking(settings, place)
            return self.engines[number]

        self.fleet = Fleet(made, Settings(Config(engine=settings)))
        self._wakeup = Wakeup()
        self.start()

    def start(self) -> None:
        """Start the engines that are missing; which others there are, the first one tells."""
        for _ in range(2):
            self.fleet.ensure({""}, time.monotonic())
        assert len(self.engines) == ENGINES and all(slot.occupied for slot in self.fleet)

    def hear(self) -> None:
        """Sleep until an engine has something to say; for ever where none is heard."""
        self._wakeup.sleep(LONG, self.fleet.fileno())

    def say_nothing(self) -> bool:
        """Whether nothing ends a short sleep."""
        began = time.monotonic()
        self._wakeup.sleep(0.05, self.fleet.fileno())
        return time.monotonic() - began >= 0.04


@pytest.fixture
def several() -> Iterator[Several]:
    made = Several()
    yield made
    made.fleet.end()
    made.fleet.close()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("number", range(1, ENGINES + 1))
def test_word_from_any_of_several_engines_ends_the_sleep(several: Several, number: int) -> None:
    assert several.say_nothing()
    several.engines[number].theirs.send(b"an answer")
    several.hear()
    several.engines[number].ours.recv(100)
    assert several.say_nothing()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("number", range(1, ENGINES + 1))
def test_the_end_of_any_of_several_engines_ends_the_sleep(several: Several, number: int) -> None:
    several.fleet.fileno()
    several.engines[number].theirs.close()
    several.hear()


@pytest.mark.timeout(30)
def test_room_in_an_engines_socket_ends_the_sleep_where_something_waits_for_it_and_only_there(several: Several) -> None:
    assert several.say_nothing()
    several.engines[2].unsent = True
    several.hear()
    several.engines[2].unsent = False
    assert several.say_nothing()


@pytest.mark.timeout(30)
def test_an_engine_that_took_a_dead_ones_descriptor_is_heard(several: Several) -> None:
    several.fleet.fileno()
    dead = several.engines[2]
    number = dead.fileno()
    several.fleet.slots[1].end()
    assert several.say_nothing()
    several.start()
    heard = several.engines[2]
    assert heard is not dead and heard.fileno() == number, "the kernel gives the lowest number that is free"
    heard.theirs.send(b"an answer")
    several.hear()


@pytest.mark.timeout(30)
def test_an_engine_that_took_a_dead_ones_descriptor_between_two_looks_is_heard(several: Several) -> None:
    several.fleet.fileno()
    number = several.engines[2].fileno()
    several.fleet.slots[1].end()
    several.start()
    assert several.engines[2].fileno() == number
    several.engines[2].theirs.send(b"an answer")
    several.hear()


def test_engines_without_a_descriptor_or_no_engines_have_none_to_wait_on() -> None:
    settings = EngineSettings(kind="null", null=NullSettings(engines=ENGINES))
    with closing(
        Fleet(lambda model, start, place: NullEngine(settings, place), Settings(Config(engine=settings)))
    ) as fleet:
        assert fleet.fileno() is None
        fleet.ensure({""}, time.monotonic())
        assert fleet.fileno() is None
