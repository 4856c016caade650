"""What a page of answers shows beside the answers: which filters there are, as links, and the figures as they read.

Pure: a comparison's header and the filter in, words and addresses out. Used by one batch's page and by several side by
side, which differ in their address alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode

from inbox_daemon.web.filters import LETTERS, MARKED, Filter, Order, Says, Show
from inbox_daemon.web.header import Figures, Header
from inbox_daemon.web.table import Field

_SHOWS = ((Show.ERRORS, "errors"), (Show.CUT, "cut off"), (Show.NO_JSON, "no JSON"), (Show.MISSING, "no answer"))
_ORDERS = {
    Order.FILE: "the file's order",
    Order.APART: "most disagreement first",
    Order.LONGEST: "longest first",
    Order.TOKENS: "most tokens first",
}
_MARKS = {"any": "marked", "none": "not marked", "good": "good", "bad": "bad", "defer": "deferred", "best": "best"}
_MOST_VALUES = 12  # of a field, offered as links
_BAR, _TALL = 4, 22  # of a histogram, in pixels


@dataclass(frozen=True, slots=True)
class Link:
    """A choice: `on` where it is the present one. `count`: how many rows it would show, where that is known."""

    name: str
    href: str
    on: bool = False
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram: where it begins, how tall it is, and what it stands for."""

    x: int
    y: float
    height: float
    said: str


@dataclass(frozen=True, slots=True)
class Match:
    """How far two sides agree: `heat` is 0 to 10. None in its place: a side and itself."""

    same: float | None
    kappa: float | None
    difference: float | None
    heat: int
    href: str


class Versus:
    """The choices of one page of answers.

    Args:
        path: of the page. batches: what stands in its address for each side; none where the path says it.
    """

    def __init__(self, path: str, batches: Sequence[str], filter: Filter, order: Order) -> None:
        self.path, self.batches, self.filter, self.order = path, tuple(batches), filter, order

    def address(self, filter: Filter | None = None, order: Order | None = None, page: int = 1) -> str:
        """Return the address of this page with another filter, order or page."""
        batches = urlencode([("b", batch) for batch in self.batches])
        wanted = (self.filter if filter is None else filter).query()
        sorted_by = (self.order if order is None else order).query()
        query = "&".join(part for part in (batches, wanted, sorted_by, f"page={page}" if page > 1 else "") if part)
        return f"{self.path}?{query}" if query else self.path

    def query(self, ids: Sequence[str]) -> str:
        """Return the present choices as a query string, with the batches by their ids."""
        query = Versus("", ids, self.filter, self.order).address()
        return query.removeprefix("?")

    def page(self, number: int) -> str:
        return self.address(page=number)

    def chips(self, header: Header) -> list[Link]:
        """Return the kinds of rows, of which one is chosen at a time; a kind of which there is none is left out."""
        now, sides = self.filter, header.sides
        plain = replace(now, show=frozenset(), only=None, unlike=None)
        found = [Link("all", self.address(plain), plain == now)]
        if len(sides) > 1:
            differ = replace(plain, show=frozenset({Show.DIFFER}))
            found.append(Link("disagree", self.address(differ), differ == now, header.differ))
        if len(sides) > 2:
            for side in range(len(sides)):
                only = replace(plain, only=side)
                found.append(Link(f"only {LETTERS[side]}", self.address(only), only == now))
        for show, name in _SHOWS:
            chosen = replace(plain, show=frozenset({show}))
            if any(_count(figures, show) for figures in sides) or chosen == now:
                found.append(Link(name, self.address(chosen), chosen == now))
        if now.unlike is not None:
            letters = " ≠ ".join(LETTERS[side] for side in now.unlike)
            found.append(Link(letters, self.address(), True))
        return found

    def narrowed(self) -> list[Link]:
        """Return what else narrows the rows, each with the address that is without it."""
        now = self.filter
        found = [
            Link(f"{LETTERS[says.side]} says {says.value}", self.address(replace(now, says=_without(now.says, says))))
            for says in now.says
        ]
        if now.q:
            found.append(Link(f"has {now.q}", self.address(replace(now, q=""))))
        if now.marked:
            found.append(Link(_MARKS[now.marked], self.address(replace(now, marked=""))))
        if now.delta is not None:
            found.append(Link(f"{now.delta:g} apart or more", self.address(replace(now, delta=None))))
        if now.characters is not None:
            found.append(Link(f"{now.characters} characters", self.address(replace(now, characters=None))))
        if now.tokens is not None:
            found.append(Link(f"{now.tokens} tokens", self.address(replace(now, tokens=None))))
        if now.id:
            found.append(Link(f"request {now.id}", self.address(replace(now, id=""))))
        return found

    def hidden(self, *fields: str) -> list[tuple[str, str]]:
        """Return what a form must send beside its own `fields`, so that the rest stays as it is."""
        params = [*(("b", batch) for batch in self.batches), *parse_qsl(self.filter.query(), keep_blank_values=True)]
        params += [("order", self.order.value)] if self.order is not Order.FILE else []
        return [(name, value) for name, value in params if name not in fields]

    def fields(self, fields: Sequence[Field]) -> list[tuple[str, str]]:
        """Return by what answers may be compared: the value in the address, and its name for people."""
        return [(field.name, field.name or "the whole answer") for field in fields]

    def orders(self, sides: int) -> list[tuple[str, str]]:
        return [(order.value, name) for order, name in _ORDERS.items() if sides > 1 or order is not Order.APART]

    def marks(self) -> list[tuple[str, str]]:
        return [(mark, _MARKS[mark]) for mark in MARKED]

    def values(self, fields: Sequence[Field], by: str, sides: int) -> list[list[Link]]:
        """Return for each side the values of a field that it may say, as filters; none where there are too many."""
        field = next((each for each in fields if each.name == by), None)
        texts = sorted(set(field.texts.values())) if field else []
        if not 1 < len(texts) <= _MOST_VALUES:
            return []
        return [[self._value(Says(side, by, text)) for text in texts] for side in range(sides)]

    def _value(self, says: Says) -> Link:
        there = says in self.filter.says
        others = tuple(each for each in self.filter.says if (each.side, each.field) != (says.side, says.field))
        wanted = others if there else (*others, says)
        return Link(says.value, self.address(replace(self.filter, says=wanted)), there)

    def matrix(self, header: Header) -> list[list[Match | None]]:
        """Return how far each two sides agree, as a square; a cell leads to the rows on which the two do not."""
        sides = range(len(header.sides))
        return [[self._match(header, first, second) for second in sides] for first in sides]

    def _match(self, header: Header, first: int, second: int) -> Match | None:
        pair = header.pair(first, second)
        if pair is None:
            return None
        low, high = sorted((first, second))
        unlike = replace(self.filter, show=frozenset(), only=None, unlike=(low, high))
        heat = round(10 * pair.same) if pair.same is not None else 0
        return Match(pair.same, pair.kappa, pair.difference, heat, self.address(unlike))


def _without(all: tuple[Says, ...], one: Says) -> tuple[Says, ...]:
    return tuple(each for each in all if each != one)


def _count(figures: Figures, show: Show) -> int:
    counts = {Show.ERRORS: figures.errors, Show.CUT: figures.cut_off, Show.NO_JSON: figures.no_json}
    return counts.get(show, figures.missing)


def bars(figures: Figures, header: Header) -> list[Bar]:
    """Return one side's answers by output tokens, as bars of a common height and over the same steps as the others'."""
    used = [at for at in range(len(header.steps) + 1) if any(side.histogram[at] for side in header.sides)]
    most = max((count for side in header.sides for count in side.histogram), default=0)
    if not used or not most:
        return []
    return list(_bars(figures.histogram, header.steps, range(used[0], used[-1] + 1), most))


def _bars(counts: Sequence[int], steps: Sequence[int], used: range, most: int) -> Iterator[Bar]:
    for place, at in enumerate(used):
        height = max(1.0, round(_TALL * counts[at] / most, 1)) if counts[at] else 0.0
        up_to = f"up to {steps[at]:,}" if at < len(steps) else f"over {steps[-1]:,}" if steps else "any number of"
        yield Bar(place * _BAR, _TALL - height, height, f"{counts[at]:,} answers of {up_to} tokens")
