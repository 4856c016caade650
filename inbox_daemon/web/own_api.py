"""What OpenAI's API has no word for: whether the process lives, and control of a batch beyond cancelling it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from inbox_daemon.spool import views
from inbox_daemon.text import dumps
from inbox_daemon.web.site import Site


def routes(site: Site) -> APIRouter:
    """Return the routes /healthz and /api/…"""
    router = APIRouter()

    @router.get("/healthz")
    def healthz() -> Response:
        """Say that this process answers, and whether a daemon lives on its spool. Needs no key."""
        return Response(dumps({"ok": True, "daemon": views.runs_on(site.spool)}), media_type="application/json")

    return router
