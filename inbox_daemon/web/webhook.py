"""Webhooks: what is said, how it is signed, and its delivery. At least once, and again until somebody says yes.

Signed as Standard Webhooks has it, which OpenAI's clients verify. The URL is the operator's alone; no redirect is
followed, and of a request nothing is said but which batch has ended.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO, Any

from inbox_daemon.errors import ConfigError
from inbox_daemon.text import dumps

_WITHIN = 10.0  # seconds for an answer
_PREFIX = "whsec_"


def secret(path: Path) -> bytes:
    """Return the key in a file: base64, after "whsec_" or without it.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        text = path.read_text().strip().removeprefix(_PREFIX)
        key = base64.b64decode(text, validate=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"web.webhook_secret_file = {path}: no key can be read there: {error}") from error
    if len(key) < 16:
        raise ConfigError(f'web.webhook_secret_file = {path}: it must have "whsec_" and base64 of 24 bytes or more')
    return key


def event(id: str, batch: str, type: str, now: float) -> dict[str, Any]:
    """Return what is said of a batch's end; `id` is the event's own, `now` in Unix seconds."""
    return {"id": id, "object": "event", "created_at": int(now), "type": type, "data": {"id": batch}}


def signed(key: bytes, id: str, body: bytes, now: float) -> dict[str, str]:
    """Return the headers by which a receiver knows that a body is ours, and when it was sent."""
    stamp = str(int(now))
    mark = hmac.new(key, f"{id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(mark).decode()}",
    }


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows none: where a webhook goes is what the settings say."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def refused(url: str, said: dict[str, Any], key: bytes | None) -> str | None:
    """Send one event; return None where it was taken, else why it was not, in a few words."""
    body = dumps(said)
    headers = {"content-type": "application/json", "user-agent": "inbox-daemon"}
    if key is not None:
        headers |= signed(key, str(said["id"]), body, time.time())
    request = urllib.request.Request(url, body, headers, method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(request, timeout=_WITHIN) as answer:
            return None if 200 <= answer.status < 300 else f"HTTP {answer.status}"
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
