"""How pages are drawn: the templates, what they may call, and the files that go with them. Knows no spool.

Everything is escaped where it is put in; no template says otherwise, and what is of unknown origin goes through `shown`
besides. No page has a script or a style in itself, so that the policy sent with it may forbid both.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from inbox_daemon.text import shown, size, span
from inbox_daemon.web import ids
from inbox_daemon.web.versus import bars

_STATIC = Path(__file__).parent / "static"
_KINDS = {"app.css": "text/css", "app.js": "text/javascript", "favicon.svg": "image/svg+xml"}
_WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six")


@dataclass(frozen=True, slots=True)
class Static:
    """A file that pages are drawn with, as it is sent. `mark` changes with the content."""

    content: bytes
    media_type: str
    mark: str


@cache
def static_files() -> Mapping[str, Static]:
    """Return the files beside the pages, by name; read once."""
    found = {}
    for name, kind in _KINDS.items():
        content = (_STATIC / name).read_bytes()
        found[name] = Static(content, kind, hashlib.sha256(content).hexdigest()[:12])
    return found


def page(request: Request, template: str, status: int = 200, **facts: Any) -> Response:
    """Return a page. What it says is as old as the answer, so nothing keeps it but the browser's own history."""
    here = request.url.path
    who = getattr(request.state, "key", "")
    text = _environment().get_template(template).render(here=here, who=who, **facts)
    headers = {"cache-control": "no-cache", "content-type": "text/html; charset=utf-8"}
    return Response(text.encode("utf-8", "replace"), status, headers)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("inbox_daemon.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": shown,
        "called": lambda name: shown(ids.called(name)),
        "lines": lines,
        "number": lambda value: f"{value:,}",
        "rate": rate,
        "span": span,
        "size": size,
        "share": lambda value: f"{value:.0%}",
        "iso": lambda at: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "clock": clock,
        "words": lambda count: _WORDS[count] if count < len(_WORDS) else f"{count:,}",
    }
    environment.globals["query"] = query
    environment.globals["bars_of"] = bars
    environment.globals["static"] = lambda name: f"/static/{name}?{static_files()[name].mark}"
    return environment


def query(**params: str | Sequence[str]) -> str:
    """A query string; a parameter may have several values."""
    return urlencode(params, doseq=True)


def lines(text: str) -> str:
    """Text of several lines, each as `shown` makes it; a tab stays one."""
    return "\n".join("\t".join(map(shown, line.split("\t"))) for line in text.replace("\r\n", "\n").split("\n"))


def rate(value: float) -> str:
    """How many a second: "98.2", "1,204"."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def clock(at: float) -> str:
    """When something was, in Unix seconds, by the server's clock; the page's script says it by the reader's."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
