"""The durable file operations: the only place that renames, links, unlinks, truncates, creates or fsyncs.

Content is synced before it gets its name. What is done to folders (rename, link, unlink, mkdir) is not synced one by
one: ext4 and xfs keep its order, so a power cut leaves what a kill at some earlier operation would have left, and any
later sync makes all of it durable (INTERNALS, "Which syncs"). Knows nothing of batches.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from inbox_daemon.errors import NotDurable

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}  # link(2), and what FUSE answers for what it lacks
_BLOCK = 1 << 20
_AT_ONCE = 64 << 20  # bytes that one flush may have to bring to the disk: it is waited for, as long as it takes


def sync(fd: int, path: Path) -> None:
    """Flush a file's data to the disk. Raises NotDurable; the file must then be rebuilt, never flushed again."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise NotDurable(f"{path}: fdatasync failed ({error.strerror}); what was written last may be lost") from error


def write_all(fd: int, data: bytes | memoryview, path: Path) -> None:
    """Write all of `data`. Raises NotDurable; some of it may be in the file then, and the file is not to be trusted."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except OSError as error:
            raise NotDurable(f"{path}: cannot be written ({error.strerror}); {len(view)} bytes are missing") from error


def sync_dir(path: Path) -> None:
    """Make durable what was done to a folder, and what was done to any folder before that. Raises NotDurable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        raise NotDurable(f"{path}: fsync of the folder failed ({error.strerror})") from error
    finally:
        os.close(fd)


def ensure_dir(path: Path, mode: int = 0o755) -> None:
    with suppress(FileExistsError):
        path.mkdir(mode)


def write_whole(path: Path, data: bytes, *, mode: int = 0o644, prepare: Callable[[int], object] | None = None) -> None:
    """Create or replace a file so that every reader sees the old content or the new; after a power cut, either.

    Args:
        prepare: is given the new file's descriptor before anything is written, to say who may read it (`share`).
    """
    temporary = unfinished(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        if prepare is not None:
            prepare(fd)
        write_all(fd, data, path)
        sync(fd, path)
    finally:
        os.close(fd)
    temporary.rename(path)


def rewrite(path: Path, data: bytes, mode: int, group: int = -1) -> None:
    """Replace a file as `write_whole` does and leave its mode, owner and group as they are.

    A new one gets `mode`, whatever the umask, and a group where one is given.
    """

    def leave_as_it_is(fd: int) -> None:
        kept, owner, theirs = mode, -1, group
        with suppress(FileNotFoundError):
            there = path.stat(follow_symlinks=False)
            kept, owner, theirs = there.st_mode & 0o7777, there.st_uid, there.st_gid
        os.fchown(fd, owner, theirs)
        os.fchmod(fd, kept)

    write_whole(path, data, mode=0o600, prepare=leave_as_it_is)


def make_empty(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))


def unfinished(path: Path) -> Path:
    """Return where `write_whole` writes: what a crash has left there is of no use."""
    return path.with_name(f".{path.name}.new")


def move(source: Path, target: Path) -> None:
    """Rename. Raises FileNotFoundError when somebody else was first, and only then."""
    source.rename(target)


def linked(source: Path, target: Path) -> bool:
    """Give a file a second name; False where the file system has no hard links (exFAT, some network mounts).

    Raises FileExistsError where there is something of that name.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def duplicate(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no hard links, copy it.

    A copy is durable once it returns; a crash may leave a part of one, and whoever asks must know if it had ended.
    Raises FileExistsError where there is something of that name.
    """
    if not linked(source, target):
        with Writer(target, fresh=True) as copy, source.open("rb", buffering=0) as original:
            while block := original.read(_BLOCK):
                copy.write(block)
            copy.sync()


def move_to_free(source: Path, target: Path) -> None:
    """Rename where nothing has that name. Raises FileExistsError; nothing is ever overwritten, whoever is as fast."""
    if linked(source, target):
        source.unlink()
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        source.rename(target)  # over what is ours


def locked(folder: Path) -> int | None:
    """Return a descriptor that holds the folder's lock; None where somebody else has it, or the folder is gone."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.lstat().st_ino == os.fstat(fd).st_ino:  # it was not removed, or given its name, meanwhile
            return fd
    os.close(fd)
    return None


def share(fd: int) -> None:
    """Let the group of a file of ours read it, whatever our umask is: the daemon may be another user."""
    with suppress(PermissionError):  # of a file system without modes, its mount says who may
        os.fchmod(fd, os.fstat(fd).st_mode & 0o777 | 0o040)


def add_line(path: Path, line: bytes) -> None:
    """Append a whole line durably, whoever else does at once; a line that a crash has cut is ended before it.

    Raises:
        OSError: a link lies there, or the file cannot be opened.
        NotDurable: the disk failed.
    """
    with Writer(path, fresh=False, follow=False) as writer:
        fcntl.flock(writer.fd, fcntl.LOCK_EX)
        size = os.fstat(writer.fd).st_size
        writer.write(b"\n" * is_cut(writer.fd) + line + b"\n")
        writer.sync()
    if not size:
        sync_dir(path.parent)


def is_cut(fd: int) -> bool:
    """Say whether a file's last line has no end: a crash or a full disk has cut it short."""
    size = os.fstat(fd).st_size
    return bool(size) and os.pread(fd, 1, size - 1) != b"\n"


def remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def truncate(path: Path, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        sync(fd, path)
    finally:
        os.close(fd)


class Writer:
    """A new or continued file that grows by whole writes; `size` counts what was written, durable or not.

    Of a long file what is written is flushed now and then, so that the last flush is no longer than any other.

    As a context manager it closes itself at the end, however that comes. `follow`: where a link is laid in its place,
    what that leads to is written; else it is refused.
    """

    def __init__(self, path: Path, *, fresh: bool, follow: bool = True) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_TRUNC if fresh else 0)
        flags |= 0 if follow else os.O_NOFOLLOW
        self.path = path
        self._unsynced = 0
        self.fd = os.open(path, flags, 0o644)
        try:
            self.size = os.fstat(self.fd).st_size
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes | memoryview) -> None:
        """Append it. Raises NotDurable."""
        write_all(self.fd, data, self.path)
        self.size += len(data)
        self._unsynced += len(data)
        if self._unsynced >= _AT_ONCE:
            self.sync()

    def sync(self) -> None:
        """Make all that was written durable; nothing is done where nothing was. Raises NotDurable."""
        if self._unsynced:
            sync(self.fd, self.path)
            self._unsynced = 0

    def close(self) -> None:
        """Close the file; what was not synced before counts for nothing, so neither does what `close` says of it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)
