"""`inbox-daemon submit`: checks files, then drops them into the inbox, whole, by one rename."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from inbox_daemon.cli import check, show, status
from inbox_daemon.cli.settings import settings
from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import SUFFIXES, Spool, batch_name, is_batch_file
from inbox_daemon.spool import drop, published, resent, views
from inbox_daemon.spool.shapes import BatchObject

_PATIENCE = 3.0  # seconds for a daemon to take the files and name their batches
_POLL = 0.05  # seconds


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = __doc__
    verb.add_argument("files", nargs="+", type=Path, metavar="FILE", help=" ".join(SUFFIXES))
    verb.add_argument("--again", action="store_true", help="run it though the same file was submitted before")
    verb.add_argument("--wait", action="store_true", help="show progress and end with the batch's result")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    read = settings(given)
    spool = Spool(Path(read.spool))
    if not published.is_folder(spool.inbox):
        raise SpoolError(f"{spool.inbox} is not there: no daemon has run on this spool; name another with --spool")
    dropped: list[drop.Dropped] = []
    try:
        for path in given.files:
            if not is_batch_file(path.name):
                raise SpoolError(f"{path}: the inbox takes {', '.join(SUFFIXES)}")
            faults = check.faults_of(path, read)
            if faults.fatal or faults.count == faults.requests or (read.inbox.strict and faults.count):
                check.report(path, faults)
                show.say(f"{path}: not submitted: nothing of it could run", show.errors)
                return 1
            if faults.count:
                show.say(f"{path}: {faults.count} of {faults.requests} lines are faulty; the others run", show.errors)
            if not given.again and (first := resent.known(spool, path)):
                show.say(
                    f"{path}: {first} is of the same bytes, so it is not submitted; --again has it run", show.errors
                )
                return 1
            with published.permitted(spool.inbox, "write to"):
                dropped.append(drop.drop(spool, path))
    finally:
        _name(spool, dropped)
    if not given.wait:
        return 0
    ends = [status.watch(spool, batch_name(one.file), partial(_made_of, spool, one)) for one in dropped]
    return 1 if 1 in ends else max(ends)  # failed is worse than done with errors


def _name(spool: Spool, dropped: Sequence[drop.Dropped]) -> None:
    """Print the name of each file's batch; of a file that is not taken soon, where it lies and why."""
    deadline = time.monotonic() + _PATIENCE
    for one in dropped:
        while not (made := _made_of(spool, one)):
            if not views.runs_on(spool) or time.monotonic() >= deadline:
                break
            time.sleep(_POLL)
        if made:
            show.say(made["name"])
        else:
            show.say(f"{spool.inbox / one.file}: not taken yet{views.because(spool, batch_name(one.file))}")


def _made_of(spool: Spool, one: drop.Dropped) -> BatchObject | None:
    return published.made_of(spool, one.file, one.mark)
