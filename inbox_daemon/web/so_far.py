"""The answers that a batch has so far: its published parts as one sequence of lines, in the order of their computing.

A line keeps its number for as long as parts are kept, so a reader that knows how far it has come misses none. Parts
that somebody has taken away are said to be gone. Opens nothing for writing, follows no link.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inbox_daemon.layout import Published
from inbox_daemon.spool import published
from inbox_daemon.spool.parts import is_part, number_of_part, part_name
from inbox_daemon.web.wrong import Wrong

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """What of one part is to be sent: all after the first `skip` lines."""

    path: Path
    skip: int


class Lines:
    """How many lines parts have. What was counted once is not counted again: a part never changes."""

    _MOST = 100_000

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], int] = {}

    def after(self, folder: Published, first: int) -> tuple[list[Piece], int]:
        """Return what follows the first `first` lines, and how many lines there are in all.

        Raises:
            Wrong: some of it was taken away, or there is no such line yet.
            SpoolError: a part may not be read.
        """
        pieces: list[Piece] = []
        total = 0
        for path in _parts(folder):
            lines = self._of(path)
            if total + lines > first:
                pieces.append(Piece(path, max(0, first - total)))
            total += lines
        if first > total:
            raise Wrong(400, f"There are only {total:,} lines so far.", "invalid_value", "from")
        return pieces, total

    def _of(self, path: Path) -> int:
        key = (str(path), path.stat().st_ino)
        if key not in self._known:
            if len(self._known) >= self._MOST:
                self._known.clear()
            self._known[key] = sum(block.count(b"\n") for block in _blocks(path))
        return self._known[key]


def sent(pieces: list[Piece]) -> Iterator[bytes]:
    """Yield whole lines, many at a time. Where a part is taken away meanwhile, it ends before it."""
    for piece in pieces:
        with suppress(FileNotFoundError):
            yield from _after(piece.skip, piece.path)
            continue
        return


def _after(skip: int, path: Path) -> Iterator[bytes]:
    for block in _blocks(path):
        begin = 0
        while skip and begin < len(block):
            newline = block.find(b"\n", begin)
            begin, skip = (newline + 1, skip - 1) if newline >= 0 else (len(block), skip)
        if begin < len(block):
            yield block[begin:]


def _parts(folder: Published) -> list[Path]:
    """Return the parts of a batch. Raises Wrong where one is missing among them, or all are."""
    names: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError), published.permitted(folder.parts):
        names = [name for name in os.listdir(folder.parts) if is_part(name)]  # noqa: PTH208  there may be thousands
    numbers = {number_of_part(name) for name in names}
    if numbers != set(range(1, len(numbers) + 1)) or (not numbers and folder.receipt.exists()):
        said = "Parts of these answers were taken away; what the batch has left at its end is in its output file."
        raise Wrong(410, said, "answers_removed")
    return [folder.parts / part_name(number) for number in sorted(numbers)]


def _blocks(path: Path) -> Iterator[bytes]:
    with published.opened(path) as file:
        while block := file.read(_BLOCK):
            yield block
