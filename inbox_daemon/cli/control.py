"""`inbox-daemon cancel | pause | resume NAME`, `priority NAME NUMBER`: drops a control file and waits for it."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

from inbox_daemon.cli import show
from inbox_daemon.cli.run import settings
from inbox_daemon.config import MOST_PRIORITY
from inbox_daemon.layout import Spool, batch_name
from inbox_daemon.records import BatchStatus
from inbox_daemon.spool import drop, published

NOT_FOUND = 4
_PATIENCE = 30.0  # seconds for the daemon to take the file

_HELP = {
    "cancel": "end a batch; what has an answer keeps it, the rest can be dropped again (retry.jsonl)",
    "pause": "send nothing more of a batch to the engine",
    "resume": "go on with a batch that is paused or parked",
    "priority": "serve a batch before those with a lower number; all have 0 unless told otherwise",
}


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    for verb, about in _HELP.items():
        parser = verbs.add_parser(verb, parents=[shared], help=about, description=about)
        parser.add_argument("name", metavar="NAME")
        if verb == "priority":
            parser.add_argument("number", metavar="NUMBER", type=_priority)
        parser.set_defaults(go=go)


def _priority(text: str) -> int:
    """Return the number. Raises ArgumentTypeError where the daemon would throw it away."""
    if not re.fullmatch(r"[+-]?\d+", text, re.ASCII) or not -MOST_PRIORITY <= int(text) <= MOST_PRIORITY:
        raise argparse.ArgumentTypeError(f"a whole number from -{MOST_PRIORITY:,} to {MOST_PRIORITY:,}, not {text!r}")
    return int(text)


def go(given: argparse.Namespace) -> int:
    spool = Spool(Path(settings(given).spool))
    name = batch_name(given.name)
    status = published.status(spool, name)
    if status is None and not published.in_inbox(spool, name):
        show.errors.print(f"inbox-daemon: no batch called {name} in {spool.root}", markup=False)
        return NOT_FOUND
    if status is not None and BatchStatus(status["status"]).final:
        show.errors.print(f"inbox-daemon: {name} has ended already: {status['status']}", markup=False)
        return 1
    dropped = drop.drop_control(spool, name, given.verb, str(getattr(given, "number", "")))
    deadline = time.monotonic() + _PATIENCE
    while dropped.exists():
        if time.monotonic() > deadline:
            show.errors.print(f"{dropped} is there, but no daemon has taken it yet", markup=False)
            return 1
        time.sleep(0.05)
    show.console.print(f"{name}: {given.verb} taken", markup=False)
    return 0
