"""Batches side by side, as the viewer shows them: opened by their names, then asked for pages of rows.

    match rows.opened(site, ["candidates@qwen", "candidates@gemma"]):
        case rows.Indexing(percent=percent): ...                     # ask again in a moment
        case rows.Comparison() as comparison:
            page = comparison.rows(Filter.of(params), Order.of(params), page=1)

One batch is a comparison as well, of one side. What is reckoned of the same files is kept in this process; what was
read of them in the cache folder. Sides are numbered from 0 and called A to F (`filters.LETTERS`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from inbox_daemon.errors import SpoolError
from inbox_daemon.spool import marks, proof
from inbox_daemon.spool.marks import Mark
from inbox_daemon.web import cells, tables
from inbox_daemon.web.cache import Damaged, Segment
from inbox_daemon.web.cells import Cell, Message, State
from inbox_daemon.web.filters import LETTERS, Filter, Order
from inbox_daemon.web.found import Found, found, same
from inbox_daemon.web.header import Header, Judged, header, judged
from inbox_daemon.web.prompts import Prompt, Prompts
from inbox_daemon.web.segments import key_of
from inbox_daemon.web.selection import selected
from inbox_daemon.web.site import Site
from inbox_daemon.web.table import Field, Table
from inbox_daemon.web.wrong import Wrong

__all__ = ["LETTERS", "Cell", "Comparison", "Field", "Filter", "Indexing", "Message", "Order", "Page", "Row", "opened"]

T = TypeVar("T")

PAGE = 50  # rows
_WHOLE = 64 << 20  # bytes of a line, characters of a text, that a row by itself shows


@dataclass(frozen=True, slots=True)
class Indexing:
    """Answers are being read for the first time; ask again. `percent` is 0 to 99."""

    percent: int


@dataclass(frozen=True, slots=True)
class Row:
    """One request, and what each batch says to it.

    Attributes:
        custom_id: "" where the line of the file had none.
        line: 1-based, in the file that was dropped; of a request without a prompt that was kept, its place in it.
        prompt: the messages, of the first batch whose input was kept; None where none was.
        cells: one for each batch, in their order.
    """

    number: int
    custom_id: str
    line: int
    prompt: tuple[Message, ...] | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Up to 50 rows of those that a filter lets through.

    Attributes:
        page: 1-based; the last one where a later one was asked for. pages: 1 at least.
        found: rows that the filter lets through. total: all rows.
        by: the field by which answers were compared.
    """

    rows: tuple[Row, ...]
    page: int
    pages: int
    found: int
    total: int
    by: str
    seconds: float


class Comparison:
    """One batch, or up to six of the same requests.

    Attributes:
        names: of the batches. statuses: what their status.json says.
        indexed: percent of what is published that is shown here: less than 100 while a batch runs and a part is new.
    """

    def __init__(self, site: Site, sides: Sequence[Found], table: Table, prompts: Sequence[Prompts | None]) -> None:
        self.names = tuple(each.name for each in sides)
        self.statuses = tuple(each.status for each in sides)
        self.indexed = tables.percent(sides, table)
        self.table = table
        self._site, self._found, self._prompts = site, tuple(sides), tuple(prompts)

    @property
    def total(self) -> int:
        """How many rows there are."""
        return len(self.table)

    @property
    def running(self) -> bool:
        """Whether answers are still to come: a batch has not ended."""
        return any(not each.ended for each in self._found)

    @property
    def fields(self) -> list[Field]:
        """By what answers may be compared: "" is the whole answer, the others are fields of their JSON."""
        return self.table.fields

    @property
    def by(self) -> str:
        """The field by which answers are compared where nothing else is asked for."""
        return self.table.found()

    def header(self, by: str | None = None) -> Header:
        """Return what is said above the rows, by a field; None is `Comparison.by`."""
        field = self.by if by is None else by
        receipts = [_receipt(each) for each in self._found]
        return self._sound(lambda: header(self.table, field, self.names, self.statuses, receipts))

    def rows(self, filter: Filter, order: Order = Order.FILE, page: int = 1) -> Page:
        """Return a page of the rows that a filter lets through.

        Raises:
            Wrong: the filter cannot be followed; or something in the cache was damaged, and asking again helps.
        """
        began = time.perf_counter()
        found = self.matching(filter, order)
        pages = max(1, -(-len(found) // PAGE))
        page = min(max(1, page), pages)
        by = self.by if filter.by is None else filter.by
        shown = self._sound(lambda: self.read(found[(page - 1) * PAGE : page * PAGE], by, cells.LISTED, cells.READ))
        return Page(tuple(shown), page, pages, len(found), self.total, by, time.perf_counter() - began)

    def row(self, custom_id: str, by: str | None = None) -> Row | None:
        """Return the row of a request, with all of its texts; None where there is none. Raises Wrong."""
        number = self.table.row_of(key_of(custom_id))
        return None if number is None else self.whole(np.array([number]), self.by if by is None else by)[0]

    def whole(self, numbers: NDArray[np.int64], by: str) -> list[Row]:
        """Return rows by their numbers, with all of their texts. Raises Wrong."""
        return self._sound(lambda: self.read(numbers, by, _WHOLE, _WHOLE))

    def asked(self, number: int, side: int) -> Prompt | None:
        """Return the request of a row as one batch had it; None where its input was not kept."""
        prompts = self._prompts[side]
        return prompts.of(int(self.table.keys[number])) if prompts is not None else None

    def answer(self, custom_id: str, side: int) -> tuple[Prompt | None, str] | None:
        """Return what one batch answers to a request, and what was asked; None where it has no answer. Raises Wrong."""
        number = self.table.row_of(key_of(custom_id))
        if number is None or not self.table.answered[side, number]:
            return None
        cell = self.whole(np.array([number]), self.by)[0].cells[side]
        return (self.asked(number, side), cell.text) if cell.state is State.ANSWER else None

    def judged(self) -> tuple[Judged, ...]:
        """Return for each two batches which one's answers were found good more often, and whether by chance alone."""
        return judged({at: mark.mark for at, mark in self.marks().items()}, len(self.names))

    def matching(self, filter: Filter, order: Order = Order.FILE) -> NDArray[np.int64]:
        """Return the numbers of all rows that a filter lets through. Raises Wrong."""
        said = {at: mark.mark for at, mark in self.marks().items()} if filter.marked else {}
        return self._sound(lambda: selected(self.table, filter, order, said))

    def marks(self) -> dict[tuple[int, int], Mark]:
        """Return what was said of each answer last, by row and side."""
        found: dict[tuple[int, int], Mark] = {}
        for side, said in enumerate(self._said()):
            rows = self.table.rows_of([key_of(custom_id) for custom_id in said])
            both = zip(rows.tolist(), said.values(), strict=True)
            found |= {(row, side): mark for row, mark in both if row >= 0}
        return found

    def _said(self) -> list[dict[str, Mark]]:
        """Return for each batch what was said of its answers, by custom_id."""
        sets = (marks.read(self._site.spool, each.marks) for each in self._found)
        return [{mark.custom_id: mark for mark in said.values()} for said in sets]

    def read(self, numbers: NDArray[np.int64], by: str, characters: int, size: int) -> list[Row]:
        """Read rows by their numbers.

        Args:
            characters: of each text. size: bytes of a line; of a longer one only the beginning of its text is told.
        """
        differ, said = self.table.dissents(by, 2), self._said()
        with ExitStack() as stack:
            files: dict[str, BinaryIO | None] = {}

            def file_of(segment: Segment) -> BinaryIO | None:
                if segment.source.key not in files:
                    files[segment.source.key] = same(segment.source, stack)
                return files[segment.source.key]

            found = [self._row(int(number), file_of, differ, characters, size) for number in numbers]
        return [replace(row, cells=tuple(map(partial(_marked, row.custom_id), row.cells, said))) for row in found]

    def _row(
        self,
        number: int,
        file_of: Callable[[Segment], BinaryIO | None],
        differ: NDArray[np.bool_],
        characters: int,
        size: int,
    ) -> Row:
        said: list[Cell] = []
        custom_id, place = "", 0
        for side in range(len(self.names)):
            at = int(self.table.at[side][number])
            if at < 0:
                said.append(Cell(State.MISSING))
                continue
            segment, line = self.table.sides[side].where(at)
            if (file := file_of(segment)) is None:
                said.append(Cell(State.GONE))
                continue
            row = segment.rows[line]
            content = cells.read(file, int(row["offset"]), int(row["length"]), size)
            name, cell = cells.cell(content, int(row["length"]), characters, int(row["characters"]))
            said.append(replace(cell, differs=bool(differ[side, number])))
            custom_id, place = custom_id or name, place or int(row["place"]) + 1
        prompt = next((found for side in range(len(said)) if (found := self.asked(number, side))), None)
        if prompt is None:
            return Row(number, custom_id, place, None, tuple(said))
        return Row(number, custom_id, prompt.line, prompt.shown(characters), tuple(said))

    def _sound(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except Damaged as error:
            tables.forget(self._site, self.table)
            said = "what was read of the answers was damaged on the disk, and is read again; ask again"
            raise Wrong(503, said, "being_indexed", type="server_error", headers={"Retry-After": "2"}) from error


def opened(site: Site, names: Sequence[str]) -> Comparison | Indexing:
    """Open batches by their names in the outbox, in the order in which they are to be shown.

    Of a batch that runs the parts that are there are shown; a part that is new is read in the meantime. Fast where
    nothing has changed, so that a page may do it each time.

    Raises:
        Wrong: none is named, or more than six, or one twice; there is no such batch; its files cannot be read.
    """
    if not 0 < len(names) <= len(LETTERS):
        raise Wrong(400, f"name one batch to {len(LETTERS)} to be shown", None, "b")
    if len(set(names)) < len(names):
        raise Wrong(400, "a batch is named twice", None, "b")
    sides = [found(site.spool, name) for name in names]
    made = tables.of(site, sides)
    return Indexing(made) if isinstance(made, int) else Comparison(site, sides, *made)


def _marked(custom_id: str, cell: Cell, said: Mapping[str, Mark]) -> Cell:
    mark = said.get(custom_id) if cell.state is State.ANSWER else None
    return replace(cell, mark=mark.mark, note=mark.note) if mark else cell


def _receipt(batch: Found) -> Mapping[str, Any]:
    try:
        return proof.receipt_of(batch.folder)
    except (OSError, SpoolError):
        return {}
