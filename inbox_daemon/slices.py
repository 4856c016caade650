"""Long work in slices of time, so that the loop is never kept for long. Owns the clock's part, nothing of the work."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

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
