"""What goes after a batch's end, and what never does: by age, for room, a step at a time, and only what we wrote."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import Daemon, batch_of, eventually

from inbox_daemon import config
from inbox_daemon.batches import Batches
from inbox_daemon.config import ResultSettings
from inbox_daemon.ended import clearing, retention
from inbox_daemon.layout import Spool
from inbox_daemon.machine import disk
from inbox_daemon.setbacks import Setbacks
from inbox_daemon.settings import Settings
from inbox_daemon.spool import remains
from inbox_daemon.spool.remains import Ended

Start = Callable[..., Daemon]
HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    for folder in (made.inbox, made.outbox, made.work):
        folder.mkdir(parents=True)
    return made


def ended(spool: Spool, name: str, *, at: float = 1000.0, parts: int = 3, handed_back: str = "") -> Path:
    """Lay out the folder of a batch that has ended."""
    folder = spool.outbox / name
    (folder / "parts").mkdir(parents=True)
    for number in range(1, parts + 1):
        (folder / "parts" / f"part-{number:06d}.jsonl").write_text("{}\n")
    for file in ("results.jsonl", "errors.jsonl", "retry.jsonl", "status.json", "autopsy-1.txt", ".status.json.new"):
        (folder / file).write_text("{}")
    problem = {"code": "corrupt"} if handed_back else None
    if handed_back:
        (folder / handed_back).write_text("no batch")
    receipt = {
        "name": name,
        "id": f"batch_{name}" + (f"@{at:g}" if at == 2000.0 else ""),
        "times": {"finished_at": at},
        "problem": problem,
    }
    receipt["input"] = {"file": handed_back or f"{name}.jsonl"}
    (folder / "receipt.json").write_bytes(orjson.dumps(receipt))
    return folder


def removed(spool: Spool, name: str) -> bool:
    """Remove a batch's folder to the end; return whether anything of somebody else's stays."""
    what = remains.ended(spool, name)
    assert what is not None
    steps = remains.remove(spool, what)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bool(end.value)


# -- what is due


def test_what_is_due_goes_by_the_receipts_age_and_a_time_has_units() -> None:
    one = Ended("b", "id", 0.0, None, has_parts=True)

    def due(now: float, **settings: Any) -> tuple[int, int]:
        rules = retention.rules(config.build({"results": settings}, "test").results)
        return len(list(retention.folders_due([one], rules, now))), len(list(retention.parts_due([one], rules, now)))

    assert due(1e12) == (0, 1), "by default results stay for ever, and parts until some minutes after the end"
    assert due(500.0) == (0, 0) and due(600.0) == (0, 1)
    assert due(30 * DAY - 1, keep="30d") == (0, 1) and due(30 * DAY, keep="30d") == (1, 1)
    assert due(90 * 60.0, keep="90m", keep_parts="2h") == (1, 0)
    assert due(1e12, keep=0, keep_parts=0) == (0, 0) and due(61.0, keep_parts=60) == (0, 1)
    assert due(-5.0, keep="1s", keep_parts="1s") == (0, 0), "a clock that was set back"


def test_where_room_is_needed_parts_go_before_results_and_the_oldest_first() -> None:
    young, old = Ended("young", "2", 9.0, None, has_parts=True), Ended("old", "1", 1.0, None, has_parts=False)
    assert retention.first_to_go([old, young]) is young
    assert retention.first_to_go([old, Ended("x", "3", 5.0, None, has_parts=False)]) is old
    assert retention.first_to_go([]) is None


# -- removing


def test_of_a_folder_goes_what_the_daemon_wrote_and_the_receipt_goes_last(spool: Spool) -> None:
    folder = ended(spool, "b", handed_back="b.jsonl.gz")
    what = remains.ended(spool, "b")
    assert what is not None and what.has_parts
    for _ in remains.remove(spool, what):
        assert (folder / "receipt.json").exists()
    assert not folder.exists()


def test_what_others_put_into_a_folder_stays_and_so_does_a_copy_and_what_has_no_receipt(spool: Spool) -> None:
    mixed, running = ended(spool, "mixed"), ended(spool, "running")
    (mixed / "notes.txt").write_text("mine")
    (mixed / "mixed.jsonl").write_text("mine: it was no failed batch's")
    (mixed / "parts" / ".part-000001.jsonl.Xy").write_text("mine")
    (running / "receipt.json").unlink()
    shutil.copytree(ended(spool, "b"), spool.outbox / "kept")
    assert removed(spool, "mixed")
    left = sorted(str(path.relative_to(mixed)) for path in mixed.rglob("*"))
    assert left == ["mixed.jsonl", "notes.txt", "parts", "parts/.part-000001.jsonl.Xy"]
    assert remains.ended(spool, "kept") is None and remains.ended(spool, "running") is None
    assert [one and one.name for one in remains.all_ended(spool)].count("b") == 1
    assert len(list((spool.outbox / "kept").iterdir())) == 8


def test_nothing_is_removed_through_a_link(spool: Spool, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(ended(spool, "b"), elsewhere)
    shutil.rmtree(spool.outbox / "b" / "parts")
    (spool.outbox / "b" / "parts").symlink_to(elsewhere / "parts")
    (spool.outbox / "linked").symlink_to(elsewhere)
    assert remains.ended(spool, "linked") is None
    assert removed(spool, "b"), "the link is somebody's"
    assert len(list((elsewhere / "parts").iterdir())) == 3


def test_a_name_that_another_batch_takes_meanwhile_costs_that_one_nothing(spool: Spool) -> None:
    what = remains.ended(spool, ended(spool, "b").name)
    assert what is not None
    steps = remains.remove(spool, what)
    next(steps)
    (spool.outbox / "b").rename(spool.outbox / "old")
    ended(spool, "b", at=2000.0)
    list(steps)
    assert len(list((spool.outbox / "b").rglob("*"))) == 11
    again = remains.remove(spool, what)
    list(again)
    assert (spool.outbox / "b" / "receipt.json").exists(), "of an id of its own"


def test_a_batch_that_is_still_in_work_keeps_its_folder(spool: Spool) -> None:
    ended(spool, "b")
    (spool.work / "batch_b").mkdir()
    assert not removed(spool, "b")
    assert (spool.outbox / "b" / "receipt.json").exists()


@pytest.mark.parametrize("what", ["outbox", "work"])
def test_a_folder_of_many_parts_goes_a_file_at_a_step(spool: Spool, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop does steps for some milliseconds at a time."""
    folder = ended(spool, "b", parts=500)
    found = remains.ended(spool, "b")
    assert found is not None
    steps: Iterator[None] = remains.remove(spool, found) if what == "outbox" else remains.remove_tree(folder)
    gone: list[str] = []
    most, unlink = 0, os.unlink
    monkeypatch.setattr(os, "unlink", lambda *args, **kinds: (gone.append("x"), unlink(*args, **kinds))[1])
    for _ in steps:
        most = max(most, len(gone))
        gone.clear()
    assert most == 1 and not folder.exists()


# -- when


class Outbox:
    """An outbox that is cleared, on a clock of its own."""

    def __init__(self, spool: Spool, results: ResultSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("_FIRST_SCAN", 0.0), ("_SLICE", 60.0)):
            monkeypatch.setattr(clearing, name, value)
        self._wall = 0.0
        monkeypatch.setattr(time, "time", lambda: self._wall)
        settings = Settings(config.Config(spool=str(spool.root), results=results))
        self.spool, self._now = spool, time.monotonic()
        self._clearing = clearing.Clearing(spool, settings, Batches(spool, settings, Setbacks()))

    def after(self, *, wall: float, seconds: float = 31.0, needed: int = 0) -> set[str]:
        """Return which folders are there once so many seconds have passed, and the clock says `wall`."""
        self._wall = wall
        for _ in range(3):
            self._now += seconds / 3
            self._clearing.look(self._now, needed)
        return {folder.name for folder in self.spool.outbox.iterdir()}


def test_results_go_when_they_have_been_too_old_for_ten_minutes_whatever_a_copy_did_to_their_times(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    os.utime(ended(spool, "old", at=0.0), (1e9, 1e9))
    ended(spool, "young", at=40 * DAY)
    outbox = Outbox(spool, ResultSettings(keep="30d"), monkeypatch)
    assert outbox.after(wall=41 * DAY) == {"old", "young"}
    assert not list((spool.outbox / "old" / "parts").iterdir()), "their parts are gone at once"
    assert outbox.after(wall=20 * DAY, seconds=300) == {"old", "young"}, "the clock was wrong, and has been set"
    assert outbox.after(wall=41 * DAY, seconds=300) == {"old", "young"}
    with caplog.at_level("INFO"):
        assert outbox.after(wall=41 * DAY, seconds=2000) == {"young"}
    assert "old: results removed, 41 d 00 h after its end (results.keep)" in caplog.messages


def test_for_room_goes_no_more_than_is_needed(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for age, name in enumerate(("first", "second", "third")):
        ended(spool, name, at=float(age), parts=0)
    free = {3: 100, 2: 200, 1: 300}
    monkeypatch.setattr(disk, "lacking", lambda _, needed: max(0, needed - free[len(list(spool.outbox.iterdir()))]))
    kept = Outbox(spool, ResultSettings(keep_free=50), monkeypatch)
    assert kept.after(wall=10.0, needed=250) == {"first", "second", "third"}, "nobody has asked for it"
    outbox = Outbox(spool, ResultSettings(keep_free=50, make_room=True), monkeypatch)
    assert outbox.after(wall=10.0) == {"first", "second", "third"}
    with caplog.at_level("INFO"):
        assert outbox.after(wall=10.0, needed=150) == {"second", "third"}
    assert "first: results removed, for room on the disk (results.make_room)" in caplog.messages
    assert outbox.after(wall=10.0, needed=150) == {"second", "third"}


# -- hearing of it


@pytest.mark.slow
def test_a_program_hears_of_each_end_and_one_that_hangs_holds_up_nothing(start_daemon: Start, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    script = f'cat >> {heard}; case $(tail -1 {heard}) in *\'"name":"hangs\'*) sleep 600;; esac'
    daemon = start_daemon(settings=f"[batches]\nended = {orjson.dumps(['sh', '-c', script]).decode()}\n")
    for number in range(5):
        daemon.drop(f"hangs{number}.jsonl", batch_of(2))
    daemon.drop("bad.jsonl.gz", b"no gzip")
    daemon.finished("bad")
    daemon.finished("hangs4")
    eventually(lambda: heard.exists() and heard.read_bytes().count(b"\n") >= 4, 20, "four run at a time")
    told = [orjson.loads(line) for line in heard.read_bytes().splitlines()]
    one = told[0]
    assert one["folder"] == str(daemon.outbox(one["name"])) and one["status"] in ("completed", "failed")
    assert one["request_counts"]["completed"] == (2 if one["status"] == "completed" else 0)
    work = daemon.spool / "work"
    seats = lambda: [path.name for path in work.iterdir() if not path.name.startswith("gone-")]  # noqa: E731
    eventually(lambda: not seats(), 20, "no batch keeps its seat for it")
    assert daemon.stop() == 0
    again = start_daemon(settings=f"[batches]\nended = ['sh', '-c', 'cat >> {heard}']\n")
    eventually(lambda: not list((again.spool / "work").iterdir()), 20, "all are told")
    told = [orjson.loads(line) for line in heard.read_bytes().splitlines()]
    assert {one["name"] for one in told} == {*(f"hangs{number}" for number in range(5)), "bad"}
    assert [one["problem"]["code"] for one in told if one["name"] == "bad"] == ["corrupt_compression"]
