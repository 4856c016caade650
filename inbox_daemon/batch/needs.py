"""What a batch needs to go on, beside an engine that lives: room on the disk, and an engine of its own model.

Looks, and notes in `State` what is lacking. What is to be done about it, `life` decides.
"""

from __future__ import annotations

import time

from inbox_daemon.batch.books import Books
from inbox_daemon.batch.face import Face
from inbox_daemon.batch.queue import Queue
from inbox_daemon.batch.state import State
from inbox_daemon.config import names
from inbox_daemon.machine import disk
from inbox_daemon.settings import Settings

_LOOK_EVERY = 2.0  # seconds between two looks at the disk's free space


class Needs:
    """The needs of one batch."""

    def __init__(self, state: State, face: Face, settings: Settings) -> None:
        self._state, self._face, self._settings = state, face, settings
        self._looked_at = float("-inf")

    @property
    def models(self) -> frozenset[str]:
        """What the engines of this daemon are, or have as an adapter."""
        return names.lanes(self._settings.now.engine)

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

    def look_for_model(self, queue: Queue) -> None:
        """Take note where all that is left is for a model that no engine of this daemon has."""
        engine = self._settings.now.engine
        left = [lane.model for lane in queue.lanes if lane.left or lane.in_flight]
        ours = self.models | {""}
        waits_for = left[0] if left and not ours & set(left) else None
        if waits_for != self._state.waits_for:
            self._state.waits_for = waits_for
            self._face.tell_soon()
            if waits_for is not None:
                self._face.say_waits(waits_for, engine.model)
