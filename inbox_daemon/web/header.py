"""What is said above the rows: figures of each batch, and how far each two agree. Table in, numbers out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inbox_daemon.compare import agreement
from inbox_daemon.compare.comparison import speed, steps_of, told
from inbox_daemon.compare.shapes import Speed
from inbox_daemon.spool.shapes import BatchObject
from inbox_daemon.web.segments import CUT_OFF, REFUSAL
from inbox_daemon.web.selection import Marks, no_json
from inbox_daemon.web.table import Table


@dataclass(frozen=True, slots=True)
class Figures:
    """One batch's figures.

    Attributes:
        missing: rows in which it has neither an answer nor an error.
        no_json: answers that are no JSON and were to be (`selection.no_json`).
        differ: rows in which it does not say what most of the others do.
        tokens_median, tokens_p95: output tokens of an answer; None without answers.
        histogram: answers by output tokens, in the steps of `Header.steps`, and how many are longer.
        speed: as its receipt says; while it runs, None: its status says how fast it is now.
    """

    name: str
    model: str | None
    status: BatchObject
    answers: int
    errors: int
    missing: int
    cut_off: int
    refusals: int
    no_json: int
    differ: int
    tokens_median: float | None
    tokens_p95: float | None
    histogram: tuple[int, ...]
    speed: Speed | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two sides say the same, over the rows in which both say something in the field.

    Attributes:
        same: the share of rows. kappa: Cohen's; None where chance alone gives all of it.
        difference: the mean distance of their numbers; None where the field has none.
    """

    first: int
    second: int
    both: int
    same: float | None
    kappa: float | None
    difference: float | None


@dataclass(frozen=True, slots=True)
class Judged:
    """Two sides by what people have marked: rows in which both answers were found good or best, or bad.

    Attributes:
        only_first, only_second: rows in which that one alone was good.
        p: McNemar's: how likely a difference like that is, were both equally good.
    """

    first: int
    second: int
    both: int
    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True, slots=True)
class Header:
    """All of it.

    Attributes:
        by: the field by which answers are compared; "" is the whole answer.
        differ: rows in which two sides say different things. compared: in which two say anything.
        steps: upper ends of the histograms' steps, in output tokens; the last one has no end.
        pairs: each two sides. alpha: Krippendorff's, of all sides; of distances where the field has numbers.
    """

    by: str
    sides: tuple[Figures, ...]
    rows: int
    differ: int
    compared: int
    steps: tuple[int, ...]
    pairs: tuple[Agreement, ...]
    alpha: float | None

    def pair(self, first: int, second: int) -> Agreement | None:
        """Return two sides' agreement, in whatever order they are named; None for one and itself."""
        return next((each for each in self.pairs if {each.first, each.second} == {first, second}), None)


def header(
    table: Table, by: str, names: Sequence[str], statuses: Sequence[BatchObject], receipts: Sequence[Mapping[str, Any]]
) -> Header:
    """Return the figures of a table, by one field; `receipts` are empty where there is none. Raises Damaged."""
    tokens = [table.column("output_tokens")[side][table.answered[side]] for side in range(len(names))]
    steps = steps_of(tokens)
    sides = range(len(names))
    return Header(
        by,
        tuple(_figures(table, side, by, names[side], statuses[side], receipts[side], steps) for side in sides),
        len(table),
        int(table.differ(by).sum()),
        int(((table.said(by) != 0).sum(0) > 1).sum()),
        tuple(steps),
        table.kept(
            ("pairs", by), lambda: tuple(_agreement(table, by, *two) for two in itertools.combinations(sides, 2))
        ),
        table.kept(("alpha", by), lambda: _alpha(table, by)),
    )


def _alpha(table: Table, by: str) -> float | None:
    if table.field(by).numbers:
        return told(agreement.alpha_interval(table.numbers(by)))
    return told(agreement.alpha(*table.codes(by)))


def judged(marks: Marks, sides: int) -> tuple[Judged, ...]:
    """Return what marks say of each two sides that have any in the same rows."""
    good: dict[int, dict[int, bool]] = {}
    for (row, side), mark in marks.items():
        if mark in ("good", "best", "bad"):
            good.setdefault(row, {})[side] = mark != "bad"
    found = []
    for first, second in itertools.combinations(range(sides), 2):
        both = [(said[first], said[second]) for said in good.values() if first in said and second in said]
        only = both.count((True, False)), both.count((False, True))
        if both:
            found.append(Judged(first, second, len(both), *only, agreement.mcnemar(*only)))
    return tuple(found)


def _figures(
    table: Table,
    side: int,
    by: str,
    name: str,
    status: BatchObject,
    receipt: Mapping[str, Any],
    steps: Sequence[int],
) -> Figures:
    there, flags = table.answered[side], table.column("flags")[side]
    tokens = table.column("output_tokens")[side][there]
    models = [engine.get("model") for engine in receipt.get("engines") or ()]
    return Figures(
        name,
        next((model for model in models if model), status.get("model")),
        status,
        int(there.sum()),
        int(table.errors[side].sum()),
        int((~table.there[side]).sum()),
        int(((flags & CUT_OFF) > 0).sum()),
        int(((flags & REFUSAL) > 0).sum()),
        int(no_json(table)[side].sum()),
        int(table.dissents(by)[side].sum()),
        float(np.median(tokens)) if len(tokens) else None,
        float(np.percentile(tokens, 95)) if len(tokens) else None,
        tuple(np.bincount(np.searchsorted(steps, tokens), minlength=len(steps) + 1).tolist()),
        speed(receipt) if receipt else None,
    )


def _agreement(table: Table, by: str, first: int, second: int) -> Agreement:
    codes, kinds = table.codes(by)
    both = (codes[first] != agreement.NONE) & (codes[second] != agreement.NONE)
    count = int(both.sum())
    difference = math.nan
    if table.field(by).numbers:
        apart = np.abs(table.numbers(by)[first] - table.numbers(by)[second])
        difference = float(np.nanmean(apart)) if not np.isnan(apart).all() else math.nan
    return Agreement(
        first,
        second,
        count,
        float((codes[first] == codes[second])[both].mean()) if count else None,
        told(agreement.cohen(codes[first], codes[second], kinds)),
        told(difference),
    )
