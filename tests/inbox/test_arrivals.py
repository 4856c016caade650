"""The look at the inbox, where it is full: it takes turns with all else that the daemon does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from running import batch_of, piped_through_zstd

from inbox_daemon.config import Config, InboxSettings
from inbox_daemon.inbox import arrivals
from inbox_daemon.inbox.arrivals import Arrivals, Arriving
from inbox_daemon.settings import Settings
from inbox_daemon.spool import complete

FILES = 50
AT_ONCE = Config(inbox=InboxSettings(settle=0, settle_unproven=0, watch="poll"))


def inbox(folder: Path) -> Arriving:
    """An inbox with files that are as good as settled."""
    for number in range(FILES):
        (folder / f"f{number}.jsonl").write_bytes(batch_of(1))
    return Arriving(folder, Settings(AT_ONCE), lambda: None)


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


def test_a_settled_file_that_gets_another_name_before_it_is_claimed_is_looked_at_again_at_once(tmp_path: Path) -> None:
    looking, now = inbox(tmp_path), time.monotonic()
    _, found = scan(looking, now)
    [one] = [one.path for one in found.settled if one.name == "f0"]
    assert looking.unchanged(one) and looking.due_in(now + 1.0) > 0
    before = one.lstat().st_ctime_ns
    while one.lstat().st_ctime_ns == before:  # the kernel's stamps tick every 4 ms
        (tmp_path / ".another").hardlink_to(one)
        (tmp_path / ".another").unlink()
    assert not looking.unchanged(one)
    assert looking.due_in(now + 1.0) == 0
    assert "f0" in {one.name for one in scan(looking, now + 1.0)[1].settled}


def test_a_rule_that_a_reload_changes_holds_from_the_next_scan_on(tmp_path: Path) -> None:
    looking, now = inbox(tmp_path), time.monotonic()
    assert len(scan(looking, now)[1].settled) == FILES
    looking._settings.take(Config(inbox=InboxSettings(require_sidecar=True, watch="poll")))
    _, found = scan(looking, now + 60)
    assert not found.settled
    assert "waiting for its sidecar" in found.waiting["f0.jsonl"]


def test_of_files_whose_unpacking_takes_much_memory_one_is_read_at_a_time_and_a_small_one_waits_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_KEPT_AT_ONCE", 0)
    monkeypatch.setattr(arrivals, "_READ", 0.0)
    read: Counter[str] = Counter()  # blocks of those that are being read

    def counted(path: Path, limit: int) -> Iterator[int]:
        for kept in complete.read_to_see(path, limit):
            read[path.name] += 1
            yield kept
        read.pop(path.name, None)

    monkeypatch.setattr(arrivals, "complete", SimpleNamespace(**vars(complete) | {"read_to_see": counted}))
    looking, now = Arriving(tmp_path, Settings(AT_ONCE), lambda: None), time.monotonic()
    large = piped_through_zstd(batch_of(20_000))
    for number in range(5):
        (tmp_path / f"large-{number}.jsonl.zst").write_bytes(large)
    scan(looking, now)
    assert len(read) == 5
    (tmp_path / "small.jsonl.zst").write_bytes(piped_through_zstd(batch_of(1), window=10))
    settled: list[list[str]] = []
    while not settled or len(settled[-1]) < 6:
        now += 60
        settled.append([one.name for one in scan(looking, now)[1].settled])
        assert sum(blocks > 1 for blocks in read.values()) <= 1
    assert "small" in settled[1] and len(settled[1]) < 6
    assert not read
