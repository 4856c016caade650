"""One batch's requests: which are left, in flight, done. Pure: knows places and counts, no files and no engine.

Owns the rule that one request is settled once, however often it was computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

_LEFT, _IN_FLIGHT, _DONE, _FOLLOWS = 0, 1, 2, 3


class Queue:
    """One batch's requests by place: left, in flight, done. One byte a request.

    Args:
        order: the places in the order to take them; empty: as they stand in the file.

    Attributes:
        left: neither in flight nor done; those that follow another, which gets their answer, among them.
        held: paused, parked or being cancelled: nothing more is taken.
        priority: of the batch; the higher one is served first.
    """

    def __init__(self, requests: int, order: Sequence[int] = ()) -> None:
        self._state = bytearray(requests)
        self._order = order
        self._cursor = 0
        self._returned: deque[int] = deque()
        self._following = 0
        self.left = requests
        self.in_flight = 0
        self.held = False
        self.priority = 0

    def __len__(self) -> int:
        return len(self._state)

    @property
    def done(self) -> int:
        return len(self._state) - self.left - self.in_flight

    @property
    def takeable(self) -> int:
        return 0 if self.held else self.left - self._following

    def take(self, count: int) -> list[int]:
        """Move up to `count` requests from left to in flight, in order, and return their places."""
        taken: list[int] = []
        while len(taken) < count and self._returned:
            place = self._returned.popleft()
            if self._state[place] == _LEFT:
                taken.append(place)
                self._state[place] = _IN_FLIGHT
        while len(taken) < count and (following := self._next()) is not None:
            taken.append(following)
            self._state[following] = _IN_FLIGHT
        self.left -= len(taken)
        self.in_flight += len(taken)
        return taken

    def _next(self) -> int | None:
        if not self._order:
            found = self._state.find(_LEFT, self._cursor)
            self._cursor = found + 1 if found >= 0 else len(self._state)
            return found if found >= 0 else None
        while self._cursor < len(self._order):
            place = self._order[self._cursor]
            self._cursor += 1
            if self._state[place] == _LEFT:
                return place
        return None

    def follow(self, place: int) -> None:
        """Have a request that is left wait for the outcome of another one, which becomes its own; it is not taken."""
        self._state[place] = _FOLLOWS
        self._following += 1

    def take_these(self, places: Iterable[int]) -> list[int]:
        """Move those of `places` that are left to in flight, whatever their turn, and return them."""
        taken = [place for place in places if self.is_left(place)]
        for place in taken:
            self._state[place] = _IN_FLIGHT
        self.left -= len(taken)
        self.in_flight += len(taken)
        return taken

    def is_left(self, place: int) -> bool:
        return not self.held and self._state[place] == _LEFT

    def settle(self, place: int) -> bool:
        """Note that a request has its outcome; False when it already had one, so that it is recorded once."""
        state = self._state[place]
        if state == _DONE:
            return False
        self._state[place] = _DONE
        if state == _IN_FLIGHT:
            self.in_flight -= 1
        else:
            self.left -= 1
            self._following -= state == _FOLLOWS
        return True

    def is_done(self, place: int) -> bool:
        return self._state[place] == _DONE

    def give_back(self) -> list[int]:
        """Move all that is in flight back to left, to be taken first, and return it: the engine that had it is gone."""
        places = list(_each(self._state, _IN_FLIGHT))
        for place in places:
            self._state[place] = _LEFT
        self._returned.extendleft(reversed(places))
        self.left += len(places)
        self.in_flight = 0
        return places

    def with_engine(self) -> Iterator[int]:
        """Yield the places that are in flight, in order."""
        return _each(self._state, _IN_FLIGHT)

    def remaining(self) -> Iterator[int]:
        """Yield the places that have no outcome and are not in flight."""
        yield from _each(self._state, _LEFT)
        yield from _each(self._state, _FOLLOWS)


def _each(state: bytearray, wanted: int) -> Iterator[int]:
    place = state.find(wanted)
    while place >= 0:
        yield place
        place = state.find(wanted, place + 1)
