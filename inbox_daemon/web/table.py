"""Batches of the same requests, aligned: a row for each custom_id, a side for each batch, all of it in arrays.

Owns what can be asked of the rows: columns, fields, who says the same. Which line stands in which row is `sides`';
which rows a filter wants is `selection`'s.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from inbox_daemon.compare import agreement
from inbox_daemon.compare.agreement import Codes
from inbox_daemon.compare.answers import WHOLE
from inbox_daemon.web.segments import ERROR
from inbox_daemon.web.sides import Hashes, Side, aligned

Mask = NDArray[np.bool_]
T = TypeVar("T")

_KEPT = 128 << 20  # bytes of arrays that are kept for the next question


@dataclass(frozen=True, slots=True)
class Field:
    """A field by which answers may be compared.

    Attributes:
        name: in the answers' JSON; "" is the whole answer.
        numbers: whether most of its values are numbers.
        texts: the values that occur, by hash, where they are short and few.
    """

    name: str
    numbers: bool
    texts: dict[int, str]


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
        row = int(self.rows_of([key])[0])
        return row if row >= 0 else None

    def rows_of(self, keys: Sequence[int]) -> NDArray[np.int64]:
        """Return the rows of requests by their custom_ids' hashes; -1 where there is none."""
        wanted = np.array(keys, np.uint64)
        if not len(self.keys):
            return np.full(len(wanted), -1)
        order = self.kept("order", lambda: np.argsort(self.keys))
        found = order[np.minimum(np.searchsorted(self.keys, wanted, sorter=order), len(order) - 1)]
        return np.where(self.keys[found] == wanted, found, -1)

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
