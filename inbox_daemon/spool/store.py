"""Uploads: SPOOL/files. What came by API waits there, whole and under an id, until batches are made of it.

An upload is a folder that gets its name in one rename, when its last byte is on the disk. What a name of the sender's
says is told, and never part of a path. Knows nothing of HTTP, and nothing of batches.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from inbox_daemon.errors import NoRoom, NotDurable, SpoolError, told
from inbox_daemon.layout import SUFFIXES, Spool
from inbox_daemon.machine import disk
from inbox_daemon.spool import files, folders
from inbox_daemon.text import dumps
from inbox_daemon.weblayout import FILE_ID, MADE, UPLOAD_ID, Stored

_NAME_LIMIT = 255  # bytes of a sender's file name that are told


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An upload, as its file.json says.

    Attributes:
        bytes, sha256: of the content as it came, compressed or not.
        filename: as the sender calls it.
        created_at, expires_at: Unix seconds; None: it stays until it is deleted.
        key: the name of the API key by which it came; "" where none is needed.
        suffix: of the content's file: one of `layout.SUFFIXES`, or "".
    """

    id: str
    bytes: int
    sha256: str
    filename: str
    purpose: str
    created_at: int
    expires_at: int | None
    key: str
    suffix: str


class Upload:
    """An upload on its way in. As a context manager, it is removed at the end unless it was kept.

    Attributes:
        size: bytes so far.
    """

    def __init__(self, spool: Spool, suffix: str, keep_free: int) -> None:
        self._spool, self._suffix, self._keep_free = spool, suffix, keep_free
        self.size = 0
        self._hash = hashlib.sha256()
        with ExitStack() as made:
            self._folder = made.enter_context(folders.Hidden(spool.files, MADE))
            content = Stored(self._folder.dir).content(suffix)
            self._content = made.enter_context(files.Writer(content, fresh=True))
            files.share(self._content.fd)
            self._made = made.pop_all()

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def write(self, data: bytes | memoryview) -> None:
        """Append to the content.

        Raises:
            NoRoom: the disk is full, or would have less than `keep_free` left.
            NotDurable: the disk failed. The upload is lost then, and is to be sent again.
        """
        need_room(self._spool, self._keep_free + len(data))
        with told_of_room():
            self._content.write(data)
        self._hash.update(data)
        self.size += len(data)

    def sha256(self) -> str:
        """Return the hash of what was written so far, in hexadecimal digits."""
        return self._hash.hexdigest()

    def keep(
        self, filename: str, purpose: str, expires_at: int | None, key: str, now: float, id: str = ""
    ) -> StoredFile:
        """Make it durable, and visible under an id of its own; once. `now` and `expires_at` are in Unix seconds.

        Raises:
            NoRoom: the disk is full.
            FileExistsError: the id is given, and there is an upload of it.
            OSError, NotDurable: the disk failed; nothing is kept.
        """
        with told_of_room():
            self._content.sync()
            self._content.close()
            while True:
                kept = StoredFile(
                    id=id or folders.new_id("file-", now),
                    bytes=self.size,
                    sha256=self.sha256(),
                    filename=cut(filename),
                    purpose=purpose,
                    created_at=int(now),
                    expires_at=expires_at,
                    key=key,
                    suffix=self._suffix,
                )
                files.write_whole(Stored(self._folder.dir).record, dumps(asdict(kept)))
                try:
                    self._folder.name(self._spool.files / kept.id)
                except FileExistsError:  # an id has 20 random bits a millisecond
                    if id:
                        raise
                else:
                    return kept


def begin(spool: Spool, suffix: str, *, keep_free: int = 0) -> Upload:
    """Begin an upload. To be used as a context manager.

    Args:
        suffix: of the sender's file name, as `layout.suffix_of` gives it.
        keep_free: bytes that must stay free on the disk (`results.keep_free`).

    Raises:
        NoRoom: the disk has not even that much.
        OSError: the disk says no.
    """
    if suffix and suffix not in SUFFIXES:
        raise ValueError(f"{suffix!r} is no suffix of a batch file")
    need_room(spool, keep_free)
    with told_of_room():
        return Upload(spool, suffix, keep_free)


def adopt(spool: Spool, content: Path, kept: StoredFile) -> None:
    """Make an upload of a file that is on the disk already, and ours: it gets a second name, and no byte is copied.

    Raises:
        NoRoom: the disk is full.
        FileExistsError: there is an upload of that id.
        OSError, NotDurable: the disk failed; nothing is kept.
    """
    with told_of_room(), folders.Hidden(spool.files, MADE) as hidden:
        files.duplicate(content, Stored(hidden.dir).content(kept.suffix))
        files.write_whole(Stored(hidden.dir).record, dumps(asdict(kept)))
        hidden.name(spool.files / kept.id)


def get(spool: Spool, id: str) -> StoredFile | None:
    """Return the upload of this id; None where there is none, or this is no id of one. Raises OSError."""
    return _said_in(spool.files / id) if FILE_ID.fullmatch(id) else None


def all_of(spool: Spool) -> list[StoredFile]:
    """Return every upload, oldest first. Asking again costs one stat while nothing has come or gone. Raises OSError."""
    return _listing(spool.files).all()


def content(spool: Spool, id: str) -> Path:
    """Return where the content of an upload lies; to be opened without following links.

    Raises:
        FileNotFoundError: there is no such upload.
        SpoolError: what lies there is no file of ours.
    """
    stored = get(spool, id)
    if stored is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), id)
    path = Stored(spool.files / id).content(stored.suffix)
    if not stat.S_ISREG(path.lstat().st_mode):
        raise SpoolError(f"{path}: no regular file, and none of the web process's")
    return path


def delete(spool: Spool, id: str) -> bool:
    """Remove an upload; False where there is none. What was submitted of it has a name of its own, and stays.

    Raises OSError, NotDurable.
    """
    return bool(FILE_ID.fullmatch(id)) and folders.discard(spool.files / id)


def expire(spool: Spool, now: float) -> list[str]:
    """Remove the uploads whose time is over, and return their ids. Raises OSError, NotDurable."""
    over = [stored.id for stored in all_of(spool) if stored.expires_at is not None and stored.expires_at <= now]
    return [id for id in over if delete(spool, id)]


def recover(spool: Spool) -> None:
    """Make the folder where it is missing, and remove what a crash has left there. Raises OSError."""
    files.ensure_dir(spool.files, 0o750)
    folders.tidy(spool.files, MADE)


def stored_bytes(spool: Spool) -> int:
    """Return the bytes of all uploads, those on their way in included. Raises OSError."""
    with os.scandir(spool.files) as entries:
        coming = [Path(e.path) for e in entries if e.name.startswith(MADE) or UPLOAD_ID.fullmatch(e.name)]
    on_their_way = 0
    for folder in coming:
        with suppress(OSError), os.scandir(folder) as entries:
            on_their_way += sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return on_their_way + sum(stored.bytes for stored in all_of(spool))


def cut(filename: str) -> str:
    """Return a sender's file name as it is told: 255 bytes of it."""
    return filename.encode(errors="replace")[:_NAME_LIMIT].decode(errors="ignore") or "upload"


def need_room(spool: Spool, needed: int) -> None:
    """Raise NoRoom where fewer than so many bytes are free on the spool's disk."""
    if lacking := disk.lacking(spool.root, needed):
        raise NoRoom(f"{spool.root}: the disk is full; {1 + lacking // 1_000_000} MB must become free")


@contextmanager
def told_of_room() -> Iterator[None]:
    """What fails in here because the disk is full raises NoRoom."""
    try:
        yield
    except (OSError, NotDurable) as error:
        cause = error.__cause__ if isinstance(error, NotDurable) else error
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(told(error)) from error
        raise


def _said_in(folder: Path) -> StoredFile | None:
    said: Any = folders.record(Stored(folder).record)
    with suppress(TypeError):
        if said is not None and said.get("id") == folder.name and said.get("suffix") in ("", *SUFFIXES):
            return StoredFile(**said)
    return None


@lru_cache(maxsize=8)
def _listing(folder: Path) -> folders.Listing[StoredFile]:
    return folders.Listing(folder, FILE_ID, _said_in)
