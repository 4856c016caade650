"""Whatever batches say, rows are aligned by custom_id and filters let through what they say: answers drawn at random.

Made in this process, so that there can be hundreds of them.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import answered
import numpy as np
import orjson
import pytest
from answered import value
from hypothesis import given, settings
from hypothesis import strategies as st
from outboxes import chat
from starlette.datastructures import QueryParams

from inbox_daemon.records import Fault
from inbox_daemon.request.output import answer_line, error_line
from inbox_daemon.web import sides
from inbox_daemon.web.cache import Segment
from inbox_daemon.web.filters import Filter, Order
from inbox_daemon.web.segments import key_of
from inbox_daemon.web.selection import selected
from inbox_daemon.web.sides import Side
from inbox_daemon.web.table import Table

ANSWERS = st.one_of(
    st.none(),
    st.sampled_from(["yes", "no", '{"l": "yes"', "```json\n" + '{"l": "no"}' + "\n```"]),
    st.builds(
        lambda label, n: orjson.dumps({"l": label, "n": n}).decode(),
        st.sampled_from(["yes", "no", "NO ", "maybe", None, True, 1]),
        st.sampled_from([0, 1, 1.0, 5, 9.5, "5", None]),
    ),
)
BATCHES = st.lists(st.dictionaries(st.integers(0, 15), ANSWERS, max_size=16), min_size=1, max_size=5)
Batch = dict[int, str | None]


def made(folder: Path, said: Batch, places: dict[int, int]) -> Segment:
    lines = []
    for n, text in said.items():
        id = f"batch_req_1_{places[n]}"
        if text is None:
            lines.append(error_line(id, Fault("bad", "no", None, f"c{n}"), places[n] + 1, 400))
        else:
            lines.append(answer_line(id, f"c{n}", orjson.dumps(chat(text))))
    return answered.segment(folder, b"".join(lines))


def tabled(folder: str, batches: list[Batch], shuffled: bool) -> Table:
    """A table of batches; shuffled, each has its requests in an order of its own."""
    found = []
    for number, said in enumerate(batches):
        places = {n: (n * (7 if number % 2 and shuffled else 1)) % 16 for n in range(16)}
        found.append(Side([made(Path(folder) / str(number), said, places)] if said else []))
    return Table(found)


@settings(max_examples=20, deadline=None)
@given(BATCHES, st.booleans())
def test_rows_are_the_requests_that_any_batch_has_each_once(batches: list[Batch], shuffled: bool) -> None:
    every = {n for said in batches for n in said}
    with tempfile.TemporaryDirectory() as folder:
        found = tabled(folder, batches, shuffled)
        assert sorted(found.keys.tolist()) == sorted(key_of(f"c{n}") for n in every)
        for side, said in enumerate(batches):
            for n in every:
                row = found.row_of(key_of(f"c{n}"))
                assert row is not None and bool(found.there[side, row]) is (n in said)
                assert bool(found.errors[side, row]) is (n in said and said[n] is None)
                if n in said:
                    assert found.sides[side].rows["key"][found.at[side][row]] == key_of(f"c{n}")
        if not shuffled:
            assert found.keys.tolist() == [key_of(f"c{n}") for n in sorted(every)], "in the file's order"
            keys, lines = sides._by_key(found.sides)
            assert (keys == found.keys).all() and all((a == b).all() for a, b in zip(lines, found.at, strict=True))


def label(text: str | None) -> str | None:
    """What a field says, as text: by value, whatever its form."""
    said = value((text or "").removeprefix("```json").removesuffix("```"), "l")
    return None if said is None else str(said).lower()


def number(text: str | None) -> float | None:
    said = value(text, "n")
    return float(said) if isinstance(said, int | float) and not isinstance(said, bool) else None


@settings(max_examples=20, deadline=None)
@given(BATCHES, st.booleans(), st.sampled_from([0.5, 1, 4]))
def test_filters_let_through_what_they_say(batches: list[Batch], shuffled: bool, delta: float) -> None:
    every = sorted({n for said in batches for n in said})
    labels = {n: [label(said.get(n)) for said in batches] for n in every}
    numbers = {n: [each for said in batches if (each := number(said.get(n))) is not None] for n in every}

    def dissents(n: int, side: int) -> bool:
        others = Counter(each for at, each in enumerate(labels[n]) if at != side and each is not None)
        mine = labels[n][side]
        return mine is not None and any(2 * c > others.total() and each != mine for each, c in others.items())

    wanted = {
        "by=l&show=differ": {n for n in every if len(set(labels[n]) - {None}) > 1},
        f"by=n&delta={delta}": {n for n in every if len(numbers[n]) > 1 and max(numbers[n]) - min(numbers[n]) >= delta},
        "show=errors": {n for n in every if any(n in said and said[n] is None for said in batches)},
        "show=missing": {n for n in every if any(n not in said for said in batches)},
        "is=A:l:No": {n for n in every if labels[n][0] == "no"},
        "characters=4-9": {n for n in every if any(4 <= len(said.get(n) or "") <= 9 for said in batches)},
        "q=YES": {n for n in every if any("yes" in (said.get(n) or "").lower() for said in batches)},
        "by=l&only=A": {n for n in every if dissents(n, 0)},
    }
    with tempfile.TemporaryDirectory() as folder:
        found = tabled(folder, batches, shuffled)
        for query, expected in wanted.items():
            for order in Order:
                rows = selected(found, Filter.of(QueryParams(query)), order, {})
                assert len(rows) == len(expected), (query, order)
                assert set(found.keys[rows].tolist()) == {key_of(f"c{n}") for n in expected}, (query, order)


def test_one_who_breaks_the_places_is_aligned_by_custom_id_all_the_same() -> None:
    """A custom_id at two places, or one place with two: of batches that were not made of the same file."""
    with tempfile.TemporaryDirectory() as folder:
        one = made(Path(folder) / "one", {1: "a", 2: "b"}, {1: 1, 2: 2})
        other = made(Path(folder) / "other", {2: "c", 3: "d"}, {2: 1, 3: 7})
        found = Table([Side([one]), Side([other])])
    assert sides._by_place(found.sides) is None
    assert found.keys.tolist() == [key_of("c1"), key_of("c2"), key_of("c3")]
    assert [at.tolist() for at in found.at] == [[0, 1, -1], [-1, 0, 1]]


@pytest.mark.parametrize("marks", [{}, {(0, 0): "good"}, {(0, 0): "good", (2, 0): "bad", (1, 0): "defer"}])
def test_marked_rows_are_those_with_a_mark(marks: dict[tuple[int, int], str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = Table([Side([made(Path(folder) / "one", dict.fromkeys(range(4), "x"), {n: n for n in range(4)})])])
        for wanted in ("any", "none", "good", "bad", "best"):
            rows = selected(found, Filter(marked=wanted), Order.FILE, marks).tolist()
            having = {row for (row, _), mark in marks.items() if wanted in ("any", "none") or mark == wanted}
            assert rows == [row for row in range(4) if (row in having) is (wanted != "none")]
    assert np.array_equal(found.keys, [key_of(f"c{n}") for n in range(4)])
