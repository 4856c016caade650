"""Looking for a text or a pattern in all answers of one batch: which of its lines have it.

Texts lie in segments in lower case, so case is no difference. One search at a time in the whole process, and a pattern
has two seconds for each file: some take for ever (`(a|aa)+$` before many a's). Only the first 1,048,576 characters of
an answer are looked at.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import regex
from numpy.typing import NDArray

from inbox_daemon.web.cache import Segment
from inbox_daemon.web.wrong import Wrong

SECONDS = 2.0  # for a pattern, in one file
_WAIT = 5.0  # seconds for a search that is on before
_BLOCK = 1 << 20  # bytes read at once

_LONG = 10_000  # characters of a text during whose search other threads go on
_LINES = 1_000  # after which it is seen how much time is left
# What may match a line and not the same line among others: looking around, matching all or nothing, flags.
_ALONE = re.compile(r"\\[GKzXRQ0-9xuUN]|\(\?(?!:)|[*+?}]\+|\(\*|\0|\[\[")
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[\^$]", re.DOTALL)
_BEGIN, _END = r"(?<![^\0])", r"(?=\n?\0)"

_one = threading.Lock()


class Search:
    """What is looked for: a text, or a regular expression between slashes.

    A pattern is looked for in each answer by itself: ^ and $ are its ends, and nothing reaches into the next one.
    Used as a context manager, since one search is on at a time.
    """

    def __init__(self, asked: str) -> None:
        """Raises Wrong where the pattern is none."""
        self._text = asked.lower().encode("utf-8", "replace").replace(b"\0", b" ")
        self._is_pattern = len(asked) > 2 and asked.startswith("/") and asked.endswith("/")
        self._until = 0.0
        if self._is_pattern:
            pattern = asked[1:-1]
            flags = regex.V0 | (0 if pattern == pattern.lower() else regex.IGNORECASE)  # answers are in lower case
            try:
                self._pattern = regex.compile(pattern, flags)
                self._swallowing = regex.compile(rf"(?:{_among_others(pattern)})[^\0]*+", flags)  # once a line
            except regex.error as error:
                raise Wrong(400, f"q is no regular expression: {error}", "invalid_filter", "q") from error
            self._alone = bool(_ALONE.search(pattern))

    def __enter__(self) -> Search:
        if not _one.acquire(timeout=_WAIT):
            raise Wrong(429, "another search is on; ask again", "busy", "q", headers={"Retry-After": "2"})
        return self

    def __exit__(self, *_: object) -> None:
        _one.release()

    def found(self, segment: Segment) -> NDArray[np.bool_]:
        """Return which lines of a segment have it.

        Raises:
            Damaged: its text is not what was written.
            Wrong: the pattern takes too long.
        """
        self._until = time.monotonic() + SECONDS
        begins = segment.rows["text"].astype(np.int64)
        hits = np.zeros(len(begins), np.bool_)
        for first, block in _blocks(segment.text(), begins):
            rows = self._rows_by_pattern(block.decode()) if self._is_pattern else self._rows_by_text(block)
            hits[first + np.asarray(rows, np.int64)] = True
        return hits

    def _rows_by_text(self, block: bytes) -> list[int]:
        if block.find(self._text) < 0:
            return []
        return [n for n, text in enumerate(block.split(b"\0")[:-1]) if self._text in text]

    def _rows_by_pattern(self, block: str) -> list[int]:
        """One call a block where that is the same as one a line, which costs six times as much (600,000 lines: 2 s)."""
        if self._alone:
            return self._matching(list(enumerate(block.split("\0")[:-1])))
        ends = _ends(block)
        begins, past = self._spans(block)
        first, last = np.searchsorted(ends, begins), np.searchsorted(ends, past)
        first, last = first[first < len(ends)], last[first < len(ends)]  # nothing may match behind the last one
        within = first == last
        over = {
            row
            for one, other in zip(first[~within].tolist(), last[~within].tolist(), strict=True)
            for row in range(one, min(other + 1, len(ends)))
        }
        texts = [(row, block[int(ends[row - 1]) + 1 if row else 0 : int(ends[row])]) for row in sorted(over)]
        return [*first[within].tolist(), *self._matching(texts)]  # what went over an end is looked at by itself

    def _spans(self, block: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        with self._in_time() as left:
            spans = [match.span() for match in self._swallowing.finditer(block, timeout=left, concurrent=True)]
        found = np.array(spans, np.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def _matching(self, texts: Sequence[tuple[int, str]]) -> list[int]:
        found: list[int] = []
        for begin in range(0, len(texts), _LINES):
            with self._in_time() as left:
                search = partial(self._pattern.search, timeout=left)
                for row, text in texts[begin : begin + _LINES]:
                    if search(text, concurrent=True) if len(text) > _LONG else search(text):
                        found.append(row)
        return found

    @contextmanager
    def _in_time(self) -> Iterator[float]:
        """Give the seconds that are left. Raises Wrong where none are, or what is done here takes longer."""
        try:
            if (left := self._until - time.monotonic()) <= 0:
                raise TimeoutError
            yield left
        except TimeoutError:
            said = f"the pattern takes longer than {SECONDS:.0f} s; look for a text, or for less"
            raise Wrong(400, said, "pattern_too_slow", "q") from None


def _among_others(pattern: str) -> str:
    """Return a pattern whose ^ and $ are the ends of one text among others, each with a NUL behind it."""
    ends = {"^": _BEGIN, "$": _END, r"\A": _BEGIN, r"\Z": r"(?=\0)"}
    return _TOKEN.sub(lambda found: ends.get(found[0], found[0]), pattern)


def _ends(block: str) -> NDArray[np.int64]:
    """Return where the NULs stand, in characters."""
    content = np.frombuffer(block.encode(), np.uint8) if block.isascii() else _characters(block)
    return np.flatnonzero(content == 0)


def _characters(block: str) -> NDArray[np.uint32]:
    return np.frombuffer(block.encode("utf-32-le"), np.uint32)


def _blocks(path: Path, begins: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    """Yield whole texts, some megabytes at a time, with the number of the first line among them."""
    with open(path, "rb", 0) as file:
        first = 0
        while first < len(begins):
            past = max(int(np.searchsorted(begins, begins[first] + _BLOCK)), first + 1)
            length = int(begins[past] - begins[first]) if past < len(begins) else -1
            yield first, file.read(length)
            first = past
