"""What has arrived in the inbox, and which of it is complete.

Owns the watchdog observer and the rescan. Events are hints, the scan is the truth: an observer that dies or goes deaf
costs time, never files. Reads the inbox, changes nothing in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from watchdog.events import FileClosedEvent, FileCreatedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from inbox_daemon.config import InboxSettings
from inbox_daemon.errors import Rejected
from inbox_daemon.layout import control_of, is_batch_file, is_sidecar, is_unfinished
from inbox_daemon.spool import source, whole

log = logging.getLogger(__name__)
logging.getLogger("watchdog").addHandler(logging.NullHandler())  # what it has to say, the rescan makes good

_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse", "afs", "ceph", "glusterfs", "lustre")
_READ_AT_ONCE = 32  # compressed files; each is an open file and a decompressor
_SOON = 0.2  # seconds until a file that is settling is looked at again
_POLL = 2.0  # seconds between scans where there are no events


@dataclass(slots=True)
class _Seen:
    """A file that is not taken yet. Times are monotonic seconds."""

    identity: tuple[int, ...]
    since: float
    waiting: str = ""
    reading: Iterator[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Arrivals:
    """One look at the inbox.

    Attributes:
        settled: batch files that are complete, oldest first.
        controls: (path, name, verb) of control files.
        waiting: why each of the other files is not taken, by file name.
    """

    settled: list[Path] = field(default_factory=list)
    controls: list[tuple[Path, str, str]] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)


class Intake:
    """Looks when told that something happened, when a file may have settled, and every `rescan` seconds regardless."""

    def __init__(self, inbox: Path, settings: InboxSettings, wake: Callable[[], None]) -> None:
        self._inbox = inbox
        self.settings = settings
        self._wake = wake
        self._hinted = True
        self._next = 0.0
        self._settling = False
        self._seen: dict[str, _Seen] = {}
        self._being_read = 0
        self._complained: set[tuple[str, str]] = set()
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        self.polling = settings.watch == "poll" or _is_remote(inbox)

    # -- the watch

    def _keep_watching(self) -> None:
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
            log.warning("inbox cannot be watched (%s); looking every %.0f s instead", error.strerror, _POLL)
            return
        self._observer, self._watched = observer, identity

    def _hint(self) -> None:
        self._hinted = True
        self._wake()

    def stop(self) -> None:
        if self._observer is not None:
            with contextlib.suppress(RuntimeError):
                self._observer.stop()
                self._observer.join(1.0)
            self._observer = None

    # -- the look

    def due_in(self, now: float) -> float:
        """Return the seconds until `look` has a reason to look."""
        return 0.0 if self._hinted else max(0.0, self._next - now)

    @property
    def arriving(self) -> bool:
        """Whether something may be on its way in: never looked, told to look again, or a file is settling."""
        return self._hinted or self._settling

    def look(self, now: float) -> Arrivals | None:
        """Scan the inbox if there is a reason to; None where there is none.

        Raises:
            OSError: the inbox cannot be read.
        """
        if not self._hinted and now < self._next:
            return None
        self._hinted = False
        self._next = now + min(_POLL, self.settings.rescan)  # where this look fails, the next one is not at once
        self._keep_watching()
        arrivals = Arrivals()
        self._being_read = sum(seen.reading is not None for seen in self._seen.values())
        names: set[str] = set()
        busy = False
        with os.scandir(self._inbox) as entries:
            for entry in entries:
                names.add(entry.name)
                path = Path(entry.path)
                control = control_of(entry.name)
                if (control or is_batch_file(entry.name)) and not entry.is_file(follow_symlinks=False):
                    self._waits(path, "not taken: not a regular file", arrivals)
                elif control:
                    arrivals.controls.append((path, *control))
                elif is_batch_file(entry.name):
                    busy |= self._consider(path, now, arrivals)
                elif not is_unfinished(entry.name) and not is_sidecar(entry.name):
                    self._waits(path, "not taken: the inbox takes .jsonl, .jsonl.gz and .jsonl.zst", arrivals)
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        self._complained = {pair for pair in self._complained if pair[0] in names}
        arrivals.settled.sort(key=lambda path: self._seen[path.name].since)
        self._settling = busy or any(why.startswith("still") for why in arrivals.waiting.values())
        regular = min(_POLL, self.settings.rescan) if self.polling else self.settings.rescan
        self._next = now + (0.0 if busy else min(_SOON, regular) if self._settling else regular)
        return arrivals

    def unchanged(self, path: Path) -> bool:
        """Say whether a settled file is still what it was when it was looked at, and nobody writes to it."""
        seen = self._seen.get(path.name)
        try:
            return seen is not None and _identity(path) == seen.identity and not whole.has_writer(path)
        except FileNotFoundError:
            return False

    def _consider(self, path: Path, now: float, arrivals: Arrivals) -> bool:
        """Judge one file; True where reading it goes on at once."""
        try:
            identity = _identity(path)
        except FileNotFoundError:
            return False
        seen = self._seen.get(path.name)
        if seen is None or seen.identity != identity:
            seen = self._seen[path.name] = _Seen(identity, now)
        quiet = now - seen.since
        said_complete = bool(whole.sidecars_of(path))
        if self.settings.require_sidecar and not said_complete:
            self._waits(path, "waiting for its sidecar, .sha256 or .done (inbox.require_sidecar)", arrivals)
            return False
        if quiet < self.settings.settle and not said_complete:
            arrivals.waiting[_shown(path)] = "still settling"
            return False
        writers = whole.has_writer(path)
        if writers or (writers is None and quiet < self.settings.settle_unproven and not said_complete):
            arrivals.waiting[_shown(path)] = "still being written" if writers else "still settling"
            return False
        if seen.reading is None and not seen.waiting:
            if self._being_read >= _READ_AT_ONCE:
                arrivals.waiting[_shown(path)] = "still to be read"
                return True
            self._being_read += 1
            seen.reading = whole.read_to_see(path, self.settings.max_file_bytes)
        if seen.reading is not None:
            return self._read_on(path, seen, arrivals)
        self._waits(path, seen.waiting, arrivals)
        return False

    def _read_on(self, path: Path, seen: _Seen, arrivals: Arrivals) -> bool:
        assert seen.reading is not None
        try:
            next(seen.reading)
        except StopIteration:
            arrivals.settled.append(path)
        except source.Truncated:
            seen.waiting = "waiting for the rest: the compressed stream stops before its end"
        except Rejected as incomplete:
            if incomplete.code == "incomplete":
                seen.waiting = str(incomplete)
            else:
                arrivals.settled.append(path)  # the reason belongs into its outbox folder
        except OSError:
            arrivals.settled.append(path)
        else:
            arrivals.waiting[_shown(path)] = "being read"
            return True
        seen.reading = None
        self._being_read -= 1
        if seen.waiting:
            self._waits(path, seen.waiting, arrivals)
        return False

    def _waits(self, path: Path, why: str, arrivals: Arrivals) -> None:
        arrivals.waiting[_shown(path)] = why
        self.complain(path.name, why)

    def complain(self, name: str, why: str) -> None:
        """Log why a file is not taken, once for each reason."""
        if (name, why) not in self._complained:
            self._complained.add((name, why))
            log.warning("inbox: %r %s", name, why)


class _Hint(FileSystemEventHandler):
    """Runs in watchdog's thread, where an exception would end the watch; so it does one thing that cannot fail."""

    def __init__(self, hint: Callable[[], None]) -> None:
        self._hint = hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        with contextlib.suppress(Exception):
            self._hint()


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is written, replaced or re-sent, or gets a sidecar; ctime, because uploads set mtime."""
    identity: tuple[int, ...] = ()
    for there in (path, *whole.sidecars_of(path)):
        found = there.lstat()
        identity += (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return identity


def _shown(path: Path) -> str:
    """Return the file's name as text that JSON can carry: bytes that are not UTF-8 become ``_``, as in the outbox."""
    return re.sub("[\ud800-\udfff]", "_", path.name)


def _is_remote(folder: Path) -> bool:
    """Say whether the folder's file system is one whose changes inotify does not see."""
    best = max(
        (part for part in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(part.mountpoint)),
        key=lambda part: len(part.mountpoint),
        default=None,
    )
    return best is not None and best.fstype.startswith(_REMOTE)
