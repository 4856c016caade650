"""Files that stand in the inbox: they should have been taken long ago, and somebody has to do something.

Owns which these are and why, and has the outbox say so for people who see nothing else (`spool/notices`). Takes none.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice

from inbox_daemon.batch import status
from inbox_daemon.config import InboxSettings
from inbox_daemon.errors import SpoolError, told
from inbox_daemon.inbox.complaints import Complaints
from inbox_daemon.layout import Spool
from inbox_daemon.spool import notices

_MOST = 100  # files of which the outbox speaks at a time
_SLICE = 0.05  # seconds of it in one pass of the loop; each syncs


def stands(unchanged: float, inbox: InboxSettings) -> bool:
    """Say whether a file that is not taken, and has not changed for so many seconds, is stuck.

    A file that grows is not, however slowly; neither is one that will have settled by itself.
    """
    return unchanged >= max(30 * inbox.settle, 3 * inbox.settle_unproven)


class NotTaken:
    """What stands, as the last scan has found it.

    Attributes:
        stuck: why, by the file's name: an alert.
    """

    def __init__(self, spool: Spool, complaints: Complaints) -> None:
        self._spool, self._complaints = spool, complaints
        self.stuck: dict[str, str] = {}
        self._awaited: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._to_do: deque[Callable[[], object]] = deque()
        self._scanned = False

    def scanned(self, stuck: Mapping[str, str]) -> None:
        """Take note that a scan is over, and what it has found; more may be added until the outbox is told."""
        self.stuck, self._awaited, self._scanned = dict(stuck), {}, True

    def awaits(self, file: str, why: str) -> None:
        """Add a file that waits for what may come by itself: the outbox says so, and it is no alert."""
        self._awaited[file] = why

    def tell(self) -> None:
        """Put notices, and take back those of what has gone, for a slice of time; the rest with the next call."""
        deadline = time.monotonic() + _SLICE
        if self._scanned:
            self._scanned = False
            self._to_do = deque(self._what_is_to_do())
        while self._to_do:
            self._to_do.popleft()()
            if time.monotonic() >= deadline:
                break

    def _what_is_to_do(self) -> list[Callable[[], object]]:
        to_do: list[Callable[[], object]] = []
        standing = dict(islice((self.stuck | self._awaited).items(), _MOST))
        try:
            known = notices.known(self._spool)
        except OSError:
            return []  # the disk does not answer, and others say so
        stale = [notice.file for notice in known if not notice.is_of_what_is_there(self._spool)]
        self._said = {notice.file: self._said.get(notice.file, "") for notice in known if notice.file not in stale}
        to_do += [partial(self._tried, file, partial(notices.take_back, self._spool, file)) for file in stale]
        to_do += [partial(self._put, file, why) for file, why in standing.items() if self._said.get(file) != why]
        if not to_do and not known:
            with suppress(OSError):  # another time
                notices.sweep(self._spool)
        return to_do

    def _put(self, file: str, why: str) -> None:
        now = time.time()
        said = lambda name: status.not_taken(name, file, why, now)  # noqa: E731
        if self._tried(file, partial(notices.put, self._spool, file, said)):
            self._said[file] = why

    def _tried(self, file: str, what: Callable[[], object]) -> bool:
        try:
            return what() is not False
        except (OSError, SpoolError) as error:
            self._complaints.say(file, f"stands in the inbox, and the outbox cannot say so: {told(error)}")
            return False
