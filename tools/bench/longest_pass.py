#!/usr/bin/env python3
"""Measures how long the loop is kept by one pass: 200 batches in work, 50,000 folders in the outbox, an engine's death.

Prints a Markdown table: for each phase of such a day the passes it took and the longest of them; of that pass the
syncs, what they took, and the processor time. What is left is the machine's: a rename that waits for a disk on which
others sync, a processor that others have. Two peers run beside it. One is an append and fdatasync of a few hundred
bytes on the same disk: seconds are those of one machine, the last column is not. The other is a process that computes
for 50 ms and waits for 50; a column has for how long it was kept from computing at most. A pass of which as much is
left was kept by the same. The engine is one that answers, and dies, when it is told to. Put --spool on the disk in
question; --sync-ms has each sync take so much longer, as on a hard disk or a busy host, and with a spool in /dev/shm
nothing else does.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from passes import Told  # noqa: E402

LINE = (
    '{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":'
    '{"messages":[{"role":"user","content":"score candidate %d of %s"}]}}\n'
)
_A_SLICE = 0.05  # seconds of computing, as a pass of the loop takes for each kind of work
CROWDED = "scores"  # the name that all folders in the outbox have
COLUMNS = (
    "phase",
    "passes",
    "longest pass (ms)",
    "syncs in it",
    "they took (ms)",
    "processor (ms)",
    "what is left (ms)",
    "the peer was kept for (ms)",
    "in plain syncs",
)


class Peer:
    """A process that computes for 50 ms, waits for as long, and does nothing else: what it is kept from computing, by
    others or by the machine, any pass of the loop may be.
    """

    def __init__(self) -> None:
        self._longest = multiprocessing.Value("d", 0.0)
        multiprocessing.Process(target=self._compute, daemon=True).start()

    def _compute(self) -> None:
        while True:
            began, before = time.monotonic(), time.thread_time()
            while time.thread_time() - before < _A_SLICE:
                pass
            kept = time.monotonic() - began - (time.thread_time() - before)
            with self._longest.get_lock():
                self._longest.value = max(self._longest.value, kept)
            time.sleep(_A_SLICE)

    def longest(self) -> float:
        """Return for how many seconds it was kept waiting at most, since this was asked last."""
        with self._longest.get_lock():
            found, self._longest.value = self._longest.value, 0.0
        return float(found)


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
        heading = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
        print(f"one plain sync: {1000 * plain:.2f} ms\n\n{heading}", flush=True)
        Day(Path(temporary) / "spool", given.batches, given.folders, syncs, Peer(), plain).pass_by()


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

    def __init__(self, spool: Path, batches: int, folders: int, syncs: Syncs, peer: Peer, plain: float) -> None:
        self._count, self._folders, self._syncs, self._peer, self._plain = batches, folders, syncs, peer, plain
        self._daemon = Told.daemon(spool, daemon={"gpu_every": 0.0, "log_level": "error"})
        self._spool = spool

    def pass_by(self) -> None:
        lives = self._daemon._batches
        self._drop([f"batch-{number}" for number in range(self._count)])
        self._phase("files taken, handed to the engine", self._all_in_flight)
        Told.dies = True
        self._phase("the engine dies; all of it runs again", self._all_in_flight)
        Told.answers = True
        self._phase("all answers at once; results", lambda: not len(lives))
        Told.answers = False
        self._fill_outbox()
        for number in range(1, 4):
            self._drop([CROWDED])
            self._phase(
                f"a file whose name {self._folders:,} folders have ({number})", lambda: len(self._lives_in_flight()) > 0
            )
            Told.answers = True
            self._phase(f"its results ({number})", lambda: not len(lives))
            Told.answers = False
        self._daemon._shut_down()

    def _phase(self, what: str, is_over: Callable[[], bool]) -> None:
        passes, longest, of_it = 0, 0.0, ""
        self._peer.longest()
        while passes == 0 or not is_over():
            syncs, syncing, busy, began = self._syncs.count, self._syncs.took, time.thread_time(), time.monotonic()
            self._daemon.step(began)
            took = time.monotonic() - began
            if took > longest:
                longest, count, waited = took, self._syncs.count - syncs, self._syncs.took - syncing
                computed = time.thread_time() - busy
                rest = max(0.0, took - waited - computed)
                of_it = f"{count} | {1000 * waited:,.0f} | {1000 * computed:,.0f} | {1000 * rest:,.0f}"
            passes += 1
            time.sleep(0.001)
        of_it += f" | {1000 * self._peer.longest():,.0f} | {longest / self._plain:,.0f}"
        print(
            f"| {what} | {passes:,} | {1000 * longest:,.0f} | {of_it} |",
            flush=True,
        )

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
