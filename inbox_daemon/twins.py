"""Requests of a batch that are the same but for their custom_id: one is computed, each gets its answer.

Owns what one outcome means for the others. Which requests are the same was found when the file was read
(`spool/reading`); never compares requests itself.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence

import orjson

from inbox_daemon import batch
from inbox_daemon.ledger import Ledger
from inbox_daemon.records import Outcome, place_of, ticket
from inbox_daemon.spool.ingest import Input

_TURN = 500  # places looked at between two pauses


class Twins:
    """Args: slot: of the batch, part of its requests' tickets."""

    def __init__(self, ledger: Ledger, source: Input, slot: int) -> None:
        self._ledger, self._source, self._slot = ledger, source, slot

    def join(self) -> Generator[None, None, None]:
        """Have each request that is the same as an earlier one wait for that one's outcome, or give it at once.

        The latter after a crash between the two. Yields now and then.
        """
        queue, index = self._ledger.queue, self._source.index
        joined = bytearray(len(queue))
        for place in range(len(queue)) if index.twins else ():
            twins = [] if joined[place] else list(index.twins_of(place))
            for twin in twins:
                joined[twin] = 1
            left = [twin for twin in twins if not queue.is_done(twin)]
            if left and queue.is_done(place):
                first = Outcome(ticket(self._slot, place), self._ledger.outcomes.line(place))
                self._ledger.append(list(self._copies(first, left)), time.monotonic())
            for twin in left:
                if not queue.is_done(twin):
                    queue.follow(twin)
            if place % _TURN == 0:
                yield

    def record(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Record outcomes, and for whom else each is the outcome. `now` is monotonic seconds."""
        if self._source.index.twins:
            twins_of = self._source.index.twins_of
            outcomes = [
                one
                for outcome in outcomes
                for one in (outcome, *self._copies(outcome, twins_of(place_of(outcome.ticket))))
            ]
        self._ledger.append(outcomes, now)

    def _copies(self, outcome: Outcome, twins: Iterable[int]) -> Iterator[Outcome]:
        for twin in twins:
            custom_id = orjson.loads(self._source.line(twin))["custom_id"]
            id = batch.request_id(self._ledger.work.id, twin)
            line = batch.copied_line(outcome.line, id, custom_id, self._source.number(twin))
            copied = batch.read_outcome(line, ticket(self._slot, twin))
            assert copied is not None, "what we have written ourselves can be read back"
            yield copied
