"""A text or a pattern in all answers: what is found is what Python finds in each answer by itself."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from pathlib import Path

import answered
import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from outboxes import chat

from inbox_daemon.request.output import answer_line
from inbox_daemon.web import search
from inbox_daemon.web.cache import Segment
from inbox_daemon.web.search import Search
from inbox_daemon.web.wrong import Wrong


def segment(folder: Path, texts: list[str]) -> Segment:
    lines = (answer_line(f"b_{n}", f"c{n}", orjson.dumps(chat(text))) for n, text in enumerate(texts))
    return answered.segment(folder, b"".join(lines))


def found(in_segment: Segment, asked: str) -> list[int]:
    with Search(asked) as one:
        return [int(row) for row in np.flatnonzero(one.found(in_segment))]


LETTERS = st.text("ab\n é", max_size=8)
ATOMS = st.sampled_from(["a", "b", ".", "é", "[^a]", "[ab]", r"\s", r"\w", "\n", "(a|b)", "(?:b)"])
PLACES = st.sampled_from(["", "^", "$", r"\A", r"\Z", r"\b", "(?!b)", "(?<=a)", "|"])
PATTERNS = st.lists(st.tuples(PLACES, ATOMS, st.sampled_from(["", "*", "+?", "{2}"]), PLACES), max_size=3).map(
    lambda parts: "".join(map("".join, parts))
)


@settings(max_examples=40, deadline=None)
@given(st.lists(LETTERS, max_size=12), PATTERNS, LETTERS, st.integers(1, 64))
@example(["ab", "ba", "b"], "^b", "b", 64)
@example(["ab", "ba", "b"], "a$", "a", 64)
@example(["", "a", ""], "b*", "", 64)
@example(["ab", "b", "a"], "[^b]b", "b", 64)
def test_what_is_found_is_found_in_each_answer_by_itself(texts: list[str], pattern: str, text: str, block: int) -> None:
    """However the texts are cut into blocks, and whatever would match across the end of one."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_BLOCK", block)
        made = segment(Path(folder) / "one", texts)
        assert found(made, text) == [n for n, each in enumerate(texts) if text in each]
        if pattern:
            by_itself = re.compile(pattern)
            assert found(made, f"/{pattern}/") == [n for n, each in enumerate(texts) if by_itself.search(each)]


def test_case_is_no_difference_and_a_text_that_looks_like_a_pattern_is_one(tmp_path: Path) -> None:
    made = segment(tmp_path / "one", ["He said YES.", "ja/nein", "Straße", "[x]+", "İstanbul"])
    assert found(made, "yes.") == found(made, "/YES\\./") == found(made, "/y(ES|no)/") == [0]
    assert found(made, "/") == [1] and found(made, "//") == []
    assert found(made, "a/n") == [1] and found(made, "[X]+") == [3]
    assert found(made, "STRASSE") == [] and found(made, "straße") == [2], "ß is a letter of its own"


def test_a_pattern_that_takes_for_ever_ends_in_time_and_the_next_search_is_not_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SECONDS", 0.2)
    made = segment(tmp_path / "one", ["a" * 200 + "!", "b"])
    began = time.monotonic()
    for pattern in (r"/(a|aa)+$/", r"/(?=a)(a|aa)+$/"):  # among others, and each answer by itself
        with pytest.raises(Wrong) as slow:
            found(made, pattern)
        assert (slow.value.status, slow.value.code, slow.value.param) == (400, "pattern_too_slow", "q")
    assert time.monotonic() - began < 60, "without the limit it would take longer than the universe is old"
    assert found(made, "b") == [1]


def test_one_search_is_on_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = segment(tmp_path / "one", ["a", "b"])
    monkeypatch.setattr(search, "_WAIT", 0.0)
    with Search("a"):
        refused: list[Wrong] = []

        def other() -> None:
            with pytest.raises(Wrong) as busy:
                found(made, "a")
            refused.append(busy.value)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused[0].status == 429 and refused[0].headers["Retry-After"]
    assert found(made, "a") == [0]
