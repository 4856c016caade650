"""Who is taken first where seats are short, and who has none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Daemon, batch_of, eventually

from inbox_daemon.config import Config, InboxSettings
from inbox_daemon.inbox.arrivals import Arriving
from inbox_daemon.inbox.seats import Candidate, in_order, is_free
from inbox_daemon.settings import Settings

Start = Callable[..., Daemon]


def candidate(name: str, priority: int = 0, size: int = 100, waited: float = 0.0) -> Candidate:
    return Candidate(Path(f"{name}.jsonl"), name, priority, size, waited)


def test_the_urgent_come_first_then_who_has_waited_long_then_the_short() -> None:
    files = [
        candidate("long", size=10**9, waited=30),
        candidate("longest", size=10**10, waited=900),
        candidate("short", size=10, waited=1),
        candidate("urgent and long", priority=5, size=10**9),
        candidate("waited most", size=10**8, waited=1000),
        candidate("later", priority=-1, size=1, waited=10**6),
    ]
    expected = ["urgent and long", "waited most", "longest", "short", "long", "later"]
    assert [one.name for one in in_order(files)] == expected


def test_batches_of_a_lower_priority_take_no_seat_away() -> None:
    assert is_free(0, [0, 0], 3)
    assert not is_free(0, [0, 0, 0], 3)
    assert is_free(1, [0, 0, 0], 3)
    assert not is_free(1, [1, 1, 5, 0], 3)
    assert not is_free(-1, [0, 0, 0], 3)


def test_what_a_scan_finds_is_in_the_order_of_seats_whoever_gives_the_priority(tmp_path: Path) -> None:
    for name, lines in (("long", 50), ("urgent-1", 9), ("short", 1), ("said", 70), ("middle", 5)):
        (tmp_path / f"{name}.jsonl").write_bytes(batch_of(lines))
    (tmp_path / "said.priority").write_text("20")
    inbox = InboxSettings(settle=0, settle_unproven=0, watch="poll", priorities={"urgent-*": 10})
    looking = Arriving(tmp_path, Settings(Config(inbox=inbox)), lambda: None)
    while (found := looking.look(time.monotonic())) is None:
        pass
    assert [one.name for one in found.settled] == ["said", "urgent-1", "short", "middle", "long"]


@pytest.mark.slow
def test_a_batch_that_is_held_has_no_seat_and_an_urgent_one_waits_for_none(start_daemon: Start) -> None:
    settings = {"INBOX_DAEMON_INBOX__MAX_CLAIMED": "2", "INBOX_DAEMON_ENGINE__NULL__RATE": "2"}
    daemon = start_daemon(environment=settings)
    for name in ("p0", "p1"):
        (daemon.inbox / f"{name}.pause").touch()
        daemon.drop(f"{name}.jsonl", batch_of(50))
    eventually(lambda: daemon.status("p0").get("paused") and daemon.status("p1").get("paused"))
    daemon.drop("a.jsonl", batch_of(100))
    daemon.drop("b.jsonl", batch_of(100))
    eventually(lambda: daemon.status("a") and daemon.status("b"))
    daemon.drop("c.jsonl", batch_of(1))
    daemon.drop("now.jsonl", batch_of(1))
    hidden = daemon.inbox / ".now"
    hidden.write_text("7")
    hidden.rename(daemon.inbox / "now.priority")
    daemon.finished("now")
    assert not daemon.status("c")
    assert daemon.status("p0")["request_counts"]["completed"] == 0
