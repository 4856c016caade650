"""What people say of answers: SPOOL/web/marks/SET.jsonl, to which lines are only added; the last word counts.

A mark carries the prompt and the answer that it is of, so that it is worth something when the batch is gone.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Spool
from inbox_daemon.spool import files
from inbox_daemon.text import dumps
from inbox_daemon.weblayout import WebFolder

Word = Literal["good", "bad", "defer", "best", ""]

_SET = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_CARRIED = 64 << 10  # bytes of a prompt, of an answer and of a note that a mark has


@dataclass(frozen=True, slots=True)
class Mark:
    """What somebody says of one answer.

    Attributes:
        mark: "" with a note: only the note; without one: what was said before is taken back.
        at: Unix seconds.
        messages: the prompt as it was asked; None where it is longer than 64 KB or not known. `answer` likewise.
    """

    custom_id: str
    batch: str
    mark: Word
    note: str
    at: float
    messages: list[dict[str, Any]] | None
    answer: str | None


def add(spool: Spool, set: str, mark: Mark) -> None:
    """Add a word on an answer, durably. What is longer than 64 KB is left out, of a note the rest.

    Raises:
        SpoolError: no set of marks can be called so, or no mark is this.
        OSError, NotDurable: the disk failed.
    """
    if mark.mark not in get_args(Word):
        raise SpoolError(f"{mark.mark!r} is no mark")
    files.add_line(_path(spool, set), dumps(_to_be_carried(mark)))


def read(spool: Spool, set: str) -> dict[tuple[str, str], Mark]:
    """Return what was said last of each answer, by custom_id and batch, but for what was taken back.

    A line that a crash has cut says nothing. Raises SpoolError where no set can be called so, and OSError.
    """
    return _set(_path(spool, set)).read()


def sets(spool: Spool) -> list[str]:
    """Return the names of the sets that there are."""
    found = (path.stem for path in WebFolder(spool.web).marks.glob("*.jsonl"))
    return sorted(name for name in found if _SET.fullmatch(name))


class _Set:
    """A file of marks, read as far as it is whole; what is added later is read when somebody asks. For threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = threading.Lock()
        self._end = 0
        self._last = b""  # the last line that was read: as long as it stands there, it is the same file, grown
        self._marks: dict[tuple[str, str], Mark] = {}

    def read(self) -> dict[tuple[str, str], Mark]:
        with self._reading:
            try:
                fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                return {}
            with open(fd, "rb") as file:
                file.seek(self._end - len(self._last))
                added = file.read()
                if not added.startswith(self._last):
                    self._end, self._last, self._marks = 0, b"", {}
                    file.seek(0)
                    added = file.read()
            whole = added[len(self._last) : added.rfind(b"\n") + 1]
            for line in whole.split(b"\n"):
                self._hear(line)
            self._end += len(whole)
            self._last = whole[whole.rfind(b"\n", 0, -1) + 1 :] or self._last
            return dict(self._marks)

    def _hear(self, line: bytes) -> None:
        with suppress(ValueError, TypeError, AttributeError):
            mark = Mark(**orjson.loads(line))
            said = (mark.custom_id, mark.batch)
            self._marks.pop(said, None)  # what is said last comes last
            if mark.mark or mark.note:
                self._marks[said] = mark


@lru_cache(maxsize=64)
def _set(path: Path) -> _Set:
    return _Set(path)


def _to_be_carried(mark: Mark) -> dict[str, Any]:
    said = asdict(mark)
    said["note"] = mark.note.encode(errors="replace")[:_CARRIED].decode(errors="ignore")
    for what in ("messages", "answer"):
        if len(dumps(said[what])) > _CARRIED:
            said[what] = None
    return said


def _path(spool: Spool, set: str) -> Path:
    if not _SET.fullmatch(set):
        raise SpoolError(f"no set of marks can be called {set!r}: use letters, digits, dots, hyphens and underscores")
    return WebFolder(spool.web).marks / f"{set}.jsonl"
