"""`inbox-daemon submit`: checks files, then drops them into the inbox, whole, by one rename."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from inbox_daemon.cli import check, show, status
from inbox_daemon.cli.run import settings
from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import SUFFIXES, Spool, is_batch_file
from inbox_daemon.spool import drop


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("submit", parents=[shared], help="hand files to the daemon", description=__doc__)
    verb.add_argument("files", nargs="+", type=Path, metavar="FILE", help=" ".join(SUFFIXES))
    verb.add_argument("--wait", action="store_true", help="show progress and end with the batch's result")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    read = settings(given)
    spool = Spool(Path(read.spool))
    if not spool.inbox.is_dir():
        raise SpoolError(f"{spool.inbox} is not there: no daemon has run on this spool; name another with --spool")
    names = []
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
        names.append(drop.drop(spool, path))
        show.say(names[-1])
    if not given.wait:
        return 0
    ends = [status.watch(spool, name) for name in names]
    return 1 if 1 in ends else max(ends)  # failed is worse than done with errors
