"""Batches of the same requests, aligned: a row for each custom_id, a side for each batch, all of it in arrays.

Owns which line of which batch stands in which row, and what filters and orders make of it. Reads segments and no lines;
knows nothing of HTTP.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from inbox_daemon.compare import agreement
from inbox_daemon.compare.agreement import Codes
from inbox_daemon.compare.answers import WHOLE
from inbox_daemon.web.cache import ROWS, Segment
from inbox_daemon.web.segments import ERROR

Mask = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
T = TypeVar("T")

_KEPT = 128 << 20  # bytes of arrays that are kept for the next question
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: spreads whole numbers over all 64 bits


@dataclass(frozen=True, slots=True)
class Field:
    """A field by which answers may be compared.

    Attributes:
        name: in the answers' JSON; "" is the whole answer.
        numbers: whether most of its values are numbers.
        texts: short values that occur, by hash; at most a thousand a file.
    """

    name: str
    numbers: bool
    texts: dict[int, str]


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


class Table:
    """Two to six batches side by side, or one. What is reckoned is kept; methods may be called by any thread.

    Attributes:
        keys: of each row. at: for each side, which of its lines stands in each row; -1: none.
    """

    def __init__(self, sides: Sequence[Side]) -> None:
        self.sides = tuple(sides)
        self.keys, self.at = aligned(sides)
        self._kept: OrderedDict[object, object] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.keys)

    def row_of(self, key: int) -> int | None:
        """Return the row of a request by its custom_id's hash; None where there is none."""
        order = self.kept("order", lambda: np.argsort(self.keys))
        at = int(np.searchsorted(self.keys, np.uint64(key), sorter=order))
        return int(order[at]) if at < len(order) and self.keys[order[at]] == np.uint64(key) else None

    def kept(self, name: object, make: Callable[[], T]) -> T:
        """Return what `make` does, or did when it was asked for under that name before."""
        with self._lock:
            if name not in self._kept:
                made = make()
                self._kept[name] = made
                while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(name)
            return self._kept[name]  # type: ignore[return-value]

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of the segments' rows for all sides: sides x rows; 0 where a side has no line."""
        return self.kept(("column", name), lambda: self._spread([side.rows[name] for side in self.sides], 0))

    def _spread(self, columns: Sequence[NDArray[Any]], none: float) -> NDArray[Any]:
        found = np.full((len(columns), len(self)), none, columns[0].dtype)
        for into, at, column in zip(found, self.at, columns, strict=True):
            there = at >= 0
            into[there] = column[at[there]]
        return found

    @property
    def there(self) -> Mask:
        """Where a side has a line."""
        return self.kept("there", lambda: np.stack([at >= 0 for at in self.at]))

    @property
    def errors(self) -> Mask:
        """Where a side's request ended as an error."""
        return self.kept("errors", lambda: (self.column("flags") & ERROR) > 0)

    @property
    def answered(self) -> Mask:
        return self.kept("answered", lambda: self.there & ~self.errors)

    @property
    def fields(self) -> list[Field]:
        """The fields that answers have, the most frequent first, behind the whole answer."""
        return self.kept("fields", self._fields)

    def _fields(self) -> list[Field]:
        counts: dict[str, list[int]] = {}
        texts: dict[str, dict[int, str]] = {}
        for each in (each for side in self.sides for segment in side.segments for each in segment.meta["fields"]):
            seen = counts.setdefault(each["name"], [0, 0])
            seen[0] += each["count"]
            seen[1] += each["numbers"]
            texts.setdefault(each["name"], {}).update({int(key, 16): text for key, text in each["texts"].items()})
        known = sorted((name for name in counts if name != WHOLE), key=lambda name: -counts[name][0])
        named = [Field(name, 2 * counts[name][1] > counts[name][0], texts[name]) for name in known]
        return [Field(WHOLE, False, texts.get(WHOLE, {})), *named]

    def field(self, name: str) -> Field:
        """Return a field by its name; one that nobody has says nothing."""
        return next((field for field in self.fields if field.name == name), Field(name, False, {}))

    def found(self) -> str:
        """Return the field by which answers are best compared: the one with labels, else with a number, else all."""
        metas = [segment.meta for side in self.sides for segment in side.segments]
        for name in ([meta["label"] for meta in metas], [meta["number"] for meta in metas]):
            named = [each for each in name if each is not None]
            if named:
                return max(named, key=named.count)
        return WHOLE

    def said(self, field: str) -> Hashes:
        """Return what each side says in a field, as hashes, sides x rows; 0 for nothing. Raises Damaged."""
        return self._values(field)[0]

    def numbers(self, field: str) -> NDArray[np.float64]:
        """Return the numbers in a field, sides x rows; NaN for none. Raises Damaged."""
        return self._values(field)[1]

    def _values(self, field: str) -> tuple[Hashes, NDArray[np.float64]]:
        if field == WHOLE:
            return self.kept(("values", WHOLE), self._whole)
        return self.kept(("values", field), lambda: self._read(field))

    def _whole(self) -> tuple[Hashes, NDArray[np.float64]]:
        said = np.where(self.answered, self.column("digest"), np.uint64(0))
        return said, np.full((len(self.sides), 1), np.nan) * np.ones(len(self))

    def _read(self, field: str) -> tuple[Hashes, NDArray[np.float64]]:
        values = [side.values(field) for side in self.sides]
        return self._spread([each for each, _ in values], 0), self._spread([each for _, each in values], np.nan)

    def codes(self, field: str) -> tuple[Codes, int]:
        """Return what is said in a field as codes from 0, NONE for nothing, and how many kinds there are."""
        return self.kept(("codes", field), lambda: self._codes(field))

    def _codes(self, field: str) -> tuple[Codes, int]:
        said = self.said(field)
        known = np.array(sorted({0, *self.field(field).texts}), np.uint64)
        codes = np.minimum(np.searchsorted(known, said), len(known) - 1)
        if (known[codes] == said).all():  # few values, whose hashes are known: a tenth of the time
            return codes - 1, len(known) - 1
        kinds, codes = np.unique(said, return_inverse=True)
        codes = codes.reshape(said.shape).astype(np.int64)
        if len(kinds) and kinds[0] == 0:
            return codes - 1, len(kinds) - 1
        return codes, len(kinds)

    def differ(self, field: str) -> Mask:
        """Say for each row whether two sides say different things in a field. Who says nothing does not differ."""
        return self.kept(("differ", field), lambda: self._differ(field))

    def _differ(self, field: str) -> Mask:
        said = self.said(field)
        first = said.max(0)
        found: Mask = ((said != first) & (said != 0)).any(0)
        return found

    def dissents(self, field: str, least: int = 1) -> Mask:
        """Say where a side does not say what most of the others do (`agreement.dissents`): sides x rows."""
        said = self.said(field)
        return self.kept(("dissents", field, least), lambda: agreement.dissents(said, said != 0, least))

    def apart(self, field: str) -> NDArray[np.float64]:
        """Return how far the sides are apart in each row: numbers by their distance, all else by who dissents."""
        if self.field(field).numbers:
            return self.reach(field)
        said = self.said(field)
        return self.kept(("apart", field), lambda: agreement.spread(said, said != 0))

    def reach(self, field: str) -> NDArray[np.float64]:
        """Return how far the highest number in a field is from the lowest, in each row."""
        return self.kept(("reach", field), lambda: agreement.reach(self.numbers(field)))


def _bytes(made: object) -> int:
    return sum(map(_bytes, made)) if isinstance(made, tuple) else made.nbytes if isinstance(made, np.ndarray) else 0
