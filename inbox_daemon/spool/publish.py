"""The end of a batch: outcomes merged into the input's order, the end decided, everything moved into the outbox.

Owns `final/` and `leaving/` in work/ID and the files users get at the end. Three steps, of which a crash may cut short
any: `merge` and `decide` write into `final/`, which anybody may throw away; one rename makes it `leaving/`, and from
then on what the batch ended as is decided; `publish` moves what is still there, the receipt last. Nothing that has been
published is published again: once the receipt has gone from `leaving/`, only work/ID is left to be removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

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


def merge(work: Work, outcomes: Outcomes, source: Input, slug: str) -> Generator[None, None, dict[str, Merged]]:
    """Write the outcomes into `final/`, in the input's order; return what there is, by name. Yields now and then.

    Args:
        slug: by which the file's name said which model answers; "" where it did not.
    """
    files.ensure_dir(work.final)
    try:
        return (yield from _merge(work, outcomes, source, slug))
    except (OSError, SpoolError):
        with suppress(OSError):  # of all things that do not fit it is the largest, and may keep others from fitting
            discard(work)
        raise


def decide(work: Work, status: dict[str, Any], receipt: dict[str, Any]) -> None:
    """Make durable what the batch has ended as, with its last status and its receipt, before anybody is told."""
    files.ensure_dir(work.final)
    there = Published(work.final)
    files.write_whole(there.status, dumps(status) + b"\n")
    files.write_whole(there.receipt, dumps(receipt, indent=True) + b"\n")
    files.move(work.final, work.leaving)


def is_decided(work: Work) -> bool:
    return work.leaving.exists()


def is_published(work: Work) -> bool:
    """Say whether the batch is its users' already, who may have taken all of it away."""
    return work.leaving.exists() and not Published(work.leaving).receipt.exists()


def publish(work: Work, folder: Published) -> dict[str, Any]:
    """Move what is left in `leaving/` into the batch's folder in the outbox, and return the receipt.

    A file that could not become a batch goes back there, as it was dropped. Once the last status is there, and all else
    that the receipt speaks of, the receipt is moved: whoever sees it finds everything.

    Raises:
        SpoolError: a file has been taken out of the outbox before the receipt was there; the batch is undecided again,
            and merged anew by whoever adopts it.
    """
    leaving = Published(work.leaving)
    receipt = _called(folder.dir.name, leaving)
    names = [*receipt["files"], folder.status.name]
    moved = [name for name in names if not (leaving.dir / name).exists()]
    if missing := [name for name in moved if not (folder.dir / name).exists()]:
        files.move(work.leaving, work.final)
        raise SpoolError(f"{folder.dir / missing[0]}: removed before the receipt was there; it is made anew")
    for dropped in list(work.dropped.iterdir()):
        files.move(dropped, folder.dir / dropped.name)
    for name in names:
        if name not in moved:
            files.move(leaving.dir / name, folder.dir / name)
    files.remove(files.unfinished(folder.status))  # of a daemon that was killed
    files.move(leaving.receipt, folder.receipt)
    files.sync_dir(folder.dir)  # before work/ID goes
    return receipt


def _called(name: str, leaving: Published) -> dict[str, Any]:
    """Return the receipt. Between decision and publication a user may have removed the folder, and another batch may
    have taken its name: then status and receipt say the new one."""
    receipt: dict[str, Any] = orjson.loads(leaving.receipt.read_bytes())
    if receipt["name"] != name:
        if leaving.status.exists():
            status = orjson.loads(leaving.status.read_bytes())
            files.write_whole(leaving.status, dumps(status | {"name": name}) + b"\n")
        receipt["name"] = name
        files.write_whole(leaving.receipt, dumps(receipt, indent=True) + b"\n")
    return receipt


def discard(work: Work) -> None:
    """Throw away what a merge that did not end has left; the next one begins anew."""
    if work.final.exists():
        for path in work.final.iterdir():
            path.unlink()


def _merge(work: Work, outcomes: Outcomes, source: Input, slug: str) -> Generator[None, None, dict[str, Merged]]:
    there = Published(work.final)
    results, errors, retry = (_Target(path) for path in (there.results, there.errors, there.retry(slug)))
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
