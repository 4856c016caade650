"""`inbox-daemon list`: every batch of the outbox with its age, its size and what went wrong in it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import orjson

from inbox_daemon.cli import show
from inbox_daemon.cli.settings import settings
from inbox_daemon.cli.table import Column, Fitting
from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published, Spool
from inbox_daemon.request.output import failure
from inbox_daemon.spool import published, views
from inbox_daemon.spool.said import Said
from inbox_daemon.spool.shapes import SCHEMA, BatchObject
from inbox_daemon.text import dumps, shown

_ABOUT = """\
List batches with their age, how long they took, their size and their errors by code, the newest last.

  inbox-daemon list --all
  inbox-daemon list --json | jq -r 'select(.state == "failed") | .name'

With --json each line is an object: schema, id, name, status, state, model, created_at, ended_at, request_counts, usage,
bytes, errors_by_code.
"""
_SHOWN = 50


class Listed(NamedTuple):
    """One batch: its status, the bytes of its folder, and its errors by code."""

    status: BatchObject
    bytes: int
    errors: dict[str, int]


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    which = verb.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, default=_SHOWN, metavar="N", help=f"the newest N, default {_SHOWN}")
    which.add_argument("--all", action="store_true", help="all there are")
    verb.add_argument("--json", action="store_true", help="one object a line, for programs")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    spool = published.there(Spool(Path(settings(given).spool)))
    places = published.in_order(spool)
    chosen = places if given.all else places[max(0, len(places) - given.last) :]
    found = (_listed(spool, status) for place in chosen if (status := published.status(spool, place.name)))
    if given.json:
        for one in found:
            sys.stdout.buffer.write(dumps(_object(one)) + b"\n")
        return 0
    if len(chosen) < len(places):
        show.say(f"the last {len(chosen):,} of {len(places):,} batches; --all has the others")
    show.console.print(drawn(list(found), time.time()))
    return 0


def _listed(spool: Spool, status: BatchObject) -> Listed:
    folder = spool.batch(status["name"])
    return Listed(status, size_of(folder.dir), _errors(folder, status))


def size_of(folder: Path) -> int:
    """Return the bytes of what lies in a folder and below it; links count as themselves."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(root) / name).lstat().st_size
    return total


def _errors(folder: Published, status: BatchObject) -> dict[str, int]:
    """Count a batch's errors by code: those of its lines, or what was wrong with the file as a whole."""
    problems = (status.get("errors") or {}).get("data") or []
    if not status["request_counts"]["failed"]:
        return dict(Counter(problem["code"] for problem in problems))
    counted: Counter[str] = Counter()
    with suppress(SpoolError, OSError):
        for line in Said(folder, errors=True).new():
            if (said := failure(orjson.loads(line))) is not None:
                counted[said.fault.code] += 1
    return dict(counted.most_common())


def _object(one: Listed) -> dict[str, object]:
    kept = ("id", "name", "status", "model", "created_at", "request_counts", "usage")
    said = {key: one.status.get(key) for key in kept}
    more = {"state": views.batch_state(one.status), "ended_at": views.ended_at(one.status)}
    return {"schema": SCHEMA, **said, **more, "bytes": one.bytes, "errors_by_code": one.errors}


def drawn(batches: Sequence[Listed], now: float) -> Fitting:
    """A line a batch. `now` is in Unix seconds."""
    statuses = [one.status for one in batches]
    spans = [(status["created_at"], views.ended_at(status)) for status in statuses]
    codes = [", ".join(f"{count:,} {code}" for code, count in one.errors.items()) for one in batches]
    return Fitting(
        [
            Column("batch", [shown(status["name"]) for status in statuses], folds=True),
            Column("state", [show.state(status) for status in statuses]),
            Column("age", [show.about(now - created) for created, _ in spans], right=True),
            Column("ended", [show.clock(end, now) for _, end in spans], right=True, gives_way=1),
            Column("took", [show.about(end - at) if end else "" for at, end in spans], right=True, gives_way=2),
            Column("size", [show.size(one.bytes) for one in batches], right=True),
            Column("requests", [f"{status['request_counts']['total']:,}" for status in statuses], right=True),
            Column("errors", [shown(code) for code in codes], folds=True),
        ]
    )
