"""Control files: NAME.cancel, NAME.pause, NAME.resume, NAME.priority, dropped into the inbox like work. Whom one means
where several have the name: `meant`.

Cancel, pause and priority move into the batch's folder, where they are the state; resume only takes away. A file for a
batch that another daemon holds is left for that one. NAME.delete, for batches that have ended, is `deletion`'s.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from inbox_daemon.errors import Rejected, SpoolError
from inbox_daemon.layout import WORK_ID, Spool, Work
from inbox_daemon.records import BatchStatus
from inbox_daemon.spool import files, published, source
from inbox_daemon.text import dumps, shown

log = logging.getLogger(__name__)


class Controlled(Protocol):
    """What this needs of a batch in memory."""

    @property
    def work(self) -> Work: ...
    def control(self, verb: str) -> None: ...


def obey(path: Path, verb: str, batch: Controlled) -> None:
    """Carry out one control file that means a batch which this daemon holds, or throw it away and say why."""
    with suppress(FileNotFoundError):  # carried out already, when its batch got its name, or by another daemon
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or (verb == "priority" and not found.st_size):  # which is being written
            return
        if verb == "priority" and number_in(path) is None:
            throw_away(path, "a whole number is what it must hold, such as 10")
        else:
            _carry_out(batch, path, verb)
            batch.control(verb)


def throw_away(path: Path, why: str) -> None:
    """Remove a control file that means no batch, and say why; nothing where it is gone."""
    with suppress(FileNotFoundError):
        path.lstat()
        files.remove(path)
        log.warning("%s thrown away: %s", shown(path.name), why)


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


def park(work: Work, reason: str, now: float, models: Sequence[str] = ()) -> None:
    """Note durably that nothing more of a batch runs until somebody says resume.

    Args:
        now: in Unix seconds.
        models: and adapters for which all that is left of it is, where that is why: these could not be loaded.
    """
    files.write_whole(work.parked, dumps({"at": int(now), "reason": reason, **({"models": models} if models else {})}))


def is_held(work: Work) -> bool:
    """Say whether a batch that was accepted is paused or parked."""
    return work.accepted.exists() and (work.pause.exists() or work.parked.exists())


def lives(spool: Spool, name: str) -> bool:
    """Say whether there is a batch of this name, or this id, that has not ended, whosever.

    Raises:
        SpoolError: no batch can be called so.
    """
    folder = spool.batch(name).dir
    if WORK_ID.fullmatch(name) and (spool.work / name).is_dir():
        return True
    try:
        said = published.status(spool, folder.name)
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
