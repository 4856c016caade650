"""What a batch needs to go on, beside an engine that lives: memory, room on the disk, an engine of its own model.

Looks, and notes in `State` what is lacking. What is to be done about it, `life` decides.
"""

from __future__ import annotations

import time

from inbox_daemon.batch.books import Books
from inbox_daemon.batch.face import Face
from inbox_daemon.batch.memory import IN_WORK, WHILE_READ, Memory
from inbox_daemon.batch.queue import Queue
from inbox_daemon.batch.state import State
from inbox_daemon.machine import disk
from inbox_daemon.settings import Settings

_LOOK_EVERY = 2.0  # seconds between two looks at the disk's free space


class Needs:
    """The needs of one batch."""

    def __init__(self, number: int, state: State, face: Face, settings: Settings, memory: Memory) -> None:
        self._number, self._state, self._face, self._settings = number, state, face, settings
        self._memory = memory
        self._looked_at = float("-inf")

    def look_for_room(self, to_come: float, books: Books | None = None) -> None:
        """Work out, now and then, whether so many bytes that are still to come fit on the disk. Raises OSError."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_EVERY:
            return
        self._looked_at = now
        self._state.needed = int(to_come) + self._settings.now.results.keep_free
        lacking = disk.lacking(self._state.work.dir, self._state.needed)
        changed, self._state.lacking = bool(lacking) != bool(self._state.lacking), lacking
        if changed:
            self._face.tell(books, now)
            self._face.say_room(lacking)

    def fits_while_read(self, requests: int, beside: int) -> bool:
        """Say whether there is memory for so many requests of a file that is being read, and for so many bytes of it
        beside them; else ask again.
        """
        return self._fits(requests * WHILE_READ + beside)

    def fits_in_work(self, requests: int) -> bool:
        """Say whether there is memory for the batch, which has so many requests; else ask again."""
        fits = self._fits(requests * IN_WORK)
        if fits:
            self._memory.has_grown(self._number)
        return fits

    def _fits(self, size: int) -> bool:
        fits = self._memory.may_take(self._number, size, self._settings.now.inbox.max_memory_bytes)
        if fits is self._state.waits_for_memory:
            self._state.waits_for_memory = not fits
            self._face.tell_soon()
            if not fits:
                self._face.say_waits_for_memory()
        return fits

    def look_for_model(self, queue: Queue) -> None:
        """Take note where all that is left is for a model that no engine of this daemon has."""
        left = [lane.model for lane in queue.lanes if lane.left or lane.in_flight]
        waits_for = left[0] if left and not any(map(self._settings.serves, left)) else None
        if waits_for != self._state.waits_for:
            self._state.waits_for = waits_for
            self._face.tell_soon()
            if waits_for is not None:
                self._face.say_waits(waits_for, [model.name for model in self._settings.models])
