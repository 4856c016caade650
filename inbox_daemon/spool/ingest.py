"""From a dropped file to an accepted batch: one pass that copies, hashes, checks and indexes.

Owns `input.jsonl`, `index` and `batch.json` in work/ID. The copy is the daemon's own, so a writer that still holds
the dropped file cannot change what was accepted. Until `batch.json` exists all of it is done again from the start.
"""

from __future__ import annotations

import hashlib
import os
import sys
from array import array
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon import batch
from inbox_daemon.config import Config
from inbox_daemon.errors import Rejected
from inbox_daemon.layout import Work
from inbox_daemon.models import Models
from inbox_daemon.records import Fault
from inbox_daemon.spool import files, source

SHOWN_FAULTS = 100  # in status.json; errors.jsonl has them all
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings in force while a file is checked.

    Attributes:
        model_fault: says why a request naming this model cannot run here, or None.
    """

    max_line_bytes: int
    strict: bool
    model_fault: Callable[[str | None], str | None]


def rules(config: Config) -> Rules:
    """Return the rules that these settings make. Without a model's name to hold them against, all names pass."""
    engine, models = config.engine, config.models
    served = engine.args.get("served_model_name") or engine.model
    if isinstance(served, list):
        served = served[0]
    names = Models(served, dict(models.aliases) | {engine.model: served}, models.translate_ollama)
    model_fault = names.accepts if served else lambda name: None
    return Rules(config.inbox.max_line_bytes, config.inbox.strict, model_fault)


@dataclass(frozen=True, slots=True)
class Accepted:
    """`batch.json`: what was accepted. Its existence is the moment of acceptance.

    Attributes:
        source: the dropped file's name; `bytes` and `sha256` are its own, compressed or not.
        content_sha256: of the decompressed lines, equal to `sha256` for a plain file.
        requests: lines that are not blank, faulty ones included.
        refused: strict mode and at least one fault: nothing of it is run.
        shown: the first faults, as OpenAI's `errors.data[]`.
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


class Index:
    """Where each request lies in `input.jsonl`: 12 bytes a request, in memory and on disk."""

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.numbers = array("I")

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, offset: int, number: int) -> None:
        self.offsets.append(offset)
        self.numbers.append(number)

    @classmethod
    def load(cls, path: Path) -> Index:
        index = cls()
        with path.open("rb") as file:
            count = int.from_bytes(file.read(8), sys.byteorder)
            index.offsets.fromfile(file, count)
            index.numbers.fromfile(file, count)
        return index

    def save(self, path: Path) -> None:
        writer = files.Writer(path, fresh=True)
        writer.write(len(self).to_bytes(8, sys.byteorder))
        writer.write(memoryview(self.offsets).cast("B"))
        writer.write(memoryview(self.numbers).cast("B"))
        writer.sync()
        writer.close()


class Input:
    """The accepted `input.jsonl`, open for reading single requests."""

    def __init__(self, work: Work) -> None:
        self.index = Index.load(work.index)
        self._fd = os.open(work.input, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size

    def line(self, place: int) -> bytes:
        """Return the request's line as the user wrote it, without its newline."""
        return read_line(self._fd, self.index.offsets[place], self._size)

    def number(self, place: int) -> int:
        """Return the request's 1-based line number in the user's file."""
        return self.index.numbers[place]

    def close(self) -> None:
        os.close(self._fd)


def read_line(fd: int, offset: int, size: int) -> bytes:
    want = 1 << 12
    while True:
        data = os.pread(fd, want, offset)
        end = data.find(b"\n")
        if end >= 0 or offset + len(data) >= size:
            return (data[:end] if end >= 0 else data).rstrip()
        want *= 8


@dataclass(slots=True)
class _Splitter:
    """Cuts blocks into lines; holds at most one line of `limit` bytes."""

    limit: int
    offset: int = 0  # of the line that is being collected
    number: int = 0
    carry: bytes = b""
    skipped: int = 0  # bytes of an overlong line already let go

    def feed(self, block: bytes) -> Iterator[tuple[int, int, bytes | None]]:
        """Yield (offset, line number, line or None where it is too long) for every line that ends in `block`."""
        lines = (self.carry + block).split(b"\n")
        self.carry = lines.pop()
        for line in lines:
            yield from self._end(line)
            self.offset += self.skipped + len(line) + 1
            self.skipped = 0
        if len(self.carry) > self.limit:
            self.skipped += len(self.carry)
            self.carry = b""

    def finish(self) -> Iterator[tuple[int, int, bytes | None]]:
        yield from self._end(self.carry)

    def _end(self, line: bytes) -> Iterator[tuple[int, int, bytes | None]]:
        self.number += 1
        if self.skipped or len(line) > self.limit:
            yield self.offset, self.number, None
        elif line and not line.isspace():
            yield self.offset, self.number, line


class Reading:
    """One pass over a file's lines: what is a request, what is a fault, where each lies.

    Serves ingest and `inbox-daemon check` alike, so that both say the same.
    """

    def __init__(self, rules: Rules, reread: Callable[[int], bytes]) -> None:
        self.index = Index()
        self.urls: set[str] = set()
        self.faults = 0
        self._rules = rules
        self._reread = reread
        self._ids = batch.CustomIds()
        self._splitter = _Splitter(rules.max_line_bytes)
        self._begun = False

    def feed(self, block: bytes) -> Iterator[tuple[int, int, Fault]]:
        """Yield (place, line number, fault) for the faulty lines that end in this block."""
        if not self._begun and block.startswith(_BOM):
            block = block[3:]
            self._splitter.offset = 3
        self._begun = self._begun or bool(block)
        for offset, number, line in self._splitter.feed(block):
            yield from self._check(offset, number, line)

    def finish(self) -> Iterator[tuple[int, int, Fault]]:
        for offset, number, line in self._splitter.finish():
            yield from self._check(offset, number, line)

    def _check(self, offset: int, number: int, line: bytes | None) -> Iterator[tuple[int, int, Fault]]:
        place = len(self.index)
        self.index.add(offset, number)
        read = batch.read_line(line, self._rules.model_fault) if line is not None else None
        if read is None:
            read = batch.Line(None, batch.too_long(self._rules.max_line_bytes))
        elif read.url:
            self.urls.add(read.url)
        custom_id, fault = read.custom_id, read.fault
        earlier = self._ids.add(place, custom_id)
        if earlier is not None and custom_id is not None and fault is None and self._same_id(earlier, custom_id):
            fault = batch.repeated(custom_id, self.index.numbers[earlier])
        if fault:
            self.faults += 1
            yield place, number, fault

    def _same_id(self, place: int, custom_id: str) -> bool:
        earlier = orjson.loads(self._reread(self.index.offsets[place]))
        return bool(earlier["custom_id"] == custom_id)


def ingest(work: Work, rules: Rules, part: files.Writer) -> Generator[None, None, Accepted]:
    """Do the pass over `work.dropped`, yielding after each block; afterwards `batch.json` exists.

    Args:
        part: where the faults go, as output lines; fresh.

    Raises:
        Rejected: the file as a whole cannot be read, or holds no line at all.
    """
    dropped = next(work.dropped.iterdir())
    fd = source.open_regular(dropped)
    try:
        while True:
            before = _identity(fd)
            accepted = yield from _pass(work, rules, part, fd, dropped)
            if _identity(fd) == before:
                break
            os.lseek(fd, 0, os.SEEK_SET)  # somebody still wrote to it: what was read may be of two minds
            files.truncate(part.path, 0)
            part.size = 0
    finally:
        os.close(fd)
    files.write_whole(work.accepted, batch.dumps(accepted))
    return accepted


def load(work: Work) -> Accepted:
    """Read back what was accepted."""
    return Accepted(**orjson.loads(work.accepted.read_bytes()))


def _identity(fd: int) -> tuple[int, int, int]:
    stat = os.fstat(fd)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _pass(work: Work, rules: Rules, part: files.Writer, fd: int, dropped: Path) -> Generator[None, None, Accepted]:
    as_dropped, content = hashlib.sha256(), hashlib.sha256()
    copy = files.Writer(work.input, fresh=True)
    reading = Reading(rules, lambda offset: read_line(copy.fd, offset, copy.size))
    shown: list[dict[str, Any]] = []

    def note(faults: Iterator[tuple[int, int, Fault]]) -> None:
        lines = []
        for place, number, fault in faults:
            lines.append(batch.error_line(batch.request_id(work.id, place), fault, number))
            if len(shown) < SHOWN_FAULTS:
                shown.append({"code": fault.code, "line": number, "message": fault.message, "param": fault.param})
        part.write(b"".join(lines))

    try:
        for block in source.blocks(fd, dropped, as_dropped):
            copy.write(block)
            content.update(block)
            note(reading.feed(block))
            yield
        note(reading.finish())
        copy.sync()
    finally:
        copy.close()
    if not len(reading.index):
        raise Rejected("empty_file", f"{dropped.name}: holds no request: it is empty or has only blank lines")
    reading.index.save(work.index)
    part.sync()
    return Accepted(
        source=dropped.name,
        bytes=os.fstat(fd).st_size,
        sha256=as_dropped.hexdigest(),
        content_sha256=content.hexdigest(),
        endpoint=", ".join(sorted(reading.urls)),
        requests=len(reading.index),
        faults=reading.faults,
        refused=rules.strict and reading.faults > 0,
        shown=shown,
    )
