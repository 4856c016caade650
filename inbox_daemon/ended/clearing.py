"""The way out of the outbox: what `retention` lets go is removed, by age or for room, a slice at a time.

Knows what lies in the outbox from a scan an hour and from the ends that it hears of. Never touches a folder without a
receipt, nor a file that the daemon has not written.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from inbox_daemon.batches import Batches
from inbox_daemon.ended import retention
from inbox_daemon.errors import told
from inbox_daemon.journal import of_batch
from inbox_daemon.layout import Spool
from inbox_daemon.machine import disk
from inbox_daemon.settings import Settings
from inbox_daemon.slices import for_a_while
from inbox_daemon.spool import remains
from inbox_daemon.spool.remains import Ended
from inbox_daemon.text import span

log = logging.getLogger(__name__)

_SLICE = 0.01  # seconds of looking and removing in one pass of the loop
_DECIDE_EVERY = 30.0
_ROOM_EVERY = 1.0
_FIRST_SCAN = 60.0  # seconds after the start: nothing is urgent
_SCAN_EVERY = 3600.0
_SURE_AFTER = 600.0  # seconds for which results must be too old: a clock that is wrong after a boot is set by then


class Clearing:
    """The outbox's ended batches. `now` is monotonic seconds throughout."""

    def __init__(self, spool: Spool, settings: Settings, batches: Batches) -> None:
        self._spool, self._settings, self._batches = spool, settings, batches
        self._jobs: deque[Iterator[None]] = deque()
        self._known: dict[str, Ended] = {}
        self._too_old: dict[str, float] = {}  # since when it is known that they are
        self._scan_at = time.monotonic() + _FIRST_SCAN
        self._decide_at = self._room_at = float("-inf")
        self._scanned = False  # and not decided since

    @property
    def busy(self) -> bool:
        return bool(self._jobs) or self._scanned

    def over(self, name: str) -> None:
        """A batch has ended."""
        if self._has_rules and (found := remains.ended(self._spool, name)):
            self._known[name] = found

    def look(self, now: float, needed: int) -> None:
        """Scan, decide and remove, for a slice of time.

        Args:
            needed: bytes that must be free for what waits in the inbox; 0 where nothing waits for room.
        """
        if not self._has_rules:
            return
        results = self._settings.now.results
        if now >= self._scan_at and not self._jobs:
            self._scan_at = now + _SCAN_EVERY
            self._jobs.append(self._scan())
        if self._scanned or now >= self._decide_at:
            self._scanned, self._decide_at = False, now + _DECIDE_EVERY
            self._by_age(retention.rules(results), now)
        if results.make_room and not self._jobs and now >= self._room_at:
            self._room_at = now + _ROOM_EVERY
            self._for_room(needed)
        for_a_while(self._jobs, _SLICE)

    @property
    def _has_rules(self) -> bool:
        results = self._settings.now.results
        rules = retention.rules(results)
        return bool(rules.folder or rules.parts or results.make_room)

    def _scan(self) -> Iterator[None]:
        found: dict[str, Ended] = {}
        try:
            for one in remains.all_ended(self._spool):
                if one:
                    found[one.name] = one
                yield
        except OSError as error:
            log.error("outbox cannot be read: %s; trying again", told(error))
            return
        self._known, self._scanned = found, True

    def _by_age(self, rules: retention.Rules, now: float) -> None:
        wall, ended = time.time(), list(self._known.values())
        due = {one.name: one for one in retention.folders_due(ended, rules, wall)}
        self._too_old = {name: self._too_old.get(name, now) for name in due}
        for name, since in self._too_old.items():
            if now - since >= _SURE_AFTER:
                self._jobs.append(self._remove(due[name], f"{span(wall - due[name].at)} after its end (results.keep)"))
                del self._known[name]
        for one in retention.parts_due(ended, rules, wall):
            if one.name in self._known:
                self._jobs.append(self._remove_parts(one))

    def _for_room(self, needed: int) -> None:
        lacking = [life.state.needed for life in self._batches if life.state.lacking]
        with suppress(OSError):  # a disk that does not answer stops the batches, and they say so
            if not disk.lacking(self._spool.work, max(self._settings.now.results.keep_free, needed, *lacking)):
                return
            if first := retention.first_to_go(self._known.values()):
                if first.has_parts:
                    self._jobs.append(self._remove_parts(first))
                else:
                    self._jobs.append(self._remove(first, "for room on the disk (results.make_room)"))
                    del self._known[first.name]

    def _remove(self, one: Ended, why: str) -> Iterator[None]:
        try:
            theirs = yield from remains.remove(self._spool, one)
        except OSError as error:
            self._failed(one, error)
            return
        rest = "; what else lies in its folder stays" if theirs else ""
        of_batch(log, one.name).info("%s: results removed, %s%s", one.name, why, rest)

    def _remove_parts(self, one: Ended) -> Iterator[None]:
        if one.name in self._known:
            self._known[one.name] = replace(one, has_parts=False)
        try:
            yield from remains.remove_parts(self._spool, one)
        except OSError as error:
            self._failed(one, error)
            return
        of_batch(log, one.name).info("%s: parts removed; results.jsonl and errors.jsonl have every line", one.name)

    def _failed(self, one: Ended, error: OSError) -> None:
        of_batch(log, one.name).error("%s: cannot be removed: %s; tried again within the hour", one.name, told(error))
