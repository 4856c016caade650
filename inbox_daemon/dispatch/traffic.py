"""What goes between the batches and one engine: requests out in fair shares, outcomes in, and what a death means.

Owns no batch and no engine. Whom a death accuses is not its business (`suspects`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TypeVar

from inbox_daemon.batch.life import Life
from inbox_daemon.batch.running import Running
from inbox_daemon.batches import Batches
from inbox_daemon.dispatch.share import share
from inbox_daemon.engine.slot import Slot
from inbox_daemon.errors import EngineDied
from inbox_daemon.journal import Message, of_engine, tell
from inbox_daemon.records import EngineInfo, Request, number_of, place_of

log = logging.getLogger(__name__)

_BEFORE_ALL = 1 << 33  # more turns than requests are ever sent; times `config.MOST_PRIORITY` it fits into 64 bits
_AT_ONCE = 8  # requests read before it is asked whether there is room for more

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Collected:
    """What has come back from one engine: tickets answered and not answered, or its death with those it had."""

    answered: Sequence[int] = ()
    recalled: Sequence[int] = ()
    died: EngineDied | None = None
    lost: Set[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.answered or self.recalled or self.died)


class Traffic:
    """The traffic of one engine, over all the engines that live in its slot.

    Attributes:
        settled: outcomes since the start, a mark of progress.
    """

    def __init__(self, slot: Slot, batches: Batches) -> None:
        self.slot = slot
        self._batches = batches
        self._turns: dict[int, int] = {}  # of all that is in flight here, by ticket
        self._of: Counter[int] = Counter()  # how many of them, by their batch's number
        self._recalled: set[int] = set()  # batches whose requests have been asked back
        self._next_turn: dict[int, int] = {}  # by the batch's number
        self._come_to = 0  # the latest turn that has its outcome
        self.settled = 0

    @property
    def in_flight(self) -> int:
        return len(self._turns)

    def places_of(self, life: Life) -> list[int]:
        """Return which of the batch's requests the engine has."""
        if not self._of[life.number]:
            return []
        return [place_of(ticket) for ticket in self._turns if number_of(ticket) == life.number]

    # -- out

    @property
    def room(self) -> int:
        """How many more requests the engine takes."""
        return self.slot.room() if self.slot.info else 0

    def feed(self, most: int) -> None:
        """Hand the batches' shares of the engine's room over, `most` requests together."""
        info, models = self.slot.info, self.slot.models
        lanes = [(life.number, lane) for life in self._batches if (lane := life.queue.lane(models))]
        for number, count in share(min(most, self.room), lanes):
            if info is not None and (found := self._batches.running(number)):
                self._batches.safely(found[0], partial(self._send, *found, count, info))

    def feed_these(self, tickets: Iterable[int]) -> None:
        """Hand these over, whatever their turn, where they are left."""
        info = self.slot.info
        for number, some in by_number(tickets, key=int).items():
            if info is not None and (found := self._batches.running(number)):
                self._batches.safely(found[0], partial(self._send_these, *found, some, info))

    def recall_what_is_held(self) -> None:
        """Ask the engine for the requests of batches that were cancelled, or let go: nobody waits for the answers."""
        for number in self._of.keys() - self._recalled:
            life = self._batches.get(number)
            if life is None or life.state.cancelled:
                self._recall(number)

    def recall_all(self) -> list[int]:
        """Ask the engine for all that it has, and return the tickets of that."""
        for number in self._of.keys() - self._recalled:
            self._recall(number)
        return list(self._turns)

    def has(self, ticket: int) -> bool:
        """Whether the engine has this request."""
        return ticket in self._turns

    def _recall(self, number: int) -> None:
        self._recalled.add(number)
        self.slot.recall([ticket for ticket in self._turns if number_of(ticket) == number])

    def _send(self, life: Life, running: Running, count: int, info: EngineInfo) -> None:
        """Hand over a batch's share, each request with its turn (start-time fair queueing, Goyal et al. 1996).

        A batch's turns follow one another, and begin no earlier than what the engine has come to: one that has just
        arrived comes in between what others have waiting there, not behind it. A higher priority comes before all.
        """
        turn = max(self._come_to, self._next_turn.get(life.number, 0))
        first = turn - life.queue.priority * _BEFORE_ALL
        requests: list[Request] = []
        room = self.slot.room_for_bytes()
        while len(requests) < count and room > 0:
            some = running.take(self.slot.models, min(_AT_ONCE, count - len(requests)), first + len(requests))
            if not some:
                break
            requests += some
            room -= sum(len(one.line) for one in some)
        self._next_turn[life.number] = turn + len(requests)
        self._hand_over(life, running, requests, turn, info)

    def _send_these(self, life: Life, running: Running, tickets: list[int], info: EngineInfo) -> None:
        requests = running.take_these([place_of(ticket) for ticket in tickets], 0)
        self._hand_over(life, running, requests, self._come_to, info)

    def _hand_over(self, life: Life, running: Running, requests: list[Request], turn: int, info: EngineInfo) -> None:
        if requests:
            running.note_engine(self.slot.start, info, self.slot.model if "" in self.slot.models else None)
            self._turns.update({request.ticket: turn + at for at, request in enumerate(requests)})
            self._of[life.number] += len(requests)
            self.slot.send(requests)

    # -- in

    def collect(self, now: float, proven: bool) -> Collected:
        """Record what has come back, or take back what was in flight.

        Raises:
            ConfigError: vLLM does not accept the settings, and never has (`proven`).
        """
        try:
            outcomes = self.slot.receive(now, proven)
        except EngineDied as died:
            return Collected(died=died, lost=self._take_back(died))
        for number, arrived in by_number(outcomes, key=attrgetter("ticket")).items():
            if found := self._batches.running(number):
                life, running = found
                self._batches.safely(life, partial(running.settle, arrived, now))
            self._has_less(number, len(arrived))
        answered = [outcome.ticket for outcome in outcomes]
        self._come_to = max(self._come_to, max((self._turns.pop(ticket, 0) for ticket in answered), default=0))
        self.settled += len(outcomes)
        recalled = self.slot.recalled()
        for number, back in by_number(recalled, key=int).items():
            if found := self._batches.running(number):
                found[1].give_back([place_of(ticket) for ticket in back])
            self._has_less(number, len(back))
        for ticket in recalled:
            self._turns.pop(ticket, None)
        self._next_turn = {number: turn for number, turn in self._next_turn.items() if number in self._batches}
        return Collected(answered, recalled)

    def _has_less(self, number: int, count: int) -> None:
        """Note that so many requests of a batch are not in flight any more."""
        self._of[number] -= count
        if self._of[number] <= 0:
            del self._of[number]
            self._recalled.discard(number)

    def _take_back(self, died: EngineDied) -> set[int]:
        """However an engine ended: what it had runs again. Return the tickets of that."""
        slot = self.slot
        died_with = "".join(f"\n    {line}" for line in died.log)
        logger = of_engine(log, slot.start)
        logger.error("%s died: %s%s", slot.name, died.reason, died_with, extra=tell(Message.ENGINE_DIED))
        if slot.failures:
            told = (slot.name, slot.back_off, slot.failures)
            logger.warning("%s starts again in %.0f s; loads in a row that failed: %d", *told)
        lost = {ticket for ticket in self._turns if number_of(ticket) in self._batches}
        self._turns.clear()
        self._of.clear()
        self._recalled.clear()
        for number, tickets in by_number(lost, key=int).items():
            if (life := self._batches.get(number)) is not None:
                self._batches.safely(life, partial(life.engine_died, died, [place_of(ticket) for ticket in tickets]))
        return lost


def by_number(things: Iterable[T], key: Callable[[T], int]) -> dict[int, list[T]]:
    """Sort tickets, or things that carry one, by the number of the batch they belong to."""
    found: dict[int, list[T]] = {}
    for thing in things:
        found.setdefault(number_of(key(thing)), []).append(thing)
    return found
