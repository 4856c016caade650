"""Asking the web: an application with every byte of a request ours, or a process of its own. No test lives here."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from running import eventually
from starlette.types import ASGIApp, Message

from inbox_daemon.layout import Spool

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


class Web:
    """One `inbox-daemon web` process on a spool of its own, or of a daemon's."""

    def __init__(
        self, spool: Path, log: Path, *arguments: str, environment: Mapping[str, str] | None = None, ready: bool = True
    ) -> None:
        self.log, self.spool = log, Spool(spool)
        for folder in (self.spool.inbox, self.spool.outbox, self.spool.work, self.spool.daemons):
            folder.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        listen = () if "--listen" in arguments else ("--listen", f"127.0.0.1:{self.port}")
        command = [sys.executable, "-m", "inbox_daemon", "web", "--spool", str(spool), *listen, *arguments]
        cache = {"XDG_CACHE_HOME": str(log.with_suffix(".cache"))}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | cache | dict(environment or {})
            )
        if ready:
            try:
                eventually(lambda: "web: ready" in self.text() or self.process.poll() is not None, 60, "web ready")
                assert self.process.poll() is None, self.text()
            except AssertionError:
                self.kill()
                raise

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)
