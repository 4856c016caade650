"""Batches on their way into one table: each one's segments as if they were one, and which line stands in which row.

Reads segments and no lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inbox_daemon.web.cache import ROWS, Segment

Hashes = NDArray[np.uint64]

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: spreads whole numbers over all 64 bits


class Side:
    """One batch: its segments, one after another, as if they were one."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = tuple(segments)
        rows = [segment.rows for segment in segments]
        self.rows: NDArray[Any] = rows[0] if len(rows) == 1 else np.concatenate([np.empty(0, ROWS), *rows])
        self.begins = np.cumsum([0, *(len(each) for each in rows)])

    @cached_property
    def keys(self) -> Hashes:
        """By which each line is aligned: its custom_id's hash; a line without one of its own goes by its place."""
        found = self.rows["key"].astype(np.uint64)
        if not _distinct(found) or not found.all():
            own = np.zeros(len(found), np.bool_)
            own[np.unique(found, return_index=True)[1]] = True  # the first: answers come before errors
            own &= found != 0
            found[~own] = self.rows["place"][~own].astype(np.uint64) * _ODD | np.uint64(1)
        return found

    def values(self, field: str) -> tuple[Hashes, NDArray[np.float64]]:
        """Return what each line says in a field, as a hash, 0 for nothing; and as a number, NaN for none.

        Raises:
            Damaged: a segment is not what was written.
        """
        hashes, numbers = np.zeros(len(self.rows), np.uint64), np.full(len(self.rows), np.nan)
        for begin, segment in zip(self.begins, self.segments, strict=False):
            names = [each["name"] for each in segment.meta["fields"]]
            if field in names:
                values = segment.values()
                values = values[values["field"] == names.index(field)]
                places = values["row"] + begin
                hashes[places], numbers[places] = values["hash"], values["number"]
        return hashes, numbers

    def where(self, place: int) -> tuple[Segment, int]:
        """Return the segment that has a line, and its number there."""
        at = int(np.searchsorted(self.begins, place, side="right")) - 1
        return self.segments[at], place - int(self.begins[at])


def aligned(sides: Sequence[Side]) -> tuple[Hashes, list[NDArray[np.int64]]]:
    """Return the key of each row and, for each side, which of its lines stands there; -1 where none does.

    Rows come in the order of the file: of the first batch that has the request, by its place there.
    """
    return _by_place(sides) or _by_key(sides)


def _by_place(sides: Sequence[Side]) -> tuple[Hashes, list[NDArray[np.int64]]] | None:
    """The same, six times as fast, where all batches have the same request at the same place; None where not."""
    places = [side.rows["place"] for side in sides]
    size = 1 + max((int(each.max()) for each in places if len(each)), default=-1)
    if size > 4 * sum(map(len, places)) or any(np.bincount(each).max() > 1 for each in places if len(each)):
        return None
    keys = np.zeros(size, np.uint64)
    for side, at in zip(sides, places, strict=True):
        known = keys[at]
        if ((known != 0) & (known != side.keys)).any():
            return None
        keys[at] = side.keys
    taken = np.flatnonzero(keys)
    if not _distinct(keys[taken]):
        return None
    rows = np.cumsum(keys != 0) - 1
    lines = [np.full(len(taken), -1) for _ in sides]
    for found, at in zip(lines, places, strict=True):
        found[rows[at]] = np.arange(len(at))
    return keys[taken], lines


def _by_key(sides: Sequence[Side]) -> tuple[Hashes, list[NDArray[np.int64]]]:
    keys, places = np.empty(0, np.uint64), np.empty(0, np.uint64)
    for side in sides:
        new = np.isin(side.keys, keys, invert=True) if len(keys) else np.ones(len(side.keys), np.bool_)
        keys = np.concatenate([keys, side.keys[new]])
        places = np.concatenate([places, side.rows["place"][new]])
    keys = keys[np.argsort(places, kind="stable")]
    return keys, [_lines_at(side.keys, keys) for side in sides]


def _distinct(keys: Hashes) -> bool:
    ordered = np.sort(keys)
    return not (ordered[1:] == ordered[:-1]).any()


def _lines_at(own: Hashes, keys: Hashes) -> NDArray[np.int64]:
    if len(own) == len(keys) and (own == keys).all():
        return np.arange(len(own))
    if not len(own):
        return np.full(len(keys), -1)
    order = np.argsort(own)
    found = order[np.minimum(np.searchsorted(own, keys, sorter=order), len(own) - 1)]
    return np.where(own[found] == keys, found, -1)
