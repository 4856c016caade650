"""A hub on loopback that answers as huggingface.co does, for Hugging Face's own library. No test lives here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40
TOKENS = {"hf_granted": True, "hf_known": False}  # and whether their accounts have been granted what is gated


@dataclass
class Hub:
    """Attributes: repositories: files by name, by repository; gated: those of them that are; asked: "METHOD PATH"."""

    repositories: Mapping[str, Mapping[str, bytes]]
    gated: frozenset[str] = frozenset()
    asked: list[str] = field(default_factory=list)
    endpoint: str = ""

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """The environment of whoever is to ask it, with a cache of its own under `home`."""
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        return own | more


def repository(folder: Path) -> dict[str, bytes]:
    """The files of a repository, out of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Asked(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None: ...

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        about = path.startswith("/api/models/")
        org, name, *rest = path.removeprefix("/api/models").strip("/").split("/")
        files = self.hub.repositories.get(f"{org}/{name}")
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            self._say(401, {"error": "Invalid credentials in Authorization header"})
        elif files is None:
            self._say(404 if token else 401, {"error": "Repository not found"}, code="RepoNotFound")
        elif len(rest) > 1 and rest[1] not in ("main", COMMIT):
            self._say(404, {"error": "Invalid rev id"}, code="RevisionNotFound")
        elif about:
            self._about(f"{org}/{name}", files, tree=rest[:1] == ["tree"])
        elif f"{org}/{name}" in self.hub.gated and not TOKENS.get(token):
            self._say(403 if token else 401, {"error": "Access is restricted"}, code="GatedRepo")
        elif (content := files.get("/".join(rest[2:]))) is None:
            self._say(404, {"error": "Entry not found"}, code="EntryNotFound")
        else:
            self._send(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"')

    def _about(self, name: str, files: Mapping[str, bytes], *, tree: bool) -> None:
        sizes = [(file, len(content), hashlib.sha1(content).hexdigest()) for file, content in files.items()]
        if tree:
            self._say(200, [{"type": "file", "path": file, "size": size, "oid": oid} for file, size, oid in sizes])
            return
        siblings = [{"rfilename": file, "size": size, "blobId": oid} for file, size, oid in sizes]
        said = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "downloads": 0, "likes": 0, "tags": []}
        self._say(200, said | {"siblings": siblings, "cardData": {"license": "apache-2.0"}})

    def _say(self, status: int, said: object, code: str = "") -> None:
        more = {"X-Error-Code": code, "X-Error-Message": said["error"]} if isinstance(said, dict) and code else {}
        self._send(status, json.dumps(said).encode(), **{"Content-Type": "application/json"}, **more)

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def serving(repositories: Mapping[str, Mapping[str, bytes]], gated: frozenset[str] = frozenset()) -> Iterator[Hub]:
    hub = Hub(repositories, gated)
    handler = type("_Of", (_Asked,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
