"""OpenAI's Uploads: /v1/uploads. A file that comes in parts, over several requests, and becomes one of /v1/files.

For clients that cannot send a file in one piece, and for connections that break: a part that was acknowledged is not
sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import Response

from inbox_daemon.errors import NotNow, Rejected
from inbox_daemon.spool import joined, parted
from inbox_daemon.spool.parted import Begun, Coming
from inbox_daemon.web import asking, described, in_parts, upload
from inbox_daemon.web.keeping import kept_until, refuse_too_much
from inbox_daemon.web.replies import json_reply, read
from inbox_daemon.web.site import Asker, Site, asker
from inbox_daemon.web.turns import Locks, Seats
from inbox_daemon.web.upload import Form
from inbox_daemon.web.wrong import Wrong, quoted


def routes(site: Site, seats: Seats) -> APIRouter:
    """Return the routes of /v1/uploads; `seats` are for what is uploaded at the same time."""
    router = APIRouter(prefix="/v1/uploads", tags=["Uploads"])
    locks = Locks()
    most, keep_free = site.config.web.max_upload_bytes, site.config.results.keep_free

    def begun(id: str, who: Asker) -> Begun:
        found = parted.get(site.spool, id)
        if found is None or not who.sees(found.key):
            raise _no_upload(id)
        return found

    @router.post("", **described.operation("Upload", 400, 413, 507, body="CreateUpload"))
    async def create_upload(request: Request) -> Response:
        """Begin a file that comes in parts. What is not complete within an hour goes."""
        wanted = asking.upload(await read(request, asking.MOST_BODY), most)
        made = await asyncio.to_thread(_begin, site, wanted, asker(request).key)
        return json_reply(in_parts.begun(made))

    @router.post("/{upload_id}/parts", **described.operation("UploadPart", 400, 404, 413, 415, 507, form="CreatePart"))
    async def add_part(upload_id: str, request: Request) -> Response:
        """Take one part. It counts once this has answered."""
        await asyncio.to_thread(begun, upload_id, asker(request))

        def begin(filename: str, fields: Mapping[str, str]) -> Coming:
            return parted.append(site.spool, upload_id, keep_free=keep_free)

        form = Form(request.headers.get("content-type", ""), "data", most, begin)
        with seats.needed("", "uploads"):
            try:
                async with upload.received(request, form) as sent:
                    part = await asyncio.to_thread(sent.keep, time.time())
            except Rejected as error:
                raise Wrong(400, f"{error}.", error.code, "data") from error
            except FileNotFoundError:
                raise _no_upload(upload_id) from None
        return json_reply(in_parts.part(upload_id, part))

    @router.post("/{upload_id}/complete", **described.operation("Upload", 400, 404, 409, 413, 507, body="Complete"))
    async def complete_upload(upload_id: str, request: Request) -> Response:
        """Make the parts, in the order that is said, a file; the same file, however often this is asked."""
        before = await asyncio.to_thread(_seen_by, site, upload_id, asker(request))
        parts, md5 = asking.completion(await read(request, asking.MOST_BODY))
        async with locks.one(upload_id):
            told = await asyncio.to_thread(_complete, site, upload_id, before, parts, md5)
        return json_reply(told)

    @router.post("/{upload_id}/cancel", **described.operation("Upload", 404))
    def cancel_upload(upload_id: str, request: Request) -> Response:
        """Throw away what has come of it."""
        begun(upload_id, asker(request))
        gone = parted.cancel(site.spool, upload_id)
        if gone is None:
            raise _no_upload(upload_id)
        return json_reply(in_parts.begun(gone, "cancelled"))

    return router


def _begin(site: Site, wanted: asking.Wanted, key: str) -> Begun:
    refuse_too_much(site)
    return parted.begin_parts(
        site.spool,
        wanted.filename,
        wanted.bytes,
        "batch",
        wanted.mime_type,
        key,
        time.time(),
        expires_after=wanted.expires_after,
        keep_free=site.config.results.keep_free,
    )


def _complete(site: Site, id: str, begun: Begun | None, parts: list[str], md5: str | None) -> in_parts.Upload:
    """Complete an upload, and return it as it is told. Raises Wrong."""
    now = time.time()
    try:
        file = joined.complete(
            site.spool,
            id,
            parts,
            md5,
            now,
            expires_at=kept_until(site, None, now),
            keep_free=site.config.results.keep_free,
        )
    except Rejected as error:
        param = "md5" if error.code == "wrong_md5" else "part_ids"
        raise Wrong(400, f"{error}.", error.code, param) from error
    except NotNow as error:
        raise Wrong(409, f"{error}.", "part_under_way") from error
    except FileNotFoundError:
        raise _no_upload(id) from None
    return in_parts.completed(id, begun, file)


def _seen_by(site: Site, id: str, who: Asker) -> Begun | None:
    """Return an upload that somebody may complete; None where it has become a file before. Raises Wrong."""
    begun = parted.get(site.spool, id)
    there = begun or joined.become(site.spool, id)
    if there is None or not who.sees(there.key):
        raise _no_upload(id)
    return begun


def _no_upload(id: str) -> Wrong:
    return Wrong(404, f"No upload found with id {quoted(id)}.", None, "upload_id")
