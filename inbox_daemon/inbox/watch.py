"""The watch on the inbox: watchdog's observer, armed anew where it died or watches what is the inbox no longer.

Says that something has happened, never what: who hears it looks for himself.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileClosedEvent, FileCreatedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from inbox_daemon.machine import disk

log = logging.getLogger(__name__)
logging.getLogger("watchdog").addHandler(logging.NullHandler())  # what it has to say, the rescan makes good

POLL = 2.0  # seconds between scans where there are no events, or control files wait


class Watch:
    """The watch on one folder.

    Args:
        poll: there is to be none.
        hint: called from watchdog's thread when something has happened.

    Attributes:
        polling: there are no events; look every `POLL` seconds instead.
    """

    def __init__(self, inbox: Path, poll: bool, hint: Callable[[], None]) -> None:
        self._inbox, self._hint = inbox, hint
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        self.polling = poll or disk.is_remote(inbox)

    def keep(self) -> None:
        """Arm the observer, and arm it anew where it died or watches a folder that is no longer the inbox."""
        if self.polling:
            return
        there = self._inbox.stat()
        identity = (there.st_dev, there.st_ino)
        if self._observer is not None:
            alive = self._observer.is_alive() and all(emitter.is_alive() for emitter in self._observer.emitters)
            if alive and identity == self._watched:
                return
            log.warning("inbox watch lost; watching %s anew", self._inbox)
            self.stop()
        observer: BaseObserver | None = None
        try:
            observer = Observer()
            events: list[type[FileSystemEvent]] = [FileClosedEvent, FileCreatedEvent, FileMovedEvent]
            observer.schedule(_Hint(self._hint), str(self._inbox.resolve()), event_filter=events)
            observer.start()
        except OSError as error:
            if observer is not None:
                observer.stop()  # it has a thread and a descriptor already
            if isinstance(error, FileNotFoundError):
                raise  # the inbox went away this very moment
            self.polling = True
            log.warning("inbox cannot be watched (%s); looking every %.0f s instead", error.strerror, POLL)
            return
        self._observer, self._watched = observer, identity

    def stop(self) -> None:
        if self._observer is not None:
            with contextlib.suppress(RuntimeError):
                self._observer.stop()
                self._observer.join(1.0)
            self._observer = None


class _Hint(FileSystemEventHandler):
    """Runs in watchdog's thread, where an exception would end the watch; so it does one thing that cannot fail."""

    def __init__(self, hint: Callable[[], None]) -> None:
        self._hint = hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        with contextlib.suppress(Exception):
            self._hint()
