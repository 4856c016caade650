"""The batches that somebody may see, as pages want them. Reads by way of `live`, and only what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from fastapi import Request

from inbox_daemon.spool import views
from inbox_daemon.spool.shapes import BatchObject, DaemonView
from inbox_daemon.web import ids, live, objects
from inbox_daemon.web.objects import Facts
from inbox_daemon.web.places import Place
from inbox_daemon.web.site import Site, asker


@dataclass(frozen=True, slots=True)
class Held:
    """One batch.

    Attributes:
        status: its status.json; of one that has none yet, or none any more, what is known all the same.
        waits: why its file is not taken yet. rests: no daemon runs that would go on with it.
        has_folder: whether there is anything of it in the outbox.
        results: where its answers may be downloaded, once all are there.
    """

    facts: Facts
    status: BatchObject
    waits: str | None
    rests: bool
    has_folder: bool
    results: str | None

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def name(self) -> str:
        return self.facts.name


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of batches: what is at work before what has ended, the newest first.

    Attributes:
        going: all that are at work, whether they are on this page or not. total: of all pages.
        page: 1-based; the last one where a later one was asked for. pages: 1 at least.
    """

    shown: list[Held]
    going: list[Held]
    total: int
    page: int
    pages: int


class Shelf:
    """All batches of a site's spool."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._known = live.of(site)
        self._over: set[str] = set()  # ids of batches that have ended, which they do once: there may be thousands

    def daemons(self, request: Request) -> list[DaemonView]:
        """Return what daemons say of themselves; what is wrong with batches, only for who sees all of them."""
        said = self._known.daemons()
        return said if asker(request).all else [{**daemon, "alerts": []} for daemon in said]

    def waiting(self, request: Request) -> list[tuple[str, str]]:
        """Return which dropped files are not taken yet, and why, by name; for who sees everything."""
        return sorted(self._known.waiting().items()) if asker(request).all else []

    def listed(self, request: Request, name: str = "", page: int = 1, size: int = 50) -> Listed:
        """Return a page of the batches that who asks may see and that have `name` in their names."""
        who = asker(request)
        places = [each for each in self._known.places() if who.sees(each.owner) and name.lower() in each.name.lower()]
        maybe = [held for each in places if each.id not in self._over and (held := self._held(each)) is not None]
        going = [held for held in maybe if not views.has_ended(held.status)]
        self._over |= {held.id for held in maybe} - {held.id for held in going}
        pages = max(1, -(-len(places) // size))
        page = min(max(1, page), pages)
        first = (page - 1) * size
        at_work = {held.id for held in going}
        over = [each for each in places if each.id not in at_work]
        wanted = over[max(0, first - len(going)) : max(0, first + size - len(going))]
        shown = [*going[first : first + size], *(held for each in wanted if (held := self._held(each)) is not None)]
        return Listed(shown, going, len(places), page, pages)

    def _held(self, place: Place) -> Held | None:
        facts = self._known.facts(place)
        return _held(facts, not self._known.daemon_lives()) if facts is not None else None

    def one(self, request: Request, id: str) -> Held | None:
        """Return a batch by its id; None where there is none for who asks."""
        facts = self._known.one(id)
        if facts is None or not asker(request).sees(facts.owner):
            return None
        return _held(facts, not self._known.daemon_lives())


def _held(facts: Facts, rests: bool) -> Held:
    counts = {"total": 0, "completed": 0, "failed": 0}
    plain: Mapping[str, Any] = {"id": facts.id, "created_at": facts.created_at, "request_counts": counts}
    known: Mapping[str, Any] = {"name": facts.name, "status": str(facts.status)}
    status = cast(BatchObject, {**plain, **(facts.said or {}), **known})
    told = objects.output(facts, ids.RESULTS)
    return Held(
        facts,
        views.at_rest(status) if rests and not views.has_ended(status) else status,
        facts.waits if facts.said is None and not views.has_ended(status) else None,
        rests and not views.has_ended(status),
        bool(facts.lying) or (facts.said is not None and not views.has_ended(status)),
        f"/v1/files/{told['id']}/content" if told is not None else None,
    )
