"""Whom a control file means where its name is that of a batch in work, of one that ended, or of a file that waits."""

from __future__ import annotations

from pathlib import Path

import pytest
from passes import Passes
from running import batch_of

from inbox_daemon.batch import face
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.inbox import obeying
from inbox_daemon.inbox.came import Order
from inbox_daemon.inbox.seats import Candidate
from inbox_daemon.spool.meant import Came, goes_with, to_take_along


@pytest.mark.parametrize(
    ("came", "waiting", "lives", "expected"),
    [
        (5, {"b.jsonl": 4}, True, ["b.jsonl"]),
        (5, {"b.jsonl": 5}, True, ["b.jsonl"]),  # together
        (3, {"b.jsonl": 4}, True, []),
        (3, {"b.jsonl": 4}, False, ["b.jsonl"]),
        (3, {}, False, []),
        (5, {"b.jsonl": 2, "b.jsonl.gz": 4}, True, ["b.jsonl.gz"]),
        (3, {"b.jsonl": 2, "b.jsonl.gz": 4}, False, ["b.jsonl"]),
        (1, {"b.jsonl": 2, "b.jsonl.gz": 4}, False, ["b.jsonl", "b.jsonl.gz"]),
        (1, {"b.jsonl": 2, "b.jsonl.gz": 4}, True, []),
    ],
)
def test_a_control_file_goes_with_the_last_file_that_came_before_it_else_it_means_the_batch_in_work(
    came: int, waiting: dict[str, int], lives: bool, expected: list[str]
) -> None:
    files = {file: Came(0, ctime) for file, ctime in waiting.items()}
    assert list(goes_with(Came(0, came), files, lives)) == expected


def test_who_was_seen_first_came_first_however_long_its_upload_takes(tmp_path: Path) -> None:
    file, control, late = (tmp_path / name for name in ("b.jsonl", "b.pause", "b.cancel"))
    order = Order()
    file.touch()
    order.scan(["b.jsonl"])
    assert order.of(file) < order.of(control)
    control.touch()
    late.touch()
    order.scan(["b.jsonl", "b.pause"])
    came = order.of(control)
    _later(file, control)
    assert order.of(file) < came == order.of(control) < order.of(late)
    _later(control, file)
    assert order.of(control) > came, "it is said again"
    order.taken(file)
    assert order.of(file) > order.of(control), "the next one of its name"


def _later(path: Path, than: Path) -> None:
    while path.lstat().st_ctime_ns <= than.lstat().st_ctime_ns:
        path.chmod(0o644)


# -- a second file, while the first one's batch is in work or after it


@pytest.fixture
def first(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> Passes:
    """The batch `b` is in work, and no engine takes anything."""
    monkeypatch.setattr(NullEngine, "room", lambda engine: 0)
    monkeypatch.setattr(face, "_STATUS_EVERY", 0.0)
    passes.drop("b.jsonl", batch_of(5, "first"))
    passes.until(passes.is_now("b", "in_progress"))
    return passes


def drop_in_order(passes: Passes, *names: str, content: bytes = b"") -> None:
    """Drop a second b.jsonl and control files, each of them a tick of the clock after the last."""
    for name in names:
        there = passes.inbox / name
        (passes.inbox / ".arriving").write_bytes(content or batch_of(3, "second") if ".jsonl" in name else b"7")
        (passes.inbox / ".arriving").rename(there)
        passes.let_the_clock_tick(there)
    passes.daemon._arriving._hint()


def become_of(passes: Passes, name: str) -> tuple[bool, int, bool]:
    status = passes.status(name)
    return status["paused"], status["priority"], status["status"] in ("cancelling", "cancelled")


@pytest.mark.parametrize(
    ("dropped", "of_first", "of_second"),
    [
        (("b.jsonl", "b.pause", "b.priority"), (False, 0, False), (True, 7, False)),
        (("b.pause", "b.priority", "b.jsonl"), (True, 7, False), (False, 0, False)),
        (("b.pause", "b.jsonl", "b.priority"), (True, 0, False), (False, 7, False)),
        (("b.jsonl", "b.pause", "b.jsonl.resume"), (False, 0, False), (False, 0, False)),
        (("b.jsonl", "b.resume", "b.jsonl.pause"), (False, 0, False), (True, 0, False)),
        (("b.jsonl", "b.cancel"), (False, 0, False), (False, 0, True)),
        (("b.jsonl", "ID.cancel"), (False, 0, True), (False, 0, False)),
    ],
)
def test_what_came_after_a_file_goes_with_it_and_what_came_before_means_the_batch_in_work(
    dropped: tuple[str, ...],
    of_first: tuple[bool, int, bool],
    of_second: tuple[bool, int, bool],
    first: Passes,
) -> None:
    drop_in_order(first, *(name.replace("ID", first.status("b")["id"]) for name in dropped))
    first.until(lambda: first.status("b.2") and not list(first.inbox.glob("b*")))
    first.until(lambda: (become_of(first, "b"), become_of(first, "b.2")) == (of_first, of_second), within=5)
    for _ in range(5):
        first.look()
    assert (become_of(first, "b"), become_of(first, "b.2")) == (of_first, of_second)


@pytest.mark.parametrize("dropped", [("b.pause", "b.jsonl"), ("b.jsonl", "b.pause")])
def test_a_batch_that_has_ended_is_none_to_control(
    dropped: tuple[str, str], passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    passes.drop("b.jsonl", batch_of(5, "first"))
    passes.until(passes.is_now("b", "completed"))
    drop_in_order(passes, *dropped)
    passes.until(lambda: passes.status("b.2").get("paused"), within=5)
    assert passes.status("b.2")["request_counts"]["completed"] == 0
    assert not passes.status("b")["paused"] and "thrown away" not in caplog.text
    monkeypatch.setattr(obeying, "_PATIENCE", 0.0)
    drop_in_order(passes, "b.cancel")
    passes.until(lambda: not (passes.inbox / "b.cancel").exists())
    assert "b.cancel thrown away: b has ended, and no file of that name waits" in caplog.text


def test_a_file_that_is_uploaded_for_an_hour_was_there_before_what_came_in_that_hour(first: Passes) -> None:
    whole = batch_of(3, "second")
    drop_in_order(first, "b.jsonl", content=whole[:-9])
    first.look()
    drop_in_order(first, "b.pause")
    first.look()
    with (first.inbox / "b.jsonl").open("ab") as rest:
        rest.write(whole[-9:])
    first.look()
    first.until(lambda: first.status("b.2").get("paused"), within=5)
    assert not first.status("b")["paused"] and not list(first.inbox.glob("b*"))


def test_what_came_with_a_file_that_its_user_took_away_means_nobody_else(
    first: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drop_in_order(first, "b.jsonl", "b.cancel", content=batch_of(3)[:-9])
    first.look()
    (first.inbox / "b.jsonl").unlink()
    first.look()
    monkeypatch.setattr(obeying, "_PATIENCE", 0.0)
    first.look()
    first.until(lambda: not (first.inbox / "b.cancel").exists())
    assert become_of(first, "b") == (False, 0, False)
    assert "b.cancel thrown away: the file that it came with is not there any more" in caplog.text


def test_what_came_with_a_copy_is_for_the_batch_that_it_is_a_copy_of(first: Passes) -> None:
    drop_in_order(first, "b.jsonl", "b.cancel", "b.priority", content=batch_of(5, "first"))
    first.until(lambda: first.status("b").get("resent") and become_of(first, "b") == (False, 7, True))
    assert not (first.folder("b").parent / "b.2").exists()


def test_a_priority_that_is_being_written_is_not_taken_along_empty(first: Passes) -> None:
    drop_in_order(first, "b.jsonl", "b.priority")
    (first.inbox / "b.priority").write_bytes(b"")
    spool = first.daemon.spool
    assert to_take_along(spool, first.inbox / "b.jsonl", lambda name: True) == []


def test_a_priority_moves_up_the_file_that_it_goes_with_and_no_other_of_its_name(tmp_path: Path) -> None:
    early, said, late = (tmp_path / name for name in ("b.jsonl", "b.priority", "b.jsonl.gz"))
    order = Order()
    for path in (early, said, late):
        path.write_text("7")
        order.scan(there.name for there in tmp_path.iterdir())
    settled = [Candidate(path, "b", priority=1, size=1, waited=1.0) for path in (early, late)]
    assert [one.priority for one in order.as_users_say(settled, [(said, "b", "priority")])] == [7, 1]
