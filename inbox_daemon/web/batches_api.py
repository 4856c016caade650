"""OpenAI's Batches: /v1/batches. Making, listing, waiting for and cancelling; all else of a batch is `own_api`'s.

Nothing is run here: a batch that is made goes into the inbox, and the outbox says what became of it.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from inbox_daemon.spool import submitted
from inbox_daemon.spool.submitted import Asked, Submitted
from inbox_daemon.web import asking, described, live, objects
from inbox_daemon.web.control import cancelled, seen_by
from inbox_daemon.web.objects import Facts
from inbox_daemon.web.paging import page
from inbox_daemon.web.replies import json_reply, read, tagged
from inbox_daemon.web.site import Asker, Site, asker
from inbox_daemon.web.turns import Locks, Seats
from inbox_daemon.web.wrong import NO_RETRY, Wrong, no_file

_LOOK_EVERY = 0.25  # seconds, while somebody waits for a change
_WAITING, _WAITING_OF_ONE = 64, 8


def routes(site: Site) -> APIRouter:
    """Return the routes of /v1/batches."""
    router = APIRouter(prefix="/v1/batches", tags=["Batches"])
    known = live.of(site)
    locks, seats = Locks(), Seats(_WAITING, _WAITING_OF_ONE)

    @router.post("", **described.operation("Batch", 400, 404, 413, 422, 507, body="CreateBatch"))
    async def create_batch(request: Request) -> Response:
        """Make a batch of a file that was uploaded, and put it into the inbox."""
        who = asker(request)
        asked = asking.batch(await read(request, asking.MOST_BODY), who.key)
        named = asking.idempotency(request.headers, who.key)
        again = named is None and asking.is_retry(request.headers)
        async with locks.one(named or asked.fingerprint):
            facts = await asyncio.to_thread(_create, site, asked, named, again, who)
        return json_reply(objects.batch(facts))

    @router.get("", **described.operation("BatchList", 400))
    def list_batches(
        request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> Response:
        """List batches, the newest first; those whose files were dropped into the inbox, too."""
        who = asker(request)
        seen = [place for place in known.places() if who.sees(place.owner)]
        found = page(seen, lambda place: place.id, after, limit)
        told = [facts for place in found.items if (facts := known.facts(place)) is not None]
        return json_reply(found.told([objects.batch(facts) for facts in told]))

    @router.get("/{batch_id}", **described.operation("Batch", 304, 404))
    async def retrieve_batch(batch_id: str, request: Request) -> Response:
        """Tell how a batch is; with `Prefer: wait=N`, at its next change, or after N seconds."""
        who = asker(request)
        facts = await asyncio.to_thread(seen_by, known, batch_id, who)
        answer, same = tagged(request, objects.batch(facts))
        asked_for = "if-none-match" in request.headers
        seconds = asking.wait(request.headers)
        if not seconds or facts.ended or (asked_for and not same):
            return answer
        with seats.seat(who.key) as has:
            if has:
                answer = await _changed(request, partial(seen_by, known, batch_id, who), answer, seconds)
                answer.headers["preference-applied"] = f"wait={seconds}"
        return answer

    @router.post("/{batch_id}/cancel", **described.operation("Batch", 404, 409))
    def cancel_batch(batch_id: str, request: Request) -> Response:
        """End a batch: what has an answer keeps it, and nothing more is computed."""
        return json_reply(objects.batch(cancelled(site, seen_by(known, batch_id, asker(request)))))

    return router


def _create(site: Site, asked: Asked, named: str | None, again: bool, who: Asker) -> Facts:
    """Make a batch, or find the one that was made before; return what is known of it.

    Args:
        named: under what name it is to be made once (`asking.idempotency`).
        again: its client has asked for the same before, and may have had no answer.
    """
    made = submitted.find(site.spool, named) if named is not None else None
    now = time.time()
    if again:
        made = _made_before(site, asked, now)
    known = live.of(site)
    if made is None:
        found = known.file(asked.input_file_id, who)
        if found is None:
            raise no_file(asked.input_file_id)
        file, content = found
        if file["purpose"] != "batch":
            said = f"Invalid 'input_file_id': a file of purpose '{file['purpose']}' is no input of a batch."
            raise Wrong(400, said, "invalid_value", "input_file_id")
        keep_free = site.config.results.keep_free
        stem = file["filename"].rsplit("/", 1)[-1]
        try:
            made = submitted.create(site.spool, content, stem, asked, named, now, keep_free=keep_free)
        except FileNotFoundError as error:
            raise no_file(asked.input_file_id) from error
    if made.fingerprint != asked.fingerprint:
        said = "The Idempotency-Key was used before, with another body."
        raise Wrong(422, said, "idempotency_key_reused", headers=NO_RETRY)
    return seen_by(known, made.id, Asker())


def _made_before(site: Site, asked: Asked, now: float) -> Submitted | None:
    """Return the newest batch for which its client has asked lately in the same words."""
    lately = (
        batch for batch in reversed(submitted.all_of(site.spool)) if now - batch.created_at <= asking.RETRIED_WITHIN
    )
    return next((batch for batch in lately if batch.fingerprint == asked.fingerprint), None)


async def _changed(request: Request, look: partial[Facts], answer: Response, seconds: int) -> Response:
    """Return what is told of a batch once it is something else than `answer`, or that one after so many seconds.

    When the process ends, nobody waits on.
    """
    until = time.monotonic() + seconds
    stopping: asyncio.Event | None = getattr(request.state, "stopping", None)
    while (left := until - time.monotonic()) > 0 and not await request.is_disconnected():
        if stopping is not None and stopping.is_set():
            break
        await asyncio.sleep(min(_LOOK_EVERY, left))
        fresh, _ = tagged(request, objects.batch(await asyncio.to_thread(look)))
        if fresh.headers["etag"] != answer.headers["etag"]:
            return fresh
    return answer
