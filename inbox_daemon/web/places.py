"""Which batches there are, in their order, and which of them an id means. For several threads.

The outbox is listed at most twice a second, and each folder in it read once: which batch one is never changes. What was
made by API is there at once, whatever was listed when.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Spool
from inbox_daemon.spool import published, submitted
from inbox_daemon.spool.submitted import Submitted
from inbox_daemon.web import ids
from inbox_daemon.weblayout import BATCH_ID

_STALE_AFTER = 0.5  # seconds


class Place(NamedTuple):
    """One batch in the order of all: where there are tens of thousands, all that is kept of most."""

    created_at: int
    id: str
    name: str
    owner: str


class _Folder(NamedTuple):
    """What one folder in the outbox is; of a notice the id is empty."""

    id: str
    created_at: int


class Places:
    """Every batch of a spool, by API and dropped."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._records: dict[str, Submitted] = {}
        self._folders: dict[tuple[str, int], _Folder] = {}  # by name and inode
        self._listed: tuple[float, int] = (float("-inf"), -1)  # when, and how many were made by API then
        self._places: list[Place] = []
        self._by_id: dict[str, Place] = {}  # by every id that a batch answers to

    def all(self) -> list[Place]:
        """Return every batch, the newest first. Raises OSError, SpoolError."""
        with self._lock:
            made = submitted.all_of(self._spool)
            now = time.monotonic()
            if now - self._listed[0] >= _STALE_AFTER or self._listed[1] != len(made):
                self._list(made, now)
            return self._places

    def _list(self, made: list[Submitted], now: float) -> None:
        by_name = {batch.name: Place(batch.created_at, batch.id, batch.name, batch.key) for batch in made}
        by_id = {place.id: place for place in by_name.values()}
        self._records.update((batch.id, batch) for batch in made)
        self._folders = self._look()
        for (name, _), folder in self._folders.items():
            if folder.id:
                place = by_name.setdefault(name, Place(folder.created_at, folder.id, name, ""))
                by_id[folder.id] = place
        self._places = sorted(by_name.values(), reverse=True)
        self._by_id = by_id
        self._listed = (now, len(made))

    def _look(self) -> dict[tuple[str, int], _Folder]:
        found: dict[tuple[str, int], _Folder] = {}
        with suppress(OSError), os.scandir(self._spool.outbox) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                key = (entry.name, entry.inode())
                folder = self._folders.get(key) or self._read(entry.name)
                if folder is not None:
                    found[key] = folder
        return found

    def _read(self, name: str) -> _Folder | None:
        """Return what a folder that was not there before is; None where nobody can say yet."""
        with suppress(SpoolError, OSError, ValueError, TypeError):
            said = published.status(self._spool, name)
            if said is not None and ids.is_batch(said["id"]):
                return _Folder(said["id"], int(said["created_at"]))
            if said is None and published.is_notice(self._spool.batch(name)):
                return _Folder("", 0)  # a batch that takes its name is another folder
        return None

    def of(self, id: str) -> Place | None:
        """Return the place of the batch with this id, the API's or the daemon's; None where there is none.

        Raises OSError, SpoolError.
        """
        if not ids.is_batch(id):
            return None
        if (made := self.record(id)) is not None:
            return Place(made.created_at, made.id, made.name, made.key)
        if BATCH_ID.fullmatch(id):
            return None  # the outbox has none of these
        before = self._listed
        self.all()
        if id not in self._by_id and self._listed is before:  # who asks may have read it in the outbox this very moment
            with self._lock:
                self._list(submitted.all_of(self._spool), time.monotonic())
        return self._by_id.get(id)

    def record(self, id: str) -> Submitted | None:
        """Return what is on the disk of a batch made by API; None of any other. Raises OSError."""
        record = self._records.get(id) or submitted.get(self._spool, id)
        if record is not None:
            self._records[id] = record
        return record
