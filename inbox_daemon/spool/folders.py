"""Folders that the web process makes: hidden and locked until they are whole, read without following a link.

Its flock says that somebody is at a folder; one that is hidden and has no lock was left by a crash. Knows nothing of
what lies in them.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import orjson

from inbox_daemon.errors import SpoolError
from inbox_daemon.spool import files
from inbox_daemon.weblayout import GONE

T = TypeVar("T")

_SURE_AFTER = 1_000_000_000  # nanoseconds; what changed later than that before a look may change again unseen


class Hidden:
    """A folder that is being made, ours while this object lives. What has not got its name by the end is removed."""

    def __init__(self, parent: Path, prefix: str) -> None:
        """Make it. Raises OSError."""
        while True:
            self.dir = parent / f"{prefix}{secrets.token_hex(8)}"
            self.dir.mkdir(0o750)
            lock = files.locked(self.dir)
            if lock is not None:  # else somebody who tidies up was faster than our lock
                break
        self._lock = lock
        self._named = False

    def __enter__(self) -> Hidden:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self._named:
                with suppress(OSError):  # whoever tidies up next finds it
                    shutil.rmtree(self.dir)
        finally:
            self.release()

    def name(self, target: Path) -> None:
        """Give it its name, durably with all that is in it, whose content was synced before. Where this fails, nothing
        is visible under that name.

        Raises:
            FileExistsError: something of that name is there.
            OSError, NotDurable: the disk said no.
        """
        _move_to_free(self.dir, target)
        try:
            files.sync_dir(target.parent)
        except BaseException:
            with suppress(OSError):
                files.move(target, self.dir)
            raise
        self._named = True

    def release(self) -> None:
        """Give up the lock, once."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def _move_to_free(folder: Path, target: Path) -> None:
    """Rename a folder that is not empty, which replaces none but an empty one. Raises FileExistsError."""
    try:
        files.move(folder, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def new_id(prefix: str, now: float) -> str:
    """Return an id that nobody has: its first 11 digits are the time in milliseconds, so ids are in order."""
    return f"{prefix}{int(now * 1000):011x}{secrets.token_hex(3)[:5]}"


def discard(folder: Path) -> bool:
    """Make a folder disappear, by one rename, and remove it then; False where it is not there.

    Raises:
        OSError, NotDurable: it cannot be renamed, or it is not certain that it stays so after a power cut.
    """
    gone = folder.with_name(f"{GONE}{folder.name}-{secrets.token_hex(4)}")
    try:
        files.move(folder, gone)
    except FileNotFoundError:
        return False
    files.sync_dir(folder.parent)
    with suppress(OSError):  # it is gone for everybody; whoever tidies up next removes it
        shutil.rmtree(gone)
    return True


def tidy(parent: Path, *prefixes: str) -> None:
    """Remove the hidden folders of these kinds that nobody holds. Raises OSError where `parent` cannot be read."""
    with os.scandir(parent) as entries:
        left = [Path(entry.path) for entry in entries if entry.name.startswith((*prefixes, GONE))]
    for folder in left:
        if folder.is_symlink():  # none of ours; what it leads to is not touched
            files.remove(folder)
        elif (lock := files.locked(folder)) is not None:
            try:
                with suppress(OSError):
                    shutil.rmtree(folder)
            finally:
                os.close(lock)


def read(path: Path) -> bytes:
    """Return a file's content; neither it nor the folder in which it lies may be a link.

    Raises:
        FileNotFoundError: it is not there.
        SpoolError: it is a link, or no regular file.
        OSError: it cannot be read.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fd = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise SpoolError(f"{path}: a link, where a file of the web process should be") from error
        raise
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SpoolError(f"{path}: no regular file, and none of the web process's")
        return file.read()


def record(path: Path) -> dict[str, object] | None:
    """Return the JSON object in a file; None where there is none of ours. Raises OSError where it cannot be read."""
    try:
        said = orjson.loads(read(path))
    except (FileNotFoundError, SpoolError, ValueError):
        return None
    return said if isinstance(said, dict) else None


class Listing(Generic[T]):
    """What the folders of one folder say. Each is read once: what one says does not change while it is that folder.

    Where nothing was made or removed since the last look, the next one costs one stat. For several threads.
    """

    def __init__(self, parent: Path, names: re.Pattern[str], said: Callable[[Path], T | None]) -> None:
        self._parent, self._names, self._said = parent, names, said
        self._looked = threading.Lock()
        self._known: dict[tuple[str, int], T] = {}
        self._state: tuple[int, int] | None = None  # of the folder, when it was looked at

    def all(self) -> list[T]:
        """Return what each says, in the order of their names; what is being made or was deleted is left out.

        Raises OSError where the folder cannot be read; where it is not there, there is nothing in it.
        """
        with self._looked:
            now = time.time_ns()
            try:
                there = self._parent.stat()
            except FileNotFoundError:
                return []
            state = (there.st_ino, there.st_mtime_ns)
            if state != self._state:
                self._known = self._look()
                # A change within the clock tick of this look would leave the time as it is.
                self._state = state if there.st_mtime_ns < now - _SURE_AFTER else None
            return list(self._known.values())

    def _look(self) -> dict[tuple[str, int], T]:
        with os.scandir(self._parent) as entries:
            found = sorted((e.name, e.inode()) for e in entries if self._names.fullmatch(e.name))
        known: dict[tuple[str, int], T] = {}
        for key in found:
            said = self._known.get(key) or self._said(self._parent / key[0])
            if said is not None:
                known[key] = said
        return known
