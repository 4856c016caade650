"""A batch that somebody deletes, with all that lies in its folder: what may go, how it goes, and what NAME.delete says.

For others it goes at once, by one rename: of who deletes by hand to a hidden name, which is removed after that, by
descriptors and never through a link, and where a crash leaves it so, with the next one; of the daemon into work, as a
batch that is on its way out.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from inbox_daemon.errors import Rejected, SpoolError
from inbox_daemon.layout import WORK_ID, Published, Spool, Work, is_ours
from inbox_daemon.spool import files, published, remains, source, views
from inbox_daemon.text import shown

_HIDDEN = ".deleted-"
_MOST = 1 << 16  # bytes of a list of files


@dataclass(frozen=True, slots=True)
class Over:
    """A batch that may be deleted: it has ended."""

    name: str
    id: str
    state: str


def over(spool: Spool, name: str) -> Over | None:
    """Return the batch of this name; None where there is no folder of it.

    Raises:
        SpoolError: it has not ended, it cannot be seen that it has, or its folder is no batch's own.
    """
    folder = spool.batch(name)
    with published.permitted(spool.outbox):
        if folder.dir.is_symlink() or (folder.dir.exists() and not folder.dir.is_dir()):
            raise SpoolError(f"{folder.dir}: no folder of the daemon's; remove it as you made it")
    if not published.is_folder(folder.dir) or published.is_notice(folder):
        return None
    receipt, status = remains.ended(spool, name), published.status(spool, name)
    if status is not None and status.get("name") == name and not views.has_ended(status) and receipt is None:
        raise SpoolError(f"{name} is {views.batch_state(status)}; cancel it first: inbox-daemon cancel {name}")
    ours = receipt is not None or (status is not None and status.get("name") == name)
    if not ours:
        raise SpoolError(f"{folder.dir}: no receipt and no status of this batch; if it is a copy, remove it by hand")
    id = receipt.id if receipt else status["id"] if status else ""
    return Over(name, id, status["status"] if status else "ended")


def is_in_work(spool: Spool, batch: Over) -> bool:
    """Say whether a daemon has something more to do with it: for a moment. Raises SpoolError: it may not be known."""
    work = Work(spool.work / batch.id).dir
    with published.permitted(work):
        return work.exists()


def delete(spool: Spool, batch: Over) -> None:
    """Remove the batch's folder, by hand. Raises as `take_out`, and SpoolError where not all of it may be removed."""
    if is_in_work(spool, batch):
        raise SpoolError(f"{batch.name}: its daemon has not done with it; try again in a moment")
    with published.permitted(spool.outbox, "delete from"):
        take_out(spool, batch, spool.batch(batch.name).dir.with_name(f"{_HIDDEN}{batch.id}-{secrets.token_hex(4)}"))
        _sweep(spool)


def into_work(spool: Spool, batch: Over) -> None:
    """Remove the batch's folder as what has left work is removed: by `ended/leaving`. Raises as `take_out`."""
    take_out(spool, batch, Work(spool.work / f"deleted-{secrets.token_hex(8)}").gone)


def take_out(spool: Spool, batch: Over, to: Path) -> None:
    """Take the batch's folder out of everybody's sight.

    Raises:
        SpoolError: the folder is another batch's by now.
        OSError: it cannot be renamed.
    """
    folder = spool.batch(batch.name).dir
    files.move(folder, to)
    if _id_in(Published(to)) not in (batch.id, None):
        with suppress(OSError):  # somebody has taken the name a second time
            files.move(to, folder)
        raise SpoolError(f"{batch.name} is another batch by now, and stays; look at it again")
    files.sync_dir(spool.outbox)


# -- told to by a control file


class Meant(NamedTuple):
    """Which batch is to be deleted; its name is "" where whoever says so knows its id."""

    name: str
    id: str


def meant(spool: Spool, said: str) -> Meant:
    """Return which batch `said`, a name or an id, means now. Raises SpoolError: none that has ended."""
    if found := over(spool, said):
        return Meant(found.name, found.id)
    if WORK_ID.fullmatch(said):
        return Meant("", said)
    raise SpoolError(f"no batch called {shown(said)} is in the outbox")


def find(spool: Spool, batch: Meant) -> Generator[None, None, Over]:
    """Return the batch that is meant; yields while it looks for an id. Raises OSError, SpoolError: it is not there."""
    name = batch.name
    if not name:
        for one in remains.all_ended(spool):
            if one and one.id == batch.id:
                name = one.name
                break
            yield
    if name and (found := over(spool, name)) and found.id == batch.id:
        return found
    raise SpoolError(f"{name or batch.id} is not in the outbox, or another batch by now")


def files_named(control: Path) -> list[str] | None:
    """Return which files of a batch NAME.delete names, one a line; None where it is empty: all of them.

    Raises:
        SpoolError: it cannot be read, or names what may not be removed alone.
        FileNotFoundError: it is gone.
    """
    if not control.lstat().st_size:
        return None
    try:
        fd = source.open_regular(control)
    except Rejected as error:
        raise SpoolError(str(error)) from error
    with open(fd, "rb") as file:
        said = file.read(_MOST + 1).decode(errors="replace")
    names = [line.strip() for line in said.splitlines() if line.strip()]
    if len(said) > _MOST or not names:
        raise SpoolError(f"it holds names of files, one a line, {_MOST:,} bytes at the most; empty: the whole folder")
    if wrong := next((name for name in names if not _may_go_alone(name)), None):
        raise SpoolError(f"{shown(wrong)!r} is no file of a batch that goes without the rest of its folder")
    return names


def _may_go_alone(name: str) -> bool:
    """Say whether a file of a batch may go while the batch stays: what that is, its status and receipt say."""
    return is_ours(name) and not name.startswith(".") and name != Published(Path()).status.name


def _id_in(folder: Published) -> str | None:
    """Return the id in a folder's status; None where it has none, as after somebody took it away."""
    with suppress(OSError, SpoolError, ValueError, KeyError, TypeError), published.opened(folder.status) as file:
        return str(orjson.loads(file.read())["id"])
    return None


def _sweep(spool: Spool) -> None:
    """Remove what is hidden. `rmtree` goes by descriptors, where the system has them, as Linux does."""
    with os.scandir(spool.outbox) as entries:
        hidden = [Path(entry.path) for entry in entries if entry.name.startswith(_HIDDEN)]
    for folder in hidden:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            raise SpoolError(f"{folder}: not all of it could be removed; as root: rm -r {folder}")
