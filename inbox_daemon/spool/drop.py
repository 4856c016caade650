"""Dropping work and control files into the inbox as the daemon likes it best: whole, by one rename.

What the command line and the web use. Users need none of it: scp and rsync do.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from inbox_daemon.layout import Spool, batch_name, suffix_of
from inbox_daemon.spool import complete, files, names, published, source

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file of ours in the inbox.

    Attributes:
        file: its name there. The batch has most likely that name, too; `published.made_of` knows.
        mark: what tells it from every other file of that name.
    """

    file: str
    mark: str


def drop(spool: Spool, path: Path) -> Dropped:
    """Copy a batch file in, and say that it is complete, under a name that neither inbox nor outbox has.

    Raises OSError.
    """
    [dropped] = drop_all(spool, [(path, path.name)])
    return dropped


def drop_all(spool: Spool, some: Sequence[tuple[Path, str]]) -> Iterator[Dropped]:
    """Drop several files, each under a file name, all or none: where one cannot be copied in, none of them shows.

    Yields each as it shows. Raises OSError.
    """
    with ExitStack() as hidden:
        copies = [hidden.enter_context(_copied(spool, path)) for path, _ in some]
        for (_, file), copy in zip(some, copies, strict=True):
            yield _show(spool, copy, file)


@contextmanager
def _copied(spool: Spool, path: Path) -> Iterator[Path]:
    """Copy a file into the inbox under a name that no daemon takes; what still has it at the end is removed."""
    hidden = spool.inbox / f".{time.time_ns()}{suffix_of(path.name)}"
    try:
        with path.open("rb") as content, _made(hidden) as copy:
            shutil.copyfileobj(content, copy, _BLOCK)
            copy.flush()
            now = time.time_ns()  # the kernel's own stamps tick every 4 ms, and a removed file's inode is free
            os.utime(copy.fileno(), ns=(now, now))
            files.sync(copy.fileno(), hidden)  # who is told that it is submitted may throw the original away
        yield hidden
    finally:
        files.remove(hidden)


def _show(spool: Spool, hidden: Path, file: str) -> Dropped:
    suffix, mark = suffix_of(file), source.mark(hidden)
    while True:
        name = names.free(batch_name(file), partial(_is_taken, spool, suffix))
        target = spool.inbox / f"{name}{suffix}"
        with suppress(FileExistsError):  # else somebody has taken it this very moment
            files.move_to_free(hidden, target)  # before .done, which is believed of a file that is no younger
            _say_complete(target)
            files.sync_dir(spool.inbox)
            return Dropped(target.name, mark)


def _is_taken(spool: Spool, suffix: str, name: str) -> bool:
    beside = complete.sidecars_of(spool.inbox / f"{name}{suffix}")
    return spool.batch(name).dir.exists() or published.in_inbox(spool, name) or bool(beside)


def _made(path: Path) -> BinaryIO:
    """Make a new file in the inbox, where others may write as well: never one that is there, never through a link.

    It is readable for the group, which the inbox's setgid bit chose, where the daemon is another user. Whatever our
    umask says: with 0077 it would be handed over for nothing.

    Raises:
        FileExistsError: something of that name is there, a link that leads nowhere included.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    if path.parent.stat().st_uid != os.geteuid():
        os.fchmod(fd, os.fstat(fd).st_mode & 0o777 | 0o040)
    return open(fd, "wb")


def _say_complete(dropped: Path) -> None:
    """Drop NAME.jsonl.done: after the file, since it would be believed of another one that came under the name."""
    done = dropped.with_name(f"{dropped.name}.done")
    with suppress(FileExistsError):  # somebody says so already
        _made(done).close()
    if not dropped.exists():  # claimed already, and nobody will take this one along
        files.remove(done)


def drop_control(spool: Spool, name: str, verb: str, content: str = "") -> Path:
    """Drop NAME.cancel, .pause, .resume or .priority, or ID.cancel and so on; return its path, which is gone once the
    daemon has taken it.
    """
    path = spool.inbox / f"{spool.batch(name).dir.name}.{verb}"
    hidden = spool.inbox / f".{path.name}.{time.time_ns()}"
    with _made(hidden) as file:
        file.write(content.encode())
    hidden.rename(path)
    return path


def take_back(control: Path) -> bool:
    """Remove a control file that was dropped; say whether it was still there."""
    try:
        control.unlink()
    except FileNotFoundError:
        return False
    return True
