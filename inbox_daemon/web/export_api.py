"""The routes by which something leaves the viewer, and by which people say what they think of an answer.

    GET /export/few-shot.jsonl?b=ID…         answers marked good or best; n=, balance=FIELD; form=list: one prompt
    GET /export/preferences.jsonl?b=ID…      good against bad of the same request; form=openai or trl
    GET /export/rows.csv?b=ID…               the rows that a filter lets through (`filters`), in their order
    GET /export/comparison.html?b=ID&b=ID…   what `inbox-daemon compare --html` writes
    POST /api/marks                          {"batches": [ID…], "side": 0, "custom_id", "mark", "note"}
    DELETE /api/marks?b=ID&custom_id=…       takes back what was said of an answer
    GET /api/marks?b=ID…                     what was said

A batch is named by its id, here as everywhere. Marks are of one answer: of one request and one batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, cast, get_args

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from inbox_daemon.errors import SpoolError
from inbox_daemon.spool import marks
from inbox_daemon.spool.marks import Mark, Word
from inbox_daemon.web import asking, compared, export, live, rows
from inbox_daemon.web.cells import messages
from inbox_daemon.web.control import seen_by
from inbox_daemon.web.export import Marked
from inbox_daemon.web.filters import Filter, Order
from inbox_daemon.web.replies import json_reply, read
from inbox_daemon.web.rows import Comparison
from inbox_daemon.web.site import Site, asker
from inbox_daemon.web.wrong import Wrong, quoted

_AT_ONCE = 200  # rows of a table that are read together
_MOST_NOTE = 4_000  # characters
_MOST_EXAMPLES = 100_000


def routes(site: Site) -> APIRouter:
    """Return the routes of /export and /api/marks."""
    router = APIRouter(include_in_schema=False)

    @router.get("/export/few-shot.jsonl")
    def few_shot(request: Request) -> Response:
        params = request.query_params
        found, left_out = _marked(_opened(site, request, params.getlist("b")))
        chosen = export.examples(found, _count(params.get("n", "")), params.get("balance"))
        if _form(params.get("form", "lines"), ("lines", "list")) == "list":
            return _file([export.one_prompt(chosen)], "few-shot.json", "application/json", left_out)
        return _file(export.few_shot(chosen), "few-shot.jsonl", "application/jsonl", left_out)

    @router.get("/export/preferences.jsonl")
    def preferences(request: Request) -> Response:
        form = _form(request.query_params.get("form", "openai"), ("openai", "trl"))
        found, left_out = _marked(_opened(site, request, request.query_params.getlist("b")))
        lines = export.preferences(export.pairs(found), cast(Any, form))
        return _file(lines, "preferences.jsonl", "application/jsonl", left_out)

    @router.get("/export/rows.csv")
    def table(request: Request) -> Response:
        comparison = _opened(site, request, request.query_params.getlist("b"))
        filter, order = Filter.of(request.query_params), Order.of(request.query_params)
        by = comparison.by if filter.by is None else filter.by
        numbers = comparison.matching(filter, order)
        shown = (
            row
            for begin in range(0, len(numbers), _AT_ONCE)
            for row in comparison.whole(numbers[begin : begin + _AT_ONCE], by)
        )
        return _file(export.table(shown, comparison.names, by), "rows.csv", "text/csv; charset=utf-8")

    @router.get("/export/comparison.html")
    def comparison_page(request: Request) -> Response:
        names = _names(site, request, request.query_params.getlist("b"))
        made = compared.page([site.spool.batch(name).dir for name in names])
        return _file([made], "comparison.html", "application/octet-stream")

    @router.post("/api/marks")
    async def mark(request: Request) -> Response:
        said = asking.object_in(await read(request, asking.MOST_BODY))
        return json_reply(await run_in_threadpool(_mark, site, request, said))

    @router.delete("/api/marks")
    def take_back(request: Request, b: str, custom_id: str) -> Response:
        _mark(site, request, {"batches": [b], "custom_id": custom_id, "mark": "", "note": ""})
        return json_reply({"custom_id": custom_id, "batch": b, "deleted": True})

    @router.get("/api/marks")
    def list_marks(request: Request) -> Response:
        comparison = _opened(site, request, request.query_params.getlist("b"))
        said = [
            {"custom_id": mark.custom_id, "batch": mark.batch, "mark": mark.mark, "note": mark.note, "at": mark.at}
            for mark in comparison.marks().values()
        ]
        return json_reply({"object": "list", "data": said})

    return router


def _names(site: Site, request: Request, ids: Sequence[str]) -> list[str]:
    """Return the names of batches that who asks may see. Raises Wrong."""
    known, who = live.of(site), asker(request)
    return [seen_by(known, id, who).name for id in ids]


def _opened(site: Site, request: Request, ids: Sequence[str]) -> Comparison:
    found = rows.opened(site, _names(site, request, ids))
    if isinstance(found, Comparison):
        return found
    said = f"the answers are being read for the first time ({found.percent} %); ask again in a moment"
    raise Wrong(503, said, "being_indexed", type="server_error", headers={"Retry-After": "2"})


# -- marks


def _mark(site: Site, request: Request, said: dict[str, Any]) -> dict[str, Any]:
    """Add a mark, with the prompt and the answer that it is of; return it. Raises Wrong."""
    ids, side, custom_id = said.get("batches"), said.get("side", 0), said.get("custom_id")
    if not isinstance(ids, list) or not ids or not all(isinstance(id, str) for id in ids):
        raise Wrong(400, "batches must be a list of ids", None, "batches")
    if not isinstance(side, int) or isinstance(side, bool) or not 0 <= side < len(ids):
        raise Wrong(400, "side must be the number of one of the batches, from 0", None, "side")
    if not isinstance(custom_id, str):
        raise Wrong(400, "custom_id must be a string", None, "custom_id")
    word, note = said.get("mark", ""), said.get("note", "")
    if word not in get_args(Word):
        raise Wrong(400, f"mark is {quoted(word)}; it may be good, bad, defer, best or empty", None, "mark")
    if not isinstance(note, str) or len(note) > _MOST_NOTE:
        raise Wrong(400, f"note must be a string of at most {_MOST_NOTE:,} characters", None, "note")
    comparison = _opened(site, request, ids)
    found = comparison.answer(custom_id, side)
    if found is None:
        raise Wrong(404, f"{quoted(custom_id)} has no answer in this batch", None, "custom_id")
    asked, text = found
    kept = [dict(message) for message in messages(asked.body)] if asked is not None else None
    status = comparison.statuses[side]
    mark = Mark(custom_id, status["name"], word, note, time.time(), kept, text)
    try:
        marks.add(site.spool, status["id"], mark)
    except SpoolError as error:
        raise Wrong(409, f"the answers of this batch cannot be marked: {error}") from error
    return {"custom_id": custom_id, "batch": ids[side], "mark": word, "note": note}


def _marked(comparison: Comparison) -> tuple[list[Marked], int]:
    """Return what was marked, as it was marked, and how much is left out because its prompt is not known.

    A mark carries its prompt and its answer, unless they are long: those are read again.
    """
    found: list[Marked] = []
    left_out = 0
    for (number, side), mark in sorted(comparison.marks().items(), key=lambda each: each[1].at):
        asked, text = mark.messages, mark.answer
        if asked is None and (prompt := comparison.asked(number, side)) is not None:
            asked = messages(prompt.body)
        if text is None and (again := comparison.answer(mark.custom_id, side)) is not None:
            text = again[1]
        if asked is None or text is None:
            left_out += 1
        else:
            found.append(Marked(mark.custom_id, mark.batch, mark.mark, asked, text))
    return found, left_out


# -- replies


def _file(lines: Iterator[bytes] | Sequence[bytes], name: str, kind: str, left_out: int = 0) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"', "x-left-out": str(left_out)}
    return StreamingResponse(lines, 200, headers, kind)


def _form(said: str, known: Sequence[str]) -> str:
    if said not in known:
        raise Wrong(400, f"form is {quoted(said)}; it may be {' or '.join(known)}", None, "form")
    return said


def _count(said: str) -> int | None:
    if not said:
        return None
    if not (said.isascii() and said.isdecimal()) or not 0 < int(said[:9]) <= _MOST_EXAMPLES:
        raise Wrong(400, f"n must be a number from 1 to {_MOST_EXAMPLES:,}", None, "n")
    return int(said)
