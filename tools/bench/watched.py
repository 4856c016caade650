#!/usr/bin/env python3
"""Measures what being seen costs: the same file through `engine/null`, with all that watches and with none of it.

In turns, so that whatever else the host does meets both: without GPU sampling and metrics, and with GPUs sampled every
second and the metrics asked for every second, five times as often as is usual. CPU seconds are the daemon's own and say
more than seconds on a busy host. Alerts and autopsies cannot be switched off and are in both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline import through_daemon, written

PORT = 19109
BARE = {"INBOX_DAEMON_DAEMON__GPU_EVERY": "0", "INBOX_DAEMON_METRICS__PORT": "0"}
WATCHED = {"INBOX_DAEMON_DAEMON__GPU_EVERY": "1", "INBOX_DAEMON_METRICS__PORT": str(PORT)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--spool", type=Path, help="a folder for spools that come and go (default: TMPDIR)")
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {"bare": [], "watched": []}
    cpu: dict[str, list[float]] = {"bare": [], "watched": []}
    with tempfile.TemporaryDirectory(prefix="watched-", dir=given.spool) as temporary:
        work = Path(temporary)
        file = written(work, given.requests)
        for _ in range(given.turns):
            for what, settings in (("bare", BARE), ("watched", WATCHED)):
                os.environ.update(settings)
                with asked_every_second() as answers:
                    took, usage = through_daemon(file, work / "spool")
                if what == "watched" and not answers:
                    raise SystemExit("the metrics were never answered: what was measured is not what it says")
                seconds[what].append(took)
                cpu[what].append(usage.ru_utime + usage.ru_stime)
        file.unlink()
    print(f"{given.requests:,} requests, {given.turns} turns\n")
    print("| | requests/s (best) | CPU s (median) | CPU s (each) |\n|---|---|---|---|")
    for what in seconds:
        each = ", ".join(f"{value:.2f}" for value in cpu[what])
        rate = given.requests / min(seconds[what])
        print(f"| {what} | {rate:,.0f} | {statistics.median(cpu[what]):.2f} | {each} |")


@contextmanager
def asked_every_second() -> Iterator[list[int]]:
    """Ask for the metrics as Prometheus does, only more often; the list has the bytes of each answer."""
    over = threading.Event()
    answers: list[int] = []

    def ask() -> None:
        while not over.wait(1.0):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5) as answer:
                answers.append(len(answer.read()))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answers
    finally:
        over.set()
        asking.join()


if __name__ == "__main__":
    main()
