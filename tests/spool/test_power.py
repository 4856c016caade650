"""Power cuts: what the disk holds at any moment of a running daemon has every answer that was counted by then.

The spool lies on a file system in an image, the image on another file system, both in memory. To cut the power is to
freeze the outer one, in whose image nothing then changes, and to copy the image: it holds what the inner file system
had written to its disk, and nothing of what only lay in memory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import orjson
import pytest
from aftermath import torn
from mounts import SIZES, Mounts, frozen, image
from running import Daemon, custom_ids, eventually, jsonl, request

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Published
from inbox_daemon.spool import proof

pytestmark = pytest.mark.root

Start = Callable[..., Daemon]
BATCHES = {f"b{i}": 40 + 30 * i for i in range(6)}  # requests of each: they end one after another
RUNNING = {
    "INBOX_DAEMON_RESULTS__KEEP_FREE": "0",
    "INBOX_DAEMON_RESULTS__SYNC_EVERY": "10",
    "INBOX_DAEMON_RESULTS__SYNC_AFTER": "0.1",
    "INBOX_DAEMON_RESULTS__SEAL_EVERY": "25",
    "INBOX_DAEMON_ENGINE__IN_FLIGHT": "24",
}
NO_FDATASYNC = "import os\nos.fdatasync = lambda fd: None\n"


@dataclass(frozen=True, slots=True)
class Cut:
    """One power cut: a copy of the disk, what every status.json had counted before it, and what had been dropped."""

    disk: Path
    counted: dict[str, int]
    dropped: list[str]


@dataclass(slots=True)
class Found:
    """What all the cuts together came to."""

    cuts: int = 0
    counted: int = 0
    missing: int = 0
    complete: int = 0  # batches whose status.json counted every request
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = f"{self.cuts} power cuts, {self.counted} answers counted, {self.missing} missing"
        return f"{said}, {self.complete} batches complete, {len(self.problems)} problems"


def content_of(name: str) -> bytes:
    return jsonl([request(f"{name}-{i}", "x" * (i % 50)) for i in range(BATCHES[name])])


def drop_durably(daemon: Daemon, name: str) -> None:
    """As a sender does who fears power cuts himself."""
    hidden = daemon.inbox / f".{name}"
    hidden.write_bytes(content_of(name))
    _make_durable(hidden)
    hidden.rename(daemon.inbox / f"{name}.jsonl")
    _make_durable(daemon.inbox)


def _make_durable(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def counts(spool: Path) -> dict[str, int]:
    """Return how many outcomes each batch's status.json counts now."""
    found = {}
    for path in (spool / "outbox").glob("*/status.json"):
        counted = orjson.loads(path.read_bytes())["request_counts"]
        found[path.parent.name] = counted["completed"] + counted["failed"]
    return found


def cut_often(
    mounts: Mounts, start_daemon: Start, folder: Path, kind: str, times: int, sabotage: str = ""
) -> list[Cut]:
    """Run all batches to their end, three at a time, and cut the power `times` times on the way."""
    outer = mounts.mount(image(mounts.memory(2 * SIZES[kind]) / "outer", "ext4", SIZES[kind] + (64 << 20)), "ext4")
    disk = image(outer / "disk", kind)
    # What nobody syncs stays in memory: the file system's own commits are far away.
    spool = mounts.mount(disk, kind, "commit=300" if kind == "ext4" else "rw") / "spool"
    (folder / "sitecustomize.py").write_text(sabotage)
    own = {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    total = sum(BATCHES.values())
    own["INBOX_DAEMON_ENGINE__NULL__RATE"] = str(total / (4 + 1.5 * times))
    daemon = start_daemon(spool, environment=RUNNING | own)
    cuts: list[Cut] = []
    dropped: list[str] = []
    counted: dict[str, int] = {}

    def counted_more(enough: int) -> bool:
        counted = counts(spool)
        while len(dropped) < len(BATCHES) and sum(counted.get(name, 0) < BATCHES[name] for name in dropped) < 3:
            dropped.append(list(BATCHES)[len(dropped)])
            drop_durably(daemon, dropped[-1])
        return sum(counted.values()) >= enough

    while len(cuts) < times and sum(counted.values()) < total:
        enough = min(total, sum(counted.values()) + total // times)
        eventually(partial(counted_more, enough))
        counted = counts(spool)
        copy = folder / f"cut-{len(cuts)}"
        with frozen(outer):
            subprocess.run(["cp", "--sparse=always", disk, copy], check=True)
        cuts.append(Cut(copy, counted, list(dropped)))
    daemon.kill()
    mounts.unmount(spool.parent)
    return cuts


def wrong_with(outbox: Path, name: str) -> list[str]:
    """Say what this batch lacks of being complete, with one answer for each request."""
    original = outbox.parent / "original"
    original.write_bytes(content_of(name))
    try:
        problems = proof.verify(Published(outbox / name), original).problems
        ordered = custom_ids(outbox / name / "results.jsonl") == custom_ids(original)
    except (OSError, ValueError, KeyError, SpoolError) as error:
        return [f"{name}: {error}"]
    return problems if ordered else [*problems, f"{name}: not one answer for each request, in order"]


def examine(mounts: Mounts, start_daemon: Start, cut: Cut, kind: str, found: Found, within: float) -> None:
    """Switch the power on again: the file system recovers, the daemon recovers, and every batch comes to its end."""
    at = mounts.mount(cut.disk, kind, "rw" if kind == "ext4" else "nouuid")
    outbox = at / "spool" / "outbox"
    for path in [*outbox.glob("*/parts/*"), *outbox.glob("*/*.jsonl")]:
        found.problems += torn(path)
    recorded = {name: BATCHES[name] for name in cut.dropped if not wrong_with(outbox, name)}
    daemon = start_daemon(at / "spool", environment=RUNNING, arguments=["--drain"], ready=False)
    try:
        status: int | None = daemon.ended(within)
    except subprocess.TimeoutExpired:
        daemon.kill()
        status = None
    if status != 0:
        found.problems.append(f"the daemon ended with {status}: {daemon.text()}")
    for name, done in re.findall(r"(\w+): (?:accepted|resumed): \d+ requests, (\d+) done", daemon.text()):
        recorded.setdefault(name, int(done))
    for name in cut.dropped:
        found.problems += wrong_with(outbox, name)
    found.cuts += 1
    found.counted += sum(cut.counted.values())
    found.complete += sum(cut.counted.get(name, 0) == BATCHES[name] for name in cut.dropped)
    found.missing += sum(max(0, n - recorded.get(name, 0)) for name, n in cut.counted.items())
    mounts.unmount(at)
    cut.disk.unlink()


def power_cuts(mounts: Mounts, start_daemon: Start, folder: Path, kind: str, times: int, sabotage: str = "") -> Found:
    found = Found()
    for cut in cut_often(mounts, start_daemon, folder, kind, times, sabotage):
        examine(mounts, start_daemon, cut, kind, found, within=10 if sabotage else 60)
    print(f"{kind}: {found}")
    return found


KINDS = [kind for kind in SIZES if shutil.which(f"mkfs.{kind}")]


def test_a_power_cut_loses_no_answer_that_was_counted(mounts: Mounts, start_daemon: Start, tmp_path: Path) -> None:
    found = power_cuts(mounts, start_daemon, tmp_path, "ext4", times=8)
    assert (found.missing, found.problems) == (0, [])
    assert found.cuts >= 4
    assert found.counted > 500
    assert found.complete > 0


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
def test_no_power_cut_loses_an_answer_that_was_counted(
    mounts: Mounts, start_daemon: Start, tmp_path: Path, kind: str
) -> None:
    found = power_cuts(mounts, start_daemon, tmp_path, kind, times=100)
    assert (found.missing, found.problems) == (0, [])
    assert found.cuts >= 40


def test_a_daemon_that_does_not_sync_is_found_out(mounts: Mounts, start_daemon: Start, tmp_path: Path) -> None:
    found = power_cuts(mounts, start_daemon, tmp_path, "ext4", times=3, sabotage=NO_FDATASYNC)
    assert found.missing > 0
