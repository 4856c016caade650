"""What lies in a batch's folder in the outbox, for its page: which files, their contents, what may be run again.

Reads only, and never through a link. Users may take any of it away while it is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Spool, is_ours
from inbox_daemon.spool import published
from inbox_daemon.web import ids

_CHUNK = 1 << 20
_WHAT = {
    "results.jsonl": "every answer, in the input's order",
    "errors.jsonl": "every request without an answer, and why",
    "input.jsonl": "the requests, as they were sent",
    "receipt.json": "what was read and what was written, with checksums",
    "status.json": "the batch as programs see it",
}


@dataclass(frozen=True, slots=True)
class Lying:
    """A file that may be downloaded. `what` says what is in it."""

    name: str
    what: str
    bytes: int
    href: str


def files(spool: Spool, name: str, id: str) -> list[Lying]:
    """Return the files of a batch that people want, those with answers first; parts are not among them."""
    found: dict[str, int] = {}
    with suppress(OSError), os.scandir(spool.batch(name).dir) as entries:
        for entry in entries:
            with suppress(OSError):
                if _what(entry.name) and entry.is_file(follow_symlinks=False):
                    found[entry.name] = entry.stat(follow_symlinks=False).st_size
    order = [*_WHAT]
    names = sorted(found, key=lambda name: (order.index(name) if name in order else 1.5, name))
    return [Lying(each, _what(each), found[each], _address(id, each)) for each in names if found[each]]


def _address(id: str, filename: str) -> str:
    """Return where a file may be had: where it has an id of its own, as every client gets it, from any place in it."""
    kind = ids.kind_of(filename)
    return f"/v1/files/{ids.output_id(id, kind)}/content" if kind else f"/batches/{id}/files/{filename}"


def _what(filename: str) -> str:
    if ids.kind_of(filename) == ids.RETRY:
        return "requests that may succeed later, ready to be sent again"
    is_autopsy = filename.startswith("autopsy-") and filename.endswith(".txt") and is_ours(filename)
    return "what a hung engine was doing" if is_autopsy else _WHAT.get(filename, "")


def content(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces; one that is removed meanwhile is yielded whole all the same."""
    with published.opened(path) as file:
        while block := file.read(_CHUNK):
            yield block


def receipt(spool: Spool, name: str) -> Mapping[str, Any]:
    """Return a batch's receipt; {} where there is none yet, or somebody took it away."""
    with suppress(OSError, SpoolError, ValueError), published.opened(spool.batch(name).receipt) as file:
        read = orjson.loads(file.read())
        return read if isinstance(read, dict) else {}
    return {}


def to_retry(receipt: Mapping[str, Any]) -> int:
    """Return how many requests of an ended batch may be run again with a chance."""
    found = [part for name, part in (receipt.get("files") or {}).items() if ids.kind_of(name) == ids.RETRY]
    return sum(int(part.get("lines", 0)) for part in found)


def retry_file(spool: Spool, name: str) -> Path | None:
    """Return the file of what may be run again; None where there is none."""
    with suppress(OSError):
        for entry in sorted(os.listdir(spool.batch(name).dir)):  # noqa: PTH208
            if ids.kind_of(entry) == ids.RETRY:
                return spool.batch(name).dir / entry
    return None


def retry_name(name: str, filename: str) -> str:
    """Return what the file of what is run again is called in the inbox: after its batch, with the model it may name."""
    return f"{name.split('@')[0] if '@' in filename else name}-retry{filename.removeprefix('retry')}"
