"""How routes reply, and how they read what is sent: JSON, with an ETag where somebody asks again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from inbox_daemon.text import dumps
from inbox_daemon.web.wrong import Wrong

_JSON = "application/json"


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer of JSON."""
    return Response(dumps(value), status, dict(headers or {}), _JSON)


def tagged(request: Request, value: Any) -> tuple[Response, bool]:
    """Return an answer of JSON with a weak ETag, and whether it is what the client has already: then it is a 304."""
    body = dumps(value)
    etag = f'W/"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'
    headers = {"etag": etag, "cache-control": "no-cache"}
    has = [one.strip() for one in request.headers.get("if-none-match", "").split(",")]
    if etag in has:
        return Response(status_code=304, headers=headers), True
    return Response(body, 200, headers, _JSON), False


async def read(request: Request, most: int) -> bytes:
    """Return a request's body.

    Raises:
        Wrong: it has more than `most` bytes, or ends before its end.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise Wrong(413, f"The body is too large: at most {most:,} bytes are read.", "body_too_large")
    except ClientDisconnect as error:
        raise Wrong(400, "The body ended before its end.") from error
    return bytes(body)
