"""`inbox-daemon verify NAME`: reads everything of a batch again and proves its receipt."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from inbox_daemon.cli import show
from inbox_daemon.cli.given import folder_of
from inbox_daemon.cli.settings import settings
from inbox_daemon.layout import Published, Spool
from inbox_daemon.spool import proof, published
from inbox_daemon.text import dumps

_ABOUT = """\
Read everything that batches have left and hold it against their receipts. A batch is a folder, wherever it lies, or,
where there is none of that path, a name in the outbox.

  inbox-daemon verify answers/candidates --input candidates.jsonl
  inbox-daemon verify candidates@qwen candidates@gemma --input candidates.jsonl
"""


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument("batches", nargs="+", metavar="BATCH", help="a folder copied from the outbox, or a name in it")
    how = "the file as it was dropped, packed or not, to prove that it is the one; of every batch named"
    verb.add_argument("--input", type=Path, metavar="FILE", help=how)
    verb.add_argument("--json", action="store_true", help="one object a batch, for programs")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    held = [_holds(folder_of(batch, lambda: Spool(Path(settings(given).spool))), given) for batch in given.batches]
    return 0 if all(held) else 1


def _holds(folder: Published, given: argparse.Namespace) -> bool:
    """Prove one receipt, and say what does not agree. Raises SpoolError where it is damaged or may not be read."""
    if not published.is_folder(folder.dir):
        show.say(f"inbox-daemon: there is no folder {folder.dir}: give the batch's own, OUTBOX/NAME", show.errors)
        return False
    if not published.exists(folder.receipt):
        show.say(f"inbox-daemon: {folder.receipt} is not there: the batch has not ended", show.errors)
        return False
    found = proof.verify(folder, given.input)
    receipt = found.receipt
    if given.json:
        said = {"folder": str(folder.dir), "problems": found.problems, "receipt": receipt}
        sys.stdout.buffer.write(dumps(said) + b"\n")
        return not found.problems
    for problem in found.problems:
        show.say(problem)
    requests, answers, errors = receipt["input"]["requests"], receipt["answers"], receipt["errors"]
    verdict = "does NOT hold" if found.problems else "holds"
    show.say(f"{folder.dir}: {requests:,} requests = {answers:,} answers + {errors:,} errors; {verdict}")
    return not found.problems
