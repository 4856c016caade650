"""`inbox-daemon status`: batches, counts, rate, time left, what the engines are doing."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from inbox_daemon.cli import show
from inbox_daemon.cli.exits import NOT_FOUND
from inbox_daemon.cli.settings import settings
from inbox_daemon.layout import Published, Spool, batch_name
from inbox_daemon.spool import published, views
from inbox_daemon.spool.shapes import SCHEMA, BatchObject
from inbox_daemon.text import shown

_ABOUT = """\
Show what is running, waiting and done: counts, rate, time left, what the engines are doing.

  inbox-daemon status                     all that runs, and what ended lately
  inbox-daemon status candidates          one batch, with its first errors
  inbox-daemon status candidates --watch  until it has ended; the exit status says how
  inbox-daemon status --json              {"schema", "batches": [status.json …], "waiting": {FILE: why}, "daemons"}
"""
_REPAINT = 0.5
_ERRORS_SHOWN = 5
_RECEIPT_WITHIN = 2.0  # seconds after the last status
_SHOWN = 30  # batches that have ended, in a list for people; --json has all


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument("name", nargs="?", metavar="NAME", help="one batch; its whole status.json with --json")
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="as JSON, for programs")
    how.add_argument("--watch", action="store_true", help="repaint until the batch ends, or until Ctrl-C")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    spool = published.there(Spool(Path(settings(given).spool)))
    if given.name and given.watch:
        name = batch_name(given.name)
        return watch(spool, name, lambda: published.status(spool, name))
    if given.watch:
        return _watch_all(spool)
    if given.name:
        return _one(spool, batch_name(given.name), given.json)
    if given.json:
        everything = {
            "schema": SCHEMA,
            "batches": published.statuses(spool),
            "waiting": published.waiting(spool),
            "daemons": published.daemons(spool),
        }
        sys.stdout.buffer.write(orjson.dumps(everything, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        show.console.print(_all(spool))
    return 0


def _one(spool: Spool, name: str, as_json: bool) -> int:
    runs = views.runs_on(spool)
    status = published.status(spool, name)
    if status is None:
        return _missing(spool, name, as_json)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(status, option=orjson.OPT_INDENT_2) + b"\n")
        return 0
    status, gone = _now(spool, status, runs)
    show.console.print(show.batches([status], time.time()))
    if beside := gone or _engines(status):
        show.say(beside)
    if status.get("parked"):
        show.say(f"parked: {status['parked']}; try again with: inbox-daemon resume {name}")
    _say_errors(spool, status)
    return 0


def _now(spool: Spool, status: BatchObject, runs: bool) -> tuple[BatchObject, str]:
    """Return the batch and, where it stands still because no daemon lives, that: then what it says of speed is old.

    `runs` is of before the status was read: a daemon may end a batch and then itself.
    """
    if runs or views.has_ended(status):
        return status, ""
    if why := status.get("cannot_load"):
        return views.at_rest(status), f"its daemon ended: {why}; it goes on when one can load the model"
    return views.at_rest(status), f"no daemon runs on {spool.root}: it goes on when one does ({views.ASK_SYSTEMD})"


def _engines(status: BatchObject) -> str:
    """Return what the engines of a batch that has not ended are doing."""
    if views.has_ended(status):
        return ""
    having = views.no_model(status) or show.engines(views.engines_for(status))
    return "; ".join([*([having] if having else []), *show.lanes(status, time.time())])


def _say_errors(spool: Spool, status: BatchObject) -> None:
    """Name the first errors. Only those of the file are in the status, those of the engine are with the answers."""
    problems = (status.get("errors") or {}).get("data") or []
    for problem in problems[:_ERRORS_SHOWN]:
        where = f"line {problem['line']}: " if problem.get("line") else ""
        show.say(f"  {where}{problem['code']}: {problem['message']}")
    counted = max(status["request_counts"]["failed"], len(problems))
    if more := counted - min(len(problems), _ERRORS_SHOWN):
        file = spool.batch(status["name"]).errors
        has = "has" if views.has_ended(status) else "will have"
        show.say(f"  {f'… and {more:,} more' if problems else f'errors: {more:,}'}; {file} {has} all of them")


def _missing(spool: Spool, name: str, as_json: bool) -> int:
    why = views.waits_for(spool, name)
    if why or published.is_to_come(spool, name):
        why = why or views.no_daemon(spool)
        if as_json:
            waiting = {"schema": SCHEMA, "name": name, "status": "waiting", "why": why}
            sys.stdout.buffer.write(orjson.dumps(waiting, option=orjson.OPT_INDENT_2) + b"\n")
        else:
            show.say(f"{name}: in the inbox, not taken yet{f': {why}' if why else ''}")
        return 0
    show.say(f"inbox-daemon: no batch called {name} in {spool.outbox}", show.errors)
    return NOT_FOUND


def _all(spool: Spool) -> RenderableType:
    daemons = published.daemons(spool)
    places = published.in_order(spool)
    last = [place for place in places if place.ended][-_SHOWN:]
    chosen = [place for place in places if not place.ended or place in last]
    some = [status for place in chosen if (status := published.status(spool, place.name))]
    if not any(daemon["alive"] for daemon in daemons):
        some = [views.at_rest(status) for status in some]
    parts: list[RenderableType] = [show.daemons(daemons), ""]
    if len(some) < len(places):
        parts.append(f"{len(some):,} of {len(places):,} batches; inbox-daemon list has the others")
    parts.append(show.batches(some, time.time()) if some else f"no batches yet: drop one into {spool.inbox}")
    if any(views.why(status) for status in some):
        parts += ["", show.reasons(some)]
    if files := published.waiting(spool):
        parts += ["", "in the inbox:", show.waiting(files)]
    return Group(*parts)


def _watch_all(spool: Spool) -> int:
    if not show.somebody_looks():
        show.console.print(_all(spool))
        return 0
    with Live(_all(spool), console=show.console, auto_refresh=False) as live:
        while True:
            time.sleep(_REPAINT)
            live.update(_all(spool), refresh=True)


def watch(spool: Spool, name: str, look: Callable[[], BatchObject | None]) -> int:
    """Show one batch until it has ended: a bar where a person looks, lines elsewhere. Return the exit status.

    Args:
        name: what it is called until it has a status.
        look: returns its status, None while it has none.
    """
    last, said_at = "", float("-inf")
    live = Live(console=show.console, auto_refresh=False) if show.somebody_looks() else None
    with live or _Nothing():
        while True:
            runs = views.runs_on(spool)
            status = look()
            if status is None:
                line = f"{name}: not taken yet{views.because(spool, name)}"
                text: RenderableType = Text(shown(line))
            else:
                status, gone = _now(spool, status, runs)
                text = Group(show.batches([status], time.time()), Text(shown(gone or _engines(status))))
                line = show.plain(status) + (f"; {gone}" if gone else "")
            ended = status is not None and views.has_ended(status)
            if live:
                live.update(text, refresh=True)
            elif ended or (line != last and time.monotonic() - said_at >= 2.0):
                show.say(line)
                last, said_at = line, time.monotonic()
            if status is not None and status.get("cannot_load") and not runs:
                if not live and line != last:
                    show.say(line)
                return 1
            if status is not None and ended:
                _wait_for_receipt(spool.batch(status["name"]))
                return exit_status(status)
            time.sleep(_REPAINT)


def _wait_for_receipt(folder: Published) -> None:
    """Wait until everything is there of a batch that has ended: the receipt comes last, and somebody may take it."""
    deadline = time.monotonic() + _RECEIPT_WITHIN
    while time.monotonic() < deadline and not published.exists(folder.receipt):
        time.sleep(0.01)


def exit_status(status: BatchObject) -> int:
    """Return the exit status that says how a batch has ended."""
    if status["status"] != "completed":
        return 1
    return 3 if status["request_counts"]["failed"] else 0


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> None: ...
