"""Uploads that come in parts, over several requests: SPOOL/files/upload_ID, until they become uploads like any other.

    begun = parted.begin_parts(spool, "b.jsonl", 3000, "batch", "application/jsonl", "key", now)  POST /v1/uploads
    with parted.append(spool, begun.id, keep_free=…) as coming:                                   …/parts
        coming.write(data)
        part = coming.keep(now)
    file = joined.complete(spool, begun.id, [part.id], md5, now, expires_at=…, keep_free=…)       …/complete
    begun = parted.cancel(spool, begun.id)                                                        …/cancel

Parts that come one after another are appended to one file; one that comes beside another has a file of its own. A part
counts once a line of parts.jsonl has it, which comes after its bytes; what a crash has left behind those is cut off by
the next part. `expire` is called now and then; nothing else is to be recovered. An id is matched against its pattern
before it is part of a path; whose an upload is, its `key` says, and the caller asks.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from inbox_daemon.errors import Rejected
from inbox_daemon.layout import Spool, suffix_of
from inbox_daemon.spool import files, folders, store
from inbox_daemon.text import dumps
from inbox_daemon.weblayout import MADE, PART_ID, UPLOAD_ID, InParts

LASTS = 3600  # seconds after which what is not complete goes, as at OpenAI


def file_id_of(id: str) -> str:
    """Return the id of the file that an upload in parts becomes."""
    return f"file-{id.removeprefix('upload_')}"


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload in parts, as its upload.json says.

    Attributes:
        bytes: that its parts together must have.
        mime_type: as the client calls it; told, and nothing more.
        created_at, expires_at: Unix seconds; what is not complete then is gone.
        key: the name of the API key by which it came; "" where none is needed.
        expires_after: seconds for which its file is to stay once it is complete; None: the caller decides.
        suffix: of the file's content, as `layout.suffix_of` has it of the whole name.
    """

    id: str
    bytes: int
    filename: str
    purpose: str
    mime_type: str
    key: str
    created_at: int
    expires_at: int
    expires_after: int | None
    suffix: str

    @property
    def file_id(self) -> str:
        """Of the file that it becomes: known before, so that it becomes one file though it is completed twice."""
        return file_id_of(self.id)


@dataclass(frozen=True, slots=True)
class Part:
    """A part that was acknowledged.

    Attributes:
        offset: in the common file; None: it has a file of its own.
        created_at: Unix seconds.
    """

    id: str
    bytes: int
    offset: int | None
    created_at: int


class Coming:
    """A part on its way in. As a context manager, what is not kept by the end counts for nothing.

    Attributes:
        size: bytes so far.
    """

    def __init__(self, spool: Spool, begun: Begun, keep_free: int) -> None:
        self._spool, self._begun, self._keep_free = spool, begun, keep_free
        self._folder = InParts(spool.files / begun.id)
        self._id = f"part_{secrets.token_hex(8)}"
        self.size = 0
        with ExitStack() as opened:
            lock = files.locked(self._folder.dir)
            if lock is not None:
                opened.callback(os.close, lock)
                self._offset: int | None = _end(parts_of(self._folder))
                if self._folder.content.lstat().st_size != self._offset:
                    files.truncate(self._folder.content, self._offset)
                target = self._folder.content
            else:
                self._offset, target = None, self._folder.beside(self._id)
            self._content = opened.enter_context(files.Writer(target, fresh=False, follow=False))
            self._opened = opened.pop_all()

    def __enter__(self) -> Coming:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def write(self, data: bytes | memoryview) -> None:
        """Append to the part.

        Raises:
            Rejected: it is more than was said at the beginning ("upload_too_large").
            NoRoom: the disk is full, or would have less than `keep_free` left.
            NotDurable: the disk failed. The part is lost then, and is to be sent again.
        """
        self.size += len(data)
        if self.size > self._begun.bytes:
            said = f"{self._begun.id}: more than the {self._begun.bytes} bytes that were said"
            raise Rejected("upload_too_large", said)
        store.need_room(self._spool, self._keep_free + len(data))
        with store.told_of_room():
            self._content.write(data)

    def keep(self, now: float) -> Part:
        """Make it durable, and have it count; once.

        Raises:
            NoRoom: the disk is full.
            FileNotFoundError: its upload was cancelled, or its time is over.
            OSError, NotDurable: the disk failed; it does not count.
        """
        part = Part(self._id, self.size, self._offset, int(now))
        with store.told_of_room():
            self._content.sync()
            files.add_line(self._folder.parts, dumps(asdict(part)))
        return part


def begin_parts(
    spool: Spool,
    filename: str,
    bytes: int,
    purpose: str,
    mime_type: str,
    key: str,
    now: float,
    *,
    expires_after: int | None = None,
    keep_free: int = 0,
) -> Begun:
    """Begin an upload of so many bytes.

    Raises:
        NoRoom: the disk has not as much.
        OSError, NotDurable: the disk failed; nothing is begun.
    """
    store.need_room(spool, keep_free + bytes)
    with store.told_of_room(), folders.Hidden(spool.files, MADE) as hidden:
        with files.Writer(InParts(hidden.dir).content, fresh=True) as content:
            files.share(content.fd)
        while True:
            id = folders.new_id("upload_", now)
            begun = Begun(
                id=id,
                bytes=bytes,
                filename=store.cut(filename),
                purpose=purpose,
                mime_type=mime_type,
                key=key,
                created_at=int(now),
                expires_at=int(now) + LASTS,
                expires_after=expires_after,
                suffix=suffix_of(filename),
            )
            files.write_whole(InParts(hidden.dir).record, dumps(asdict(begun)))
            with suppress(FileExistsError):
                hidden.name(spool.files / id)
                return begun


def get(spool: Spool, id: str) -> Begun | None:
    """Return what was begun under this id and is neither complete, cancelled nor expired. Raises OSError."""
    said: Any = folders.record(InParts(spool.files / id).record) if UPLOAD_ID.fullmatch(id) else None
    with suppress(TypeError):
        if said is not None and said.get("id") == id:
            return Begun(**said)
    return None


def append(spool: Spool, id: str, *, keep_free: int = 0) -> Coming:
    """Begin a part. To be used as a context manager.

    Raises:
        FileNotFoundError: there is no such upload, or it is complete.
        OSError, NotDurable: the disk failed.
    """
    with store.told_of_room():
        return Coming(spool, there(spool, id), keep_free)


def cancel(spool: Spool, id: str) -> Begun | None:
    """Throw away what has come of an upload, and return what was begun; None where there is no such upload.

    Raises OSError, NotDurable.
    """
    begun = get(spool, id)
    return begun if begun is not None and folders.discard(spool.files / id) else None


def expire(spool: Spool, now: float) -> list[str]:
    """Throw away the uploads in parts whose time is over, and return their ids. Raises OSError, NotDurable."""
    over: list[str] = []
    with os.scandir(spool.files) as entries:
        ids = [entry.name for entry in entries if UPLOAD_ID.fullmatch(entry.name)]
    for id in ids:
        begun = get(spool, id)
        over += [id] if begun is not None and begun.expires_at <= now else []
    return [id for id in over if cancel(spool, id) is not None]


def parts_of(folder: InParts) -> list[Part]:
    """Return the parts that count, in the order in which they came. Raises OSError."""
    try:
        lines = folders.read(folder.parts).split(b"\n")
    except FileNotFoundError:
        return []
    found: list[Part] = []
    for line in lines:
        with suppress(ValueError, TypeError):  # a line that a crash has cut
            part = Part(**orjson.loads(line))
            found += [part] if PART_ID.fullmatch(part.id) else []
    return found


def _end(parts: Sequence[Part]) -> int:
    return max((part.offset + part.bytes for part in parts if part.offset is not None), default=0)


def there(spool: Spool, id: str) -> Begun:
    """Return what was begun under this id. Raises FileNotFoundError where there is no such upload, and OSError."""
    begun = get(spool, id)
    if begun is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), id)
    return begun
