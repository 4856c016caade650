"""What users do to inbox and outbox between two passes of the loop, while a batch is in the middle of a long step."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import batch_of, custom_ids

from inbox_daemon import conditions, config, daemon, entrance, ledger
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.layout import Published
from inbox_daemon.notify import Notifier
from inbox_daemon.spool import publish, published, space
from inbox_daemon.spool.history import History


class Passes:
    """A daemon in this process whose passes are driven one by one."""

    def __init__(self, spool: Path) -> None:
        inbox = {"settle": 0.0, "settle_unproven": 0.0, "watch": "poll"}
        read = config.build({"spool": str(spool), "engine": {"kind": "null"}, "inbox": inbox}, "test")
        self.inbox, self._outbox = spool / "inbox", spool / "outbox"
        self.daemon = daemon.Daemon(read, lambda number: NullEngine(read.engine), Notifier({}), drain=False)

    def until(self, holds: Callable[[], object], within: float = 30.0) -> None:
        deadline = time.monotonic() + within
        while not holds():
            assert time.monotonic() < deadline, "it does not come to that"
            self.daemon.step(time.monotonic())

    def drop(self, name: str, content: bytes) -> None:
        (self.inbox / ".arriving").write_bytes(content)
        (self.inbox / ".arriving").rename(self.inbox / name)
        self.daemon._intake._hint()  # as the watch does

    def folder(self, name: str) -> Path:
        return self._outbox / name

    def status(self, name: str) -> dict[str, Any]:
        try:
            return dict(orjson.loads((self.folder(name) / "status.json").read_bytes()))
        except FileNotFoundError:
            return {}

    def is_now(self, name: str, status: str) -> Callable[[], bool]:
        return lambda: self.status(name).get("status") == status


@pytest.fixture
def passes(tmp_path: Path) -> Iterator[Passes]:
    driven = Passes(tmp_path / "spool")
    yield driven
    driven.daemon._shut_down()


def test_a_batch_whose_name_is_taken_while_it_is_merged_gets_another_and_overwrites_nothing(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "_CHUNK", 1)  # a merge of many steps
    monkeypatch.setattr(daemon, "_SLICE", 0.0005)
    monkeypatch.setattr(ledger, "_STATUS_EVERY", 60.0)  # a status would have the folder back at once
    passes.drop("b.jsonl", batch_of(2000, "first"))
    passes.until(passes.is_now("b", "finalizing"))
    shutil.rmtree(passes.folder("b"))
    passes.drop("b.jsonl", batch_of(5, "second"))
    passes.until(passes.is_now("b", "completed"))
    passes.until(passes.is_now("b.2", "completed"))
    for name, prefix, count in (("b", "second", 5), ("b.2", "first", 2000)):
        assert custom_ids(passes.folder(name) / "results.jsonl") == [f"{prefix}{i}" for i in range(count)]
        assert published.verify(Published(passes.folder(name))).problems == []
        assert passes.status(name)["name"] == name


def test_a_batch_cancelled_while_its_file_is_read_ends_at_once_and_the_file_comes_back(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for room on the disk, which may be never."""
    monkeypatch.setattr(space, "lacking", lambda folder, needed: 0 if folder.name == "work" else 10**9)
    passes.drop("b.jsonl", batch_of(50))
    passes.until(lambda: passes.status("b").get("waiting_for_disk_bytes"))
    passes.drop("b.cancel", b"")
    passes.until(lambda: not passes.daemon._lives)
    status = passes.status("b")
    assert (status["status"], [error["code"] for error in status["errors"]["data"]]) == (
        "cancelled",
        ["batch_cancelled"],
    )
    assert (passes.folder("b") / "b.jsonl").read_bytes() == batch_of(50)
    assert published.verify(Published(passes.folder("b"))).receipt["status"] == "cancelled"
    assert not list((passes.inbox.parent / "work").iterdir())


def test_a_cancelled_file_stays_cancelled_over_a_restart(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(space, "lacking", lambda folder, needed: 0 if folder.name == "work" else 10**9)
    passes.drop("b.jsonl", batch_of(50))
    passes.until(lambda: passes.status("b").get("waiting_for_disk_bytes"))
    [life] = passes.daemon._lives.values()
    life.work.cancel.touch()
    passes.daemon._lives.clear()
    life.let_go()
    passes.until(passes.is_now("b", "cancelled"))
    assert (passes.folder("b") / "b.jsonl").exists()


def test_a_control_file_dropped_before_its_batch_is_obeyed_once_the_batch_has_its_name(passes: Passes) -> None:
    passes.drop("b.pause", b"")
    passes.until(lambda: not passes.daemon._intake.arriving)
    passes.drop("b.jsonl", batch_of(5000))
    passes.until(lambda: passes.status("b").get("paused"), within=1.5)  # the next look by the clock is after 2 s
    assert passes.status("b")["status"] != "completed"
    assert not list(passes.inbox.iterdir())


def test_control_files_are_obeyed_in_the_order_in_which_they_came(passes: Passes) -> None:
    for verb in ("pause", "resume", "cancel"):
        for number in range(20):
            last = passes.inbox / f"b{number}.{verb}"
            last.touch()
        clock = passes.inbox / ".clock"
        clock.touch()
        while clock.lstat().st_ctime_ns == last.lstat().st_ctime_ns:  # it ticks every 4 ms
            clock.touch()
    arrivals = passes.daemon._intake.look(time.monotonic())
    assert arrivals
    assert [verb for _, _, verb in arrivals.controls] == ["pause"] * 20 + ["resume"] * 20 + ["cancel"] * 20


def test_control_files_wait_for_batches_that_are_claimed_and_have_no_name_yet(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However old they are: their files may have waited in the inbox for hours."""
    monkeypatch.setattr(entrance, "_PATIENCE", 0.0)
    monkeypatch.setattr(daemon, "_SLICE", 0.0)  # no batch gets as far as a name
    for number in range(5):
        (passes.inbox / f"b{number}.pause").touch()
        passes.drop(f"b{number}.jsonl", batch_of(5000))
    passes.until(lambda: len(passes.daemon._lives) == 5)
    for _ in range(5):
        passes.daemon._intake._hint()
        passes.daemon.step(time.monotonic())
    monkeypatch.setattr(daemon, "_SLICE", 1.0)
    passes.until(lambda: all(passes.status(f"b{number}").get("paused") for number in range(5)))


def test_a_control_file_for_a_batch_that_another_daemon_has_just_claimed_waits_for_it(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = passes.inbox / "b.cancel"
    cancel.touch()
    for _ in range(3):
        passes.daemon._intake._hint()
        passes.daemon.step(time.monotonic())
    assert cancel.exists()
    monkeypatch.setattr(entrance, "_PATIENCE", 0.0)
    passes.daemon._intake._hint()
    passes.until(lambda: not cancel.exists())


def test_a_control_file_for_no_batch_is_thrown_away(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(entrance, "_PATIENCE", 0.0)
    passes.drop("nobody.cancel", b"")
    passes.until(lambda: not list(passes.inbox.iterdir()))
    assert "nobody.cancel thrown away: no batch called nobody is waiting or running" in caplog.text


def test_a_merge_that_does_not_fit_leaves_nothing_behind_and_is_done_where_it_fits(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "_CHUNK", 1)
    monkeypatch.setattr(entrance, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(daemon, "_SUSPEND", 0.0)
    final = lambda: list(passes.inbox.parent.glob("work/*/final/*"))  # noqa: E731
    write = publish._Target.flush
    full, seen = [True], list[Path]()

    def flush(target: publish._Target) -> None:
        write(target)
        seen.extend(final())
        if full[0] and target.merged.lines > 100:
            raise OSError(errno.ENOSPC, "No space left on device", str(target.path))

    monkeypatch.setattr(publish._Target, "flush", flush)
    passes.drop("b.jsonl", batch_of(300))
    passes.until(lambda: passes.daemon._entrance.suspended)
    assert seen and not final()
    full[0] = False
    passes.until(passes.is_now("b", "completed"))
    assert published.verify(Published(passes.folder("b"))).problems == []


def test_what_a_killed_merge_has_left_is_gone_before_anything_else_is_written(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "_CHUNK", 1)
    monkeypatch.setattr(daemon, "_SLICE", 0.0005)
    passes.drop("b.jsonl", batch_of(2000))
    passes.until(lambda: list(passes.inbox.parent.glob("work/*/final/results.jsonl")))
    [life] = passes.daemon._lives.values()
    life.let_go()
    passes.daemon._lives.clear()
    [left] = passes.inbox.parent.glob("work/*/final/results.jsonl")
    seen = []
    note = History.note
    monkeypatch.setattr(History, "note", lambda *a, **k: seen.append(left.exists()) or note(*a, **k))
    monkeypatch.setattr(entrance, "_ADOPT_EVERY", 0.0)
    passes.until(passes.is_now("b", "completed"))
    assert seen and seen[0] is False


def test_drain_goes_on_where_the_inbox_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = config.build({"spool": str(tmp_path), "engine": {"kind": "null"}}, "test")
    one = daemon.Daemon(read, lambda number: NullEngine(read.engine), Notifier({}), drain=True)
    look = os.scandir

    def refused(path: Path) -> Any:
        if path == tmp_path / "inbox":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", refused)
    one.step(time.monotonic())
    assert not one._done(time.monotonic())
    monkeypatch.setattr(os, "scandir", look)
    while not one._done(time.monotonic()):
        one.step(time.monotonic())
    one._shut_down()


def test_files_that_fail_again_and_again_are_an_alert_until_they_do_not(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "_FAILED_FOR", 0.0)
    monkeypatch.setattr(entrance, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(daemon, "_SUSPEND", 0.0)
    look, write = os.scandir, publish._Target.flush
    broken = [True]

    def listed(path: Path) -> Any:
        if path == passes.inbox and broken[0]:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    def flush(target: publish._Target) -> None:
        if broken[0]:
            raise OSError(errno.EIO, "Input/output error", str(target.path))
        write(target)

    def raised() -> dict[str | None, str]:
        return {alert.batch: alert.text for alert in passes.daemon._oversight.raised if alert.name == "FilesFailing"}

    monkeypatch.setattr(publish._Target, "flush", flush)
    passes.drop("b.jsonl", batch_of(3))
    passes.until(lambda: "b" in raised())
    assert "its files failed 3 times in 0 min, the last time: " in raised()["b"] and "Input/output" in raised()["b"]
    monkeypatch.setattr(os, "scandir", listed)
    passes.until(lambda: None in raised())
    assert raised()[None].startswith("inbox: what is in it failed 3 times") and "Permission denied" in raised()[None]
    broken[0] = False
    passes.until(lambda: not raised())
    assert passes.status("b")["status"] == "completed"
