"""Requests of a batch that are the same but for their custom_id: one is computed, each gets its answer.

Owns what one outcome means for the others. Which requests are the same was found when the file was read
(`request/reading`); never compares requests itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence

import orjson

from inbox_daemon.batch.books import Books
from inbox_daemon.records import Outcome, place_of, ticket
from inbox_daemon.request.output import copied_line, read_outcome, request_id
from inbox_daemon.slices import in_slices
from inbox_daemon.spool.ingest import Input

_TURN = 500  # places looked at between two pauses
_SLICE = 0.005  # seconds of copying between two pauses; each copy reads a line, which may be megabytes


class Twins:
    """The requests of one batch that have an earlier one's outcome.

    Args:
        id, number: of the batch; its requests' output lines and tickets are made of them.
    """

    def __init__(self, books: Books, source: Input, id: str, number: int) -> None:
        self._books, self._source, self._id, self._number = books, source, id, number
        self._owed: deque[tuple[Outcome, Iterator[int]]] = deque()  # outcomes, and whose they are as well

    def join(self) -> Generator[None, None, None]:
        """Have each request that is the same as an earlier one wait for that one's outcome. Yields now and then."""
        queue, index = self._books.queue, self._source.index
        joined = bytearray(len(queue))
        for place in range(len(queue)) if index.twins else ():
            twins = [] if joined[place] else list(index.twins_of(place))
            for twin in twins:
                joined[twin] = 1
            left = [twin for twin in twins if not queue.is_done(twin)]
            for twin in left:
                queue.follow(twin)
            if left and queue.is_done(place):  # after a crash between the two
                first = Outcome(ticket(self._number, place), self._books.outcomes.line(place))
                self._owed.append((first, iter(left)))
            if place % _TURN == 0:
                yield

    def owe(self, outcomes: Sequence[Outcome]) -> None:
        """Take note of outcomes that are recorded: for whom else each is the outcome, `pass_on` records it."""
        if self._source.index.twins:
            twins_of = self._source.index.twins_of
            self._owed += [(outcome, twins_of(place_of(outcome.ticket))) for outcome in outcomes]

    def pass_on(self, now: float) -> bool:
        """Record some of what is owed; say whether there is more. One outcome may be that of millions.

        `now` is monotonic seconds.
        """
        self._books.append(next(in_slices(self._copies(), _SLICE)), now)
        return bool(self._owed)

    def _copies(self) -> Iterator[Outcome]:
        while self._owed:
            outcome, twins = self._owed[0]
            if (twin := next(twins, None)) is None:
                self._owed.popleft()
                continue
            custom_id = orjson.loads(self._source.line(twin))["custom_id"]
            id = request_id(self._id, twin)
            line = copied_line(outcome.line, id, custom_id, self._source.number(twin))
            copied = read_outcome(line, ticket(self._number, twin))
            assert copied is not None, "what we have written ourselves can be read back"
            yield copied
