"""Who may do what at the same time: one at a time under a name, and no more than so many at once. Of one event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

from inbox_daemon.web.wrong import Wrong


class Locks:
    """A lock for each name, for as long as somebody has it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def one(self, name: str) -> AsyncIterator[None]:
        """Be the only one in here under this name."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            yield


class Seats:
    """A number of seats, and how many of them one may have.

    Args:
        each: of one name; None: all of them.
    """

    def __init__(self, number: int, each: int | None = None) -> None:
        self._number, self._each = number, each if each is not None else number
        self._taken: Counter[str] = Counter()

    @contextmanager
    def seat(self, name: str) -> Iterator[bool]:
        """Have a seat in here; yields whether there was one."""
        has = self._taken.total() < self._number and self._taken[name] < self._each
        self._taken[name] += has
        try:
            yield has
        finally:
            self._taken[name] -= has
            if not self._taken[name]:
                del self._taken[name]

    @contextmanager
    def needed(self, name: str, what: str) -> Iterator[None]:
        """Have a seat in here. Raises Wrong where there is none; `what` says of what there are too many."""
        with self.seat(name) as has:
            if not has:
                said = f"Too many {what} at the same time; try again in a moment."
                raise Wrong(429, said, "too_many_at_once", type="rate_limit_error", headers={"retry-after": "2"})
            yield
