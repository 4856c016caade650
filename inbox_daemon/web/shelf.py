"""The batches that somebody may see, as pages want them: each with the id by which it is found, newest first."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from inbox_daemon.spool import published, views
from inbox_daemon.spool.shapes import BatchObject
from inbox_daemon.web.site import Site, asker


@dataclass(frozen=True, slots=True)
class Held:
    """One batch. `results`: where its answers may be downloaded, once all are there."""

    id: str
    status: BatchObject
    results: str | None

    @property
    def name(self) -> str:
        return self.status["name"]


class Shelf:
    """All batches of a site's spool."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._statuses = published.Statuses(site.spool)

    def all(self, request: Request) -> list[Held]:
        """Return every batch that who asks may see, the newest first."""
        if not asker(request).all:
            return []
        rests = not views.runs_on(self._site.spool)
        return [self._held(status, rests) for status in reversed(self._statuses.read())]

    def one(self, request: Request, id: str) -> Held | None:
        return next((held for held in self.all(request) if held.id == id), None)

    def _held(self, status: BatchObject, rests: bool) -> Held:
        ended = views.has_ended(status)
        results = f"/batches/{status['id']}/files/results.jsonl" if ended and views.done(status) else None
        return Held(status["id"], views.at_rest(status) if rests and not ended else status, results)
