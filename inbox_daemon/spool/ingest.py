"""From a dropped file to an accepted batch: one pass that copies, hashes, checks and indexes.

Owns `input.jsonl`, `index` and `batch.json` in work/ID. The copy is the daemon's own, so a writer that still holds
the dropped file cannot change what was accepted. Until `batch.json` exists all of it is done again from the start.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.errors import Rejected
from inbox_daemon.layout import Work
from inbox_daemon.machine import disk
from inbox_daemon.request.index import Index
from inbox_daemon.request.output import FAULTY, error_line, request_id
from inbox_daemon.request.reading import Found, Reading, Rules
from inbox_daemon.slices import in_slices
from inbox_daemon.spool import complete, files, source
from inbox_daemon.text import dumps, shown

SHOWN_FAULTS = 100  # in status.json; errors.jsonl has them all
_TURN = 0.005  # seconds of checking lines between two pauses

Fits = Callable[[int, int], bool]


@dataclass(frozen=True, slots=True)
class Accepted:
    """`batch.json`: what was accepted. Its existence is the moment of acceptance.

    Attributes:
        source: the dropped file's name; `bytes` and `sha256` are its own, compressed or not.
        content_sha256: of the decompressed lines, equal to `sha256` for a plain file.
        requests: lines that are not blank, faulty ones included.
        refused: strict mode and at least one fault: nothing of it is run.
        shown: the first faults, as OpenAI's `errors.data[]`.
        models: which alone may answer its requests, whoever runs them and whatever the settings say by then; the
            index knows which is for which. "" for those that name none: they are the model's that first works on the
            batch (`History.model`). [] in batches of an earlier version, and where all lines are faulty.
        warnings: what vLLM ignores of its requests, a sentence for each field, and what else was not meant so.
        named: by which slug the file's name says which model answers (`request.named`); "": each request names its own.
    """

    source: str
    bytes: int
    sha256: str
    content_sha256: str
    endpoint: str
    requests: int
    faults: int
    refused: bool
    shown: list[dict[str, Any]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    named: str = ""


class Input:
    """The accepted `input.jsonl`, open for reading single requests."""

    def __init__(self, work: Work) -> None:
        with work.index.open("rb") as file:
            self.index = Index.read(file)
        self._fd = os.open(work.input, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size

    @property
    def length(self) -> int:
        """The bytes of all requests together."""
        return self._size - (self.index.offsets[0] if self.index.offsets else 0)

    def size(self, place: int) -> int:
        """Return the bytes up to the next request: the line's own, and those of blank lines after it."""
        return self.index.end(place, self._size) - self.index.offsets[place]

    def line(self, place: int) -> bytes:
        """Return the request's line as the user wrote it, without its newline."""
        return read_line(self._fd, self.index.offsets[place], self.index.end(place, self._size))

    def start(self, place: int, most: int) -> bytes:
        """Return the first bytes of the request's line, at most so many, however long it is."""
        return os.pread(self._fd, most, self.index.offsets[place]).partition(b"\n")[0]

    def number(self, place: int) -> int:
        """Return the request's 1-based line number in the user's file."""
        return self.index.numbers[place]

    def close(self) -> None:
        os.close(self._fd)


def read_line(fd: int, offset: int, end: int) -> bytes:
    """Return the line at `offset`, without its newline; before `end`, the next request's offset, it is over."""
    pieces: list[bytes] = []
    want = 1 << 12
    while offset < end and (piece := os.pread(fd, min(want, end - offset), offset)):
        line, newline, _ = piece.partition(b"\n")
        pieces.append(line)
        if newline:
            break
        offset += len(piece)
        want *= 8
    return b"".join(pieces).rstrip()


def ingest(
    work: Work, rules: Rules, part: files.Writer, fits: Fits = lambda requests, block: True
) -> Generator[bool, None, Accepted]:
    """Do the pass over `work.dropped`, yielding after each block, or False while somebody writes to the file
    or the disk has no room for the copy, or memory none for its requests.

    Afterwards `batch.json` exists.

    Args:
        part: where the faults go, as output lines; fresh.
        fits: asked before each block whether there is memory for so many requests in all, and for so many bytes.

    Raises:
        Rejected: the file as a whole cannot be read, or holds no line at all.
    """
    dropped = next(work.dropped.iterdir())
    fd = source.open_regular(dropped)
    try:
        while True:
            while complete.has_writer(dropped):  # opened between being judged settled and being claimed
                yield False
            before = _identity(fd)
            accepted = yield from _pass(work, rules, part, fits, fd, dropped)
            if _identity(fd) == before and not complete.has_writer(dropped):
                break
            os.lseek(fd, 0, os.SEEK_SET)  # what was read while somebody wrote may be of two minds
            files.truncate(part.path, 0)
            part.size = 0
    finally:
        os.close(fd)
    files.write_whole(work.accepted, dumps(asdict(accepted)))
    files.sync_dir(work.dir)  # what was dropped goes next
    return accepted


def load(work: Work) -> Accepted:
    """Read back what was accepted."""
    return Accepted(**orjson.loads(work.accepted.read_bytes()))


def _identity(fd: int) -> tuple[int, int, int]:
    stat = os.fstat(fd)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _pass(
    work: Work, rules: Rules, part: files.Writer, fits: Fits, fd: int, dropped: Path
) -> Generator[bool, None, Accepted]:
    as_dropped, content = hashlib.sha256(), hashlib.sha256()
    copy = files.Writer(work.input, fresh=True)
    name = shown(dropped.name)
    reading = Reading(rules, partial(read_line, copy.fd), name)
    first: list[dict[str, Any]] = []

    def note(faults: list[Found]) -> None:
        lines = []
        for place, number, fault in faults:
            lines.append(error_line(request_id(work.id, place), fault, number, FAULTY))
            if len(first) < SHOWN_FAULTS:
                first.append({"code": fault.code, "line": number, "message": fault.message, "param": fault.param})
        part.write(b"".join(lines))

    with copy:
        blocks = source.blocks(fd, dropped, rules.inbox.max_file_bytes, as_dropped)
        for block in blocks:
            yield from _until_there_is_room(work, name, rules.keep_free + len(block))
            beside = 2 * len(block) + reading.held + blocks.kept  # the block as it is, and cut into lines
            while not fits(len(reading.index) + block.count(b"\n") + 1, beside):
                yield False
            copy.write(block)
            content.update(block)
            for faults in _in_turns(reading.feed(block)):
                note(faults)
                yield True
        for faults in _in_turns(reading.finish()):
            note(faults)
        for _ in reading.arrange():
            yield True
        copy.sync()
    if not len(reading.index):
        raise Rejected("empty_file", f"{name}: holds no request: it is empty or has only blank lines")
    _save(reading.index, work.index)
    part.sync()
    return Accepted(
        source=dropped.name,
        bytes=os.fstat(fd).st_size,
        sha256=as_dropped.hexdigest(),
        content_sha256=content.hexdigest(),
        endpoint=", ".join(sorted(reading.urls)),
        requests=len(reading.index),
        faults=reading.faults,
        refused=rules.inbox.strict and reading.faults > 0,
        shown=first,
        models=list(reading.models),
        warnings=reading.warnings(),
        named=reading.named,
    )


def _until_there_is_room(work: Work, name: str, size: int) -> Iterator[bool]:
    """Yield False while the disk has no room for so many bytes of a file. Raises Rejected."""
    while disk.lacking(work.dir, size):
        if not name.endswith(".jsonl"):  # what comes out of it may have no end
            raise Rejected("disk_full", f"{name}: its lines do not fit on the disk; make room and drop it again")
        yield False


def _save(index: Index, path: Path) -> None:
    with files.Writer(path, fresh=True) as writer:
        for column in index.written():
            writer.write(column)
        writer.sync()


def _in_turns(lines: Iterator[Found | None]) -> Iterator[list[Found]]:
    """Check the lines in turns of milliseconds, or of one line that takes longer, and yield each turn's faults."""
    for turn in in_slices(lines, _TURN):
        yield [found for found in turn if found]
