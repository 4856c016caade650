"""One batch as it lies in the outbox now: which of its files tell what was answered. Opens nothing for writing."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published, Spool
from inbox_daemon.spool import published, store, views
from inbox_daemon.spool.parts import is_part
from inbox_daemon.spool.shapes import BatchObject
from inbox_daemon.web.cache import Source
from inbox_daemon.web.wrong import no_batch


@dataclass(frozen=True, slots=True)
class Found:
    """One batch and its files.

    Attributes:
        sources: results.jsonl and errors.jsonl where they are there, else the parts that are.
        input: what was asked, where it was kept.
    """

    name: str
    folder: Published
    status: BatchObject
    sources: tuple[Source, ...]
    input: Source | None

    @property
    def marks(self) -> str:
        """The name of the set of marks on this batch's answers: its id, which no other batch of its name has."""
        return self.status["id"]

    @property
    def ended(self) -> bool:
        return views.has_ended(self.status)


def found(spool: Spool, name: str) -> Found:
    """Return a batch by its name. Raises Wrong where there is none."""
    try:
        folder = spool.batch(name)
        status = published.status(spool, name)
    except SpoolError:
        status = None
    if status is None:
        raise no_batch(name)
    return Found(name, folder, status, _sources(folder), _input(spool, folder, status))


def _input(spool: Spool, folder: Published, status: BatchObject) -> Source | None:
    """Return the requests: as the daemon has kept them, or as they were uploaded, where that is the same file."""
    if (kept := Source.at(folder.input, prompts=True)) is not None:
        return kept
    sha256 = status.get("input_sha256")
    same = (each for each in store.all_of(spool) if sha256 and each.sha256 == sha256 and each.suffix == ".jsonl")
    upload = next(same, None)
    return Source.at(store.content(spool, upload.id), prompts=True) if upload is not None else None


def _sources(folder: Published) -> tuple[Source, ...]:
    results, errors = Source.at(folder.results), Source.at(folder.errors)
    whole = tuple(each for each in (results, errors) if each is not None and each.size)
    if results is not None:
        return whole
    try:
        parts = sorted(name for name in os.listdir(folder.parts) if is_part(name))  # noqa: PTH208
    except OSError:
        parts = []
    found = [each for name in parts if (each := Source.at(folder.parts / name)) is not None]
    return tuple(found) or whole


def same(source: Source, until: ExitStack) -> BinaryIO | None:
    """Open a file that was indexed, until `until` ends; None where it went away or was replaced."""
    try:
        file = until.enter_context(published.opened(source.path))
    except (OSError, SpoolError):
        return None
    there = os.fstat(file.fileno())
    return file if (there.st_ino, there.st_size, there.st_mtime_ns) == _mark(source) else None


def _mark(source: Source) -> tuple[int, int, int]:
    return source.inode, source.size, source.mtime_ns
