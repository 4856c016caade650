"""A file that is sent again: the same bytes under the same name as a batch that is in work or done. It never runs.

Owns `work/ID/resent`, a byte for each time. It is known before the file has a name in the outbox, so that nothing shows
there but a count in the first one's status.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections.abc import Generator, Iterable
from contextlib import suppress
from pathlib import Path

from inbox_daemon.errors import Rejected
from inbox_daemon.layout import Spool, Work, batch_name, suffix_of
from inbox_daemon.records import BatchStatus
from inbox_daemon.spool import files, ingest, meant, outbox, published, source
from inbox_daemon.spool.shapes import BatchObject

_NONE = (BatchStatus.FAILED, BatchStatus.CANCELLING, BatchStatus.CANCELLED)
_AT_ONCE = 20  # statuses that are read between two pauses


def first(spool: Spool, work: Work) -> Generator[None, None, BatchObject | None]:
    """Return the batch that a claimed file is a copy of; None where there is none, or its sender wants it to run.

    The sender says so with a file NAME.jsonl.again beside it. A batch that failed or was cancelled does not count: to
    send its file again is to ask for it. Pauses after every block that is read. Between the answer and the next pause
    nothing changes; another daemon that claims a copy in just that moment may run it.
    """
    if work.again.exists():
        return None
    dropped = next(work.dropped.iterdir())
    hashes: dict[str, str] = {}  # by the batch's id: those that are not known yet are read
    while True:
        unread: str | None = None
        for number, other in enumerate(others(spool, batch_name(dropped.name), work.id), 1):
            if not number % _AT_ONCE:
                yield
            if other.get("input_bytes") not in (None, dropped.lstat().st_size):
                continue
            known = other.get("input_sha256") or _accepted(spool, other["id"]) or hashes.get(other["id"])
            if not known or work.id not in hashes:
                unread = other["id"] if work.id in hashes else work.id
                break
            if known == hashes[work.id]:
                return other
        if unread is None:
            return None
        hashes[unread] = yield from _hash_of(Work(spool.work / unread))


def count(spool: Spool, copy: Work, first: BatchObject) -> None:
    """Count one more copy in its status, and have it obey what came with the copy. One that is killed here counts it
    twice.
    """
    meant.hand_on(spool, copy, first["id"])
    work = Work(spool.work / first["id"])
    try:
        with files.Writer(work.resent, fresh=False) as writer:
            writer.write(b".")
            writer.sync()
    except FileNotFoundError:  # it is done, so nobody else writes its status
        if now := published.status(spool, first["name"]):
            status = {**now, "resent": now.get("resent", 0) + 1}
            outbox.write_status(spool.batch(first["name"]), status, last=True)


def times(work: Work) -> int:
    """Return how often the file of a batch in work was sent again."""
    with suppress(FileNotFoundError):
        return work.resent.stat().st_size
    return 0


def others(spool: Spool, name: str, id: str = "") -> Iterable[BatchObject]:
    """Yield the batches, but for that of `id`, made of files of this name: a copy of one's file is no batch."""
    for status in published.called_after(spool, name):
        if status["id"] not in ("", id) and status["status"] not in _NONE:
            yield status


def _accepted(spool: Spool, id: str) -> str | None:
    with suppress(OSError, ValueError, TypeError):
        return ingest.load(Work(spool.work / id)).sha256
    return None


def _hash_of(work: Work) -> Generator[None, None, str]:
    """Return the SHA-256 of the file that a batch was claimed as, or what tells it from every file where it is gone."""
    with suppress(StopIteration, OSError, Rejected):
        fd = source.open_regular(next(work.dropped.iterdir()))
        try:
            hasher = hashlib.sha256()
            while block := os.read(fd, source.BLOCK):
                hasher.update(block)
                yield
        finally:
            os.close(fd)
        return hasher.hexdigest()
    return f"nothing to be read in {work.id}"


def known(spool: Spool, path: Path, file: str) -> str | None:
    """Return the name of the batch, or of what waits in the inbox to become one, of which this would be a copy, dropped
    under a file name.
    """
    name = batch_name(file)
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    for other in others(spool, name):
        if other.get("input_sha256") == sha256:
            return other["name"]
    for file_to_come in published.files_to_come(spool, name):
        with suppress(OSError):
            if suffix_of(file_to_come.name) and filecmp.cmp(path, file_to_come, shallow=False):
                return name
    return None
