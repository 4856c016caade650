"""The look at the inbox, where it is full: it takes turns with all else that the daemon does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from running import batch_of

from inbox_daemon.config import Config, InboxSettings
from inbox_daemon.inbox import arrivals
from inbox_daemon.inbox.arrivals import Arrivals, Arriving
from inbox_daemon.settings import Settings

FILES = 50


def inbox(folder: Path) -> Arriving:
    """An inbox with files that are as good as settled."""
    for number in range(FILES):
        (folder / f"f{number}.jsonl").write_bytes(batch_of(1))
    settings = Config(inbox=InboxSettings(settle=0, settle_unproven=0, watch="poll"))
    return Arriving(folder, Settings(settings), lambda: None)


def scan(looking: Arriving, now: float) -> tuple[int, Arrivals]:
    """Look until the scan is over; return in how many turns."""
    turns = 1
    while (arrivals := looking.look(now)) is None:
        assert looking.due_in(now) == 0
        turns += 1
    return turns, arrivals


def test_a_scan_of_a_full_inbox_pauses_after_each_slice_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_SLICE", 0.0)
    turns, found = scan(inbox(tmp_path), time.monotonic())
    assert turns == FILES + 1
    assert len(found.settled) == FILES


def test_the_next_scan_begins_no_sooner_than_the_last_one_took(tmp_path: Path) -> None:
    looking, now = inbox(tmp_path), time.monotonic()
    scan(looking, now)
    looking._hint()
    assert looking.look(now) is None
    assert 0 < looking.due_in(now) < 60


def test_a_file_that_has_settled_stays_so_until_it_changes(tmp_path: Path) -> None:
    looking, now = inbox(tmp_path), time.monotonic()
    _, first = scan(looking, now)
    assert len(first.settled) == FILES
    (tmp_path / "f0.jsonl").write_bytes(b'{"cut')
    _, second = scan(looking, now + 60)
    assert {one.name for one in first.settled} - {one.name for one in second.settled} == {"f0"}
    assert "waiting for the rest" in second.waiting["f0.jsonl"]


def test_a_rule_that_a_reload_changes_holds_from_the_next_scan_on(tmp_path: Path) -> None:
    looking, now = inbox(tmp_path), time.monotonic()
    assert len(scan(looking, now)[1].settled) == FILES
    looking._settings.take(Config(inbox=InboxSettings(require_sidecar=True, watch="poll")))
    _, found = scan(looking, now + 60)
    assert not found.settled
    assert "waiting for its sidecar" in found.waiting["f0.jsonl"]
