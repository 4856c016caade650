"""POST /login and /logout: a right key becomes a session. The page with the form is `pages`'; pure ASGI around it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode

from inbox_daemon.web.limits import WrongKeys
from inbox_daemon.web.sessions import Sessions
from inbox_daemon.web.whence import whence

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from inbox_daemon.web.keys import Keys

_MOST_BYTES = 8192  # of the form: a key, and the page to go on with
_PAGE = "/login"


class Login:
    """The application, and the two POSTs before it.

    The form's fields are `key` and `next`. What is wrong is said as `/login?wrong=key`, or `wrong=often` where one peer
    has given too many.
    """

    def __init__(self, app: ASGIApp, keys: Keys, sessions: Sessions, wrong: WrongKeys) -> None:
        self._app, self._keys, self._sessions, self._wrong = app, keys, sessions, wrong

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = (scope["method"], scope["path"]) if scope["type"] == "http" else ()
        if asked == ("POST", _PAGE):
            await self._log_in(scope, receive, send)
        elif asked == ("POST", "/logout"):
            await _go_on(send, _PAGE, self._sessions.cookie(None, time.time(), secure=whence(scope).secure))
        else:
            await self._app(scope, receive, send)

    async def _log_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        given, page = await _form(receive)
        asked = whence(scope)
        key = self._keys.of(given)
        if key:
            await _go_on(send, page, self._sessions.cookie(key, time.time(), secure=asked.secure))
            return
        why = "often" if self._wrong.wait(asked.peer, time.monotonic()) else "key"
        await _go_on(send, f"{_PAGE}?{urlencode({'wrong': why} | ({'next': page} if page != '/' else {}))}")


def login_page(scope: Scope) -> str:
    """Return where to log in, with the page that was asked for, to come back to it."""
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    asked = f"{path}?{query}" if query else path
    return _PAGE if asked == "/" else f"{_PAGE}?{urlencode({'next': asked})}"


def page_of_ours(asked: str) -> str:
    """Return a path of this server; "/" for whatever would lead elsewhere, as `//evil.example` and `/\\evil` do."""
    plain = asked.isascii() and asked.isprintable() and "\\" not in asked
    return asked if plain and asked.startswith("/") and not asked.startswith("//") else "/"


async def _form(receive: Receive) -> tuple[str, str]:
    """Read what was given as a key, and the page to go on with."""
    body = b""
    while len(body) <= _MOST_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    fields = parse_qs(body[:_MOST_BYTES].decode("utf-8", "replace"))
    return fields.get("key", [""])[0].strip(), page_of_ours(fields.get("next", [""])[0])


async def _go_on(send: Send, page: str, cookie: bytes | None = None) -> None:
    headers = [(b"location", page.encode()), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    headers += [(b"set-cookie", cookie)] if cookie else []
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
