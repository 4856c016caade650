"""Which rows of a comparison are wanted, and in which order: as values, and as they stand in a URL. Pure.

All that decides what a page shows is in its query string, so that a link shows the same to a colleague:

    by=FIELD          what "the same" means: a field of the answers' JSON; empty, the whole answer; absent, as found
    show=differ       several may stand there: differ, errors, cut, nojson, missing
    only=A            A alone says what most others do not; sides are called A to F, in the order of the batches
    unlike=AB         these two say different things
    delta=3           numbers of the field are so far apart
    is=A:FIELD:VALUE  what a side says in a field; FIELD and VALUE percent-encoded; several may stand there
    characters=10-99  the length of an answer of any side; either end may be missing. tokens=10-99 the same
    marked=good       any, none, good, bad, defer, best
    id=CUSTOM_ID      that request alone
    q=TEXT            in the answers, whatever the case; /PATTERN/ is a regular expression
    order=apart       file, apart, longest, tokens

All that stands there must be true of a row (AND). What cannot be read is a 400 that names the parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote, urlencode

from starlette.datastructures import QueryParams

from inbox_daemon.web.wrong import Wrong, quoted

LETTERS = "ABCDEF"  # sides, and how many there may be
MARKED = "any", "none", "good", "bad", "defer", "best"
LONGEST_TEXT = 512  # characters of what is looked for

_RANGE = re.compile(r"(\d{0,12})-(\d{0,12})|(\d{1,12})", re.ASCII)


class Show(StrEnum):
    """A kind of row that may be asked for."""

    DIFFER = "differ"
    ERRORS = "errors"
    CUT = "cut"
    NO_JSON = "nojson"
    MISSING = "missing"


class Order(StrEnum):
    """In which order rows come."""

    FILE = "file"
    APART = "apart"
    LONGEST = "longest"
    TOKENS = "tokens"

    @classmethod
    def of(cls, params: QueryParams) -> Order:
        """Return the order that a URL asks for. Raises Wrong."""
        return cls(_one_of(params, "order", tuple(cls)) or cls.FILE)

    def query(self) -> str:
        """Return the part of a query string that asks for this order; "" for the file's."""
        return "" if self is Order.FILE else f"order={self.value}"


@dataclass(frozen=True, slots=True)
class Span:
    """Whole numbers from one end to the other, both included; None is no end."""

    least: int | None
    most: int | None

    def __str__(self) -> str:
        return f"{'' if self.least is None else self.least}-{'' if self.most is None else self.most}"


@dataclass(frozen=True, slots=True)
class Says:
    """What a side must say in a field: texts as `compare.answers.normal` leaves them."""

    side: int
    field: str
    value: str

    def __str__(self) -> str:
        return f"{LETTERS[self.side]}:{quote(self.field, safe='')}:{quote(self.value, safe='')}"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows are wanted. Every attribute stands for the URL's parameter of its name; sides are numbers from 0."""

    by: str | None = None
    show: frozenset[Show] = frozenset()
    only: int | None = None
    unlike: tuple[int, int] | None = None
    delta: float | None = None
    says: tuple[Says, ...] = ()
    characters: Span | None = None
    tokens: Span | None = None
    marked: str = ""
    id: str = ""
    q: str = ""

    @classmethod
    def of(cls, params: QueryParams) -> Filter:
        """Return the filter that stands in a URL; parameters that are none of its own are not looked at. Raises Wrong.

        An empty parameter, as a form sends it, asks for nothing; only `by=` means something, the whole answer.
        """
        if len(q := params.get("q", "")) > LONGEST_TEXT:
            raise _wrong("q", f"is longer than {LONGEST_TEXT} characters")
        return cls(
            by=params.get("by"),
            show=frozenset(_show(params)),
            only=_side(params["only"], "only") if params.get("only") else None,
            unlike=_pair(params["unlike"]) if params.get("unlike") else None,
            delta=_number(params["delta"]) if params.get("delta") else None,
            says=tuple(_says(value) for value in params.getlist("is") if value),
            characters=_span(params, "characters"),
            tokens=_span(params, "tokens"),
            marked=_one_of(params, "marked", MARKED),
            id=params.get("id", ""),
            q=q,
        )

    def query(self) -> str:
        """Return the query string that `of` reads this filter from; "" for all rows."""
        return urlencode(list(self._params()))

    def _params(self) -> Iterator[tuple[str, str]]:
        if self.by is not None:
            yield "by", self.by
        yield from (("show", each.value) for each in sorted(self.show))
        if self.only is not None:
            yield "only", LETTERS[self.only]
        if self.unlike is not None:
            yield "unlike", "".join(LETTERS[side] for side in self.unlike)
        if self.delta is not None:
            yield "delta", f"{self.delta!r}".removesuffix(".0")
        yield from (("is", str(each)) for each in self.says)
        for name, value in (("characters", self.characters), ("tokens", self.tokens)):
            if value is not None:
                yield name, str(value)
        for name, text in (("marked", self.marked), ("id", self.id), ("q", self.q)):
            if text:
                yield name, text


def _wrong(param: str, why: str) -> Wrong:
    return Wrong(400, f"{param} {why}", code="invalid_filter", param=param)


def _one_of(params: QueryParams, name: str, known: tuple[str, ...]) -> str:
    if (value := params.get(name, "")) and value not in known:
        raise _wrong(name, f"is {quoted(value)}; it may be {', '.join(known)}")
    return value


def _show(params: QueryParams) -> Iterator[Show]:
    for value in params.getlist("show"):
        if value in ("", "all"):
            continue
        try:
            yield Show(value)
        except ValueError:
            raise _wrong("show", f"is {quoted(value)}; it may be all, {', '.join(Show)}") from None


def _side(letter: str, param: str) -> int:
    side = LETTERS.find(letter)
    if len(letter) != 1 or side < 0:
        raise _wrong(param, f"names {quoted(letter)}; sides are called {', '.join(LETTERS)}")
    return side


def _pair(letters: str) -> tuple[int, int]:
    if len(letters) != 2 or letters[0] == letters[1]:
        raise _wrong("unlike", "names two different sides, such as AB")
    return _side(letters[0], "unlike"), _side(letters[1], "unlike")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e300:
        raise _wrong("delta", "must be a number, 0 or more")
    return value


def _says(text: str) -> Says:
    parts = text.split(":", 2)
    if len(parts) != 3:
        raise _wrong("is", "must be SIDE:FIELD:VALUE, such as A:label:yes")
    return Says(_side(parts[0], "is"), unquote(parts[1]), unquote(parts[2]))


def _span(params: QueryParams, name: str) -> Span | None:
    if not (text := params.get(name, "")) or text == "-":
        return None
    found = _RANGE.fullmatch(text)
    if not found:
        raise _wrong(name, "must be a range such as 10-99, 10- or -99")
    least, most, exact = found.groups()
    if exact:
        return Span(int(exact), int(exact))
    return Span(int(least) if least else None, int(most) if most else None)
