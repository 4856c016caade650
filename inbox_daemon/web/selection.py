"""Filters and orders made true: which rows of a table are wanted, as their numbers. Touches no lines."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from inbox_daemon.compare.answers import WHOLE, Form, normal
from inbox_daemon.compare.comparison import alike
from inbox_daemon.web.cache import Segment
from inbox_daemon.web.filters import Filter, Order, Says, Show, Span
from inbox_daemon.web.search import Search
from inbox_daemon.web.segments import CUT_OFF, NO_TEXT, key_of, value_key
from inbox_daemon.web.table import Mask, Table
from inbox_daemon.web.wrong import Wrong

_CANDIDATES, _LONGEST = 1_000, 1_000  # rows whose texts are compared, and how many bytes of each

Marks = Mapping[tuple[int, int], str]  # row and side → good, bad, defer or best


def selected(table: Table, filter: Filter, order: Order, marks: Marks) -> NDArray[np.int64]:
    """Return the numbers of the rows that are wanted, in the order that is wanted.

    Raises:
        Wrong: a side is named that there is not; a pattern is none, or takes too long.
        Damaged: a segment is not what was written.
    """
    by = filter.by if filter.by is not None else table.found()
    found = np.flatnonzero(table.kept(("rows", filter), lambda: _wanted(table, filter, by)))
    if filter.marked:
        found = found[_marked(table, filter.marked, marks)[found]]
    return _ordered(table, found, order, by)


def _wanted(table: Table, filter: Filter, by: str) -> Mask:
    wanted = np.ones(len(table), np.bool_)
    for show in filter.show:
        wanted &= _shown(table, show, by)
    if filter.only is not None:
        wanted &= table.dissents(by)[_side(table, filter.only, "only")]
    if filter.unlike is not None:
        one, other = (table.said(by)[_side(table, side, "unlike")] for side in filter.unlike)
        wanted &= (one != other) & (one != 0) & (other != 0)
    if filter.delta is not None:
        numbers = table.numbers(by)
        wanted &= ((~np.isnan(numbers)).sum(0) > 1) & (table.reach(by) >= filter.delta)
    for says in filter.says:
        wanted &= _says(table, says)
    for span, column in ((filter.characters, "characters"), (filter.tokens, "output_tokens")):
        if span is not None:
            wanted &= (_within(table.column(column), span) & table.answered).any(0)
    if filter.id:
        wanted &= table.keys == np.uint64(key_of(filter.id))
    return wanted & searched(table, filter.q) if filter.q else wanted


def _shown(table: Table, show: Show, by: str) -> Mask:
    match show:
        case Show.DIFFER:
            return table.differ(by)
        case Show.ERRORS:
            found = table.errors
        case Show.MISSING:
            found = ~table.there
        case Show.CUT:
            found = (table.column("flags") & CUT_OFF) > 0
        case Show.NO_JSON:
            found = no_json(table)
    return np.asarray(found.any(0))


def no_json(table: Table) -> Mask:
    """Say where an answer is no JSON, which it was to be: broken JSON, or prose where most answers are JSON."""
    return table.kept("no json", lambda: _no_json(table))


def _no_json(table: Table) -> Mask:
    form: NDArray[np.uint8] = table.column("form")
    texts = table.answered & ((table.column("flags") & NO_TEXT) == 0)
    is_json = texts & ((form == Form.JSON) | (form == Form.FENCED))
    if 2 * int(is_json.sum()) > int(texts.sum()):
        return np.asarray(texts & ~is_json)
    return np.asarray(texts & (form == Form.BROKEN))


def _says(table: Table, says: Says) -> Mask:
    said = table.said(says.field)[_side(table, says.side, "is")]
    return np.asarray(said == np.uint64(value_key(normal(says.value))))


def _within(values: NDArray[np.uint32], span: Span) -> Mask:
    return np.asarray((values >= (span.least or 0)) & (values <= (np.inf if span.most is None else span.most)))


def searched(table: Table, asked: str) -> Mask:
    """Return the rows in which any side's answer or error has a text. Raises Wrong, Damaged."""
    return table.kept(("search", asked), lambda: _searched(table, asked))


def _searched(table: Table, asked: str) -> Mask:
    found = np.zeros(len(table), np.bool_)
    with Search(asked) as search:
        for side, at in zip(table.sides, table.at, strict=True):
            lines = np.concatenate([np.empty(0, np.bool_), *map(search.found, side.segments)])
            there = at >= 0
            found[there] |= lines[at[there]]
    return found


def _marked(table: Table, wanted: str, marks: Marks) -> Mask:
    found = np.zeros(len(table), np.bool_)
    rows = [row for (row, _), mark in marks.items() if wanted in ("any", "none") or mark == wanted]
    found[rows] = True
    return ~found if wanted == "none" else found


def _side(table: Table, side: int, param: str) -> int:
    if side >= len(table.sides):
        raise Wrong(400, f"{param} names a side that there is not: {len(table.sides)} are shown", None, param)
    return side


# -- order


def _ordered(table: Table, found: NDArray[np.int64], order: Order, by: str) -> NDArray[np.int64]:
    match order:
        case Order.FILE:
            return found
        case Order.APART:
            return _furthest_apart(table, found, by)
        case Order.LONGEST:
            measure = table.column("characters").max(0).astype(np.float64)
        case Order.TOKENS:
            measure = table.column("output_tokens").max(0).astype(np.float64)
    return found[np.argsort(-measure[found], kind="stable")]


def _furthest_apart(table: Table, found: NDArray[np.int64], by: str) -> NDArray[np.int64]:
    """Of whole answers that differ alike, the first thousand come by how little their texts are alike."""
    measure = table.apart(by)[found]
    order = np.argsort(-measure, kind="stable")
    first = order[:_CANDIDATES][measure[order[:_CANDIDATES]] > 0]
    if by == WHOLE and len(table.sides) > 1:
        texts = [_texts(table, side, found[first]) for side in range(len(table.sides))]
        alike = np.array([_likeness([text for text in each if text]) for each in zip(*texts, strict=True)])
        order[: len(first)] = first[np.lexsort((alike, -measure[first]))]
    return found[order]


def _texts(table: Table, side: int, numbers: NDArray[np.int64]) -> list[str]:
    """Return what a side says in some rows, in lower case; "" where it has no answer."""
    found = [""] * len(numbers)
    wanted: dict[Segment, list[tuple[int, int]]] = {}  # the number in `found`, and the segment's line
    for at, number in enumerate(numbers.tolist()):
        if table.answered[side, number]:
            segment, line = table.sides[side].where(int(table.at[side][number]))
            wanted.setdefault(segment, []).append((at, line))
    for segment, lines in wanted.items():
        for (at, _), text in zip(lines, segment.texts([line for _, line in lines], _LONGEST), strict=True):
            found[at] = text
    return found


def _likeness(texts: Sequence[str]) -> float:
    pairs = [alike(one, other) for one, other in itertools.combinations(texts, 2)]
    return sum(pairs) / len(pairs) if pairs else 1.0
