"""`inbox-daemon verify OUTBOX/NAME`: reads everything again and proves the receipt."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson

from inbox_daemon.cli import show
from inbox_daemon.layout import Published
from inbox_daemon.spool import proof, published


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = __doc__
    verb.add_argument("folder", type=Path, metavar="OUTBOX/NAME")
    verb.add_argument("--input", type=Path, metavar="FILE", help="the file as it was dropped, to prove its hash too")
    verb.add_argument("--json", action="store_true", help="as JSON, for programs")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    folder = Published(given.folder)
    if not published.is_folder(folder.dir):
        show.say(f"inbox-daemon: there is no folder {folder.dir}: give the batch's own, OUTBOX/NAME", show.errors)
        return 1
    if not published.exists(folder.receipt):
        show.say(f"inbox-daemon: {folder.receipt} is not there: the batch has not ended", show.errors)
        return 1
    found = proof.verify(folder, given.input)
    receipt = found.receipt
    if given.json:
        sys.stdout.buffer.write(orjson.dumps({"problems": found.problems, "receipt": receipt}) + b"\n")
    else:
        for problem in found.problems:
            show.say(problem)
        requests, answers, errors = receipt["input"]["requests"], receipt["answers"], receipt["errors"]
        verdict = "does NOT hold" if found.problems else "holds"
        show.say(f"{given.folder}: {requests:,} requests = {answers:,} answers + {errors:,} errors; {verdict}")
    return 1 if found.problems else 0
