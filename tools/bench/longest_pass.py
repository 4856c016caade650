#!/usr/bin/env python3
"""Measures how long the loop is kept by one pass: 200 batches in work, 50,000 folders in the outbox, an engine's death.

Prints a Markdown table: for each phase of such a day the passes it took and the longest of them; of that pass the
syncs, what they took, and the processor time. What is left is the machine's: a rename that waits for a disk on which
others sync, a processor that others have. A peer runs beside it, one append and fdatasync of a few hundred bytes on
the same disk: seconds are those of one machine, the last column is not. The engine is one that answers, and dies, when
it is told to. Put --spool on the disk in question; --sync-ms has each sync take so much longer, as on a hard disk or a
busy host, and with a spool in /dev/shm nothing else does.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from inbox_daemon import config, daemon  # noqa: E402
from inbox_daemon.engine.null import NullEngine  # noqa: E402
from inbox_daemon.errors import EngineDied  # noqa: E402
from inbox_daemon.machine.notify import Notifier  # noqa: E402
from inbox_daemon.records import Outcome  # noqa: E402

LINE = (
    '{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":'
    '{"messages":[{"role":"user","content":"score candidate %d of %s"}]}}\n'
)
CROWDED = "scores"  # the name that all folders in the outbox have
HEADING = (
    "| phase | passes | longest pass (ms) | syncs in it | they took (ms) | processor (ms) | in plain syncs |\n"
    "|---|---|---|---|---|---|---|"
)


class Engine(NullEngine):
    """One that takes requests, and answers or dies when it is told to."""

    answers = dies = False

    def receive(self) -> list[Outcome]:
        if Engine.dies:
            Engine.dies = False
            raise EngineDied("killed by the benchmark")
        return super().receive() if Engine.answers else []


@dataclass(slots=True)
class Syncs:
    """Every sync of this process, counted; each may be made to take longer."""

    longer: float
    count: int = 0
    took: float = 0.0  # seconds, of all of them

    def watch(self) -> None:
        for name in ("fsync", "fdatasync"):
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def counted(fd: int) -> None:
            self.count += 1
            began = time.monotonic()
            sync(fd)
            time.sleep(self.longer)
            self.took += time.monotonic() - began

        return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--folders", type=int, default=50_000, help="in the outbox, all of one name")
    parser.add_argument("--sync-ms", type=float, default=0.0, help="how much longer each sync takes")
    parser.add_argument("--spool", type=Path, help="a folder, on the disk in question, for a spool (default: TMPDIR)")
    given = parser.parse_args()
    syncs = Syncs(given.sync_ms / 1000)
    syncs.watch()
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="longest-pass-", dir=given.spool) as temporary:
        plain = plain_sync(Path(temporary) / "plain")
        print(f"one plain sync: {1000 * plain:.2f} ms\n\n{HEADING}", flush=True)
        Day(Path(temporary) / "spool", given.batches, given.folders, syncs, plain).pass_by()


def plain_sync(path: Path) -> float:
    """Return the seconds that the peer takes: one append of some hundred bytes, and its sync."""
    took = []
    with path.open("ab", buffering=0) as file:
        for _ in range(50):
            began = time.monotonic()
            file.write(b"x" * 300)
            os.fdatasync(file.fileno())
            took.append(time.monotonic() - began)
    return statistics.median(took)


class Day:
    """A daemon in this process, driven pass by pass."""

    def __init__(self, spool: Path, batches: int, folders: int, syncs: Syncs, plain: float) -> None:
        self._count, self._folders, self._syncs, self._plain = batches, folders, syncs, plain
        inbox = {"settle": 0.0, "settle_unproven": 0.0, "watch": "poll", "rescan": 0.2}
        about = {"spool": str(spool), "engine": {"kind": "null"}, "inbox": inbox}
        read = config.build({**about, "daemon": {"gpu_every": 0.0, "log_level": "error"}}, "the benchmark")
        self._daemon = daemon.Daemon(read, lambda start, place: Engine(read.engine, place), Notifier({}), drain=False)
        self._spool = spool

    def pass_by(self) -> None:
        lives = self._daemon._batches
        self._drop([f"batch-{number}" for number in range(self._count)])
        self._phase("files taken, handed to the engine", self._all_in_flight)
        Engine.dies = True
        self._phase("the engine dies; all of it runs again", self._all_in_flight)
        Engine.answers = True
        self._phase("all answers at once; results", lambda: not len(lives))
        Engine.answers = False
        self._fill_outbox()
        for number in range(1, 4):
            self._drop([CROWDED])
            self._phase(
                f"a file whose name {self._folders:,} folders have ({number})", lambda: len(self._lives_in_flight()) > 0
            )
            Engine.answers = True
            self._phase(f"its results ({number})", lambda: not len(lives))
            Engine.answers = False
        self._daemon._shut_down()

    def _phase(self, what: str, is_over: Callable[[], bool]) -> None:
        passes, longest, of_it = 0, 0.0, ""
        while passes == 0 or not is_over():
            syncs, syncing, busy, began = self._syncs.count, self._syncs.took, time.thread_time(), time.monotonic()
            self._daemon.step(began)
            took = time.monotonic() - began
            if took > longest:
                longest, count, waited = took, self._syncs.count - syncs, self._syncs.took - syncing
                of_it = f"{count} | {1000 * waited:,.0f} | {1000 * (time.thread_time() - busy):,.0f}"
            passes += 1
            time.sleep(0.001)
        ratio = longest / self._plain
        print(f"| {what} | {passes:,} | {1000 * longest:,.0f} | {of_it} | {ratio:,.0f} |", flush=True)

    def _lives_in_flight(self) -> Sequence[object]:
        return [life for life in self._daemon._batches if life.queue.in_flight]

    def _all_in_flight(self) -> bool:
        return len(self._lives_in_flight()) == self._count

    def _drop(self, names: Sequence[str]) -> None:
        for name in names:
            hidden = self._spool / "inbox" / f".{name}.part"
            hidden.write_text("".join(LINE % (number, number, time.time_ns()) for number in range(2)))
            hidden.rename(hidden.with_name(f"{name}.jsonl"))

    def _fill_outbox(self) -> None:
        """Make folders as batches of one name leave them that have ended, an hour and more ago."""
        some = next((self._spool / "outbox").glob("batch-*/status.json")).read_bytes()
        for number in range(1, self._folders + 1):
            folder = self._spool / "outbox" / (CROWDED if number == 1 else f"{CROWDED}.{number}")
            folder.mkdir()
            (folder / "status.json").write_bytes(some)


if __name__ == "__main__":
    main()
