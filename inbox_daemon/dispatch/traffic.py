"""What goes between the batches and the engine: requests out in fair shares, outcomes in, and what a death means.

Owns no batch and no engine. While a request that kills the engine is sought, only the suspects are handed out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import TypeVar

from inbox_daemon.batch.life import Life
from inbox_daemon.dispatch.share import share
from inbox_daemon.dispatch.suspects import Suspects, blames_no_request
from inbox_daemon.engine.slot import EngineSlot
from inbox_daemon.errors import EngineDied
from inbox_daemon.journal import Message, of_engine, tell
from inbox_daemon.records import EngineInfo, Request, place_of, slot_of

log = logging.getLogger(__name__)

_BEFORE_ALL = 1 << 33  # more turns than requests are ever sent; times `config.MOST_PRIORITY` it fits into 64 bits
_AT_ONCE = 8  # requests read before it is asked whether there is room for more

T = TypeVar("T")


class Traffic:
    """Attributes: settled: outcomes since the start, a mark of progress."""

    def __init__(
        self, engine: EngineSlot, lives: Mapping[int, Life], safely: Callable[[Life, Callable[[], object]], bool]
    ) -> None:
        self._engine = engine
        self._lives = lives
        self._safely = safely
        self._suspects = Suspects()
        self._turns: dict[int, int] = {}  # of what is in flight, by ticket
        self._next_turn: dict[int, int] = {}  # by slot
        self._come_to = 0  # the latest turn that has its outcome
        self.settled = 0

    @property
    def in_flight(self) -> int:
        return sum(life.queue.in_flight for life in self._lives.values())

    def feed(self) -> None:
        """Hand requests to the engine: the batches' shares of its room, or suspects alone while one is sought."""
        info = self._engine.info
        if info is None:
            return
        if self._suspects.narrowing:
            if self._engine.room() >= info.in_flight:  # it has nothing, whatever batches may have been let go
                for slot, group in _by_slot(self._suspects.group(self._may_run), key=int).items():
                    self._safely(self._lives[slot], partial(self._send_these, self._lives[slot], group, info))
            return
        for slot, count in share(self._engine.room(), [(life.slot, life.queue) for life in self._lives.values()]):
            self._safely(self._lives[slot], partial(self._send, self._lives[slot], count, info))

    def collect(self, now: float, max_deaths: int) -> bool:
        """Record what has come back, or take back what was in flight. Say whether anything has come."""
        try:
            outcomes = self._engine.receive(now)
        except EngineDied as died:
            self._take_back(died, max_deaths)
            return True
        for slot, arrived in _by_slot(outcomes, key=attrgetter("ticket")).items():
            if slot in self._lives:
                self._safely(self._lives[slot], partial(self._lives[slot].settle, arrived, now))
        done = (self._turns.pop(outcome.ticket, 0) for outcome in outcomes)
        self._come_to = max(self._come_to, max(done, default=0))
        self._next_turn = {slot: turn for slot, turn in self._next_turn.items() if slot in self._lives}
        self.settled += len(outcomes)
        return bool(outcomes)

    def _send(self, life: Life, count: int, info: EngineInfo) -> None:
        """Hand over a batch's share, each request with its turn (start-time fair queueing, Goyal et al. 1996).

        A batch's turns follow one another, and begin no earlier than what the engine has come to: one that has just
        arrived comes in between what others have waiting there, not behind it. A higher priority comes before all.
        """
        turn = max(self._come_to, self._next_turn.get(life.slot, 0))
        first = turn - life.queue.priority * _BEFORE_ALL
        requests: list[Request] = []
        room = self._engine.room_for_bytes()
        while len(requests) < count and room > 0:
            some = life.take(min(_AT_ONCE, count - len(requests)), info, first + len(requests))
            requests += some
            room = room - sum(len(one.line) for one in some) if some else 0
        self._next_turn[life.slot] = turn + len(requests)
        self._turns.update({request.ticket: turn + at for at, request in enumerate(requests)})
        self._engine.send(requests)

    def _send_these(self, life: Life, tickets: list[int], info: EngineInfo) -> None:
        self._engine.send(life.take_these([place_of(ticket) for ticket in tickets], info))

    def _may_run(self, ticket: int) -> bool:
        life = self._lives.get(slot_of(ticket))
        return life is not None and life.queue.is_left(place_of(ticket))

    def _take_back(self, died: EngineDied, max_deaths: int) -> None:
        """However an engine ended: what it had runs again, unless one request is found to have ended it."""
        died_with = "".join(f"\n    {line}" for line in died.log)
        logger = of_engine(log, self._engine.starts)
        logger.error("engine died: %s%s", died.reason, died_with, extra=tell(Message.ENGINE_DIED))
        if self._engine.failures:
            told = (self._engine.back_off, self._engine.failures)
            logger.warning("engine starts again in %.0f s; loads in a row that failed: %d", *told)
        self._turns.clear()
        in_flight: set[int] = set()
        for life in list(self._lives.values()):
            self._safely(life, partial(life.engine_died, died, max_deaths, in_flight))
        if blames_no_request(died.log):
            self._suspects.clear()
            return
        guilty = self._suspects.death(in_flight)
        if guilty is not None and slot_of(guilty) in self._lives:
            life = self._lives[slot_of(guilty)]
            self._safely(life, partial(life.convict, place_of(guilty), died))


def _by_slot(things: Iterable[T], key: Callable[[T], int]) -> dict[int, list[T]]:
    """Sort tickets, or things that carry one, by the batch they belong to."""
    found: dict[int, list[T]] = {}
    for thing in things:
        found.setdefault(slot_of(key(thing)), []).append(thing)
    return found
