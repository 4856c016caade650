"""A site in this process: its application, asked over httpx without a socket, on a spool that a test fills by hand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import orjson
from running import batch_of
from starlette.testclient import TestClient

from inbox_daemon.config import Config
from inbox_daemon.layout import Spool
from inbox_daemon.machine import clock
from inbox_daemon.spool import store, submitted
from inbox_daemon.web.app import application
from inbox_daemon.web.site import Site

REQUESTS = batch_of(3)


class As:
    """An application as the guard around it would call it: for the holder of a key."""

    def __init__(self, app: Any, key: str, all: bool) -> None:
        self._app, self._state = app, {"key": key, "all": all}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope | {"state": dict(self._state)}, receive, send)


class Served:
    """An application on a spool, and what daemons would do there."""

    def __init__(self, folder: Path, config: Config | None = None) -> None:
        self.spool = Spool(folder / "spool")
        for part in (self.spool.inbox, self.spool.outbox, self.spool.work, self.spool.daemons):
            part.mkdir(parents=True)
        store.recover(self.spool)
        submitted.recover(self.spool)
        self.site = Site(self.spool, config or Config(), folder / "cache")
        self.app = application(self.site)
        self.client = self.client_of("", all=True)

    def client_of(self, key: str, *, all: bool = False) -> TestClient:
        return TestClient(As(self.app, key, all), base_url="http://127.0.0.1:8001")

    def asking(self) -> httpx.AsyncClient:
        """A client for several requests at once, in one event loop."""
        transport = httpx.ASGITransport(As(self.app, "", all=True))
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001", timeout=30)

    def daemon(self, **said: Any) -> None:
        """A daemon that lives, as SPOOL/daemons says it."""
        now = clock.now()
        view = {"hostname": "here", "pid": 1, "at": now.wall, "boot": now.boot, "up": now.up, "batches": 0, **said}
        (self.spool.daemons / "here-1-a.json").write_bytes(orjson.dumps(view))

    def upload(self, content: bytes = REQUESTS, name: str = "r.jsonl", **more: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/files", files={"file": (name, content)}, data={"purpose": "batch"}, **more)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def create(self, file: str, **more: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/batches", json=asked(file, **more))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def taken(self, batch: Mapping[str, Any]) -> str:
        """Its file is claimed, as a daemon does; returns its name."""
        name = str(batch["inbox"]["name"])
        for left in self.spool.inbox.glob(f"{name}.*"):
            left.unlink()
        return name

    def says(self, name: str, status: str, files: Mapping[str, bytes] | None = None, **said: Any) -> None:
        """A batch's status, and what lies beside it, as a daemon publishes it."""
        folder = self.spool.batch(name)
        folder.dir.mkdir(exist_ok=True)
        for file, content in (files or {}).items():
            (folder.dir / file).parent.mkdir(exist_ok=True)
            (folder.dir / file).write_bytes(content)
        now = int(time.time())
        done = {"total": 3, "completed": 3 if status == "completed" else 0, "failed": 0}
        ended = {f"{status}_at": now} if status in ("completed", "failed", "cancelled") else {}
        whole = {"id": f"batch_{len(name):022x}", "name": name, "status": status, "created_at": now - 9}
        whole |= {
            "in_progress_at": now - 5,
            "request_counts": done,
            "endpoint": "/v1/chat/completions",
            **ended,
            **said,
        }
        hidden = folder.dir / ".status.json.new"
        hidden.write_bytes(orjson.dumps(whole))
        hidden.rename(folder.status)


def asked(file: str, **more: Any) -> dict[str, Any]:
    return {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
