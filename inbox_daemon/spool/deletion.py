"""A batch that somebody deletes, with all that lies in its folder: what may go, and how it goes.

For others it goes at once, by one rename to a hidden name; what is hidden is removed after that, by descriptors and
never through a link. What a crash leaves hidden goes with the next one.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published, Spool, Work
from inbox_daemon.spool import files, published, remains, views

_HIDDEN = ".deleted-"


@dataclass(frozen=True, slots=True)
class Over:
    """A batch that may be deleted: it has ended, and no daemon has anything more to do with it."""

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
    work = Work(spool.work / id)
    with published.permitted(work.dir):
        if work.dir.exists():
            raise SpoolError(f"{name}: its daemon has not done with it ({work.dir} is there); try again in a moment")
    return Over(name, id, status["status"] if status else "ended")


def delete(spool: Spool, batch: Over) -> None:
    """Remove the batch's folder.

    Raises:
        SpoolError: the folder is another batch's by now, or may not be removed.
        OSError: it cannot be renamed.
    """
    folder = spool.batch(batch.name).dir
    hidden = folder.with_name(f"{_HIDDEN}{batch.id}-{secrets.token_hex(4)}")
    with published.permitted(spool.outbox, "delete from"):
        files.move(folder, hidden)
        if _id_in(Published(hidden)) not in (batch.id, None):
            with suppress(OSError):  # somebody has taken the name a second time
                files.move(hidden, folder)
            raise SpoolError(f"{batch.name} is another batch by now, and stays; look at it again")
        files.sync_dir(spool.outbox)
        _sweep(spool)


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
