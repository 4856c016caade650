"""What OpenAI's API has no word for: whether the process lives, answers while a batch runs, control beyond cancelling.

A batch is controlled by dropping a file into the inbox, as everybody does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from inbox_daemon.web import asking, described, live, objects, so_far
from inbox_daemon.web.control import cancelled, controlled, removed, seen_by
from inbox_daemon.web.replies import json_reply, read, tagged
from inbox_daemon.web.site import Site, asker

_SHOWN = 100  # batches that /api/live tells of, beside all that have not ended


def routes(site: Site) -> APIRouter:
    """Return the routes /healthz, /v1/models and /api/…"""
    router = APIRouter()
    known = live.of(site)
    lines = so_far.Lines()

    @router.get("/healthz", **described.operation("Health"))
    def healthz() -> Response:
        """Say that this process answers, and whether a daemon lives on its spool. Needs no key."""
        return json_reply({"ok": True, "daemon": known.daemon_lives()})

    @router.get("/v1/models", **described.operation("ModelList"))
    def list_models() -> Response:
        """List the names under which requests may ask, those of all daemons that live."""
        said = {
            name: int(daemon.get("started_at", 0))
            for daemon in known.daemons()
            if daemon["alive"]
            for name in daemon.get("models", ())
        }
        listed = [
            {"id": name, "object": "model", "created": since, "owned_by": "inbox-daemon"}
            for name, since in said.items()
        ]
        return json_reply({"object": "list", "data": listed})

    @router.get("/api/live", **described.operation("Now", 304))
    def everything_now(request: Request) -> Response:
        """Tell how all batches that have not ended are, the newest of those that have, and every daemon."""
        who = asker(request)
        shown = [objects.batch(facts) for facts in known.going_and_newest(who, _SHOWN)]
        keys = ("hostname", "pid", "alive", "engines", "standings", "gpus", "alerts", "waiting")
        daemons = [{key: daemon.get(key) for key in keys} for daemon in known.daemons()] if who.all else []
        return tagged(request, {"batches": shown, "daemons": daemons})[0]

    @router.get("/api/batches/{batch_id}/answers", **described.operation(None, 400, 404, 410, kind="application/jsonl"))
    def answers_so_far(
        batch_id: str, request: Request, first: Annotated[int, Query(alias="from", ge=0)] = 0
    ) -> Response:
        """Send the output lines that a batch has so far, in the order of their computing, after the first N."""
        facts = seen_by(known, batch_id, asker(request))
        folder = site.spool.batch(facts.name)
        pieces, last = lines.after(folder, first)
        headers = {"x-last-line": str(last), "x-incomplete": "false" if facts.ended else "true"}
        body: Iterator[bytes] = so_far.sent(pieces) if request.method == "GET" else iter(())
        return StreamingResponse(body, 200, headers, "application/jsonl")

    @router.post(
        "/api/batches/{batch_id}/priority", **described.operation("Batch", 400, 404, 409, 413, body="Priority")
    )
    async def set_priority(batch_id: str, request: Request) -> Response:
        """Have a batch come before those of a lower priority."""
        said = asking.object_in(await read(request, asking.MOST_BODY))
        number = asking.priority(said.get("priority"))
        facts = await asyncio.to_thread(seen_by, known, batch_id, asker(request))
        await asyncio.to_thread(controlled, site, facts, "priority", f"{number}\n")
        return json_reply(objects.batch(facts))

    @router.post("/api/batches/{batch_id}/cancel", **described.operation("Batch", 404, 409))
    def cancel(batch_id: str, request: Request) -> Response:
        """The same as /v1/batches/ID/cancel."""
        facts = seen_by(known, batch_id, asker(request))
        return json_reply(objects.batch(cancelled(site, facts)))

    @router.post("/api/batches/{batch_id}/delete", **described.operation("DeletedBatch", 404, 409))
    async def delete(batch_id: str, request: Request) -> Response:
        """Have the daemon remove all that a batch which has ended has left."""
        facts = await asyncio.to_thread(seen_by, known, batch_id, asker(request))
        await removed(site, facts, "")
        return json_reply({"id": facts.id, "object": "batch", "deleted": True})

    @router.post("/api/batches/{batch_id}/pause", **described.operation("Batch", 404, 409))
    def pause(batch_id: str, request: Request) -> Response:
        """Have nothing more of a batch go to the engine, until it is resumed."""
        return json_reply(objects.batch(controlled(site, seen_by(known, batch_id, asker(request)), "pause")))

    @router.post("/api/batches/{batch_id}/resume", **described.operation("Batch", 404, 409))
    def resume(batch_id: str, request: Request) -> Response:
        """Have a batch go on that was paused, or parked."""
        return json_reply(objects.batch(controlled(site, seen_by(known, batch_id, asker(request)), "resume")))

    return router
