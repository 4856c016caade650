"""What is left of a batch after its end: its folder in work, on its way out, and its folder in the outbox.

Removes by names that it knows and never through a link, in steps that are short; the receipt goes last, so that whoever
finds a receipt goes on where a crash cut this short. Decides nothing about what may go (`retention`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published, Spool, Work, is_ours
from inbox_daemon.spool import files
from inbox_daemon.spool.parts import is_part
from inbox_daemon.text import dumps

_A_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_EMPTY_FOR = 3600.0  # seconds after which a folder with nothing in it is a removal that a crash cut short
_RECEIPT = Published(Path()).receipt.name


@dataclass(frozen=True, slots=True)
class Ended:
    """A batch that has its receipt.

    Attributes:
        at: Unix seconds of its end, as the receipt has it; copying a folder changes no receipt.
        handed_back: the name of the dropped file, where that could not become a batch and lies in the folder.
        has_parts: whether there are any in the outbox.
    """

    name: str
    id: str
    at: float
    handed_back: str | None
    has_parts: bool


# -- in work


def note_end(work: Work, said: dict[str, Any]) -> None:
    """Have the operator's program hear of the end, whatever happens from here on."""
    files.write_whole(work.ended, dumps(said) + b"\n")


def last_words(work: Work, folder: Published) -> dict[str, Any] | None:
    """Return the status with which a batch ends, wherever its publication has come to; None where users took it."""
    for path in (Published(work.leaving).status, folder.status):
        with suppress(FileNotFoundError, ValueError):
            return dict(orjson.loads(path.read_bytes()))
    return None


def end_noted(work: Work) -> bytes | None:
    """Return what is still to be told of a batch's end."""
    with suppress(FileNotFoundError):
        return work.ended.read_bytes()
    return None


def remove_tree(folder: Path) -> Iterator[None]:
    """Remove a folder and all that is in it, a name at a step. Raises OSError; may be done again."""
    emptied = False
    while not emptied:
        emptied = True
        with os.scandir(folder) as entries:
            for entry in entries:
                emptied = False
                if entry.is_dir(follow_symlinks=False):
                    yield from remove_tree(Path(entry.path))
                else:
                    Path(entry.path).unlink(missing_ok=True)
                yield
    with suppress(FileNotFoundError):
        folder.rmdir()


# -- in the outbox


def all_ended(spool: Spool) -> Iterator[Ended | None]:
    """Yield every batch in the outbox that has its receipt, and None for everything else, so that each is a short step.

    A folder in which nothing is left goes.
    """
    with os.scandir(spool.outbox) as entries:
        for entry in entries:
            found = None
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                found = ended(spool, entry.name)
                if found is None:
                    _remove_empty(Path(entry.path))
            yield found


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # of a folder in which there is something by now the system says no
        if not any(folder.iterdir()) and time.time() - folder.lstat().st_mtime > _EMPTY_FOR:
            folder.rmdir()


def ended(spool: Spool, name: str) -> Ended | None:
    """Return the batch of this name if it has ended; None where its folder has no receipt of ours, or another's."""
    with suppress(OSError, SpoolError, ValueError, KeyError, TypeError):
        folder = os.open(spool.batch(name).dir, _A_FOLDER)
        try:
            return _read(folder, name)
        finally:
            os.close(folder)
    return None


def _read(folder: int, name: str) -> Ended | None:
    """Read an open folder's receipt. Raises OSError, ValueError, KeyError, TypeError where it has none that is ours."""
    receipt = os.open(_RECEIPT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with open(receipt, "rb") as file:
        said = orjson.loads(file.read())
    if said["name"] != name:  # copied or renamed by somebody: theirs
        return None
    has_parts = False
    with suppress(OSError):
        parts = os.open("parts", _A_FOLDER, dir_fd=folder)
        try:
            with os.scandir(parts) as entries:
                has_parts = any(is_part(entry.name) for entry in entries)
        finally:
            os.close(parts)
    handed_back = str(said["input"]["file"]) if said["problem"] else None
    return Ended(name, str(said["id"]), float(said["times"]["finished_at"]), handed_back, has_parts)


def remove_parts(spool: Spool, what: Ended) -> Iterator[None]:
    """Remove a batch's parts from the outbox: `results.jsonl` and `errors.jsonl` have every line. Raises OSError."""
    with suppress(FileNotFoundError, NotADirectoryError):
        folder = os.open(spool.batch(what.name).dir, _A_FOLDER)
        try:
            if _is_still(folder, what):
                yield from _parts(folder)
        finally:
            os.close(folder)


def remove_files(spool: Spool, what: Ended, names: Iterable[str]) -> Iterator[None]:
    """Remove some files of a batch, as users name them; those that are gone are gone. Raises OSError."""
    with suppress(FileNotFoundError, NotADirectoryError):
        folder = os.open(spool.batch(what.name).dir, _A_FOLDER)
        try:
            if _is_still(folder, what):
                for name in names:
                    _unlink(name, folder)
                    yield
                os.fsync(folder)
        finally:
            os.close(folder)


def remove(spool: Spool, what: Ended) -> Generator[None, None, bool]:
    """Remove a batch from the outbox; say whether anything of somebody else's stays there.

    Everything is done in the folder that was opened: another batch may take the name meanwhile. Raises OSError.
    """
    if Work(spool.work / what.id).dir.exists():  # a crash came between its receipt and its leaving
        return False
    try:
        folder = os.open(spool.batch(what.name).dir, _A_FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if not _is_still(folder, what):
            return False
        yield from _parts(folder)
        with suppress(OSError):  # somebody else's files are in it
            os.rmdir("parts", dir_fd=folder)
        for name in os.listdir(folder):  # noqa: PTH208  an open one
            if is_ours(name) or name == what.handed_back:
                _unlink(name, folder)
                yield
        os.fsync(folder)  # or a power cut might bring back the rest without the receipt
        _unlink(_RECEIPT, folder)
        left = bool(os.listdir(folder))  # noqa: PTH208
    finally:
        os.close(folder)
    with suppress(OSError):
        spool.batch(what.name).dir.rmdir()
    return left


def _is_still(folder: int, what: Ended) -> bool:
    with suppress(OSError, ValueError, KeyError, TypeError):
        now = _read(folder, what.name)
        return now is not None and now.id == what.id
    return False


def _parts(folder: int) -> Iterator[None]:
    try:
        parts = os.open("parts", _A_FOLDER, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        removed = True
        while removed:
            removed = False
            with os.scandir(parts) as entries:
                for entry in entries:
                    if is_part(entry.name):
                        _unlink(entry.name, parts)
                        removed = True
                    yield
    finally:
        os.close(parts)


def _unlink(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
