"""The tables that this process has made, by the files of which they are made; and having those files read first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence, Set
from pathlib import Path

from inbox_daemon.web.cache import Cache, Segment, Source
from inbox_daemon.web.found import Found
from inbox_daemon.web.prompts import Prompts
from inbox_daemon.web.sides import Side
from inbox_daemon.web.site import Site
from inbox_daemon.web.table import Table
from inbox_daemon.web.wrong import Wrong

_MOST = 3  # tables; one of six batches of 200,000 answers takes 70 MB, and up to 128 for what was asked of it

Made = tuple[Table, tuple[Prompts | None, ...]]

_lock = threading.Lock()
_caches: dict[Path, Cache] = {}
_made: OrderedDict[tuple[object, ...], Made] = OrderedDict()


def of(site: Site, batches: Sequence[Found]) -> Made | int:
    """Return the table of batches; or, while their files are read for the first time, how many percent were read.

    Raises:
        Wrong: their files cannot be read.
    """
    cache = _cache(site)
    inputs = _inputs(batches)
    answers = [source for batch in batches for source in batch.sources]
    asked = [source for source in inputs if source is not None]
    absent = {source for source in (*answers, *asked) if not cache.has(source)}
    found: dict[Source, Segment] = {}
    if not _must_wait(batches, absent):
        read = {source: cache.segment(source) for source in (*answers, *asked) if source not in absent}
        found = {source: segment for source, segment in read.items() if segment is not None}
        absent |= read.keys() - found.keys()  # damaged
    cache.ask(absent)
    waits = _must_wait(batches, absent)
    if waits and (why := cache.why_not(absent.intersection(answers))) is not None:
        raise Wrong(500, f"the answers cannot be read: {why}", "not_indexed", type="server_error")
    if waits or any(cache.why_not([source]) is None for source in absent.intersection(asked)):
        return _percent({*answers, *asked}, absent, cache)  # what was asked is waited for, unless it cannot be read
    sides = [[found[source] for source in batch.sources if source in found] for batch in batches]
    return _table(sides, [found.get(source) if source is not None else None for source in inputs])


def _inputs(batches: Sequence[Found]) -> list[Source | None]:
    """Return each batch's input; of several that were made of the same file, one is read."""
    same: dict[str, Source] = {}
    found = []
    for batch in batches:
        sha256 = batch.status.get("input_sha256")
        found.append(same.setdefault(sha256, batch.input) if sha256 and batch.input else batch.input)
    return found


def _must_wait(batches: Sequence[Found], absent: Set[Source]) -> bool:
    """Say whether too little of a batch was read to be shown: of one that runs, any part will do."""
    return any(
        (batch.ended and not absent.isdisjoint(batch.sources)) or (batch.sources and absent >= set(batch.sources))
        for batch in batches
    )


def _percent(sources: Set[Source], absent: Set[Source], cache: Cache) -> int:
    total = sum(source.size for source in sources)
    left = sum(source.size - cache.read_of(source) for source in absent)
    return min(99, 100 * (total - left) // total) if total else 0


def _table(sides: Sequence[Sequence[Segment]], prompts: Sequence[Segment | None]) -> Made:
    key = (
        *(tuple(each.source.key for each in side) for side in sides),
        *(each.source.key if each else None for each in prompts),
    )
    with _lock:
        if key not in _made:
            known = {each.source.key: Prompts(each) for each in prompts if each is not None}
            each_side = tuple(known[each.source.key] if each is not None else None for each in prompts)
            _made[key] = Table([Side(side) for side in sides]), each_side
            while len(_made) > _MOST:
                _made.popitem(last=False)
        _made.move_to_end(key)
        return _made[key]


def percent(batches: Sequence[Found], table: Table) -> int:
    """Return how much of what is published stands in a table, by bytes."""
    total = sum(source.size for batch in batches for source in batch.sources)
    shown = sum(segment.source.size for side in table.sides for segment in side.segments)
    return 100 * shown // total if total else 100


def forget(site: Site, table: Table) -> None:
    """Throw away what was read of a table's files, so that it is read again."""
    cache = _cache(site)
    for side in table.sides:
        for segment in side.segments:
            cache.forget(segment.source)
    with _lock:
        for key in [key for key, (made, _) in _made.items() if made is table]:
            del _made[key]


def _cache(site: Site) -> Cache:
    with _lock:
        if site.cache not in _caches:
            _caches[site.cache] = Cache(site.cache, site.config.web.cache_bytes)
        return _caches[site.cache]
