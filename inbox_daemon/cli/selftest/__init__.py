"""`inbox-daemon selftest`: kills, hangs and a full disk, tried on this host with the engine of these settings.

Runs daemons of its own on a spool of its own, hurts them in the middle of a batch and holds what came out against
what went in. Touches nothing else: no batch of the configured spool, no daemon or engine that runs already.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import orjson
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from inbox_daemon.cli import show
from inbox_daemon.cli.selftest import rig, trials, unshared
from inbox_daemon.cli.selftest.rig import Rig
from inbox_daemon.cli.selftest.trials import CHECKS, DISK_FULL, FAILS, HOLDS, NOT_APPLICABLE, NOT_CHECKED, Check, Row
from inbox_daemon.cli.settings import settings
from inbox_daemon.config import Config
from inbox_daemon.layout import Spool
from inbox_daemon.spool import published

_PREFIX = "inbox-daemon-selftest-"
_COLOURS = {HOLDS: "green", FAILS: "red", NOT_CHECKED: "yellow"}
_FEWEST = 8  # requests of a batch that has a middle
_USUAL_LOADS = (30.0, 80.0)  # seconds
_WIDE = 120  # columns


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = __doc__
    verb.add_argument("--model", metavar="PATH_OR_NAME", help="the model to serve, as vLLM takes it")
    verb.add_argument("--requests", type=_requests, default=60, metavar="N", help="of each batch; default 60")
    verb.add_argument("--json", action="store_true", help="one object at the end, for programs")
    verb.set_defaults(go=go)


def _requests(text: str) -> int:
    if not text.isdecimal() or int(text) < _FEWEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {_FEWEST} on")
    return int(text)


def go(given: argparse.Namespace) -> int:
    read = settings(given)
    _end_in_order()
    arguments = [f"--{key}={value}" for key in ("config", "model") if (value := getattr(given, key))]
    bench = Bench(read, arguments, given.requests)
    paper = Paper(bench, quiet=given.json)
    with bench, paper:
        for row in rows(bench, paper):
            paper.add(row)
        log = bench.keep_log() if any(row.verdict == FAILS for row in paper.rows) else None
    held = all(row.verdict in (HOLDS, NOT_APPLICABLE) for row in paper.rows)
    paper.end(held, log)
    return 0 if held else 1


def _end_in_order() -> None:
    """Have whatever ends this process end its daemons first; a second Ctrl-C does not cut that short."""
    endings = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]

    def end(number: int, frame: FrameType | None) -> None:
        for one in endings:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in endings:
        signal.signal(number, end)


class Bench:
    """Where the checks take place: two folders that go with everything in them, and at most one daemon at a time."""

    def __init__(self, read: Config, arguments: list[str], requests: int) -> None:
        self.read, self.arguments, self.requests = read, arguments, requests
        self.is_null = read.engine.kind == "null"
        # What an engine that is killed leaves among the temporary files goes with them.
        self._temporary = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
        (Path(self._temporary.name) / rig.LOG).write_bytes(b"")
        self._spools, self.on_spool_disk = _folder(Path(read.spool))
        self.folder = Path(self._spools.name).resolve()
        self._mounts, self._no_mounts = unshared.own_mounts(self.folder)
        self._rig: Rig | None = None

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._spools.cleanup()
        self._temporary.cleanup()

    def inapplicable(self, check: Check) -> Row | None:
        if check.of_engine and self.is_null:
            return Row(check.key, check.what, verdict=NOT_APPLICABLE, notes=["the null engine has no process"])
        if check is DISK_FULL and not self._mounts:
            return Row(check.key, check.what, verdict=NOT_CHECKED, notes=[self._no_mounts])
        return None

    def rig_for(self, check: Check) -> Rig:
        """Return a rig that is ready: the same for all checks but the last, whose disk is another."""
        if check is DISK_FULL:
            self.stop()
        if self._rig is None:
            mounts = self._mounts if check is DISK_FULL else []
            folder, temporary = self.folder / check.key, Path(self._temporary.name)
            self._rig = Rig(folder, temporary, self.arguments, self.requests, mounts)
        self._rig.ready(self.read.engine.load_timeout)
        return self._rig

    def stop(self) -> None:
        if self._rig is not None:
            self._rig.stop()
            self._rig = None

    def keep_log(self) -> Path:
        """Copy what the daemons and engines wrote to where it stays."""
        descriptor, kept = tempfile.mkstemp(prefix=_PREFIX, suffix=".log")
        os.close(descriptor)
        shutil.copyfile(Path(self._temporary.name) / rig.LOG, kept)
        return Path(kept)

    @property
    def starts(self) -> int:
        """How many engines are started: one for each that is ended, and one on the other disk."""
        return 1 if self.is_null else 6 + bool(self._mounts)

    def seconds(self, load: float) -> float:
        """About how long all checks take, where an engine loads for so long."""
        disk = 35.0 if self._mounts else 0.0
        return disk + (10.0 if self.is_null else self.starts * (load + 10) + 2 * rig.STALL_AFTER)


def _folder(spool: Path) -> tuple[tempfile.TemporaryDirectory[str], bool]:
    """Make a folder in the spool or beside it; where neither may be written, among the temporary files."""
    for parent in (spool, spool.parent):
        try:
            return tempfile.TemporaryDirectory(prefix="selftest-", dir=parent, ignore_cleanup_errors=True), True
        except OSError:
            continue
    return tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True), False


def rows(bench: Bench, paper: Paper) -> Iterator[Row]:
    """Yield one row a check. What fails costs its check alone, unless not even the first one holds."""
    for check in CHECKS:
        row = bench.inapplicable(check) or _row(bench, check, paper)
        yield row
        if row.verdict == FAILS:
            bench.stop()  # the next check gets a daemon and a spool that nothing has happened to
            if check is CHECKS[0]:
                why = "not even a batch in peace came through"
                yield from (Row(c.key, c.what, verdict=NOT_CHECKED, notes=[why]) for c in CHECKS[1:])
                return


def _row(bench: Bench, check: Check, paper: Paper) -> Row:
    paper.doing(f"{check.what}: waiting for the engine")
    try:
        ready = bench.rig_for(check)
    except OSError as error:
        return Row(check.key, check.what, verdict=FAILS, notes=[str(error)])
    if check is CHECKS[0] and not bench.is_null:
        load = ready.load_seconds
        paper.say(f"the engine took {load:.0f} s to load: {_about(bench.seconds(load))} for all checks")
    paper.doing(check.what)
    return trials.checked(check, ready)


def _about(least: float, most: float | None = None) -> str:
    if (most or least) < 90:
        return f"about {round(least, -1):.0f} s"
    minutes = [f"{max(1, round(seconds / 60))}" for seconds in (least, most) if seconds]
    return f"about {' to '.join(minutes)} minutes"


# -- for people


class Paper:
    """What is told while it goes on: a table where a person looks, lines elsewhere, nothing where a program does."""

    def __init__(self, bench: Bench, quiet: bool) -> None:
        self.rows: list[Row] = []
        self._bench, self._quiet = bench, quiet
        self._began = time.monotonic()
        self._doing = ""
        looks = show.somebody_looks() and not quiet
        self._live = Live(console=show.console, auto_refresh=False) if looks else None

    def __enter__(self) -> None:
        for line in _introduction(self._bench):
            self.say(line)
        if self._live:
            self._live.start()

    def __exit__(self, *exception: object) -> None:
        self.doing("")
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        if not self._quiet:
            show.console.print(line, markup=False, soft_wrap=True)

    def doing(self, what: str) -> None:
        self._doing = what
        if self._live:
            self._live.update(Group(_table(self.rows), Text(f"… {what}" if what else "")), refresh=True)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if not self._live:
            self.say(_line(row))

    def end(self, held: bool, log: Path | None) -> None:
        """Args: log: of what failed, where something did."""
        bench, seconds = self._bench, round(time.monotonic() - self._began, 1)
        if self._quiet:
            told = {"held": held, "seconds": seconds, "spool": str(bench.folder), "on_spool_disk": bench.on_spool_disk}
            told |= {"log": log and str(log), "checks": [asdict(row) for row in self.rows]}
            sys.stdout.buffer.write(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
            return
        verdict = "everything held" if held else "NOT everything held" if log else "not everything was checked"
        self.say(f"{verdict}, {show.duration(seconds)}")
        if log:
            self.say(f"what the daemons and engines wrote: {log}")


def _introduction(bench: Bench) -> Iterator[str]:
    engine, spool = bench.read.engine, bench.read.spool
    disk = f"the disk of {spool}" if bench.on_spool_disk else f"temporary files: {spool} cannot be written by this user"
    yield f"{bench.requests} requests a check, on {bench.folder} ({disk})"
    if bench.is_null:
        yield f"the null engine: {_about(bench.seconds(0))}"
    else:
        least, most = (bench.seconds(load) for load in _USUAL_LOADS)
        yield f"{engine.model}: {bench.starts} engine starts, {_about(least, most)}; longer where the model is large"
    if not bench.is_null and any(daemon["alive"] for daemon in published.daemons(Spool(Path(spool)))):
        yield f"a daemon runs on {spool}: if its engine holds the GPU, stop it first (systemctl stop inbox-daemon)"


def _line(row: Row) -> str:
    told = ""
    if row.seconds is not None:
        restarts = f"{row.engine_restarts} engine restart{'' if row.engine_restarts == 1 else 's'}"
        told = f" {row.answers} of {row.requests} answered, {row.seconds:.1f} s, {restarts};"
    notes = f" ({'; '.join(row.notes)})" if row.notes else ""
    return f"{row.what}:{told} {row.verdict}{notes}"


def _table(rows: list[Row]) -> RenderableType:
    """The rows so far; what there is to say of them in a column where there is room, below where there is not."""
    wide = show.console.width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("check", "requests", "answers", "seconds", "restarts", "verdict"):
        table.add_column(heading, justify="left" if heading in ("check", "verdict") else "right", no_wrap=True)
    for row in rows:
        counts = (row.requests, row.answers, f"{row.seconds:.1f}", row.engine_restarts) if row.seconds else ("",) * 4
        verdict = Text(row.verdict, style=_COLOURS.get(row.verdict, ""))
        notes = [Text("; ".join(row.notes))] if wide else []
        table.add_row(Text(row.what), *(str(count) for count in counts), verdict, *notes)
    below = [] if wide else [Text(f"{row.what}: {'; '.join(row.notes)}") for row in rows if row.notes]
    return Group(table, *below)
