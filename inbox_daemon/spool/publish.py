"""The end of a batch: outcomes merged into the input's order, moved into the outbox, the receipt last.

Owns `final/` in work/ID and the four files users get at the end. Every step may be done again after a crash and gives
the same files; until the receipt is there, nothing of work/ID goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published, Work
from inbox_daemon.request.output import as_published
from inbox_daemon.spool import files
from inbox_daemon.spool.ingest import Input
from inbox_daemon.spool.outcomes import Outcomes
from inbox_daemon.text import dumps

_CHUNK = 1 << 20


@dataclass(slots=True)
class Merged:
    """One of the final files: how many lines and bytes it has, and their SHA-256."""

    lines: int = 0
    bytes: int = 0
    sha256: str = ""


@dataclass(slots=True)
class _Target:
    path: Path
    merged: Merged = field(default_factory=Merged)
    _hash: Any = field(default_factory=hashlib.sha256)
    _buffer: list[bytes] = field(default_factory=list)
    _buffered: int = 0
    _writer: files.Writer | None = None

    def add(self, line: bytes) -> None:
        self._buffer.append(line)
        self._buffered += len(line)
        self.merged.lines += 1

    @property
    def full(self) -> bool:
        return self._buffered >= _CHUNK

    def flush(self) -> None:
        if self._writer is None:
            self._writer = files.Writer(self.path, fresh=True)
        data = b"".join(self._buffer)
        self._writer.write(data)
        self._hash.update(data)
        self._buffer, self._buffered = [], 0

    def finish(self) -> Merged:
        self.flush()
        assert self._writer is not None
        self._writer.sync()
        self.merged.bytes, self.merged.sha256 = self._writer.size, self._hash.hexdigest()
        return self.merged

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def publish(
    work: Work,
    folder: Callable[[], Published],
    outcomes: Outcomes,
    source: Input,
    receipt: Callable[[dict[str, Merged]], dict[str, Any]],
) -> Generator[None, None, None]:
    """Merge and move into place; yields after each chunk. Afterwards `receipt.json` exists.

    Args:
        folder: gives the batch's folder in the outbox, there; asked after the merge, which may take minutes in
            which a user removes the folder and another batch takes its name.
        receipt: makes the receipt from what was merged, by file name.
    """
    files.ensure_dir(work.final)
    try:
        merged = yield from _merge(work, outcomes, source)
    except (OSError, SpoolError):
        with suppress(OSError):  # of all things that do not fit it is the largest, and may keep others from fitting
            discard(work)
        raise
    published = folder()
    for name, what in merged.items():
        if what.lines or name != published.retry.name:
            files.move(work.final / name, published.dir / name)
    write_receipt(published, receipt(merged))


def discard(work: Work) -> None:
    """Throw away what a merge that did not end has left; the next one begins anew."""
    if work.final.exists():
        for path in work.final.iterdir():
            path.unlink()


def _merge(work: Work, outcomes: Outcomes, source: Input) -> Generator[None, None, dict[str, Merged]]:
    there = Published(work.final)
    results, errors, retry = (_Target(path) for path in (there.results, there.errors, there.retry))
    targets = (results, errors, retry)
    with ExitStack() as opened:
        for target in targets:
            opened.callback(target.close)
        for place in range(len(source.index)):
            _sort(outcomes, source, place, results, errors, retry)
            for target in targets:
                if target.full:
                    target.flush()
                    yield
        merged = {}
        for target in targets:
            merged[target.path.name] = target.finish()
            yield
    return merged


def _sort(outcomes: Outcomes, source: Input, place: int, results: _Target, errors: _Target, retry: _Target) -> None:
    line = outcomes.line(place)
    if not outcomes.is_error(place):
        results.add(line)
        return
    line, failure = as_published(line)
    errors.add(line)
    if failure.may_succeed_later:
        retry.add(source.line(place) + b"\n")


def write_receipt(published: Published, receipt: dict[str, Any]) -> None:
    files.write_whole(published.receipt, dumps(receipt, indent=True) + b"\n")


def hand_back(work: Work, published: Published) -> None:
    """Put a file that could not become a batch into its outbox folder, as it was dropped."""
    for dropped in list(work.dropped.iterdir()):
        files.move(dropped, published.dir / dropped.name)
