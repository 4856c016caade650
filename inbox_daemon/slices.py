"""Long work in slices of time, so that the loop is never kept for long. Owns the clock's part, nothing of the work."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar, cast

T = TypeVar("T")


def in_slices(things: Iterable[T], seconds: float) -> Iterator[list[T]]:
    """Yield what comes within so many seconds at a time, or one thing that takes longer; the last may be empty."""
    gathered: list[T] = []
    until = time.monotonic() + seconds
    for thing in things:
        gathered.append(thing)
        if time.monotonic() >= until:
            yield gathered
            gathered, until = [], time.monotonic() + seconds
    yield gathered


def for_a_while(jobs: deque[Iterator[None]], seconds: float) -> None:
    """Go on with the first of these jobs, and with those after it, for so long or for one step."""
    until = time.monotonic() + seconds
    while jobs:
        try:
            next(jobs[0])
        except StopIteration:
            jobs.popleft()
        if time.monotonic() >= until:
            return


def busily(
    steps: Generator[object, None, T], pausing: Callable[[bool], None] = lambda busy: None
) -> Generator[bool, None, T]:
    """Pass a long step's pauses on, as True unless it says False, and its result back.

    Args:
        pausing: called at each of them; what it raises ends the step.
    """
    while True:
        try:
            busy = next(steps) is not False
        except StopIteration as end:
            return cast(T, end.value)
        pausing(busy)
        yield busy
