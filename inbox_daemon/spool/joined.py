"""The end of an upload that came in parts (`parted`): they become one upload like any other, in the client's order.

Where they lie in one file in that order already, it gets a second name, and no byte is copied. The file's id follows
from the upload's, so that one that is completed twice is one file.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from inbox_daemon.errors import NotNow, Rejected, SpoolError
from inbox_daemon.layout import Spool
from inbox_daemon.spool import files, folders, source, store
from inbox_daemon.spool.parted import Begun, Part, file_id_of, parts_of, there
from inbox_daemon.spool.store import StoredFile
from inbox_daemon.weblayout import UPLOAD_ID, InParts


def complete(
    spool: Spool,
    id: str,
    part_ids: Sequence[str],
    md5: str | None,
    now: float,
    *,
    expires_at: int | None = None,
    keep_free: int = 0,
) -> StoredFile:
    """Make the parts, in this order, an upload like any other, and return that; the same again where it is complete.

    Args:
        md5: of all of them, in hexadecimal digits; None: the client does not say.
        expires_at: of the file, where its client did not say at the beginning; Unix seconds.

    Raises:
        Rejected: there is no such part ("no_such_part"), or they are not as many bytes as were said ("wrong_size"), or
            have another hash ("wrong_md5"). The parts stay.
        NotNow: a part is still being sent.
        NoRoom: the disk is full.
        FileNotFoundError: there is no such upload.
        OSError, NotDurable: the disk failed; it is not complete.
    """
    if (done := become(spool, id)) is None:
        try:
            begun = there(spool, id)
            if begun.expires_after is not None:
                expires_at = int(now) + begun.expires_after
            with _held(spool, begun) as folder:
                parts = _chosen(begun, part_ids, parts_of(folder))
                done = _made(spool, begun, folder, parts, md5, now, expires_at, keep_free)
        except (FileNotFoundError, FileExistsError):
            if (done := become(spool, id)) is None:  # else somebody has completed it meanwhile
                raise
    with suppress(OSError, SpoolError):  # else it goes when its time is over
        folders.discard(spool.files / id)
    return done


def become(spool: Spool, id: str) -> StoredFile | None:
    """Return the file that an upload in parts has become; None where it has not. Raises OSError."""
    return store.get(spool, file_id_of(id)) if UPLOAD_ID.fullmatch(id) else None


def _made(
    spool: Spool,
    begun: Begun,
    folder: InParts,
    parts: Sequence[Part],
    md5: str | None,
    now: float,
    expires_at: int | None,
    keep_free: int,
) -> StoredFile:
    """Make the file of the parts: of the common file itself, where it has just these in this order; else of copies."""
    in_order = [part.offset for part in parts] == _offsets(parts)
    if in_order and folder.content.lstat().st_size == begun.bytes:
        sha256 = hashlib.sha256()
        _check(begun, md5, _heard(_pieces(folder, parts), sha256.update))
        made = StoredFile(
            begun.file_id,
            begun.bytes,
            sha256.hexdigest(),
            begun.filename,
            begun.purpose,
            int(now),
            expires_at,
            begun.key,
            begun.suffix,
        )
        store.adopt(spool, folder.content, made)
        return made
    store.need_room(spool, keep_free + begun.bytes)
    with store.begin(spool, begun.suffix, keep_free=keep_free) as copy:
        _check(begun, md5, _heard(_pieces(folder, parts), copy.write))
        return copy.keep(begun.filename, begun.purpose, expires_at, begun.key, now, begun.file_id)


def _heard(pieces: Iterator[bytes], hear: Callable[[bytes], object]) -> Iterator[bytes]:
    for piece in pieces:
        hear(piece)
        yield piece


def _check(begun: Begun, md5: str | None, pieces: Iterator[bytes]) -> None:
    """Take all pieces. Raises Rejected where the client has said another MD5."""
    other = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        if md5 is not None:
            other.update(piece)
    if md5 is not None and other.hexdigest() != md5.lower():
        raise Rejected("wrong_md5", f"{begun.id}: what came has the MD5 {other.hexdigest()}, and {md5} was said")


def _pieces(folder: InParts, parts: Sequence[Part]) -> Iterator[bytes]:
    for part in parts:
        fd = source.open_regular(folder.content if part.offset is not None else folder.beside(part.id))
        try:
            at, end = part.offset or 0, (part.offset or 0) + part.bytes
            while at < end and (piece := os.pread(fd, min(source.BLOCK, end - at), at)):
                yield piece
                at += len(piece)
        finally:
            os.close(fd)


def _chosen(begun: Begun, ids: Sequence[str], parts: Sequence[Part]) -> list[Part]:
    known = {part.id: part for part in parts}
    if unknown := [id for id in ids if id not in known]:
        raise Rejected("no_such_part", f"{begun.id} has no part {unknown[0]!r}")
    if len(set(ids)) < len(ids):
        raise Rejected("no_such_part", f"{begun.id}: a part is named twice")
    chosen = [known[id] for id in ids]
    if (size := sum(part.bytes for part in chosen)) != begun.bytes:
        raise Rejected("wrong_size", f"{begun.id}: its parts have {size} bytes, and {begun.bytes} were said")
    return chosen


def _offsets(parts: Sequence[Part]) -> list[int]:
    return list(itertools.accumulate((part.bytes for part in parts), initial=0))[:-1]


@contextmanager
def _held(spool: Spool, begun: Begun) -> Iterator[InParts]:
    folder = InParts(spool.files / begun.id)
    lock = files.locked(folder.dir)
    if lock is None:
        there(spool, begun.id)
        raise NotNow(f"{begun.id}: a part of it is still being sent; complete it once that is acknowledged")
    try:
        yield folder
    finally:
        os.close(lock)
