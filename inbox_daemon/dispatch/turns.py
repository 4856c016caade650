"""Whose turn it is on a set of GPUs: which model to load next, and which to let go for it.

Pure: knows models by name, what waits for each, and the clock as an argument. A model stays while it has work and
nobody has waited for long; one that was loaded works long enough for its load to be a small share of the time.
INTERNALS has the figures by which the constants were chosen. Never decides how a model is loaded, nor which of its
requests go first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

_THERE_AND_BACK = 2.0  # swaps that leaving now would cost: what ends sooner is finished first
_SHARE = 0.1  # of the time, at most, that goes into swapping while all have work
_SHARE_FOR_URGENT = 0.5  # a higher priority waits for no more than the time of one swap
# How long others wait, where the settings leave it open: so many swaps, and in seconds at least and at most.
_MAX_WAIT = (15.0, 30.0, 900.0)
_LONGEST_WAIT = (120.0, 300.0, 7200.0)

Fits = Callable[[Collection[str]], bool]  # whether these models may be in memory at the same time


@dataclass(frozen=True, slots=True)
class Hot:
    """A model that answers, or is being loaded. Times are in seconds of one clock, here and below.

    Attributes:
        since: when it was ready; while it loads, when it will be.
        priority: the highest of what it has to do; None: nothing.
        left: seconds until that is done, where anybody knows.
        idle_since: when it ran out of work.
        stays: it answers what it was interrupted in before, and is not to be interrupted in that again.
    """

    model: str
    since: float
    priority: int | None
    left: float | None = None
    idle_since: float = 0.0
    stays: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A model for which somebody waits.

    Attributes:
        priority: the highest of what waits.
        since: for how long that has waited: since it came, or since the model was last let go.
        swap: seconds that making room and loading it takes, as measured last, else as guessed.
        work: seconds that the shortest of what waits would take; None: nobody knows, and it counts as short.
    """

    model: str
    priority: int
    since: float
    swap: float
    work: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What to do: let these go, then load that one."""

    load: str
    let_go: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turns:
    """The rule.

    Args:
        max_wait: seconds after which a model gets its turn though another one of the same priority has work: if what
            waits is shorter than what the other has left. 0: in proportion to what a swap costs.
        longest_wait: the same for everything.
    """

    max_wait: float = 0.0
    longest_wait: float = 0.0

    def next(self, now: float, hot: Sequence[Hot], waiting: Sequence[Waiting], fits: Fits) -> Change | None:
        """Return what to do now; None: all stays as it is. Of equals the one that `waiting` has first goes first."""
        for wish in _in_turn(waiting):
            let_go = self._room_for(wish, hot, now, fits)
            if let_go is not None:
                return Change(wish.model, let_go)
        return None

    def due(self, now: float, hot: Sequence[Hot], waiting: Sequence[Waiting]) -> dict[str, float | None]:
        """Return for each that waits when room is made for it, at the latest, if nobody else comes; for people.

        None: when what is more urgent is done, and nobody knows when that is.
        """
        found: dict[str, float | None] = {}
        in_the_way = [one for one in hot if one.priority is not None]
        for wish in _in_turn(waiting):
            at = max(now, min((self._gives_way(wish, one, now) for one in in_the_way), default=now))
            found[wish.model] = at if at < float("inf") else None
            in_the_way = [Hot(wish.model, at + wish.swap, wish.priority)]  # then it is that one's turn
        return found

    def _gives_way(self, wish: Waiting, one: Hot, now: float) -> float:
        """Return when a model gives way to this one at the latest."""
        if one.priority is not None and wish.priority < one.priority:
            return max(now, one.since) + (float("inf") if one.left is None else one.left)
        return max(one.since + self.turn(wish, one), wish.since + self._patience(wish, one))

    def turn(self, wish: Waiting, one: Hot) -> float:
        """Return the seconds that a model works, once loaded, before it is let go for this one."""
        higher = one.priority is not None and wish.priority > one.priority
        share = _SHARE_FOR_URGENT if higher else _SHARE
        return wish.swap * (1 - share) / share

    def _room_for(self, wish: Waiting, hot: Sequence[Hot], now: float, fits: Fits) -> tuple[str, ...] | None:
        may_go = sorted((one for one in hot if self._may_go(one, wish, now)), key=_least_needed)
        stays = [one.model for one in hot]
        let_go: list[str] = []
        while not fits([*stays, wish.model]):
            if not may_go:
                return None
            let_go.append(may_go.pop(0).model)
            stays.remove(let_go[-1])
        return tuple(let_go)

    def _may_go(self, one: Hot, wish: Waiting, now: float) -> bool:
        if one.priority is None:
            return True
        if one.stays or wish.priority < one.priority or now - one.since < self.turn(wish, one):
            return False
        return now - wish.since >= self._patience(wish, one)

    def _patience(self, wish: Waiting, one: Hot) -> float:
        """Return for how long what waits is to wait for what the other has left."""
        if one.priority is not None and wish.priority > one.priority:
            return 0.0
        left = float("inf") if one.left is None else one.left
        shorter = (wish.work or 0.0) + _THERE_AND_BACK * wish.swap < left
        max_wait = self.max_wait or _in_proportion(wish.swap, *_MAX_WAIT)
        return max_wait if shorter else max(max_wait, self.longest_wait or _in_proportion(wish.swap, *_LONGEST_WAIT))


def _in_turn(waiting: Sequence[Waiting]) -> list[Waiting]:
    return sorted(waiting, key=lambda one: (-one.priority, one.since))


def _in_proportion(swap: float, times: float, least: float, most: float) -> float:
    return min(most, max(least, times * swap))


def _least_needed(one: Hot) -> tuple[bool, int, float]:
    idle = one.priority is None
    return not idle, 0 if one.priority is None else one.priority, one.idle_since if idle else one.since
