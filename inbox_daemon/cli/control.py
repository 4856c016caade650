"""`inbox-daemon cancel | pause | resume | priority NAME`: drops a control file and waits for it.

A batch in work is named by its id, so that no file of its name that waits, or comes this moment, can be meant.
"""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from inbox_daemon.cli import show
from inbox_daemon.cli.exits import NOT_FOUND
from inbox_daemon.cli.settings import settings
from inbox_daemon.layout import Spool, batch_name
from inbox_daemon.records import BatchStatus
from inbox_daemon.spool import drop, published, views

_PATIENCE = 30.0  # seconds for the daemon to take the file
_SOON = 3.0  # seconds for it to take a batch's own file, where nothing is said of why it waits

_PASSES = ("still ", "being read")  # what `inbox/arrivals` says of files that it is about to take


def add(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("name", metavar="NAME", help="the batch, as its folder in the outbox is called")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    spool = Spool(Path(settings(given).spool))
    name = batch_name(given.name)
    told = published.status(spool, name)
    lives = told is not None and not BatchStatus(told["status"]).final
    if not lives and not published.is_to_come(spool, name):
        if told is None:
            show.say(f"inbox-daemon: no batch called {name} in {spool.root}", show.errors)
            return NOT_FOUND
        show.say(f"inbox-daemon: {name} has ended already: {told['status']}", show.errors)
        return 1
    with published.permitted(spool.inbox, "write to"):
        means = told["id"] if told and lives else name
        dropped = drop.drop_control(spool, means, given.verb, str(getattr(given, "number", "")))
    began = time.monotonic()
    while dropped.exists():
        if not lives and _waits_on(spool, name, time.monotonic() - began):
            if given.verb != "cancel":
                show.say(f"{_in_the_inbox(spool, name)}; {given.verb} will be taken with it")
                return 0
            if drop.take_back(dropped):
                files = " ".join(shlex.quote(str(path)) for path in published.files_to_come(spool, name))
                show.say(f"{_in_the_inbox(spool, name)}; to have it never run: rm {files}", show.errors)
                return 1
        if still_lies(spool, dropped, began):
            return 1
    show.say(f"{name}: {given.verb} taken")
    return 0


def still_lies(spool: Spool, dropped: Path, began: float) -> bool:
    """Wait a moment for a daemon to take a control file; say so and return True where it is no use to wait on.

    `began`: monotonic seconds at which it was dropped.
    """
    gone = views.no_daemon(spool)
    if gone or time.monotonic() - began > _PATIENCE:
        show.say(f"{dropped} is there, but {gone or 'no daemon has taken it yet'}", show.errors)
        return True
    time.sleep(0.05)
    return False


def _waits_on(spool: Spool, name: str, waited: float) -> bool:
    """Say whether the batch's own file lies in the inbox, and will not be taken at once."""
    if not published.in_inbox(spool, name):
        return False
    why = views.waits_for(spool, name) or views.no_daemon(spool)
    return waited > _SOON or bool(why and not why.startswith(_PASSES))


def _in_the_inbox(spool: Spool, name: str) -> str:
    return f"{name}: still in the inbox, not taken yet{views.because(spool, name)}"
