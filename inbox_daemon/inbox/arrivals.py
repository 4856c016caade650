"""What has arrived in the inbox, and which of it is complete.

Owns the scan. Events (`watch`) are hints, the scan is the truth: an observer that dies or goes deaf costs time, never
files. Reads the inbox, changes nothing in it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from inbox_daemon.errors import Rejected
from inbox_daemon.inbox.came import Order
from inbox_daemon.inbox.complaints import Complaints
from inbox_daemon.inbox.leftovers import WHY, Leftover, judge
from inbox_daemon.inbox.not_taken import stands
from inbox_daemon.inbox.seats import Candidate, in_order
from inbox_daemon.inbox.watch import POLL, Watch
from inbox_daemon.layout import SIDECARS, batch_name, control_of, is_batch_file, is_sidecar, is_unfinished
from inbox_daemon.settings import Settings
from inbox_daemon.spool import complete, control, source
from inbox_daemon.text import shown

_READ_AT_ONCE = 32  # compressed files; each is an open file and a decompressor
_KEPT_AT_ONCE = 1 << 28  # bytes of their content that the decompressors keep, of one up to 128 MiB
_SOON = 0.2  # seconds until a file that is settling is looked at again
_SLICE = 0.05  # seconds of one scan in one pass of the loop
_READ = 0.005  # seconds of reading one file in one scan


@dataclass(slots=True)
class _Seen:
    """A file that is not taken yet. Times are monotonic seconds."""

    identity: tuple[int, ...]
    since: float
    waiting: str = ""
    settled: bool = False
    reading: Iterator[int] | None = None


@dataclass(frozen=True, slots=True)
class Arrivals:
    """One look at the inbox.

    Attributes:
        settled: batch files that are complete, in the order to take them (`seats`).
        controls: (path, name, verb) of control files, in the order in which they came.
        waiting: why each of the other files is not taken, by file name.
        orphans: the same of sidecars without their file.
        leftovers: copies of `submit` that came to nothing.
        stuck: why those are not taken that should have been long ago, by file name as it is.
    """

    settled: list[Candidate] = field(default_factory=list)
    controls: list[tuple[Path, str, str]] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    orphans: dict[str, str] = field(default_factory=dict)
    leftovers: list[Path] = field(default_factory=list)
    stuck: dict[str, str] = field(default_factory=dict)


class Arriving:
    """The inbox, watched.

    Looks when told that something happened, when a file may have settled, and every `rescan` seconds regardless.

    Attributes:
        complaints: what the log has of files that are not taken.
    """

    def __init__(self, inbox: Path, settings: Settings, wake: Callable[[], None]) -> None:
        self._inbox = inbox
        self._settings = settings
        self._wake = wake
        self._hinted = True
        self._next = 0.0
        self._soonest = 0.0
        self._settling = False
        self._controls = False  # there were some, which may be for a file that is not claimed yet
        self._scan: Generator[None, None, Arrivals] | None = None  # one that is under way
        self._scan_took = 0.0  # seconds of the loop's time
        self._seen: dict[str, _Seen] = {}
        self._being_read: dict[str, int] = {}  # and what that keeps in memory; who has begun first comes first
        self.complaints = Complaints()
        self.order = Order()
        self._watch = Watch(inbox, settings.now.inbox.watch == "poll", self._hint)

    def _hint(self) -> None:
        self._hinted = True
        self._wake()

    def stop(self) -> None:
        self._watch.stop()

    # -- the look

    def due_in(self, now: float) -> float:
        """Return the seconds until `look` has a reason to look."""
        if self._scan is not None:
            return 0.0
        return max(0.0, (self._soonest if self._hinted else self._next) - now)

    @property
    def arriving(self) -> bool:
        """Whether something may be on its way in: never looked, told to look again, or a file is settling."""
        return self._hinted or self._settling or self._scan is not None

    def look(self, now: float) -> Arrivals | None:
        """Scan the inbox if there is a reason to; None where there is none, or the scan goes on at the next call.

        Files may arrive by the ten thousand: a scan works for a slice of time at a call, and the next one begins no
        sooner than this one took.

        Raises:
            OSError: the inbox cannot be read.
        """
        if self.due_in(now) > 0:
            return None
        if self._scan is None:
            self._hinted, self._scan_took = False, 0.0
            self._next = now + min(
                POLL, self._settings.now.inbox.rescan
            )  # where this look fails, the next one is not at once
            self._watch.keep()
            self._scan = self._scanned(now)
        began = time.monotonic()
        try:
            while True:
                next(self._scan)
                if time.monotonic() - began >= _SLICE:
                    return None
        except StopIteration as end:
            self._scan = None
            self._soonest = now + self._scan_took + time.monotonic() - began
            self._next = max(self._next, self._soonest)
            return cast(Arrivals, end.value)
        except OSError:
            self._scan = None
            raise
        finally:
            self._scan_took += time.monotonic() - began

    def _scanned(self, now: float) -> Generator[None, None, Arrivals]:
        """Judge every entry of the inbox, pausing after each."""
        arrivals = Arrivals()
        reading = {name for name, seen in self._seen.items() if seen.reading is not None}
        self._being_read = {name: kept for name, kept in self._being_read.items() if name in reading}
        with os.scandir(self._inbox) as found:
            entries = list(found)
        names = {entry.name for entry in entries}
        self.order.scan(names)
        busy = False
        for entry in entries:
            path = Path(entry.path)
            control = control_of(entry.name)
            if control or is_batch_file(entry.name):
                self.order.of(path)
            if (control or is_batch_file(entry.name)) and not entry.is_file(follow_symlinks=False):
                self._waits(path, "not taken: not a regular file", arrivals)
            elif control:
                arrivals.controls.append((path, *control))
            elif is_batch_file(entry.name):
                goes_on = self._consider(path, names, now, arrivals)
                busy |= goes_on
                seen = self._seen.get(entry.name)
                if seen and not seen.settled and not goes_on and stands(now - seen.since, self._settings.now.inbox):
                    arrivals.stuck[entry.name] = arrivals.waiting[shown(entry.name)]
            elif is_sidecar(entry.name):
                if path.stem not in names:
                    arrivals.orphans[shown(path.name)] = "waiting for its file; remove it where that was taken before"
            elif whose := judge(path, time.time()):
                if whose is Leftover.OURS:
                    arrivals.leftovers.append(path)
                else:
                    self._waits(path, WHY, arrivals)
            elif not is_unfinished(entry.name):
                self._waits(path, "not taken: the inbox takes .jsonl, .jsonl.gz and .jsonl.zst", arrivals)
            yield
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        self.complaints.scanned(names)
        arrivals.controls.sort(key=lambda control: self.order.of(control[0]))
        arrivals.settled[:] = in_order(self.order.as_users_say(arrivals.settled, arrivals.controls))
        self._settling = busy or any(why.startswith("still") for why in arrivals.waiting.values())
        self._controls = bool(arrivals.controls)
        rescan = self._settings.now.inbox.rescan
        regular = min(POLL, rescan) if self._watch.polling or self._controls else rescan
        self._next = now + (0.0 if busy else min(_SOON, regular) if self._settling else regular)
        return arrivals

    def claimed(self) -> None:
        """Take note that a batch is about to get its name; control files may have waited for that."""
        self._hinted |= self._controls

    def unchanged(self, path: Path) -> bool:
        """Say whether a settled file is still what it was when it was looked at, and nobody writes to it."""
        seen = self._seen.get(path.name)
        try:
            if seen is None or _identity(path, complete.sidecars_of(path)) != seen.identity:
                self._hinted = True  # no event says so where another name of it came or went
                return False
            return not complete.has_writer(path)
        except FileNotFoundError:
            return False

    def _consider(self, path: Path, names: Set[str], now: float, arrivals: Arrivals) -> bool:
        """Judge one file among all `names`; True where reading it goes on at once."""
        sidecars = complete.sidecars_of(path) if any(path.name + suffix in names for suffix in SIDECARS) else []
        try:
            identity = _identity(path, sidecars)
        except FileNotFoundError:
            return False
        seen = self._seen.get(path.name)
        if seen is None or seen.identity != identity:
            seen = self._seen[path.name] = _Seen(identity, now)
        quiet = now - seen.since
        said_complete = bool(sidecars and complete.vouching_for(path))
        if self._settings.now.inbox.require_sidecar and not said_complete:
            self._waits(
                path, "waiting for its sidecar, .sha256 or a .done no older than it (inbox.require_sidecar)", arrivals
            )
            return False
        if seen.settled:  # and not claimed yet; `unchanged` looks again before it is
            arrivals.settled.append(self._candidate(path, seen, now))
            return False
        if quiet < self._settings.now.inbox.settle and not said_complete:
            arrivals.waiting[shown(path.name)] = "still settling"
            return False
        writers = complete.has_writer(path)
        if writers or (writers is None and quiet < self._settings.now.inbox.settle_unproven and not said_complete):
            arrivals.waiting[shown(path.name)] = "still being written" if writers else "still settling"
            return False
        if seen.reading is None and not seen.waiting:
            if len(self._being_read) >= _READ_AT_ONCE:
                arrivals.waiting[shown(path.name)] = "still to be read"
                return True
            self._being_read[path.name] = 0
            seen.reading = complete.read_to_see(path, self._settings.now.inbox.max_file_bytes)
        if seen.reading is not None:
            return self._read_on(path, seen, arrivals, now)
        self._waits(path, seen.waiting, arrivals)
        return False

    def _candidate(self, path: Path, seen: _Seen, now: float) -> Candidate:
        name = batch_name(path.name)
        priority = control.priority_by_name(self._settings.now.inbox.priorities, name)
        return Candidate(path, name, priority, seen.identity[1], now - seen.since)

    def _read_on(self, path: Path, seen: _Seen, arrivals: Arrivals, now: float) -> bool:
        assert seen.reading is not None
        may = self._may_read_on(path.name)
        enough = time.monotonic() + (_READ if may else 0.0)
        try:
            while may or self._being_read[path.name] < source.BLOCK:  # what is small waits for nobody
                self._being_read[path.name] = next(seen.reading)
                if time.monotonic() >= enough:
                    break
        except StopIteration:
            seen.settled = True
        except source.Truncated:
            seen.waiting = "waiting for the rest: the compressed stream stops before its end"
        except Rejected as incomplete:
            if incomplete.code == "incomplete":
                seen.waiting = str(incomplete)
            else:
                seen.settled = True  # the reason belongs into its outbox folder
        except OSError:
            seen.settled = True
        else:
            arrivals.waiting[shown(path.name)] = "being read"
            return True
        seen.reading = None
        del self._being_read[path.name]
        if seen.settled:
            arrivals.settled.append(self._candidate(path, seen, now))
        else:
            self._waits(path, seen.waiting, arrivals)
        return False

    def _may_read_on(self, name: str) -> bool:
        """Say whether there is memory for unpacking more of this file; for the first of them there always is."""
        return sum(self._being_read.values()) < _KEPT_AT_ONCE or name == next(iter(self._being_read))

    def _waits(self, path: Path, why: str, arrivals: Arrivals) -> None:
        arrivals.waiting[shown(path.name)] = why
        self.complaints.say(path.name, why)


def _identity(path: Path, sidecars: Sequence[Path]) -> tuple[int, ...]:
    """What changes when a file is written, replaced or re-sent, or gets a sidecar; ctime, because uploads set mtime."""
    identity: tuple[int, ...] = ()
    for there in (path, *sidecars):
        found = there.lstat()
        identity += (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return identity
