"""What waits for each model: how much, how urgent, since when; and how fast each model works off what it gets.

Looks at batches and at one engine's counts. What follows from it is decided in `turns`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from inbox_daemon.batch.life import Life

_WINDOW = 60.0  # seconds of work over which a model's speed is measured


@dataclass(frozen=True, slots=True)
class Need:
    """What there is to do for one model.

    Attributes:
        priority: the highest of it.
        since: monotonic seconds from which the one that has waited longest could have run.
        left: requests, of all batches; `shortest` is what the batch with fewest has.
    """

    priority: int
    since: float
    left: int
    shortest: int


class Demand:
    """What batches need, as of the last `look`. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}  # from when on each batch could have run, but for its models
        self._lives: list[Life] = []

    def look(self, lives: Iterable[Life], now: float) -> None:
        """Take note of what there is. A batch waits since its claim, or since it was held last."""
        self._lives = [life for life in lives if life.running is not None]
        before = self._since
        self._since = {
            life.number: now if life.queue.held else before.get(life.number, now - life.face.age)
            for life in self._lives
        }

    def of(self, lanes: Collection[str]) -> Need | None:
        """Return what there is to do for the model that these lanes are for; None: nothing."""
        wanting = []
        for life in self._lives:
            left = sum(lane.left + lane.in_flight for lane in life.queue.lanes_for(lanes) if lane.wants_engine)
            if left:
                wanting.append((life.queue.priority, self._since[life.number], left))
        if not wanting:
            return None
        priorities, since, left_of = zip(*wanting, strict=True)
        return Need(max(priorities), min(since), sum(left_of), min(left_of))

    def say_who_waits(self, lanes: Collection[str], waits: bool) -> None:
        """Have the batches know whether the model of these lanes is still to come: nobody knows how long that takes."""
        for life in self._lives:
            for lane in life.queue.lanes_for(lanes):
                lane.waits = waits


@dataclass(slots=True)
class Speed:
    """How many requests a second a model answers, over the last minute in which it had some."""

    _marks: deque[tuple[float, int]] = field(default_factory=deque)  # seconds of work, and what was answered by then
    _worked: float = 0.0
    _looked_at: float | None = None

    def mark(self, now: float, settled: int, at_work: bool) -> None:
        """Take note of what has been answered by now; `at_work` says whether there has been something to answer."""
        if at_work:
            self._worked += now - self._looked_at if self._looked_at is not None else 0.0
            self._marks.append((self._worked, settled))
            while len(self._marks) > 2 and self._worked - self._marks[1][0] >= _WINDOW:
                self._marks.popleft()
        self._looked_at = now if at_work else None

    @property
    def requests(self) -> float | None:
        """Requests a second; None while nobody knows."""
        if len(self._marks) < 2:
            return None
        (began, before), (now, done) = self._marks[0], self._marks[-1]
        return (done - before) / (now - began) if now > began and done > before else None
