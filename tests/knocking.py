"""Asking the web's application, with every byte of a request ours. No test lives here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp, Message

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return dict(orjson.loads(self.body)["error"])


def knock(
    app: ASGIApp,
    method: str,
    target: str,
    headers: Headers = (),
    *,
    body: bytes = b"",
    peer: str = "127.0.0.1",
    at: tuple[str, int | None] = ("127.0.0.1", 8001),
    host: str | None = "127.0.0.1:8001",
) -> Answer:
    """Ask an ASGI application as uvicorn does. `peer` "" is a Unix socket's; `host` None: no Host header."""
    path, _, query = target.partition("?")
    told = [("host", host), *headers] if host is not None else list(headers)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in told],
        "client": (peer, 50000) if peer else None,
        "server": at,
        "state": {},
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    start, *rest = sent
    assert start["type"] == "http.response.start"
    found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
    assert len(found) == len(start["headers"]), "a header twice"
    return Answer(start["status"], found, b"".join(message["body"] for message in rest))
