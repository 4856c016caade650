"""Eight daemons on one spool: every file is run once, nobody stops, and what a killed one had is taken over."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import orjson
import pytest
from running import Daemon, eventually, jsonl, request

from inbox_daemon.layout import Spool
from inbox_daemon.spool import published

Start = Callable[..., Daemon]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DAEMONS = 8
ENTERED = r"^(\S+ \S+) .* (f\d+): (?:claimed|accepted: .*|resumed: .*)$"


def asked(number: int) -> list[str]:
    return [f"f{number}-{i}" for i in range(1 + number % 2)]


def drop_many(spool: Path, files: int) -> None:
    """Fill the inbox before any daemon is there to look at it."""
    (spool / "inbox").mkdir(parents=True)
    for number in range(files):
        (spool / "inbox" / f"f{number}.jsonl").write_bytes(jsonl([request(one) for one in asked(number)]))


def finished(spool: Path) -> int:
    return sum((folder / "receipt.json").exists() for folder in (spool / "outbox").iterdir())


def held(daemon: Daemon) -> set[str]:
    """Return the batches that it has claimed and not ended, by its own words."""
    text = daemon.text()
    return set(re.findall(r" (f\d+): claimed\n", text)) - set(re.findall(r" (f\d+): completed: ", text))


def taken_over(orphans: set[str], others: Sequence[Daemon], killed_at: float) -> dict[str, float]:
    """Return for each orphan the seconds from the kill until another daemon says that it has it."""
    found: dict[str, float] = {}
    for daemon in others:
        for stamp, name in re.findall(ENTERED, daemon.text(), re.MULTILINE):
            at = datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp()
            if name in orphans and at >= killed_at:
                found[name] = min(at - killed_at, found.get(name, at))
    return found


def each_file_was_run_once(spool: Path, files: int) -> None:
    assert {path.name for path in (spool / "outbox").iterdir()} == {f"f{number}" for number in range(files)}
    for number in range(files):
        folder = spool / "outbox" / f"f{number}"
        receipt = orjson.loads((folder / "receipt.json").read_bytes())
        answers = [orjson.loads(line)["custom_id"] for line in (folder / "results.jsonl").read_bytes().splitlines()]
        assert answers == asked(number)
        assert (receipt["status"], receipt["answers"], receipt["errors"]) == ("completed", len(answers), 0)
    assert list((spool / "inbox").iterdir()) == []
    eventually(lambda: not list((spool / "work").iterdir()), 30, "work has let go of them all")


@pytest.mark.parametrize(
    ("files", "within"),
    [(300, 200.0), pytest.param(20_000, 1500.0, marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
)
def test_eight_daemons_run_each_file_once_though_one_of_them_is_killed(
    start_daemon: Start, tmp_path: Path, files: int, within: float
) -> None:
    spool = tmp_path / "spool"
    drop_many(spool, files)
    began = time.monotonic()
    daemons = [start_daemon(spool, ready=False) for _ in range(DAEMONS)]
    eventually(lambda: (spool / "outbox").exists() and finished(spool) >= files // 4, within, "a quarter is run")
    killed = max(daemons, key=lambda daemon: len(held(daemon)))
    others = [daemon for daemon in daemons if daemon is not killed]
    killed_at = time.time()
    killed.kill()
    orphans = held(killed)
    assert orphans
    eventually(lambda: taken_over(orphans, others, killed_at).keys() >= orphans, within, "all orphans adopted")
    adopted = sorted(taken_over(orphans, others, killed_at).values())
    eventually(lambda: finished(spool) == files and not list((spool / "work").iterdir()), within, "all files are run")
    took = time.monotonic() - began
    said = f"{len(orphans)} batches of a killed daemon adopted after {statistics.median(adopted):.1f} s"
    print(f"{files} files, {DAEMONS} daemons: {took:.0f} s, {files / took:.0f}/s; {said}, the last {adopted[-1]:.1f} s")
    each_file_was_run_once(spool, files)
    claims = Counter(re.findall(r" (f\d+): claimed\n", "".join(daemon.text() for daemon in daemons)))
    # An orphan that was not accepted yet is ingested again; nothing else is ever claimed by two.
    assert {name for name, times in claims.items() if times > 1} <= orphans
    assert [daemon.process.poll() for daemon in others] == [None] * len(others)
    assert not re.search("suspended|Traceback|cannot", "".join(daemon.text() for daemon in others))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace of its own needs root")
def test_daemons_of_one_host_name_and_pid_speak_for_themselves(start_daemon: Start) -> None:
    """As two containers have them: each is PID 1 of its own."""
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    one, two = start_daemon(prefix=alone), start_daemon(prefix=alone)
    assert one.spool == two.spool
    both = eventually(lambda: said if len(said := published.daemons(Spool(one.spool))) == 2 else None, 20)
    assert [(daemon["pid"], daemon["alive"]) for daemon in both] == [(1, True), (1, True)]
    assert both[0]["started_at"] != both[1]["started_at"]
