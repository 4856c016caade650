"""`inbox-daemon delete NAME`: removes a batch that has ended, with its answers, or has the daemon do so.

Whoever may write to the outbox needs no daemon for it. All others drop ID.delete, which means that batch and no other.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from inbox_daemon.cli import control, listing, show
from inbox_daemon.cli.exits import NOT_FOUND, USAGE
from inbox_daemon.cli.settings import settings
from inbox_daemon.layout import Spool
from inbox_daemon.spool import deletion, drop, published
from inbox_daemon.spool.deletion import Over

_ABOUT = """\
Delete batches that have ended: their folders in the outbox, with answers, errors and receipt. Nothing brings them back.
A batch that runs is refused: cancel it first. `results.keep` in the settings deletes by itself what is old.
"""


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument("names", nargs="+", metavar="NAME", help="a batch that has ended")
    verb.add_argument("--yes", action="store_true", help="do not ask")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    spool = published.there(Spool(Path(settings(given).spool)))
    batches: list[Over] = []
    for name in dict.fromkeys(given.names):
        batch = deletion.over(spool, name)  # all of them, before any is deleted
        if batch is None:
            show.say(f"inbox-daemon: {_nowhere(spool, name)}", show.errors)
            return NOT_FOUND
        batches.append(batch)
    if not given.yes:
        if not sys.stdin.isatty():
            show.say("inbox-daemon: nobody is there to be asked; --yes deletes without asking", show.errors)
            return USAGE
        if not _agreed(spool, batches):
            show.say("nothing was deleted", show.errors)
            return 1
    if os.access(spool.outbox, os.W_OK):
        for batch in batches:
            deletion.delete(spool, batch)
            show.say(f"{batch.name}: deleted")
        return 0
    return 0 if _have_deleted(spool, batches) else 1


def _have_deleted(spool: Spool, batches: Sequence[Over]) -> bool:
    """Have the daemon do it, and say whether it has."""
    with published.permitted(spool.inbox, "write to"):
        dropped = [(batch, drop.drop_control(spool, batch.id, "delete")) for batch in batches]
    began = time.monotonic()
    return all([_is_deleted(spool, batch, control, began) for batch, control in dropped])  # noqa: C419  each is said


def _is_deleted(spool: Spool, batch: Over, dropped: Path, began: float) -> bool:
    """Wait until the daemon has taken a control file; say whether its batch is gone. `began` is monotonic seconds."""
    while dropped.exists():
        if control.still_lies(spool, dropped, began):
            return False
    if (left := deletion.over(spool, batch.name)) is not None and left.id == batch.id:
        show.say(f"{batch.name}: not deleted; the daemon's log says why", show.errors)
        return False
    show.say(f"{batch.name}: deleted by the daemon")
    return True


def _nowhere(spool: Spool, name: str) -> str:
    if published.is_to_come(spool, name):
        files = " ".join(str(path) for path in published.files_to_come(spool, name))
        return f"{name} is still in the inbox; to have it never run: rm {files}"
    return f"no batch called {name} in {spool.outbox}"


def _agreed(spool: Spool, batches: Sequence[Over]) -> bool:
    for batch in batches:
        size = show.size(listing.size_of(spool.batch(batch.name).dir))
        show.say(f"{batch.name}: {batch.state}, {size}", show.errors)
    them = "it" if len(batches) == 1 else f"these {len(batches)}"
    show.errors.print(f"Delete {them}, for good? y/N ", end="", markup=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
