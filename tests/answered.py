"""Outboxes made by hand and opened as the viewer opens them; and, of a model's answers, what a reader would say."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
from outboxes import Said, outbox, told
from starlette.datastructures import QueryParams

from inbox_daemon.config import Config
from inbox_daemon.layout import Published, Spool
from inbox_daemon.web import rows, segments
from inbox_daemon.web.cache import Segment, Source
from inbox_daemon.web.rows import Comparison, Filter, Order
from inbox_daemon.web.site import Site


def site(folder: Path) -> Site:
    """A spool in a folder, with the cache beside it."""
    return Site(Spool(folder / "spool"), Config(), folder / "cache")


def batch(
    of: Site, name: str, said: Mapping[str, Said] | Sequence[tuple[str, Said]], seconds: float = 10.0
) -> Published:
    """A batch that has ended."""
    return told(outbox(of.spool.outbox / name, said, seconds=seconds, model=f"org/{name}"))


def segment(folder: Path, content: bytes) -> Segment:
    """The segment of a file of these lines, made in this process."""
    folder.mkdir(exist_ok=True)
    file, into = folder / "file", folder / "made"
    file.write_bytes(content)
    into.mkdir()
    segments.build(file, into)
    source = Source.at(file)
    assert source is not None
    return Segment(into, source)


def opened(of: Site, *names: str, within: float = 120.0) -> Comparison:
    """Batches as the viewer opens them, once they are read."""
    until = time.monotonic() + within
    while not isinstance(found := rows.opened(of, names), Comparison):
        assert time.monotonic() < until, f"only {found.percent} % are read"
        time.sleep(0.01)
    return found


def ids(comparison: Comparison, query: str, order: Order = Order.FILE) -> list[str]:
    """The custom_ids of all rows that a query lets through, page by page."""
    found: list[str] = []
    page = 1
    while True:
        shown = comparison.rows(Filter.of(QueryParams(query)), order, page)
        found += [row.custom_id for row in shown.rows]
        if page == shown.pages:
            assert len(found) == shown.found
            return found
        page += 1


def value(text: Said, field: str) -> object:
    """What an answer says in a field of its JSON, by the words of the specification; None for nothing."""
    try:
        found = orjson.loads(text or "")
    except ValueError:
        return None
    said = found.get(field) if isinstance(found, dict) else None
    return " ".join(said.split()).casefold() if isinstance(said, str) else said
