"""The application: every router, and the one form of every error. What is around it, the guard, knows no route."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from inbox_daemon import __version__
from inbox_daemon.errors import InboxDaemonError, NoRoom, Rejected, told
from inbox_daemon.web import batches_api, described, export_api, files_api, own_api, pages, tending, uploads_api
from inbox_daemon.web.replies import json_reply
from inbox_daemon.web.site import Site
from inbox_daemon.web.turns import Seats
from inbox_daemon.web.wrong import NO_RETRY, Wrong, quoted

_BATCH_ONLY = "this is a batch service: upload a file of requests to /v1/files and create a batch of it at /v1/batches"


def application(site: Site) -> FastAPI:
    """Return the application that serves one spool.

    Raises:
        ConfigError: the webhooks' key cannot be read.
    """
    app = FastAPI(
        title="inbox-daemon",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        lifespan=tending.beside(site),
    )
    seats = Seats(site.config.web.uploads)
    for room in (files_api, uploads_api):
        app.include_router(room.routes(site, seats))
    for other in (batches_api, own_api, export_api, pages):
        app.include_router(other.routes(site))
    app.add_exception_handler(Wrong, _wrong)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Rejected, _rejected)
    app.add_exception_handler(NoRoom, _full)
    app.add_exception_handler(InboxDaemonError, _failed)
    app.add_exception_handler(OSError, _failed)
    app.add_exception_handler(Exception, _fault)
    described.completed(app.openapi())  # before HEAD is added, which needs no words of its own
    for route in app.routes:
        if isinstance(route, APIRoute) and "GET" in route.methods:
            route.methods.add("HEAD")
    return app


def answered(wrong: Wrong) -> Response:
    """Return the answer to a request that is refused."""
    return json_reply(wrong.body(), wrong.status, wrong.headers)


async def _wrong(_: Request, error: Exception) -> Response:
    assert isinstance(error, Wrong)
    return answered(error)


async def _invalid(_: Request, error: Exception) -> Response:
    """FastAPI's own finding about a parameter, said as OpenAI says it."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place: Sequence[object] = first.get("loc", ())
    param = str(place[-1]) if len(place) > 1 else None
    said = f"Invalid {quoted(param)}: {first.get('msg', 'it is not right')}." if param else "The request is not right."
    return answered(Wrong(400, said, "invalid_value", param))


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    headers = dict(error.headers or {})
    if error.status_code == 405:
        said = f"{method} is not served here; {quoted(path)} takes {headers.get('Allow', 'other methods')}."
        return answered(Wrong(405, said, "method_not_allowed", headers=headers))
    if error.status_code != 404:
        return answered(Wrong(error.status_code, str(error.detail), headers=headers))
    said = f"Unknown request URL: {method} {quoted(path)}."
    if pages.is_wanted(request):
        return pages.not_found(request, said)
    if path.startswith("/v1/"):
        said = f"{said} Served are /v1/files, /v1/uploads, /v1/batches and /v1/models; {_BATCH_ONLY}."
    return answered(Wrong(404, said, "unknown_url"))


async def _rejected(_: Request, error: Exception) -> Response:
    assert isinstance(error, Rejected)
    return answered(Wrong(400, f"{error}.", error.code, "input_file_id"))


async def _full(_: Request, error: Exception) -> Response:
    return answered(Wrong(507, f"{error}.", "disk_full", type="server_error", headers=NO_RETRY))


async def _fault(request: Request, _: Exception) -> Response:
    """A fault of ours. What it is, the guard's line in the log says; no word of it goes out."""
    said = f"Something here is at fault; the log has it as {getattr(request.state, 'request_id', '-')}."
    return answered(Wrong(500, said, type="server_error"))


async def _failed(_: Request, error: Exception) -> Response:
    """A file operation was refused: said with its cause, for whoever runs the service."""
    return answered(Wrong(500, f"The spool cannot be used: {told(error)}.", "spool_error", type="server_error"))
