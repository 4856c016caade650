"""What is known of batches, read as seldom as is right: one reader for every route and every page of a spool.

What has ended is read again only where its folder has changed. An end is noted on the disk before anybody is told of
it.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from inbox_daemon.layout import Spool
from inbox_daemon.spool import hooks, published, store, submitted, views
from inbox_daemon.spool.shapes import BatchObject, DaemonView
from inbox_daemon.spool.submitted import Submitted
from inbox_daemon.text import dumps
from inbox_daemon.web import ids, objects
from inbox_daemon.web.objects import Facts, File, Lying
from inbox_daemon.web.places import Place, Places
from inbox_daemon.web.site import Asker, Site

_STALE_AFTER = 0.5  # seconds
_SURE_AFTER = 1_000_000_000  # nanoseconds; what changed later than that may change again within its clock's tick
_LOST_AFTER = 600.0  # seconds without a folder, while a daemon lives
_OF_THE_MOMENT = ("engines", "models", "warnings", "input_mark")  # what nobody asks of a batch that has ended


class _Said(NamedTuple):
    """What a folder in the outbox has said: its status, and what lies in it."""

    state: tuple[int, int]  # the folder's inode and mtime
    status: bytes
    lying: dict[str, Lying]


class Live:
    """What is known of all batches of one spool, cached.

    Args:
        announces: somebody is to hear of each end, by a webhook.
    """

    def __init__(self, spool: Spool, *, announces: bool = False) -> None:
        self._spool, self._announces = spool, announces
        self._places = Places(spool)
        self._ended: dict[str, _Said] = {}  # by the folder's name
        self._noted: set[str] = set()  # whose end is on the disk
        self._cancelling: dict[str, int] = {}
        self._missing_since: dict[str, float] = {}
        self._daemons: tuple[float, list[DaemonView]] = (float("-inf"), [])

    # -- batches

    def places(self) -> list[Place]:
        """Return every batch, the newest first. Raises OSError, SpoolError."""
        return self._places.all()

    def one(self, id: str) -> Facts | None:
        """Return what is known of the batch with this id, the API's or the daemon's; None where there is none.

        Raises OSError, SpoolError.
        """
        place = self._places.of(id)
        return self.facts(place) if place is not None else None

    def facts(self, place: Place) -> Facts | None:
        """Return what is known of one batch; None where its folder has gone and nobody else knows of it."""
        made = self._places.record(place.id)
        said, lying = self._said(place.name)
        if said is None and made is None:
            return None
        if made is not None:
            said = said or self._without_folder(made)
            if said is not None and views.has_ended(said):
                self.note(made.id, said)
        if said is not None and views.has_ended(said):
            self._cancelling.pop(place.id, None)
        return Facts(
            id=place.id,
            name=place.name,
            created_at=place.created_at,
            owner=place.owner,
            made=made,
            said=said,
            lying=lying,
            cancelling=self._cancelling.get(place.id),
            waits=self._waits(made) if made is not None and said is None else None,
        )

    def _said(self, name: str) -> tuple[BatchObject | None, dict[str, Lying]]:
        """Return a batch's status, and what lies in its folder."""
        folder = self._spool.batch(name)
        try:
            there = folder.dir.stat()
        except FileNotFoundError:
            self._ended.pop(name, None)
            return None, {}
        state = (there.st_ino, there.st_mtime_ns)
        kept = self._ended.get(name)
        if kept is not None and kept.state == state:
            return cast(BatchObject, orjson.loads(kept.status)), kept.lying
        said = published.status(self._spool, name)
        if said is None:
            return None, {}
        lying = _lying(folder.dir)
        if views.has_ended(said):
            said = _trimmed(said)
            if there.st_mtime_ns < time.time_ns() - _SURE_AFTER:
                self._ended[name] = _Said(state, dumps(said), lying)
        return said, lying

    def _without_folder(self, made: Submitted) -> BatchObject | None:
        """Return what is known of a batch of which no status lies in the outbox; None where its time is to come."""
        seen = submitted.seen(self._spool, made.id)
        if seen is not None:
            return cast(BatchObject, seen)
        phase = submitted.phase(self._spool, made)
        if phase == "withdrawn":
            return objects.cancelled_early(time.time())
        if phase == "pending" or submitted.is_in_inbox(self._spool, made) or not self.daemon_lives():
            self._missing_since.pop(made.id, None)
            return None
        now = time.monotonic()
        gone = now - self._missing_since.setdefault(made.id, now) >= _LOST_AFTER
        return objects.lost(time.time()) if gone else None

    def _waits(self, made: Submitted) -> str | None:
        if not submitted.is_in_inbox(self._spool, made):
            return None
        return self.waiting().get(made.file) if self.daemon_lives() else views.NO_DAEMON

    def note(self, id: str, said: BatchObject) -> None:
        """Note the end of a batch before anybody is told of it, so that it stays ended once its folder is removed.

        Raises OSError, NotDurable.
        """
        if id in self._noted:
            return
        if submitted.seen(self._spool, id) is None:
            now = time.time()
            if self._announces:
                event = hooks.Hook(f"evt_{id.removeprefix('batch_')}", f"batch.{said['status']}", id, now, now)
                hooks.put(self._spool, event)
            submitted.note_seen(self._spool, id, _trimmed(said))
        self._noted.add(id)

    def unseen(self) -> list[Submitted]:
        """Return the batches made by API of which it is not noted that they have ended. Raises OSError."""
        new = [made for made in submitted.all_of(self._spool) if made.id not in self._noted]
        self._noted |= {made.id for made in new if submitted.seen(self._spool, made.id) is not None}
        return [made for made in new if made.id not in self._noted]

    def cancelling(self, facts: Facts, now: float) -> Facts:
        """Note that a batch was told to end, and return it so: its own status says it a moment later."""
        self._cancelling.setdefault(facts.id, int(now))
        return replace(self.one(facts.id) or facts, cancelling=int(now))

    def going_and_newest(self, who: Asker, newest: int) -> list[Facts]:
        """Return the newest batches that somebody sees, and of the older ones those that have not ended.

        Raises OSError, SpoolError.
        """
        found: list[Facts] = []
        for number, place in enumerate(place for place in self.places() if who.sees(place.owner)):
            if number >= newest and (place.name in self._ended or place.id in self._noted):
                continue
            facts = self.facts(place)
            if facts is not None and (number < newest or not facts.ended):
                found.append(facts)
        return found

    # -- files

    def files(self, who: Asker) -> list[File]:
        """Return every file that somebody sees, uploads and what lies in the outbox, the oldest first."""
        found = [objects.upload(stored) for stored in store.all_of(self._spool) if who.sees(stored.key)]
        for place in self.places():
            facts = self.facts(place) if who.sees(place.owner) else None
            if facts is not None:
                told = (objects.output(facts, kind) for kind in facts.lying)
                found += [one for one in told if one is not None]
        return sorted(found, key=lambda file: (file["created_at"], file["id"]))

    def file(self, id: str, who: Asker) -> tuple[File, Path] | None:
        """Return a file that somebody sees, and where its bytes lie; None where there is none for this one.

        Raises OSError, SpoolError.
        """
        if (meant := ids.output_of(id)) is not None:
            facts = self.one(meant.batch)
            told = objects.output(facts, meant.kind) if facts is not None and who.sees(facts.owner) else None
            if facts is None or told is None:
                return None
            return told, self._spool.batch(facts.name).dir / facts.lying[meant.kind].filename
        stored = store.get(self._spool, id)
        if stored is None or not who.sees(stored.key):
            return None
        with suppress(FileNotFoundError):  # deleted this very moment
            return objects.upload(stored), store.content(self._spool, id)
        return None

    # -- daemons

    def daemons(self) -> list[DaemonView]:
        """Return what each daemon says of itself."""
        at, said = self._daemons
        if (now := time.monotonic()) - at >= _STALE_AFTER:
            said = published.daemons(self._spool)
            self._daemons = (now, said)
        return said

    def waiting(self) -> dict[str, str]:
        """Return why files in the inbox are not taken yet, by file name."""
        return published.waiting_of(self.daemons())

    def daemon_lives(self) -> bool:
        return any(daemon["alive"] for daemon in self.daemons())


def of(site: Site) -> Live:
    """Return what is known of a site's batches; the same for all who ask."""
    return _of(site.spool, bool(site.config.web.webhook_url))


@lru_cache(maxsize=8)
def _of(spool: Spool, announces: bool) -> Live:
    return Live(spool, announces=announces)


def _trimmed(said: BatchObject) -> BatchObject:
    kept: dict[str, Any] = {key: value for key, value in said.items() if key not in _OF_THE_MOMENT}
    return cast(BatchObject, kept)


def _lying(folder: Path) -> dict[str, Lying]:
    """Return the files of a batch's folder that have an id, by kind."""
    found: dict[str, Lying] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            kind = ids.kind_of(entry.name)
            if kind is not None and stat.S_ISREG((there := entry.stat(follow_symlinks=False)).st_mode):
                found[kind] = Lying(entry.name, there.st_size, int(there.st_mtime))
    return found
