"""What a batch has said so far: output lines out of its folder, each once, while it runs and after its end.

Reads parts while there is nothing better, results.jsonl and errors.jsonl once they are there. Users may take parts
away at any time; what went with them is said, and comes with the end. Opens nothing for writing, follows no link.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import orjson

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published
from inbox_daemon.request.output import failure, place_of_line
from inbox_daemon.spool.parts import part_name
from inbox_daemon.spool.published import opened, permitted


class Said:
    """The output lines of one batch, in the order in which they became visible.

    Args:
        errors: the lines without an answer, instead of those with one.

    Attributes:
        missing: parts that were taken away before they were read here.
        complete: every line was read: the batch has ended.
    """

    def __init__(self, folder: Published, *, errors: bool) -> None:
        self._folder, self._errors = folder, errors
        self._next = 1  # number of the part that is read next
        self._read = bytearray()  # a place each: whether its line was handed out
        self.missing: list[int] = []
        self.complete = False

    def new(self) -> Iterator[bytes]:
        """Yield the lines that have come since the last call, each with its newline.

        Raises:
            SpoolError: a line is none of ours, or a file may not be read.
        """
        ended = self._folder.receipt.exists()  # before anything is read: what comes later is for the next call
        whole = self._folder.errors if self._errors else self._folder.results
        if ended and whole.exists():
            yield from self._fresh(whole)
            self.complete = True
            return
        for number in self._parts():
            yield from self._fresh(self._folder.parts / part_name(number))
        self.complete = ended  # without results.jsonl: it was taken away, or the file was no batch

    def _parts(self) -> Iterator[int]:
        """Yield the numbers of parts that were not read yet, and note those that are gone."""
        with permitted(self._folder.parts):
            there = {name for name in _names(self._folder.parts) if name.startswith("part-")}
        last = max((number for name in there if (number := _number(name)) is not None), default=0)
        for number in range(self._next, last + 1):
            if part_name(number) in there:
                yield number
            else:
                self.missing.append(number)
        self._next = max(self._next, last + 1)

    def _fresh(self, path: Path) -> Iterator[bytes]:
        """Yield each line of a file that is asked for and was not handed out before; none where it is gone."""
        with suppress(FileNotFoundError):
            for place, line in placed(path):
                if self._hands_out(place, failure(orjson.loads(line)) is not None):
                    yield line

    def _hands_out(self, place: int, is_error: bool) -> bool:
        if place >= len(self._read):
            self._read.extend(bytes(place + 1 - len(self._read) + len(self._read) // 2))
        if is_error != self._errors or self._read[place]:
            return False
        self._read[place] = 1
        return True


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.listdir(folder)  # noqa: PTH208  there may be thousands
    return []


def _number(name: str) -> int | None:
    digits = name.removeprefix("part-").removesuffix(".jsonl")
    return int(digits) if digits.isdecimal() and part_name(int(digits)) == name else None


def placed(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each output line of a file with the place of its request. Raises SpoolError where one is none of ours."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            place = place_of_line(line)
            if place is None:
                what = "no output line of ours; inbox-daemon verify says what else is wrong"
                raise SpoolError(f"{path} line {number}: {what}")
            yield place, line
