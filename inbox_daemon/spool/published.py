"""The reading half of the spool: what is published, for every view. Opens nothing for writing, ever.

Everything here may be replaced or removed while it is read; what has gone is left out, never an error.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import orjson

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published, Spool, batch_name, is_batch_file, is_sidecar
from inbox_daemon.machine import clock
from inbox_daemon.records import BatchStatus
from inbox_daemon.spool.daemons import STALE_AFTER, silent_for
from inbox_daemon.spool.names import numbered
from inbox_daemon.spool.shapes import BatchObject, DaemonView

_FINAL = frozenset(status.value for status in BatchStatus if status.final)


@contextmanager
def permitted(path: Path, to: str = "read") -> Iterator[None]:
    """Where the system refuses what is done in here with `path`, the SpoolError says who has the right to it."""
    try:
        yield
    except PermissionError as error:
        why = f"{path}: you may not {to} it; a service's spool is for the group inbox-submit"
        raise SpoolError(f"{why}: sudo usermod -aG inbox-submit YOU, then log in again") from error


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a published file for reading, without following a link that somebody may have laid in its place.

    Raises:
        FileNotFoundError: it is not there.
        SpoolError: it may not be read, or is no regular file.
    """
    with permitted(path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise SpoolError(f"{path}: a link, where a file of the daemon's should be") from error
            raise
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SpoolError(f"{path}: no regular file, and none of the daemon's")
        yield file


def there(spool: Spool) -> Spool:
    """Return the spool. Raises SpoolError where there is no such folder, which is something else than an empty one."""
    if not is_folder(spool.root):
        why = "is no folder" if exists(spool.root) else "is not there: no daemon has run on this spool"
        raise SpoolError(f"{spool.root} {why}; name another with --spool")
    return spool


def exists(path: Path) -> bool:
    """Say whether anything lies at `path`. Raises SpoolError where that may not be known."""
    return _mode(path) is not None


def is_folder(path: Path) -> bool:
    """Say whether a folder lies at `path`. Raises SpoolError where that may not be known."""
    return stat.S_ISDIR(_mode(path) or 0)


def _mode(path: Path) -> int | None:
    with permitted(path):  # Path.exists() says no where it may not look, from Python 3.14 on
        try:
            return path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None


def status(spool: Spool, name: str) -> BatchObject | None:
    """Return the batch's `status.json`, or None where there is none. Raises SpoolError where it may not be read."""
    path = spool.batch(name).status
    with permitted(path):
        return _a_batchs(_content(path))


def called_after(spool: Spool, file: str) -> Iterator[BatchObject]:
    """Yield the statuses of the batches whose names files of this one's name get, NAME.3, NAME.2, NAME: the newest, as
    a rule the one that is looked for, first.
    """
    wanted = batch_name(file)
    numbers: list[int] = []
    with suppress(OSError):
        for name in os.listdir(spool.outbox):  # noqa: PTH208
            if name == wanted or (name.startswith(f"{wanted}.") and name[len(wanted) + 1 :].isdecimal()):
                numbers.append(int(name[len(wanted) + 1 :] or 1))
    for number in sorted(numbers, reverse=True):
        if (found := _status(spool.batch(numbered(wanted, number)))) is not None:
            yield found


def made_of(spool: Spool, file: str, mark: str) -> BatchObject | None:
    """Return the status of the batch that a file in the inbox became, by its `source.mark`; None where there is none.

    Its name does not tell: another file of the same name may have been claimed just before and have no name yet, and
    which one gets it is seen only in `outbox`.
    """
    return next((found for found in called_after(spool, file) if found.get("input_mark") == mark), None)


def statuses(spool: Spool) -> list[BatchObject]:
    """Return every batch's `status.json`, oldest first."""
    return Statuses(spool).read()


class Place(NamedTuple):
    """One batch in the order of all; where there are tens of thousands, all that is kept of most.

    Attributes:
        created_at: Unix seconds of the claim.
        ended: whether its status says so.
    """

    created_at: float
    id: str
    name: str
    ended: bool


def in_order(spool: Spool) -> list[Place]:
    """Return the place of every batch, oldest first. Raises SpoolError where the outbox may not be read."""
    found: list[Place] = []
    for entry in _entries(spool.outbox):
        if (said := _status(Published(Path(entry.path)))) is not None:
            ended = bool(said.get("completed_at") or said.get("failed_at") or said.get("cancelled_at"))
            found.append(Place(said.get("created_at", 0), str(said.get("id", "")), entry.name, ended))
    found.sort()
    return found


class Statuses:
    """The statuses of all batches for who looks again and again: that of one that has ended is read once, since
    nothing of it changes but how often its file was sent again.

    An outbox may hold tens of thousands of those; to list their names takes milliseconds, to read them all seconds.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._ended: dict[tuple[str, int], BatchObject] = {}  # by the folder's name and inode

    def read(self) -> list[BatchObject]:
        """Return every batch's `status.json`, oldest first."""
        found: list[BatchObject] = []
        ended: dict[tuple[str, int], BatchObject] = {}
        for entry in _entries(self._spool.outbox):
            folder = (entry.name, entry.inode())
            if (status := self._ended.get(folder)) is None:
                status = _status(Published(Path(entry.path)))
            if status is not None:
                found.append(status)
                if status.get("status") in _FINAL:
                    ended[folder] = status
        self._ended = ended
        return sorted(found, key=lambda s: (s.get("created_at", 0), s.get("id", "")))


def daemons(spool: Spool) -> list[DaemonView]:
    """Return what each daemon says of itself; `alive` says whether it said so lately."""
    found = [read for path in _children(spool.daemons) if path.suffix == ".json" and (read := _read(path))]
    now = clock.now()
    said = [daemon | {"alive": silent_for(daemon, now) < STALE_AFTER} for daemon in found]
    return cast(list[DaemonView], said)


def in_inbox(spool: Spool, name: str) -> bool:
    """Say whether a file that would become this batch lies in the inbox."""
    return name in to_come(spool)


def files_to_come(spool: Spool, name: str) -> list[Path]:
    """Return the files in the inbox that would become this batch, and the sidecars by which they say so."""
    try:
        files = sorted(os.listdir(spool.inbox))  # noqa: PTH208
    except OSError:
        return []
    ours = [file for file in files if is_batch_file(file) and batch_name(file) == name]
    return [spool.inbox / file for file in files if file in ours or (is_sidecar(file) and Path(file).stem in ours)]


def to_come(spool: Spool) -> dict[str, list[str]]:
    """Return the batches whose files lie in the inbox, by name, and the files; none where it cannot be read."""
    with suppress(OSError):
        return _to_come(spool)
    return {}


def is_to_come(spool: Spool, name: str) -> bool:
    """Say what `in_inbox` says to somebody who would take its no for an answer.

    Raises:
        SpoolError: the inbox may not be read, so nobody knows.
    """
    try:
        with permitted(spool.inbox):
            return name in _to_come(spool)
    except OSError:
        return False


def _to_come(spool: Spool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in os.listdir(spool.inbox):  # noqa: PTH208
        if is_batch_file(file):
            found.setdefault(batch_name(file), []).append(file)
    return found


def waiting(spool: Spool) -> dict[str, str]:
    """Return why files in the inbox are not taken yet, by file name."""
    return waiting_of(daemons(spool))


def waiting_of(daemons: Sequence[DaemonView]) -> dict[str, str]:
    """Return why files in the inbox are not taken yet, as these daemons say, by file name."""
    said = [daemon.get("waiting", {}) for daemon in daemons if daemon["alive"]]
    return {name: why for files in said for name, why in files.items()}


def _children(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(folder)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with permitted(folder), os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError:
        return []


def is_notice(folder: Published) -> bool:
    """Say whether a folder in the outbox is no batch's, but says why a file stands in the inbox."""
    return notice_of(folder) is not None


def notice_of(folder: Published) -> str | None:
    """Return of which file in the inbox a folder in the outbox says why it stands there; None: it is a batch's."""
    said = _read(folder.status)
    return str(said.get("input_file_id")) if said is not None and _is_notice(said) else None


def _status(folder: Published) -> BatchObject | None:
    return _a_batchs(_read(folder.status))


def _a_batchs(said: dict[str, Any] | None) -> BatchObject | None:
    """Leave out notices: views have from the daemons themselves why a file is not taken."""
    return None if said is None or _is_notice(said) else cast(BatchObject, said)


def _is_notice(said: dict[str, Any]) -> bool:
    return "not_taken" in said


def _read(path: Path) -> dict[str, Any] | None:
    with suppress(PermissionError):
        return _content(path)
    return None


def _content(path: Path) -> dict[str, Any] | None:
    """Return what a file says; None where there is none, or nothing of ours. Raises PermissionError."""
    try:
        value = orjson.loads(path.read_bytes())
    except PermissionError:
        raise
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
