"""The log of one batch: every outcome, appended as whole output lines, made durable, sealed into parts.

Owns `open.jsonl`, `parts/` and `showing.jsonl` in work/ID, and what users have of them in outbox/NAME/parts. An outcome
counts when `sync` has returned it, never before. The log is its own index: after any crash it is read back, and nothing
else is needed.
"""

from __future__ import annotations

import os
from array import array
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from inbox_daemon.layout import Published, Work
from inbox_daemon.records import Outcome, place_of, ticket
from inbox_daemon.request.output import place_of_line, read_outcome
from inbox_daemon.spool import files
from inbox_daemon.spool.parts import number_of_part, part_name

_NONE = (1 << 64) - 1
_ERROR = 1 << 63
_OFFSET_BITS, _PART_BITS = 40, 23
_OPEN_FDS = 32
_MAX_PART_BYTES = 64 << 20


class Sealed(NamedTuple):
    """A part that users have now, and the names before it that somebody else had taken."""

    shown: Path
    strangers: list[str]


class Outcomes:
    """The outcomes of one batch. 12 bytes a request in memory; the lines stay on disk."""

    def __init__(self, work: Work, requests: int) -> None:
        self._work = work
        self._where = array("Q", [_NONE]) * requests  # _ERROR or 0 | which part << 40 | offset
        self._length = array("I", [0]) * requests
        self._parts: list[Path] = []  # that are sealed; the open one comes next
        self._strangers: list[str] = []  # names in the outbox that somebody else has taken
        self._writer: files.Writer | None = None
        self._unsynced: list[Outcome] = []
        self._readers: OrderedDict[int, int] = OrderedDict()
        self.open_lines = 0
        self.bytes = 0  # of all outcomes together

    # -- starting and recovering: the same call

    def recover(self, slot: int, count: Callable[[Outcome], None], published: Published) -> Generator[None, None, None]:
        """Read the log back, calling `count` for every outcome it holds. Yields after each chunk of lines.

        The open part is written anew from the lines that are whole: a torn tail is dropped, and what an earlier
        process only left in the page cache becomes durable before anything counts on it.
        """
        files.ensure_dir(self._work.parts)
        self._parts = sorted(self._work.parts.iterdir(), key=lambda part: number_of_part(part.name))
        self._finish_interrupted_seal(published)
        for number, part in enumerate(self._parts):
            for chunk in _chunks(part):
                for line, offset in chunk:
                    self._recognise(line, number, offset, slot, count)
                yield
        with ExitStack() as opened:
            rebuilt = opened.enter_context(files.Writer(self._work.open_part.with_name(".open.new"), fresh=True))
            for chunk in _chunks(self._work.open_part):
                kept, offset = [], rebuilt.size
                for line, _ in chunk:
                    if self._recognise(line, len(self._parts), offset, slot, count):
                        kept.append(line)
                        offset += len(line)
                rebuilt.write(b"".join(kept))
                self.open_lines += len(kept)
                yield
            rebuilt.sync()
            files.move(rebuilt.path, self._work.open_part)
            rebuilt.path = self._work.open_part
            opened.pop_all()  # it stays open: what comes is appended to it
            self._writer = rebuilt

    def _recognise(self, line: bytes, number: int, offset: int, slot: int, count: Callable[[Outcome], None]) -> bool:
        place = place_of_line(line)
        if place is None or place >= len(self._where) or self._where[place] != _NONE:
            return False
        outcome = read_outcome(line, ticket(slot, place))
        if outcome is None:
            return False
        self._note(outcome, place, number, offset)
        count(outcome)
        return True

    def _note(self, outcome: Outcome, place: int, number: int, offset: int) -> None:
        self._where[place] = (_ERROR if outcome.is_error else 0) | number << _OFFSET_BITS | offset
        self._length[place] = len(outcome.line)
        self.bytes += len(outcome.line)

    # -- append, sync, seal

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes that are not in the log yet. They count after the next `sync`."""
        writer = self._open()
        offset = writer.size
        for outcome in outcomes:
            self._note(outcome, place_of(outcome.ticket), len(self._parts), offset)
            offset += len(outcome.line)
        writer.write(b"".join([outcome.line for outcome in outcomes]))
        self._unsynced.extend(outcomes)

    def has(self, place: int) -> bool:
        return self._where[place] != _NONE

    @property
    def unsynced(self) -> int:
        return len(self._unsynced)

    def sync(self) -> list[Outcome]:
        """Make everything appended durable and return what newly is. Raises NotDurable."""
        if not self._unsynced:
            return []
        self._open().sync()
        durable, self._unsynced = self._unsynced, []
        self.open_lines += len(durable)
        return durable

    @property
    def part_is_full(self) -> bool:
        return self._writer is not None and self._writer.size >= _MAX_PART_BYTES

    def seal(self, published: Published) -> Sealed | None:
        """Close the open part, show it to users and begin the next; None where there is nothing to show.

        What users are to have of it lies ready before it is sealed, which one rename does: from then on nothing is
        appended to it, whatever they do with theirs. What lies ready without an open part is still to be shown.
        """
        if not self.open_lines or self._unsynced:
            return None
        self._open().close()
        self._writer = None
        files.duplicate(self._work.open_part, self._work.showing)
        part = self._next_part(published)
        files.move(self._work.open_part, part)
        self._parts.append(part)
        self.open_lines = 0
        shown = self._show(part, published)
        strangers, self._strangers = self._strangers, []
        return Sealed(shown, strangers)

    def _next_part(self, published: Published) -> Path:
        """Return the name of the next part: one that nobody has in the outbox, where others may lay files, too."""
        number = number_of_part(self._parts[-1].name) + 1 if self._parts else 1
        while os.path.lexists(published.parts / part_name(number)):
            self._strangers.append(part_name(number))
            number += 1
        return self._work.parts / part_name(number)

    def _show(self, part: Path, published: Published) -> Path:
        shown = published.parts / part.name
        files.move(self._work.showing, shown)
        return shown

    def _finish_interrupted_seal(self, published: Published) -> None:
        work = self._work
        if not work.showing.exists():
            return
        if work.open_part.exists():  # it was not sealed, and will be anew
            files.remove(work.showing)
            return
        if os.path.lexists(published.parts / self._parts[-1].name):
            part = self._next_part(published)
            files.move(self._parts[-1], part)
            self._parts[-1] = part
        self._show(self._parts[-1], published)

    def _open(self) -> files.Writer:
        if self._writer is None:
            self._writer = files.Writer(self._work.open_part, fresh=True)
        return self._writer

    # -- reading, for the merge

    def is_error(self, place: int) -> bool:
        """Say whether a request that has an outcome has no answer."""
        return bool(self._where[place] & _ERROR)

    def line(self, place: int) -> bytes:
        """Return the output line of a request that has an outcome."""
        where = self._where[place]
        number = where >> _OFFSET_BITS & ((1 << _PART_BITS) - 1)
        return os.pread(self._reader(number), self._length[place], where & ((1 << _OFFSET_BITS) - 1))

    def _reader(self, number: int) -> int:
        fd = self._readers.get(number)
        if fd is None:
            path = self._work.open_part if number == len(self._parts) else self._parts[number]
            fd = self._readers[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._readers) > _OPEN_FDS:
                os.close(self._readers.popitem(last=False)[1])
        self._readers.move_to_end(number)
        return fd

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        while self._readers:
            os.close(self._readers.popitem()[1])


def _chunks(path: Path) -> Iterator[list[tuple[bytes, int]]]:
    """Yield the file's lines, each with its offset, some 256 KiB at a time; what no newline ends is no line."""
    offset = 0
    with suppress(FileNotFoundError), path.open("rb") as file:
        while lines := file.readlines(1 << 18):
            chunk = []
            for line in lines:
                if line.endswith(b"\n"):
                    chunk.append((line, offset))
                offset += len(line)
            yield chunk
