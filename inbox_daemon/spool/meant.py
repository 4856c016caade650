"""Whom a control file means where a batch of its name is in work and files of that name wait; and taking it along.

The rule is order of arrival, the batch in work before any file: a control file means the last that came before it. One
that came first of all means the file that is taken first; a batch that has ended is none. Asks nobody to carry it out
(`control`), and says only here what goes with a claim.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from inbox_daemon.layout import CONTROLS, SUFFIXES, Spool, Work, batch_name, control_of, is_batch_file, suffix_of
from inbox_daemon.spool import complete, files

_ONE_OR_THE_OTHER = {"resume": "pause"}  # of these the last one counts, as of two of the same verb


class Came(NamedTuple):
    """When something came into the inbox: what is less came before.

    Attributes:
        scan: which look at the inbox saw it first. A file whose upload takes an hour has been there for an hour.
        ctime: in nanoseconds; it tells apart what one look saw. Equal is together, as what one command has dropped.
    """

    scan: int
    ctime: int


def as_it_lies(path: Path) -> Came:
    """Say when it came where nobody has looked before: after a start."""
    return Came(0, complete.arrived_at(path))


def goes_with(control: Came, waiting: Mapping[str, Came], lives: bool) -> Collection[str]:
    """Return the files of which the first to be taken has the control file; none: it means the batch in work, if any.

    Args:
        waiting: the files that wait under its name.
        lives: a batch of that name is in work.
    """
    before = [file for file, came in waiting.items() if came <= control]
    if before:
        return [max(before, key=lambda file: waiting[file])]
    return () if lives else list(waiting)


def to_take_along(
    spool: Spool, file: Path, lives: Callable[[str], bool], came: Callable[[Path], Came] = as_it_lies
) -> list[Path]:
    """Return the control files that a file has if it is taken now, in the order in which they came.

    Looks for them by name and reads no folder: the inbox may hold files by the ten thousand.
    """
    name = batch_name(file.name)
    controls = _there(spool, control_files(name, file.name))
    if not controls:
        return []
    waiting = {path.name: came(path) for path in _waiting(spool, name, file.name)}
    alive = lives(name)
    ours = [path for path, _ in controls if file.name in goes_with(came(path), waiting, alive)]
    return sorted(ours, key=came)


def control_files(name: str, source: str) -> list[tuple[str, str]]:
    """Return (file, verb) of the control files by which users may mean this batch, made of a file called `source`."""
    files = [f"{n}{s}{verb}" for n in _spellings(name, source) for s in ("", *SUFFIXES) for verb in CONTROLS]
    return [(file, control[1]) for file in files if (control := control_of(file)) and control[0] == name]


def batch_files(name: str, source: str) -> list[str]:
    """Return the files that users may have dropped for a batch of this name, one of them perhaps called `source`."""
    files = [f"{n}{s}" for n in _spellings(name, source) for s in SUFFIXES]
    return [file for file in files if is_batch_file(file) and batch_name(file) == name]


def _spellings(name: str, source: str) -> list[str]:
    stem = source.removesuffix(suffix_of(source))
    return list(dict.fromkeys((name, stem, unicodedata.normalize("NFD", name))))  # the last as it comes from a Mac


def note(work: Work, controls: Sequence[Path]) -> None:
    """Note, before its file is claimed, what goes with it: an empty file for each control file.

    One that a later one makes void goes at once.
    """
    last: dict[str, Path] = {}
    for path in controls:
        _, verb = control_of(path.name) or ("", "")
        kind = _ONE_OR_THE_OTHER.get(verb, verb)
        if kind in last:
            files.remove(last[kind])
        last[kind] = path
    if last:
        files.ensure_dir(work.expected, 0o700)
    for path in last.values():
        files.make_empty(work.expected / path.name)


def fetch(spool: Spool, work: Work) -> None:
    """Take what was noted out of the inbox, once its file is claimed; after a crash, the rest of it.

    What has been removed meanwhile counts: it came with the file.
    """
    if not work.expected.is_dir():
        return
    for name in sorted(os.listdir(work.expected)):  # noqa: PTH208
        if _is_file(spool.inbox / name):
            with suppress(FileNotFoundError):
                files.move(spool.inbox / name, work.expected / name)
    files.move(work.expected, work.beside)


def expected(spool: Spool) -> set[str]:
    """Return the control files that a claim has noted and not fetched yet, whosever: they mean nobody else."""
    found: set[str] = set()
    with suppress(OSError):
        for id in os.listdir(spool.work):  # noqa: PTH208
            with suppress(OSError):  # most have none
                if not id.startswith("gone-"):
                    found.update(os.listdir(Work(spool.work / id).expected))  # noqa: PTH208
    return found


def to_obey(spool: Spool, work: Work, name: str, source: str) -> list[tuple[Path, str]]:
    """Return (path, verb) of what a batch is to obey before anything of it runs: what came with its file, and after
    that what has come since, for its name or its id, in order.

    Args:
        source: the name of its file, as it was dropped.
    """
    fetch(spool, work)
    since = _there(spool, control_files(name, source) + [(f"{work.id}{suffix}", suffix[1:]) for suffix in CONTROLS])
    if since:
        waiting = {path.name: as_it_lies(path) for path in _waiting(spool, name, source)}
        others = expected(spool)
        since = [one for one in since if not goes_with(as_it_lies(one[0]), waiting, lives=True)]
        since = [one for one in since if one[0].name not in others]
    return _beside(work) + sorted(since, key=lambda one: as_it_lies(one[0]))


def hand_on(spool: Spool, work: Work, id: str) -> None:
    """Have the batch `id` obey what came with a file that is no batch, since it was sent before."""
    fetch(spool, work)
    for path, verb in _beside(work):
        files.move(path, spool.inbox / f"{id}.{verb}")


def _beside(work: Work) -> list[tuple[Path, str]]:
    with suppress(FileNotFoundError):
        there = sorted(os.listdir(work.beside))  # noqa: PTH208
        return [(work.beside / file, control[1]) for file in there if (control := control_of(file))]
    return []


def _there(spool: Spool, control_files: Sequence[tuple[str, str]]) -> list[tuple[Path, str]]:
    """Return those of the control files that lie in the inbox, without a priority that is being written."""
    there = [(spool.inbox / file, verb) for file, verb in control_files]
    return [(path, verb) for path, verb in there if _is_file(path, with_content=verb == "priority")]


def _waiting(spool: Spool, name: str, source: str) -> list[Path]:
    return [path for file in batch_files(name, source) if _is_file(path := spool.inbox / file)]


def _is_file(path: Path, with_content: bool = False) -> bool:
    with suppress(OSError):  # not there, or a name that would be too long to be there
        found = path.lstat()
        return stat.S_ISREG(found.st_mode) and (found.st_size > 0 or not with_content)
    return False
