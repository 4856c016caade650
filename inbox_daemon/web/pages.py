"""The viewer's pages: which there are, and what each is made of. Draws nothing itself, and decides nothing of batches.

What a page may do to a batch, it does by dropping a file, as every user does.
"""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from starlette.responses import RedirectResponse, StreamingResponse

from inbox_daemon.spool import drop, published, views
from inbox_daemon.web import facts, folder, looks
from inbox_daemon.web.shelf import Shelf
from inbox_daemon.web.site import Site

_A_PAGE = 50  # batches
_VERBS = ("pause", "resume", "cancel")
_FOR_EVER = {"cache-control": "max-age=31536000, immutable"}  # its address changes with the content


def routes(site: Site) -> APIRouter:
    """Return the routes of all pages; none of them is part of what programs may rely on."""
    router = APIRouter(include_in_schema=False)
    shelf = Shelf(site)

    @router.get("/")
    def overview(request: Request, q: str = "", page: int = 1) -> Response:
        everything = shelf.all(request)
        rows = [facts.row(one.status, one.id, one.results) for one in everything if q.lower() in one.name.lower()]
        pages = max(1, -(-len(rows) // _A_PAGE))
        page = min(max(1, page), pages)
        shown = rows[(page - 1) * _A_PAGE :][:_A_PAGE]
        return looks.page(
            request,
            "overview.html",
            head=_head(sum(row.rate or 0 for row in rows if row.going)),
            rows=shown,
            summary=facts.summary(rows, len(rows)),
            together=facts.together(shown) if not q else None,
            waiting=sorted(published.waiting(site.spool).items()),
            inbox=str(site.spool.inbox),
            q=q,
            page=page,
            of=pages,
            link=lambda number: f"/?{urlencode({'q': q, 'page': number} if q else {'page': number})}",
        )

    @router.get("/batches/{id}")
    def batch(request: Request, id: str) -> Response:
        one = shelf.one(request, id)
        if one is None:
            return _missing(request, id)
        receipt = folder.receipt(site.spool, one.name)
        row = facts.row(one.status, one.id, one.results)
        return looks.page(
            request,
            "batch.html",
            head=_head(row.rate or 0 if row.going else 0),
            row=row,
            facts=list(facts.particulars(one.status, receipt)),
            warnings=one.status.get("warnings") or (),
            files=folder.files(site.spool, one.name, one.id),
            again=folder.to_retry(receipt),
            folder=str(site.spool.batch(one.name).dir),
            proven=bool(receipt),
            history=facts.history(one.status, receipt),
        )

    @router.get("/batches/{id}/files/{filename}")
    def download(request: Request, id: str, filename: str) -> Response:
        one = shelf.one(request, id)
        listed = folder.files(site.spool, one.name, one.id) if one else ()
        if one is None or filename not in {file.name for file in listed}:
            return _missing(request, id, f"{filename} of ")
        disposition = f'attachment; filename="{one.id}-{filename}"'
        content = folder.content(site.spool.batch(one.name).dir / filename)
        return StreamingResponse(content, 200, {"content-disposition": disposition}, "application/octet-stream")

    @router.post("/batches/{id}/again")
    def again(request: Request, id: str) -> Response:
        one = shelf.one(request, id)
        path = folder.retry_file(site.spool, one.name) if one else None
        if one is None or path is None:
            return _missing(request, id, "The file of what is to be run again, of ")
        list(drop.drop_all(site.spool, [(path, folder.retry_name(one.name, path.name))]))
        return RedirectResponse("/", 303)

    @router.post("/batches/{id}/{verb}")
    def control(request: Request, id: str, verb: str, back: str = Form("/")) -> Response:
        one = shelf.one(request, id)
        if one is None or verb not in _VERBS:
            return _missing(request, id)
        if not views.has_ended(one.status):
            drop.drop_control(site.spool, one.status["id"], verb)
        return RedirectResponse(back if back == f"/batches/{id}" else "/", 303)

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        found = looks.static_files().get(name)
        if found is None:
            return Response("no such file", 404, media_type="text/plain")
        return Response(found.content, 200, _FOR_EVER, found.media_type)

    @router.get("/favicon.ico")
    def favicon() -> Response:
        return static("favicon.svg")

    def _head(rate: float) -> facts.Head:
        return facts.head(published.daemons(site.spool), rate)

    def _missing(request: Request, id: str, what: str = "") -> Response:
        why = f"{what}{id} is not here: it never was, or somebody has removed its folder from the outbox."
        return looks.page(request, "wrong.html", 404, head=_head(0), title="Not found", why=why)

    return router
