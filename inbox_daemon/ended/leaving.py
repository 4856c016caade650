"""The way out of work: the operator's program hears that a batch has ended, then its folder goes, a slice at a time.

State is which files exist: `work/gone-ID` is on its way out, and as long as `ended.json` lies in it and the program has
not ended, it has to be told. So it is told at least once, and once more only after a crash.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

from inbox_daemon.commands import Commands
from inbox_daemon.layout import Spool
from inbox_daemon.settings import Settings
from inbox_daemon.slices import for_a_while
from inbox_daemon.spool import claim, remains
from inbox_daemon.spool.claim import Held

_SLICE = 0.01  # seconds of removing in one pass of the loop
_LOOK_EVERY = 5.0  # seconds between looks at work for what is on its way out: it may be a dead daemon's
_TELLS_WITHIN = 2.0  # seconds for the operator's program at the end


class Leaving:
    """The batches of this spool that leave work. `now` is monotonic seconds throughout."""

    def __init__(self, spool: Spool, settings: Settings) -> None:
        self._spool, self._settings = spool, settings
        self._commands: Commands[Held] = Commands("batches.ended", "batch", settings.now.batches.ended)
        self._held: dict[str, Held] = {}  # folders on their way out, by name, each with its lock
        self._to_tell: deque[Held] = deque()
        self._removals: deque[Iterator[None]] = deque()
        self._look_at = float("-inf")

    @property
    def busy(self) -> bool:
        """Whether anything is on its way out, or may be."""
        return bool(self._held) or self._look_at == float("-inf")

    @property
    def removing(self) -> bool:
        return bool(self._removals)

    def over(self) -> None:
        """A batch has ended: look at once."""
        self._look_at = float("-inf")

    def reloaded(self) -> None:
        """Take note that the settings are others now."""
        self._commands.use(self._settings.now.batches.ended)

    def look(self, now: float) -> None:
        """Tell and remove, for a slice of time."""
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            self._find()
        self._tell(now)
        for_a_while(self._removals, _SLICE)

    def stop(self) -> None:
        """Give the operator's program a moment; what it has not heard to the end it hears at the next start."""
        until = time.monotonic() + _TELLS_WITHIN
        while (self._commands.busy or self._to_tell) and time.monotonic() < until:
            self._tell(time.monotonic())
            time.sleep(0.02)
        self._commands.kill()
        for held in self._held.values():
            held.release()

    def _find(self) -> None:
        with suppress(OSError):  # `taking` says that work cannot be read
            for held in claim.leaving(self._spool, self._held):
                self._held[held.work.id] = held
                if self._commands.command and remains.end_noted(held.work):
                    self._to_tell.append(held)
                else:
                    self._removals.append(self._remove(held))

    def _tell(self, now: float) -> None:
        for held in self._commands.look(now):
            self._removals.append(self._remove(held))
        while self._to_tell and self._commands.has_room:
            held = self._to_tell.popleft()
            said = remains.end_noted(held.work)
            if not said or not self._commands.command or not self._commands.start(said, held, now):
                self._removals.append(self._remove(held))

    def _remove(self, held: Held) -> Iterator[None]:
        try:
            with suppress(OSError):  # nobody misses it; another look finds it again
                yield from remains.remove_tree(held.work.dir)
        finally:
            held.release()
            self._held.pop(held.work.id, None)
