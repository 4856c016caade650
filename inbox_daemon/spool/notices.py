"""Notices in the outbox of files that stand in the inbox: `outbox/NAME/` with a status.json, and nothing beside it.

Owns `work/.standing/`, a record of each, so that any daemon can take back what another one has put there. Decides
nothing about which file stands (`inbox/not_taken`). A notice is no batch: nothing is lost with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from inbox_daemon.layout import Spool
from inbox_daemon.spool import files, outbox, published, source

_DOOR = ".door"  # among the records: a notice before it has its place in the outbox


@dataclass(frozen=True, slots=True)
class Notice:
    """One of them.

    Attributes:
        file: in the inbox.
        mark: of that file when it was put (`source.mark`): of another file of the name nothing is said by it.
        name: of its folder in the outbox.
    """

    file: str
    mark: str
    name: str

    def is_of_what_is_there(self, spool: Spool) -> bool:
        """Say whether its file still lies in the inbox, and is what it was."""
        with suppress(OSError):
            return source.mark(spool.inbox / self.file) == self.mark
        return False


def known(spool: Spool) -> list[Notice]:
    """Return every notice that there is. Raises OSError where nobody can tell."""
    try:
        entries = os.listdir(spool.standing)  # noqa: PTH208
    except FileNotFoundError:
        return []
    return [notice for entry in entries if not entry.startswith(".") and (notice := _read(spool.standing / entry))]


def put(spool: Spool, file: str, status: Callable[[str], dict[str, object]]) -> bool:
    """Say something of a file in the inbox under the name that its batch would get, instead of what is said of it.

    Args:
        status: makes the status of the folder's name.

    Returns:
        False where another daemon is at the notices, or the file has gone: then nothing was done.

    Raises:
        OSError, NotDurable: the disk refuses it; what is there of it then goes with the next `put` or `take_back`.
    """
    files.ensure_dir(spool.standing, 0o700)
    with _alone(spool) as alone, suppress(FileNotFoundError):
        if not alone:
            return False
        mark, noted = source.mark(spool.inbox / file), _read(spool.standing / _key(file))
        if noted:
            _take_back(spool, noted)

        def note(name: str) -> dict[str, object]:
            said = {"file": os.fsencode(file).hex(), "mark": mark, "name": name}  # a name may be no UTF-8
            files.write_whole(spool.standing / _key(file), orjson.dumps(said))
            return status(name)

        folder = outbox.take_name(spool, file, spool.standing / _DOOR, note)
        notice = Notice(file, mark, folder.dir.name)
        if not notice.is_of_what_is_there(spool):
            _take_back(spool, notice)  # claimed this very moment
        return True
    return False


def take_back(spool: Spool, file: str) -> None:
    """Remove what is said of a file in the inbox, if anything is. Raises OSError."""
    if (noted := _read(spool.standing / _key(file))) is not None:
        with _alone(spool) as alone:
            if alone:
                _take_back(spool, noted)
                with suppress(OSError):  # not the last one
                    spool.standing.rmdir()


def sweep(spool: Spool) -> None:
    """Remove the folder of the records where it has none, with what a killed daemon has left in it. Raises OSError."""
    with _alone(spool) as alone:
        if alone and not known(spool):
            outbox.clear(spool.standing / _DOOR)
            for left in spool.standing.glob(".*.new"):
                files.remove(left)
            spool.standing.rmdir()


def _take_back(spool: Spool, noted: Notice) -> None:
    folder, door = spool.batch(noted.name), spool.standing / _DOOR
    if published.is_notice(folder):
        if outbox.is_empty_but_for(folder.dir, folder.status):
            outbox.take_out(folder, door)
            outbox.clear(door)
        else:
            files.remove(folder.status)  # somebody has put something beside it
    files.remove(spool.standing / _key(noted.file))


def _key(file: str) -> str:
    """Return what the record of a file is called: a name of 255 bytes leaves no room for a suffix."""
    return hashlib.sha256(os.fsencode(file)).hexdigest()[:32]


def _read(record: Path) -> Notice | None:
    with suppress(OSError, ValueError, TypeError, KeyError):
        said = orjson.loads(record.read_bytes())
        return Notice(os.fsdecode(bytes.fromhex(said["file"])), said["mark"], said["name"])
    return None


@contextmanager
def _alone(spool: Spool) -> Iterator[bool]:
    """Keep other daemons away from the notices; False where one is there, or there are none. It does not wait."""
    try:
        fd = os.open(spool.standing, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _locked(fd)
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
