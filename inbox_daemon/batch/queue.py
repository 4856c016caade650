"""One batch's requests: which are left, in flight, done. Pure: knows places and counts, no files and no engine.

Owns the rule that one request is settled once, however often it was computed, and which request of a batch is next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence

_LEFT, _IN_FLIGHT, _DONE, _FOLLOWS, _WITHHELD = range(5)


class Lane:
    """What one batch has for one model: its requests, in the order to compute them.

    Attributes:
        model: which alone may answer them.
        total: how many there are, whatever has become of them.
        waits: its model is not loaded; others have their turn.
        left: neither in flight nor done; those that follow another, and those withheld, among them.
        in_flight: over all engines.
    """

    def __init__(self, queue: Queue, model: str, number: int) -> None:
        self.model = model
        self._queue, self._number = queue, number
        self._cursor = 0
        self._returned: deque[int] = deque()
        self._following = 0  # wait for the outcome of another request
        self._withheld = 0  # wait for `take_these`
        self.waits = False
        self.left = self.total = 0
        self.in_flight = 0

    @property
    def priority(self) -> int:
        return self._queue.priority

    @property
    def takeable(self) -> int:
        return 0 if self._queue.held else self.left - self._following - self._withheld

    @property
    def wants_engine(self) -> bool:
        """Whether an engine has something of it, or there is something to hand to one."""
        return self.in_flight > 0 or (not self._queue.held and self.left > self._following)

    def take(self, count: int) -> list[int]:
        """Move up to `count` requests from left to in flight, in order, and return their places."""
        state = self._queue.state
        taken: list[int] = []
        while len(taken) < count and self._returned:
            place = self._returned.popleft()
            if state[place] == _LEFT:
                taken.append(place)
                state[place] = _IN_FLIGHT
        while len(taken) < count and (following := self._next()) is not None:
            taken.append(following)
            state[following] = _IN_FLIGHT
        self.left -= len(taken)
        self.in_flight += len(taken)
        return taken

    def _next(self) -> int | None:
        queue = self._queue
        if queue.order:
            while self._cursor < len(queue.order):
                place = queue.order[self._cursor]
                self._cursor += 1
                if queue.state[place] == _LEFT and queue.number_of(place) == self._number:
                    return place
            return None
        while (found := queue.state.find(_LEFT, self._cursor)) >= 0:
            self._cursor = found + 1
            if queue.number_of(found) == self._number:
                return found
        self._cursor = len(queue)
        return None

    def moved(self, before: int, after: int, place: int) -> None:
        """Count a request that has changed its state."""
        self.in_flight += (after == _IN_FLIGHT) - (before == _IN_FLIGHT)
        self.left += _is_left(after) - _is_left(before)
        self._following += (after == _FOLLOWS) - (before == _FOLLOWS)
        self._withheld += (after == _WITHHELD) - (before == _WITHHELD)
        if after == _LEFT:
            self._returned.append(place)

    def returned(self, places: Sequence[int]) -> None:
        """Have these, which were in flight, be the first to be taken."""
        for place in places:
            self._queue.state[place] = _LEFT
        self._returned.extendleft(reversed(places))
        self.left += len(places)
        self.in_flight -= len(places)


class Queue:
    """One batch's requests by place: one byte a request for its state, and one for its model where there are several.

    Args:
        order: the places in the order to take them; empty: as they stand in the file.
        models: of the batch's requests.
        which: for each place the number of its model in `models`; empty: all have the first.

    Attributes:
        held: paused, parked or being cancelled: nothing more is taken.
        priority: of the batch; the higher one is served first.
        lanes: one for each model, in their order.
    """

    def __init__(
        self, requests: int, order: Sequence[int] = (), models: Sequence[str] = ("",), which: Sequence[int] = ()
    ) -> None:
        self.state = bytearray(requests)
        self.order = order
        self._which = which
        self.held = False
        self.priority = 0
        self.lanes = [Lane(self, model, number) for number, model in enumerate(models)]
        for number, lane in enumerate(self.lanes):
            lane.left = lane.total = which.count(number) if which else 0
        if not which:
            self.lanes[0].left = self.lanes[0].total = requests

    def __len__(self) -> int:
        return len(self.state)

    @property
    def left(self) -> int:
        return sum(lane.left for lane in self.lanes)

    @property
    def in_flight(self) -> int:
        return sum(lane.in_flight for lane in self.lanes)

    @property
    def takeable(self) -> int:
        return sum(lane.takeable for lane in self.lanes)

    @property
    def done(self) -> int:
        return len(self.state) - self.left - self.in_flight

    def model_of(self, place: int) -> str:
        """Return the model that alone may answer a request; "": whichever comes first."""
        return self.lanes[self.number_of(place)].model

    def number_of(self, place: int) -> int:
        """Return the number of the lane that a request is in."""
        return self._which[place] if self._which else 0

    def lanes_for(self, models: Collection[str]) -> list[Lane]:
        """Return what these models may answer; "" among them: what was accepted without a model's name."""
        return [lane for lane in self.lanes if lane.model in models]

    def lane(self, models: Collection[str]) -> Lane | None:
        """Return the first of them that has something to be taken, or else the first, if there is one."""
        lanes = self.lanes_for(models)
        return next((lane for lane in lanes if lane.takeable), lanes[0] if lanes else None)

    def bind(self, model: str) -> None:
        """Have what was accepted without a model's name be this one's."""
        for lane in self.lanes:
            lane.model = lane.model or model

    def _set(self, place: int, after: int) -> None:
        before, self.state[place] = self.state[place], after
        self.lanes[self.number_of(place)].moved(before, after, place)

    def follow(self, place: int) -> None:
        """Have a request that is left wait for the outcome of another one, which becomes its own; it is not taken."""
        self._set(place, _FOLLOWS)

    def withhold(self, place: int) -> None:
        """Have a request that is left be taken by `take_these` alone: it may be the one that kills engines."""
        if self.state[place] == _LEFT:
            self._set(place, _WITHHELD)

    def release(self, place: int) -> None:
        """End what `withhold` began."""
        if self.state[place] == _WITHHELD:
            self._set(place, _LEFT)

    def take_these(self, places: Iterable[int]) -> list[int]:
        """Move those of `places` that are left to in flight, whatever their turn, and return them."""
        taken = [place for place in places if self.is_left(place)]
        for place in taken:
            self._set(place, _IN_FLIGHT)
        return taken

    def is_left(self, place: int) -> bool:
        return not self.held and self.state[place] in (_LEFT, _WITHHELD)

    def settle(self, place: int) -> bool:
        """Note that a request has its outcome; False when it already had one, so that it is recorded once."""
        before = self.state[place]
        if before == _DONE:
            return False
        if before == _IN_FLIGHT:  # as nearly all are
            self.state[place] = _DONE
            self.lanes[self.number_of(place)].in_flight -= 1
        else:
            self._set(place, _DONE)
        return True

    def is_done(self, place: int) -> bool:
        return self.state[place] == _DONE

    def give_back(self, places: Iterable[int]) -> list[int]:
        """Move those of `places` that are in flight back to left, to be taken first, and return them, in order."""
        given = sorted(place for place in places if self.state[place] == _IN_FLIGHT)
        for number, lane in enumerate(self.lanes):
            lane.returned([place for place in given if self.number_of(place) == number])
        return given

    def remaining(self) -> Iterator[int]:
        """Yield the places that have no outcome and are not in flight."""
        for state in (_LEFT, _FOLLOWS, _WITHHELD):
            yield from _each(self.state, state)


def _is_left(state: int) -> bool:
    return state in (_LEFT, _FOLLOWS, _WITHHELD)


def _each(state: bytearray, wanted: int) -> Iterator[int]:
    place = state.find(wanted)
    while place >= 0:
        yield place
        place = state.find(wanted, place + 1)
