"""What a client asks for when it makes a batch or a file, checked; and whether it asks again. Pure.

OpenAI's clients send no idempotency key, but say how often they have tried before: `x-stainless-retry-count`. What is
tried again, and only that, is held against what was done before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from inbox_daemon.config import MOST_PRIORITY
from inbox_daemon.request.endpoints import ENDPOINTS
from inbox_daemon.spool.submitted import Asked
from inbox_daemon.web.wrong import Wrong, missing, quoted, too_large

MOST_BODY = 1 << 20  # bytes
RETRIED_WITHIN = 900  # seconds
WAIT_AT_MOST = 60  # seconds
_MOST_PAIRS, _MOST_KEY, _MOST_VALUE = 16, 64, 512  # OpenAI's, of metadata
_MOST_IDEMPOTENCY = 255
_MOST_MIME = 255  # characters; told, and nothing more
_LEAST_KEPT, _MOST_KEPT = 3_600, 2_592_000  # seconds; OpenAI's


def batch(body: bytes, key: str) -> Asked:
    """Return what the body of POST /v1/batches asks for, from the holder of a key.

    Raises:
        Wrong: it is refused.
    """
    said = object_in(body)
    _demand(said, "input_file_id", "endpoint", "completion_window")
    if said["endpoint"] not in ENDPOINTS:
        raise _invalid("endpoint", f"{quoted(said['endpoint'])}; served are {', '.join(ENDPOINTS)}")
    if not re.fullmatch(r"\d{1,6}[hd]", said["completion_window"]):
        raise _invalid("completion_window", f'{quoted(said["completion_window"])}; expected a time such as "24h"')
    whole = orjson.dumps([key, said], option=orjson.OPT_SORT_KEYS)
    return Asked(
        input_file_id=said["input_file_id"],
        endpoint=said["endpoint"],
        completion_window=said["completion_window"],
        metadata=_metadata(said.get("metadata")),
        output_expires_after=_expires_after(said.get("output_expires_after"), "output_expires_after"),
        priority=priority(said["priority"]) if said.get("priority") is not None else None,
        key=key,
        fingerprint=hashlib.sha256(whole).hexdigest(),
    )


def _demand(said: Mapping[str, Any], *names: str) -> None:
    """Raise Wrong where one of these is not there, or no text."""
    for name in names:
        if said.get(name) is None:
            raise missing(name)
        if not isinstance(said[name], str):
            raise _invalid(name, f"expected a string, got {quoted(said[name])}")


def object_in(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body is. Raises Wrong where it is none."""
    try:
        said = orjson.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Wrong(400, "We could not parse the JSON body of your request: expected one object.", "invalid_json")
    return said


def priority(said: object) -> int:
    """Return a priority. Raises Wrong."""
    number = _whole(said)
    if number is None or abs(number) > MOST_PRIORITY:
        raise _invalid("priority", f"{quoted(said)}; expected a whole number of at most nine digits")
    return number


def _whole(said: object) -> int | None:
    """Return a whole number, which JSON may write as 5.0; None where it is none."""
    if isinstance(said, float) and said.is_integer():
        return int(said)
    return said if isinstance(said, int) and not isinstance(said, bool) else None


def _metadata(said: object) -> dict[str, str] | None:
    if said is None:
        return None
    fits = isinstance(said, dict) and len(said) <= _MOST_PAIRS
    if not fits or not isinstance(said, dict) or not all(map(_is_pair, said.items())):
        limits = f"{_MOST_PAIRS} pairs of texts, keys of {_MOST_KEY} and values of {_MOST_VALUE} characters"
        raise _invalid("metadata", f"expected an object with at most {limits}")
    return said


def _is_pair(pair: tuple[object, object]) -> bool:
    key, value = pair
    return isinstance(key, str) and isinstance(value, str) and len(key) <= _MOST_KEY and len(value) <= _MOST_VALUE


def _expires_after(said: object, name: str) -> int | None:
    """Return after how many seconds something is to go; None where nothing is said. Raises Wrong."""
    if said is None:
        return None
    if not isinstance(said, Mapping) or said.get("anchor") != "created_at":
        raise _invalid(name, 'expected {"anchor": "created_at", "seconds": …}')
    seconds = _whole(said.get("seconds"))
    if seconds is None or not _LEAST_KEPT <= seconds <= _MOST_KEPT:
        raise _invalid(name, f"seconds must be a whole number from {_LEAST_KEPT} to {_MOST_KEPT}")
    return seconds


def file_expires_after(fields: Mapping[str, str]) -> int | None:
    """Return what the form of POST /v1/files says of how long a file stays, in seconds. Raises Wrong."""
    seconds = fields.get("expires_after[seconds]")
    if seconds is None and "expires_after[anchor]" not in fields:
        return None
    number = int(seconds) if seconds is not None and re.fullmatch(r"[0-9]{1,9}", seconds) else seconds
    return _expires_after({"anchor": fields.get("expires_after[anchor]"), "seconds": number}, "expires_after")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that is to come in parts: so many bytes together, kept for so many seconds once they are there."""

    bytes: int
    filename: str
    mime_type: str
    expires_after: int | None


def upload(body: bytes, most: int) -> Wanted:
    """Return what the body of POST /v1/uploads asks for. `most` bytes may the file have. Raises Wrong."""
    said = object_in(body)
    if said.get("bytes") is None:
        raise missing("bytes")
    _demand(said, "filename", "purpose", "mime_type")
    size = _whole(said["bytes"])
    if size is None or size < 1:
        raise _invalid("bytes", f"{quoted(said['bytes'])}; expected a whole number of at least 1")
    if size > most:
        raise too_large(most, "bytes")
    if said["purpose"] != "batch":
        raise _invalid("purpose", f"{quoted(said['purpose'])}; this is a batch service, and takes 'batch'")
    after = _expires_after(said.get("expires_after"), "expires_after")
    return Wanted(size, said["filename"], said["mime_type"][:_MOST_MIME], after)


def completion(body: bytes) -> tuple[list[str], str | None]:
    """Return the parts, in their order, and the MD5 that the body of …/complete says. Raises Wrong."""
    said = object_in(body)
    parts, md5 = said.get("part_ids"), said.get("md5")
    if parts is None:
        raise missing("part_ids")
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise _invalid("part_ids", "expected a list of the ids of parts")
    if md5 is not None and not isinstance(md5, str):
        raise _invalid("md5", f"expected a string, got {quoted(md5)}")
    return parts, md5


def is_retry(headers: Mapping[str, str]) -> bool:
    """Say whether a client has sent the same request before, without an answer that it could use."""
    return headers.get("x-stainless-retry-count", "0").lstrip("0") != ""


def idempotency(headers: Mapping[str, str], key: str) -> str | None:
    """Return under what name a creation is to happen once; None where the client gives none. Raises Wrong."""
    said = headers.get("idempotency-key")
    if said is None:
        return None
    if not said or len(said) > _MOST_IDEMPOTENCY:
        raise _invalid("Idempotency-Key", f"expected at most {_MOST_IDEMPOTENCY} characters, and one at least")
    return f"{key}\0{said}"


def wait(headers: Mapping[str, str]) -> int:
    """Return for how many seconds a client wants to wait for a change (`Prefer: wait=N`, RFC 7240); 0: not at all."""
    for preference in headers.get("prefer", "").split(","):
        name, _, value = preference.split(";")[0].partition("=")
        if name.strip().lower() == "wait" and re.fullmatch(r"[0-9]{1,9}", value.strip()):
            return min(int(value), WAIT_AT_MOST)
    return 0


def _invalid(param: str, why: str) -> Wrong:
    return Wrong(400, f"Invalid '{param}': {why}.", "invalid_value", param)
