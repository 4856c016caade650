"""The viewer's pages: which there are, and what each is made of. Draws nothing itself, and decides nothing of batches.

What a page may do to a batch, it does by dropping a file, as every user does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.routing import APIRoute
from starlette.responses import RedirectResponse, StreamingResponse

from inbox_daemon.errors import InboxDaemonError, told
from inbox_daemon.spool import drop, marks, published, submitted
from inbox_daemon.spool.submitted import Asked
from inbox_daemon.text import dumps
from inbox_daemon.web import control, facts, folder, looks, rows
from inbox_daemon.web.ids import RETRY, called, output_id
from inbox_daemon.web.login import page_of_ours
from inbox_daemon.web.objects import WINDOW
from inbox_daemon.web.shelf import Held, Shelf
from inbox_daemon.web.site import Site, asker
from inbox_daemon.web.versus import Versus
from inbox_daemon.web.wrong import Wrong

_LOOKED_AT = 200  # batches in which those of the same file are found
_FOR_EVER = {"cache-control": "max-age=31536000, immutable"}  # its address changes with the content


class _Page(APIRoute):
    """A route whose refusals are pages as well."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Wrong as error:
                title = "Not found" if error.status == 404 else "That cannot be done"
                return looks.page(request, "wrong.html", error.status, title=title, why=error.message)
            except (InboxDaemonError, OSError) as error:
                why = f"The spool cannot be used: {told(error)}."
                return looks.page(request, "wrong.html", 500, title="That went wrong", why=why)

        return handled


def not_found(request: Request, why: str) -> Response:
    """Return the page that says that there is no such page."""
    return looks.page(request, "wrong.html", 404, title="Not found", why=why)


def is_wanted(request: Request) -> bool:
    """Say whether whoever asks reads pages, and asks for none of what programs ask for."""
    programs = request.url.path.startswith(("/v1/", "/api/", "/export/"))
    return not programs and "text/html" in request.headers.get("accept", "")


def routes(site: Site) -> APIRouter:
    """Return the routes of all pages; none of them is part of what programs may rely on."""
    router = APIRouter(include_in_schema=False, route_class=_Page)
    shelf = Shelf(site)

    @router.get("/")
    def overview(request: Request, q: str = "", page: str = "") -> Response:
        listed = shelf.listed(request, q, _number(page))
        shown = [_row(one) for one in listed.shown]
        return looks.page(
            request,
            "overview.html",
            head=_head(request, sum(_row(one).rate or 0 for one in listed.going), True),
            rows=shown,
            summary=facts.summary(len(listed.going), listed.total),
            together=facts.together(shown) if not q else None,
            waiting=shelf.waiting(request),
            inbox=str(site.spool.inbox),
            q=q,
            page=listed.page,
            of=listed.pages,
            link=lambda number: f"/?{urlencode({'q': q, 'page': number} if q else {'page': number})}",
        )

    @router.get("/batches/{id}")
    def batch(request: Request, id: str) -> Response:
        one = _one(request, id)
        status = (published.status(site.spool, one.name) if one.has_folder else None) or one.status
        receipt = folder.receipt(site.spool, one.name)
        row = _row(one)
        found = rows.opened(site, [one.name]) if one.has_folder and row.total else None
        here = f"/batches/{one.id}"
        return looks.page(
            request,
            "batch.html",
            head=_head(request, row.rate or 0 if row.going else 0, True),
            row=row,
            facts=list(facts.particulars(one.status, receipt)),
            warnings=status.get("warnings") or (),
            files=folder.files(site.spool, one.name, one.id),
            again=folder.to_retry(receipt),
            folder=str(site.spool.batch(one.name).dir),
            proven=bool(receipt),
            history=facts.history(one.status, receipt),
            percent=found.percent if isinstance(found, rows.Indexing) else None,
            ids=[one.id],
            **(_figured(request, found, here, ()) if isinstance(found, rows.Comparison) else {"comparison": None}),
        )

    @router.get("/batches/{id}/files/{filename}")
    def download(request: Request, id: str, filename: str) -> Response:
        one = _one(request, id)
        if filename not in {file.name for file in folder.files(site.spool, one.name, one.id)}:
            raise Wrong(404, f"There is no such file of {one.name}.")
        disposition = f'attachment; filename="{one.id}-{filename}"'
        content = folder.content(site.spool.batch(one.name).dir / filename)
        return StreamingResponse(content, 200, {"content-disposition": disposition}, "application/octet-stream")

    @router.post("/batches/{id}/again")
    def again(request: Request, id: str) -> Response:
        one = _one(request, id)
        if (path := folder.retry_file(site.spool, one.name)) is None:
            raise Wrong(404, f"Of {one.name} nothing is left that may be run again.")
        if asker(request).all:
            list(drop.drop_all(site.spool, [(path, folder.retry_name(one.name, path.name))]))
        else:  # it is to be the same key's as what it is left of
            asked = Asked(
                input_file_id=output_id(one.id, RETRY),
                endpoint=one.status["endpoint"],
                completion_window=WINDOW,
                key=asker(request).key,
            )
            stem = folder.retry_name(called(one.name), path.name)
            submitted.create(site.spool, path, stem, asked, None, time.time(), keep_free=site.config.results.keep_free)
        return RedirectResponse("/", 303)

    @router.post("/batches/{id}/{verb}")
    def act(request: Request, id: str, verb: str, back: str = Form("/")) -> Response:
        one = _one(request, id)
        if verb == "cancel":
            control.cancelled(site, one.facts)
        elif verb in ("pause", "resume"):
            control.controlled(site, one.facts, verb)
        else:
            raise Wrong(404, f"A batch cannot be told to {verb}.")
        return RedirectResponse(back if back == f"/batches/{id}" else "/", 303)

    @router.get("/compare")
    def compare(request: Request) -> Response:
        some = [_one(request, id) for id in request.query_params.getlist("b")]
        if not some:
            groups = facts.groups([_row(one) for one in shelf.listed(request, size=_LOOKED_AT).shown])
            return looks.page(request, "pick.html", head=_head(request), groups=groups)
        found = rows.opened(site, [one.name for one in some])
        if isinstance(found, rows.Indexing):
            return looks.page(request, "indexing.html", head=_head(request), percent=found.percent)
        ids = [one.id for one in some]
        return looks.page(
            request, "compare.html", head=_head(request), ids=ids, **_figured(request, found, "/compare", ids)
        )

    @router.get("/row")
    def row(request: Request, id: str = "", by: str | None = None) -> Response:
        some = [_one(request, each) for each in request.query_params.getlist("b")]
        found = rows.opened(site, [one.name for one in some])
        if isinstance(found, rows.Indexing):
            return looks.page(request, "indexing.html", head=_head(request), percent=found.percent)
        if (shown := found.row(id, by)) is None:
            raise Wrong(404, f"No request in these batches has the custom_id {id}.")
        ids = [one.id for one in some]
        back = _answers_of(ids)
        names, by = found.names, found.by if by is None else by
        return looks.page(request, "row.html", head=_head(request), row=shown, names=names, ids=ids, by=by, back=back)

    @router.get("/marks")
    def marks_of(request: Request) -> Response:
        some = [_one(request, id) for id in request.query_params.getlist("b")]
        if not some:
            return looks.page(request, "marked.html", head=_head(request), sets=_sets(request))
        found = rows.opened(site, [one.name for one in some])
        if isinstance(found, rows.Indexing):
            return looks.page(request, "indexing.html", head=_head(request), percent=found.percent)
        ids = [one.id for one in some]
        counts = Counter(mark.mark for mark in found.marks().values())
        whole = _answers_of(ids)
        return looks.page(
            request,
            "marks.html",
            head=_head(request),
            names=found.names,
            ids=ids,
            counts=counts.most_common(),
            whole=whole,
            fields=[field.name for field in found.fields if field.name],
            **_answers(request, found, "/marks", ids, "any"),
        )

    @router.get("/api")
    def api(request: Request) -> Response:
        keyed = bool(site.config.web.keys)
        base = f"{request.url.scheme}://{request.url.netloc}"
        models = [name for daemon in shelf.daemons(request) if daemon["alive"] for name in daemon.get("models", ())]
        return looks.page(
            request,
            "api.html",
            head=_head(request),
            base=base,
            keyed=keyed,
            key="YOUR-KEY" if keyed else "none",
            auth='-H "Authorization: Bearer YOUR-KEY" ' if keyed else "",
            models=list(dict.fromkeys(models)),
            model=dumps(models[0] if models else "MODEL").decode(),
            inbox=str(site.spool.inbox),
            outbox=str(site.spool.outbox),
        )

    @router.get("/login")
    def login(request: Request, wrong: str = "", next: str = "/") -> Response:
        return looks.page(request, "login.html", wrong=wrong, next=page_of_ours(next))

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        found = looks.static_files().get(name)
        if found is None:
            return Response("no such file", 404, media_type="text/plain")
        return Response(found.content, 200, _FOR_EVER, found.media_type)

    @router.get("/favicon.ico")
    def favicon() -> Response:
        return static("favicon.svg")

    def _head(request: Request, rate: float = 0.0, warn: bool = False) -> facts.Head:
        return facts.head(shelf.daemons(request), rate, warn)

    def _sets(request: Request) -> list[dict[str, Any]]:
        """Return the batches of which somebody has marked an answer, as far as who asks may see them."""
        found = []
        for name in marks.sets(site.spool):
            if (one := shelf.one(request, name)) is not None:
                counts = Counter(mark.mark for mark in marks.read(site.spool, name).values())
                found.append({"id": one.id, "name": one.name, "counts": counts})
        return found

    def _one(request: Request, id: str) -> Held:
        if (found := shelf.one(request, id)) is None:
            raise Wrong(404, f"{id} is not here: it never was, or somebody has removed it.")
        return found

    return router


def _row(one: Held) -> facts.Row:
    return facts.row(one.status, one.id, one.results, one.waits, one.rests)


def _answers_of(ids: Sequence[str]) -> str:
    """Return where all answers of some batches are shown."""
    return facts.compare_link(ids) if len(ids) > 1 else f"/batches/{ids[0]}"


def _number(page: str) -> int:
    return max(1, int(page)) if page.isascii() and page.isdecimal() and len(page) < 10 else 1


def _figured(request: Request, found: rows.Comparison, path: str, ids: Sequence[str]) -> dict[str, Any]:
    """Return what a page of answers with figures above them shows."""
    shown = _answers(request, found, path, ids)
    return shown | {"header": found.header(shown["shown"].by)}


def _answers(
    request: Request, found: rows.Comparison, path: str, ids: Sequence[str], marked: str = ""
) -> dict[str, Any]:
    """Return what a page of answers shows, as its address asks for it."""
    params = request.query_params
    filter, order = rows.Filter.of(params), rows.Order.of(params)
    filter = replace(filter, marked=marked) if marked else filter
    shown = found.rows(filter, order, _number(params.get("page", "")))
    return {
        "comparison": found,
        "versus": Versus(path, ids, filter, order),
        "shown": shown,
        "first": shown.page == 1 and not filter.query().replace("by=", ""),
    }
