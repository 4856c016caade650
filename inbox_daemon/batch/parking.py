"""When the daemon gives a batch up, until somebody says resume: engines die on it again and again, or none loads.

Counts the deaths of one batch, over restarts. Never decides which request is to blame (`dispatch/suspects`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from inbox_daemon.batch.face import Face
from inbox_daemon.batch.state import State
from inbox_daemon.errors import EngineDied
from inbox_daemon.journal import Message, tell
from inbox_daemon.machine import clock
from inbox_daemon.spool import control

_HOUR = 3600.0


class Parking:
    """The parking of one batch. In memory at once, and on the disk with `write_down`: one engine's death may be that
    of hundreds of batches, and the loop waits for no more of them than it has time for.
    """

    def __init__(self, state: State, face: Face) -> None:
        self._state, self._face = state, face
        self._unwritten: tuple[str, float, Sequence[str]] | None = (
            None  # why it is parked, since when, for which models
        )

    def engine_died(self, died: EngineDied, returned: Sequence[int], most: int) -> None:
        """Take note of a death with these places in flight; park after `most` of them within an hour."""
        face, now = self._face, time.time()
        face.history.note("engine_died", now, reason=died.reason, in_flight=len(returned))
        face.log.warning("%s: engine died with %d requests in flight; they run again", face.name, len(returned))
        deaths = face.history.count_lately("engine_died", _HOUR, clock.now(), after="resume")
        if deaths >= most:
            self.park(f"the engine died {deaths} times within an hour on this batch, last: {died.reason}")

    def park(self, reason: str, models: Sequence[str] = ()) -> None:
        """Run nothing more of it, for this reason; where it is that, the `models` that could not be loaded."""
        face, now = self._face, time.time()
        face.history.note("parked", now, reason=reason)
        self._state.parked, self._state.parked_for = reason, models
        self._unwritten = reason, now, models
        face.tell_soon()
        face.log.error("%s: parked: %s", face.name, reason, extra=tell(Message.BATCH_PARKED))

    def write_down(self) -> None:
        """Make it durable, where it is not. Raises OSError, NotDurable."""
        if self._unwritten is not None:
            control.park(self._state.work, *self._unwritten)
            self._unwritten = None

    def resumed(self) -> None:
        """Somebody has said resume: it is not parked, whether that was written down or not."""
        self._state.resumes += 1
        self._unwritten = None
