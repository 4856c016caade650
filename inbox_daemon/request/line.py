"""One line of a batch file, read as OpenAI's Batch API defines it. What answers it is `output`'s.

Pure. Owns what makes a line a request or a fault. Never raises on content.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from inbox_daemon.records import Fault
from inbox_daemon.request.endpoints import ENDPOINTS

# What no prompt of a million tokens comes near, counted in the bytes, inside of texts too.
_MOST_CONTAINERS, _MOST_ITEMS = 250_000, 2_000_000
_MOST_LEVELS = 254  # of objects and lists within each other: as many as orjson writes; it reads 1,024

MAX_CUSTOM_ID = 512  # characters; OpenAI's limit for metadata values, generous for an identifier
_GIVEN_BACK = 64 << 10  # bytes of a custom_id that is too long, with which its error can still be found


class Line:
    """A checked line: what ingest and `check` need of it. `url` and `body` are those of a request without a fault."""

    __slots__ = ("body", "custom_id", "fault", "url")

    def __init__(
        self,
        custom_id: str | None,
        fault: Fault | None,
        url: str | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        self.custom_id = custom_id
        self.fault = fault
        self.url = url
        self.body = body


def _not_json(line: bytes, error: ValueError) -> str:
    """Say what is wrong and where in the line; orjson would count the lines within it, and of bytes says nothing."""
    try:
        line.decode()
    except UnicodeDecodeError as wrong:
        return f"byte {wrong.start + 1} of the line, {line[wrong.start]:#04x}, is not UTF-8: save the file as UTF-8"
    what, at = getattr(error, "msg", str(error)), getattr(error, "colno", 0)
    return f"the line is not JSON: {_short(what, 200)}" + (f", at column {at}" if at else "")


def read_line(
    line: bytes,
    model_fault: Callable[[str | None], str | None],
    refusal: Callable[[str, dict[str, Any]], Fault | None],
) -> Line:
    """Check one line (without its newline).

    Args:
        line: the bytes as the user wrote them; blank lines are the caller's to skip.
        model_fault: says why a request naming this model cannot run here, or None when it can
            (`catalog.Models.accepts`).
        refusal: says why a request to this url with this body may not run here, or None (`policy.refusal`).
    """
    if too_complex(line):
        most = f"{_MOST_CONTAINERS:,} objects and lists or {_MOST_ITEMS:,} items"
        return Line(None, Fault("too_complex", f"the line holds more than {most}, which would take too much memory"))
    try:
        request = orjson.loads(line)
    except ValueError as error:
        return Line(None, Fault("invalid_json", _not_json(line, error)))
    if not isinstance(request, dict):
        return Line(None, Fault("not_an_object", f"the line is JSON but not an object: {_short(_text(request))}"))
    custom_id = request.get("custom_id")
    problem = _id_problem(custom_id)
    if problem:
        return Line(None, problem)
    problem = (
        _problem(request)
        or _model_problem(request["body"], model_fault)
        or refusal(request["url"], request["body"])
        or _depth_problem(line, request)
    )
    if problem:
        return Line(custom_id, Fault(problem.code, problem.message, problem.param, custom_id))
    return Line(custom_id, None, request["url"], request["body"])


def too_complex(line: bytes) -> bool:
    """Say whether parsing the line could take many times its own size: 9 MB of `[{},{},…` become 576 MB."""
    if len(line) < _MOST_CONTAINERS:
        return False
    return line.count(b"{") + line.count(b"[") > _MOST_CONTAINERS or line.count(b",") > _MOST_ITEMS


def _depth_problem(line: bytes, request: dict[str, Any]) -> Fault | None:
    """Refuse what no recursion over it would survive, ours or vLLM's."""
    if line.count(b"{") + line.count(b"[") > _MOST_LEVELS:
        try:
            orjson.dumps(request)
        except TypeError:  # what was read from JSON has no other reason
            return Fault("too_complex", f"the line is nested more than {_MOST_LEVELS} levels deep")
    return None


def too_long(limit: int) -> Fault:
    return Fault(
        "line_too_long", f"the line is longer than {limit:,} bytes; the setting inbox.max_line_bytes allows more"
    )


def repeated(custom_id: str, first_line: int) -> Fault:
    message = f"custom_id {_text(custom_id)} was already used in line {first_line:,}; every request needs its own"
    return Fault("duplicate_custom_id", message, "custom_id", custom_id)


def _id_problem(custom_id: Any) -> Fault | None:
    if custom_id is None:
        return Fault("missing_custom_id", "the request has no custom_id, by which its answer is found", "custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return Fault("invalid_custom_id", f"custom_id must be text, not {_short(_text(custom_id))}", "custom_id")
    if len(custom_id) > MAX_CUSTOM_ID:
        sentence = f"custom_id is longer than {MAX_CUSTOM_ID} characters"
        if len(custom_id.encode("utf-8", "surrogatepass")) > _GIVEN_BACK:
            return Fault("invalid_custom_id", f"{sentence}, and than 64 KB, so it is not given back", "custom_id")
        return Fault("invalid_custom_id", sentence, "custom_id", custom_id)
    return None


def _problem(request: dict[str, Any]) -> Fault | None:
    method, url, body = request.get("method"), request.get("url"), request.get("body")
    if method != "POST":
        return Fault("invalid_method", f'method must be "POST", not {_short(_text(method))}', "method")
    if not isinstance(url, str) or url not in ENDPOINTS:
        known = ", ".join(sorted(ENDPOINTS))
        return Fault("invalid_url", f"url {_short(_text(url))} is not served; served are {known}", "url")
    if body is None:
        return Fault("missing_body", "the request has no body", "body")
    if not isinstance(body, dict):
        return Fault("invalid_body", f"body must be an object, not {_short(_text(body))}", "body")
    if body.get("stream"):
        return Fault("stream_not_supported", "stream: true has no meaning in a batch; leave it out", "body.stream")
    return None


def _model_problem(body: dict[str, Any], model_fault: Callable[[str | None], str | None]) -> Fault | None:
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        return Fault("invalid_model", f"body.model must be text, not {_short(_text(model))}", "body.model")
    sentence = model_fault(model)
    return Fault("model_mismatch", sentence, "body.model") if sentence else None


def _text(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # nested more deeply than orjson writes, which is less deep than it reads
        return f"a {type(value).__name__} nested very deeply"


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def is_deterministic(url: str, body: dict[str, Any]) -> bool:
    """Say whether the same request, computed again, is meant to give the same answer."""
    seed = body.get("seed")
    seeded = isinstance(seed, int) and seed != -1  # which vLLM reads as none
    return body.get("temperature") == 0 or seeded or not ENDPOINTS[url].by_chance


def but_for_its_id(line: bytes, custom_id: str) -> tuple[bytes, bytes]:
    """Return what stands before and after the custom_id. Two lines of different ids are the same request where these
    are equal: a line in which the id stands twice differs from every other."""
    before, _, after = line.partition(b'"' + custom_id.encode("utf-8", "surrogatepass") + b'"')
    return before, after
