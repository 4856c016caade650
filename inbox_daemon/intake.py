"""What has arrived in the inbox, and which of it is complete.

Owns the watchdog observer and the rescan. Events are hints, the scan is the truth: an observer that dies or goes deaf
costs time, never files. Reads the inbox, changes nothing in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psutil
from watchdog.events import FileClosedEvent, FileCreatedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from inbox_daemon.config import InboxSettings
from inbox_daemon.errors import Rejected
from inbox_daemon.layout import control_of, is_batch_file, is_unfinished
from inbox_daemon.spool import source

log = logging.getLogger(__name__)
logging.getLogger("watchdog").addHandler(logging.NullHandler())  # what it has to say, the rescan makes good

_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse", "afs", "ceph", "glusterfs", "lustre")
_TAIL = 1 << 16
_LONGEST = 1 << 26  # bytes; a last line longer than that is not read to see whether it ends
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
        names: set[str] = set()
        busy = False
        with os.scandir(self._inbox) as entries:
            for entry in entries:
                names.add(entry.name)
                path = Path(entry.path)
                if control := control_of(entry.name):
                    arrivals.controls.append((path, *control))
                elif is_batch_file(entry.name):
                    busy |= self._consider(path, now, arrivals)
                elif not is_unfinished(entry.name):
                    self._waits(path, "not taken: the inbox takes .jsonl, .jsonl.gz and .jsonl.zst", arrivals)
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        self._complained = {pair for pair in self._complained if pair[0] in names}
        arrivals.settled.sort(key=lambda path: self._seen[path.name].since)
        self._settling = busy or any(why.startswith("still") for why in arrivals.waiting.values())
        regular = min(_POLL, self.settings.rescan) if self.polling else self.settings.rescan
        self._next = now + (0.0 if busy else min(_SOON, regular) if self._settling else regular)
        return arrivals

    def _consider(self, path: Path, now: float, arrivals: Arrivals) -> bool:
        """Judge one file; True where reading it goes on at once."""
        try:
            there = path.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(there.st_mode):
            self._waits(path, "not taken: not a regular file", arrivals)
            return False
        identity = (there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns)
        seen = self._seen.get(path.name)
        if seen is None or seen.identity != identity:
            seen = self._seen[path.name] = _Seen(identity, now)
        quiet = now - seen.since
        if quiet < self.settings.settle:
            arrivals.waiting[_shown(path)] = "still settling"
            return False
        writers = _has_writer(path)
        if writers or (writers is None and quiet < self.settings.settle_unproven):
            arrivals.waiting[_shown(path)] = "still being written" if writers else "still settling"
            return False
        if seen.reading is None and not seen.waiting:
            try:
                seen.reading = _completeness(path)
            except (Rejected, OSError):
                arrivals.settled.append(path)  # the reason belongs into its outbox folder
                return False
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
                arrivals.settled.append(path)
        else:
            arrivals.waiting[_shown(path)] = "being read"
            return True
        seen.reading = None
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


def _has_writer(path: Path) -> bool | None:
    """Ask the kernel whether anybody has the file open for writing; None where it will not say.

    F_SETLEASE with F_RDLCK is refused with EAGAIN while there is a writer (fcntl(2)); it needs the file's owner or
    CAP_LEASE. Whoever opens the file for writing while the lease is held makes the kernel send its holder a signal:
    SIGIO, which ends a process, unless another is named.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # ignored by default
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)
    return False


def _shown(path: Path) -> str:
    """Return the file's name as text that JSON can carry: bytes that are not UTF-8 become ``_``, as in the outbox."""
    return re.sub("[\ud800-\udfff]", "_", path.name)


def _completeness(path: Path) -> Iterator[bytes]:
    """Read as much of the file as shows whether it is whole; raises Rejected("incomplete") where it ends in mid-line.

    A plain file is whole when it ends with a newline or with a JSON object; a compressed one when its stream ends.
    """
    fd = source.open_regular(path)
    try:
        if path.name.endswith(".jsonl"):
            size = os.fstat(fd).st_size
            tail = os.pread(fd, _TAIL, max(0, size - _TAIL))
            if tail and not tail.endswith(b"\n") and not _is_object(_last_line(fd, size, tail)):
                raise Rejected("incomplete", "waiting for the rest: it ends in the middle of a line")
        else:
            yield from source.blocks(fd, path)
    finally:
        os.close(fd)


def _last_line(fd: int, size: int, tail: bytes) -> bytes:
    length = len(tail)
    while b"\n" not in tail and length < min(size, _LONGEST):
        length = min(size, 4 * length)
        tail = os.pread(fd, length, size - length)
    return tail.rsplit(b"\n", 1)[-1]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except ValueError:
        return False


def _is_remote(folder: Path) -> bool:
    """Say whether the folder's file system is one whose changes inotify does not see."""
    best = max(
        (part for part in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(part.mountpoint)),
        key=lambda part: len(part.mountpoint),
        default=None,
    )
    return best is not None and best.fstype.startswith(_REMOTE)
