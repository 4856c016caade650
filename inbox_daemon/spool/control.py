"""Control files: NAME.cancel, NAME.pause, NAME.resume, NAME.priority, dropped into the inbox like work.

Cancel, pause and priority move into the batch's folder, where they are the state; resume only takes away. A file for a
batch that another daemon holds is left for that one.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from operator import itemgetter
from pathlib import Path
from typing import Protocol

from inbox_daemon.errors import Rejected, SpoolError
from inbox_daemon.layout import Spool, Work, control_files
from inbox_daemon.records import BatchStatus
from inbox_daemon.spool import files, published, source
from inbox_daemon.text import dumps, shown

log = logging.getLogger(__name__)


class Controlled(Protocol):
    """What this needs of a batch in memory."""

    @property
    def work(self) -> Work: ...
    def control(self, verb: str) -> None: ...


def obey(path: Path, name: str, verb: str, batch: Controlled | None) -> None:
    """Carry out one control file, or throw it away and say why.

    Args:
        batch: the batch called `name` that this daemon holds; None where nobody has one, nor a file for it.
    """
    if refusal := _obeyed(path, name, verb, batch):
        log.warning("%s thrown away: %s", shown(path.name), refusal)


def _obeyed(path: Path, name: str, verb: str, batch: Controlled | None) -> str | None:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
    except FileNotFoundError:  # carried out already, when its batch got its name, or by another daemon
        return None
    if batch is not None:
        with suppress(FileNotFoundError):
            if verb == "priority" and not path.stat().st_size:
                return None  # it is being written
            if verb == "priority" and number_in(path) is None:
                files.remove(path)
                return "a whole number is what it must hold, such as 10"
            _carry_out(batch, path, verb)
            batch.control(verb)
        return None
    files.remove(path)
    return f"no batch called {name} is waiting or running"


def waiting_for(spool: Spool, name: str, source: str) -> list[tuple[Path, str]]:
    """Return (path, verb) of the control files for this batch, in the order in which they came.

    Looks for them by name and reads no folder: the inbox may hold files by the ten thousand.
    """
    found: list[tuple[int, Path, str]] = []
    for file, verb in control_files(name, source):
        path = spool.inbox / file
        with suppress(OSError):  # not there, or a name that would be too long to be there
            found.append((path.lstat().st_ctime_ns, path, verb))
    return [(path, verb) for _, path, verb in sorted(found, key=itemgetter(0))]


def _carry_out(batch: Controlled, path: Path, verb: str) -> None:
    work = batch.work
    match verb:
        case "cancel":
            files.move(path, work.cancel)
        case "pause":
            files.move(path, work.pause)
        case "priority":
            files.move(path, work.priority)
        case "resume":
            for state in (work.pause, work.parked):
                files.remove(state)
            files.remove(path)
        case _:
            raise AssertionError(f"{verb} is in layout.CONTROLS and is carried out nowhere")


def park(work: Work, reason: str, now: float) -> None:
    """Note durably that nothing more of a batch runs until somebody says resume. `now` is in Unix seconds."""
    files.write_whole(work.parked, dumps({"at": int(now), "reason": reason}))


def is_held(work: Work) -> bool:
    """Say whether a batch that was accepted is paused or parked."""
    return work.accepted.exists() and (work.pause.exists() or work.parked.exists())


def lives(spool: Spool, name: str) -> bool:
    """Say whether there is a batch of this name that has not ended, whosever."""
    try:
        said = published.status(spool, name)
        return said is not None and not BatchStatus(said["status"]).final
    except (OSError, SpoolError, ValueError, KeyError):
        return False


def priority(work: Work, patterns: Mapping[str, int], name: str) -> int:
    """Return the batch's priority: what a control file said, else the highest of the patterns that match its name."""
    said = number_in(work.priority)
    return priority_by_name(patterns, name) if said is None else said


def priority_by_name(patterns: Mapping[str, int], name: str) -> int:
    """Return the highest priority of the patterns that match a batch's name; 0 where none does."""
    return max((number for pattern, number in patterns.items() if fnmatchcase(name, pattern)), default=0)


def number_in(path: Path) -> int | None:
    """Return the number that a file holds; None where it holds none or may not be read."""
    try:
        fd = source.open_regular(path)
    except Rejected:
        return None
    try:
        text = os.read(fd, 32).strip()
        return int(text) if re.fullmatch(rb"[+-]?\d{1,9}", text) else None
    finally:
        os.close(fd)
