"""OpenAI's Files: /v1/files. Uploads, and what batches have left in the outbox, under the same verbs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from inbox_daemon.layout import suffix_of
from inbox_daemon.spool import store
from inbox_daemon.spool.store import StoredFile, Upload
from inbox_daemon.web import asking, content, described, ids, live, objects, upload
from inbox_daemon.web.control import removed, seen_by
from inbox_daemon.web.keeping import kept_until, refuse_too_much
from inbox_daemon.web.objects import File
from inbox_daemon.web.paging import page
from inbox_daemon.web.replies import json_reply
from inbox_daemon.web.site import Asker, Site, asker
from inbox_daemon.web.turns import Locks, Seats
from inbox_daemon.web.upload import Form
from inbox_daemon.web.wrong import Wrong, missing_in_form, no_file

_MOST_LISTED = 10_000


def routes(site: Site, seats: Seats) -> APIRouter:
    """Return the routes of /v1/files; `seats` are for what is uploaded at the same time."""
    router = APIRouter(prefix="/v1/files", tags=["Files"])
    known = live.of(site)
    locks = Locks()
    most = site.config.web.max_upload_bytes

    def there(id: str, request: Request) -> tuple[File, Path]:
        found = known.file(id, asker(request))
        if found is None:
            raise no_file(id)
        return found

    def begin(filename: str, fields: Mapping[str, str]) -> Upload:
        upload.refuse_purpose(fields.get("purpose", "batch"))
        return store.begin(site.spool, suffix_of(filename), keep_free=site.config.results.keep_free)

    @router.post("", **described.operation("File", 400, 413, 415, 507, form="CreateFile"))
    async def create_file(request: Request) -> Response:
        """Take a file of requests, one a line. It is kept once this has answered, and not a moment sooner."""
        form = Form(request.headers.get("content-type", ""), "file", most, begin)
        with seats.needed("", "uploads"):
            async with upload.received(request, form) as sent, locks.one(f"{asker(request).key}\0{sent.sha256()}"):
                stored = await asyncio.to_thread(_keep, site, form, sent, asker(request), request)
        return json_reply(objects.upload(stored))

    @router.get("", **described.operation("FileList", 400))
    def list_files(
        request: Request,
        purpose: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=_MOST_LISTED)] = _MOST_LISTED,
        order: Literal["asc", "desc"] = "desc",
    ) -> Response:
        """List files: uploads, and what batches have left."""
        found = [one for one in known.files(asker(request)) if not purpose or one["purpose"] == purpose]
        listed = page(found[:: -1 if order == "desc" else 1], lambda file: file["id"], after, limit)
        return json_reply(listed.told(listed.items))

    @router.get("/{file_id}", **described.operation("File", 404))
    def retrieve_file(file_id: str, request: Request) -> Response:
        """Tell what a file is."""
        return json_reply(there(file_id, request)[0])

    @router.get("/{file_id}/content", **described.operation(None, 206, 304, 404, 416))
    def download_file(file_id: str, request: Request) -> Response:
        """Send a file's bytes, or with Range a part of them."""
        file, path = there(file_id, request)
        try:
            return content.sent(request, path, file["filename"])
        except FileNotFoundError as error:
            raise no_file(file_id) from error

    @router.delete("/{file_id}", **described.operation("Deleted", 404, 409))
    async def delete_file(file_id: str, request: Request) -> Response:
        """Delete an upload, or have the daemon delete an output. A batch that was made of it is not touched."""
        file, path = await asyncio.to_thread(there, file_id, request)
        output = ids.output_of(file_id)
        if output is None:
            if not await asyncio.to_thread(store.delete, site.spool, file_id):
                raise no_file(file_id)
        else:
            facts = await asyncio.to_thread(seen_by, known, output.batch, asker(request))
            async with locks.one(facts.name):  # the next list of names would replace one that was not taken yet
                await removed(site, facts, path.name)
        return json_reply({"id": file["id"], "object": "file", "deleted": True})

    return router


def _keep(site: Site, form: Form[Upload], sent: Upload, who: Asker, request: Request) -> StoredFile:
    """Keep an upload, or find it where its client sends it again; return it as it is kept.

    Raises:
        Wrong: what the form says beside it is refused.
        SpoolError, OSError: the disk says no.
    """
    if "purpose" not in form.fields:
        raise missing_in_form("purpose")
    upload.refuse_purpose(form.fields["purpose"])
    if not sent.size:
        raise Wrong(400, "The file is empty.", "empty_file", "file")
    now = time.time()
    after = asking.file_expires_after(form.fields)
    if asking.is_retry(request.headers):
        name, sha256 = store.cut(form.filename), sent.sha256()
        for one in reversed(store.all_of(site.spool)):
            same = (one.key, one.sha256, one.filename) == (who.key, sha256, name)
            if same and now - one.created_at <= asking.RETRIED_WITHIN:
                return one
    refuse_too_much(site)
    return sent.keep(form.filename, "batch", kept_until(site, after, now), who.key, now)
