"""Who may ask, and what every answer says to browsers: pure ASGI around the application.

In this order: the name we were asked under, whose page asks, whether the body is packed, whose key it is, how often.
What is refused never comes to a route. Knows no route but the few that need no key. No address, no query, no key and no
text of a request or an answer is ever logged.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
import traceback
from collections.abc import MutableMapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inbox_daemon.text import dumps, shown
from inbox_daemon.web.keys import Key, Keys
from inbox_daemon.web.limits import Rate, WrongKeys
from inbox_daemon.web.login import Login, login_page
from inbox_daemon.web.sessions import Sessions, cookie_of
from inbox_daemon.web.whence import Whence, is_foreign, is_known, whence
from inbox_daemon.web.wrong import Wrong

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_NEEDS_NO_KEY = frozenset({"/healthz", "/login", "/logout", "/favicon.ico"})
_STATIC = "/static/"
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_EVERY_ANSWER = (
    (b"content-security-policy", _CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with none at all, forms are sent with the origin "null"
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"private, no-cache"),
)
_PROCESS = secrets.token_hex(10)  # with a number, an id for each request: the kernel's dice cost more than all of us
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Rules:
    """What the guard holds to.

    Attributes:
        hosts: names that we may be asked under, beside this host's own, in lower case.
        keys: None where none are configured: then everybody who reaches us sees all.
        rate: requests a second of each key; 0: any number.
    """

    hosts: frozenset[str] = frozenset()
    keys: Keys | None = None
    rate: float = 0.0


class Guard:
    """The application behind its rules.

    What it lets in has in `scope["state"]`: `key`, the key's name ("" where none are configured); `all`, whether it
    sees every batch; `request_id`; `stopping`, an event that is set when the process ends: who waits for news answers.
    """

    def __init__(self, app: ASGIApp, rules: Rules, stopping: asyncio.Event | None = None) -> None:
        self._rules = rules
        self._stopping = stopping or asyncio.Event()
        self._rate, self._wrong = Rate(rules.rate), WrongKeys()
        self._app = app
        if rules.keys is not None:
            self._sessions = Sessions(rules.keys)
            self._app = Login(app, rules.keys, self._sessions, self._wrong)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            answer = _Answer(send)
            await self._answer(scope, receive, answer)
            _note(scope, answer)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        state = scope.setdefault("state", {})
        state |= {"key": "", "all": self._rules.keys is None, "request_id": answer.id, "stopping": self._stopping}
        try:
            asked = whence(scope)
            scope["scheme"] = "https" if asked.secure else scope.get("scheme", "http")  # for addresses that are shown
            self._look(scope, asked)
            if not _is_open(scope["path"]):
                key = self._whose(scope, asked)
                state |= {"key": key.name, "all": key.all} if key else {}
                self._count(key)
            await self._app(scope, receive, answer.send)
        except Wrong as wrong:
            await answer.wrong(wrong)
        except asyncio.CancelledError:  # at a stop, when the time for what is under way is over
            await answer.wrong(Wrong(503, "The server stops.", type="server_error", headers={"retry-after": "2"}))
        except Exception as error:
            log.error("%s %s failed: %s (%s)", scope["method"], _pattern(scope), where(error), answer.id)
            await answer.wrong(
                Wrong(500, f"Something here is at fault; the log has it as {answer.id}.", type="server_error")
            )

    def _look(self, scope: Scope, asked: Whence) -> None:
        """Raise Wrong for what is refused whoever asks."""
        if not is_known(asked, self._rules.hosts):
            name = shown(asked.host) or "none, or more than one"
            raise Wrong(421, f"This server is not asked under that name ({name}). Its names are set in web.hosts.")
        if is_foreign(scope, asked):
            raise Wrong(403, f"A page of another origin may change nothing here; this one is {asked.ours}.")
        if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in scope["headers"]):
            raise Wrong(415, "A packed body is not taken. Send it as it is; a file may be .jsonl.gz or .jsonl.zst.")

    def _whose(self, scope: Scope, asked: Whence) -> Key | None:
        """Return the key of who asks, None where none are configured. Raises Wrong, or goes to the login page."""
        if self._rules.keys is None:
            return None
        headers = dict(scope["headers"])
        word, _, given = headers.get(b"authorization", b"").decode("latin-1").strip().partition(" ")
        if word.lower() == "bearer" and given.strip():
            key = self._rules.keys.of(given.strip())
        else:
            given = cookie_of(headers.get(b"cookie", b""))
            key = self._sessions.key(given, time.time())
        if key:
            return key
        if scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b"") and word.lower() != "bearer":
            raise Wrong(303, "Log in first.", headers={"location": login_page(scope), "cache-control": "no-store"})
        wait = self._wrong.wait(asked.peer, time.monotonic()) if given else 0.0
        if wait:
            raise _too_often("Too many wrong API keys.", wait)
        said = "Incorrect API key." if given else "No API key; send it as `Authorization: Bearer KEY`."
        code = "invalid_api_key" if given else None
        raise Wrong(401, said, code=code, headers={"www-authenticate": "Bearer"})

    def _count(self, key: Key | None) -> None:
        wait = self._rate.wait(key.sum if key else "", time.monotonic())
        if wait:
            raise _too_often(f"More than {self._rules.rate:g} requests a second (web.rate).", wait)


def _too_often(said: str, wait: float) -> Wrong:
    seconds = max(1, ceil(wait))
    return Wrong(
        429,
        f"{said} Try again in {seconds} s.",
        code="rate_limit_exceeded",
        type="requests",
        headers={"retry-after": str(seconds)},
    )


def _is_open(path: str) -> bool:
    return path in _NEEDS_NO_KEY or path.startswith(_STATIC)


class _Answer:
    """What goes back: it gets the headers that every answer has, and is told apart by its id."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.id = f"req_{_PROCESS}{next(_numbers):012x}"
        self.status = 0
        self.began = time.monotonic()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            there = {bytes(name).lower() for name, _ in headers}
            headers += [(name, value) for name, value in _EVERY_ANSWER if name not in there]
            message = {**message, "headers": [*headers, (b"x-request-id", self.id.encode())]}
        await self._send(message)

    async def wrong(self, wrong: Wrong) -> None:
        """Say what is wrong; of an answer that has begun, the rest does not come, and its connection is closed."""
        if self.status:
            return
        body = dumps(wrong.body())
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in wrong.headers.items()]
        await self.send({"type": "http.response.start", "status": wrong.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _note(scope: MutableMapping[str, Any], answer: _Answer) -> None:
    """What changes something has a line in the log; what only reads has one where somebody looks for faults."""
    level = logging.DEBUG if scope["method"] in ("GET", "HEAD") else logging.INFO
    took = (time.monotonic() - answer.began) * 1000
    key = scope["state"]["key"] or "-"
    log.log(
        level, "%s %s: %d in %.0f ms, key %s, %s", scope["method"], _pattern(scope), answer.status, took, key, answer.id
    )


def _pattern(scope: MutableMapping[str, Any]) -> str:
    """The route as it is written in the source, `/v1/files/{id}`; "-" for what no route takes."""
    return str(getattr(scope.get("route"), "path", "-"))


def where(error: BaseException) -> str:
    """An exception's kind and place. Its words may be those of a request."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = ", ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__} at {places}"
