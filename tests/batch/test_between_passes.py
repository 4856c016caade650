"""What users do to inbox and outbox between two passes of the loop, while a batch is in the middle of a long step."""

from __future__ import annotations

import errno
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from passes import Passes, made
from running import batch_of, custom_ids, error_of, jsonl, lines, request

from inbox_daemon import batches, config, daemon
from inbox_daemon.batch import face, needs
from inbox_daemon.batch.life import Life
from inbox_daemon.cli import show
from inbox_daemon.config import ResultSettings
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.inbox import arrivals, obeying, taking
from inbox_daemon.layout import Published, Spool
from inbox_daemon.machine import disk
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.spool import claim, control, daemons, drop, files, outbox, proof, publish, published
from inbox_daemon.spool.history import History
from inbox_daemon.watch import conditions

REMOVE = claim.Held.remove


def counted(life: Life) -> int:
    """How many outcomes of the batch are durable."""
    return life.running.books.tally.done if life.running else 0


def may_be_full(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether batches lack room on the disk from now on; to be changed."""
    full = [False]
    monkeypatch.setattr(disk, "lacking", lambda folder, needed: 10**9 if full[0] and folder.name != "work" else 0)
    monkeypatch.setattr(needs, "_LOOK_EVERY", 0.0)
    return full


def test_a_batch_whose_name_is_taken_while_it_is_merged_gets_another_and_overwrites_nothing(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "_CHUNK", 1)  # a merge of many steps
    monkeypatch.setattr(daemon, "_SLICE", 0.0005)
    monkeypatch.setattr(face, "_STATUS_EVERY", 60.0)  # a status would have the folder back at once
    passes.drop("b.jsonl", batch_of(2000, "first"))
    passes.until(passes.is_now("b", "finalizing"))
    shutil.rmtree(passes.folder("b"))
    passes.drop("b.jsonl", batch_of(5, "second"))
    passes.until(passes.is_now("b", "completed"))
    passes.until(passes.is_now("b.2", "completed"))
    for name, prefix, count in (("b", "second", 5), ("b.2", "first", 2000)):
        assert custom_ids(passes.folder(name) / "results.jsonl") == [f"{prefix}{i}" for i in range(count)]
        assert proof.verify(Published(passes.folder(name))).problems == []
        assert passes.status(name)["name"] == name


def test_two_files_of_one_name_are_told_apart_though_neither_batch_had_its_name_when_they_were_dropped(
    passes: Passes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(passes.inbox.parent)
    dropped = []
    with monkeypatch.context() as nameless:
        nameless.setattr(Life, "step", lambda life: False)  # no batch gets as far as a name
        for number in range(2):
            (tmp_path / "x.jsonl").write_bytes(batch_of(3 + number))
            dropped.append(drop.drop(spool, tmp_path / "x.jsonl"))
            passes.daemon._arriving._hint()
            passes.until(lambda number=number: len(passes.daemon._batches) == number + 1)
    assert [one.file for one in dropped] == ["x.jsonl", "x.jsonl"]
    for number, one in enumerate(dropped):
        passes.until(lambda one=one: (published.made_of(spool, one.file, one.mark) or {}).get("status") == "completed")
        made = published.made_of(spool, one.file, one.mark)
        assert made and made["request_counts"]["total"] == 3 + number


def test_a_batch_cancelled_while_its_file_is_read_ends_at_once_and_the_file_comes_back(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for room on the disk, which may be never."""
    monkeypatch.setattr(disk, "lacking", lambda folder, needed: 0 if folder.name == "work" else 10**9)
    passes.drop("b.jsonl", batch_of(50))
    passes.until(lambda: passes.status("b").get("waiting_for_disk_bytes"))
    passes.drop("b.cancel", b"")
    passes.until(lambda: not len(passes.daemon._batches))
    status = passes.status("b")
    assert (status["status"], [error["code"] for error in status["errors"]["data"]]) == (
        "cancelled",
        ["batch_cancelled"],
    )
    assert (passes.folder("b") / "b.jsonl").read_bytes() == batch_of(50)
    assert proof.verify(Published(passes.folder("b"))).receipt["status"] == "cancelled"
    passes.until(lambda: not list((passes.inbox.parent / "work").iterdir()))


def test_a_cancelled_file_stays_cancelled_over_a_restart(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(disk, "lacking", lambda folder, needed: 0 if folder.name == "work" else 10**9)
    passes.drop("b.jsonl", batch_of(50))
    passes.until(lambda: passes.status("b").get("waiting_for_disk_bytes"))
    [life] = passes.daemon._batches
    life.work.cancel.touch()
    passes.let_go()
    passes.until(passes.is_now("b", "cancelled"))
    assert (passes.folder("b") / "b.jsonl").exists()


def test_a_control_file_dropped_before_its_batch_is_obeyed_once_the_batch_has_its_name(passes: Passes) -> None:
    passes.drop("b.pause", b"")
    passes.until(lambda: not passes.daemon._arriving.arriving)
    passes.drop("b.jsonl", batch_of(5000))
    passes.until(lambda: passes.status("b").get("paused"), within=1.5)  # the next look by the clock is after 2 s
    assert passes.status("b")["status"] != "completed"
    assert not list(passes.inbox.iterdir())


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_nothing_of_a_batch_runs_whose_control_file_came_first_however_late_the_next_scan_is(
    verb: str, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[object] = []
    send = NullEngine.send
    monkeypatch.setattr(NullEngine, "send", lambda engine, requests: (sent.extend(requests), send(engine, requests)))
    monkeypatch.setattr(passes.daemon._arriving, "claimed", lambda: None)
    monkeypatch.setattr(arrivals, "POLL", 60.0)
    (passes.inbox / f"b.{verb}").touch()
    passes.drop("b.jsonl", batch_of(50))
    passes.until(lambda: passes.status("b").get("paused") or passes.is_now("b", "cancelled")())
    for _ in range(20):
        passes.daemon.step(time.monotonic())
    assert sent == []
    assert not list(passes.inbox.iterdir())


def test_of_the_control_files_that_came_before_their_batch_the_last_one_counts(passes: Passes) -> None:
    for verb, content in (("resume", b""), ("priority", b"7"), ("pause", b"")):
        (passes.inbox / f"b.{verb}").write_bytes(content)
        passes.let_the_clock_tick(passes.inbox / f"b.{verb}")
    passes.drop("b.jsonl", batch_of(50))
    passes.until(lambda: passes.status("b").get("status") == "in_progress")
    status = passes.status("b")
    assert (status["paused"], status["priority"]) == (True, 7)


def test_control_files_are_obeyed_in_the_order_in_which_they_came(passes: Passes) -> None:
    for verb in ("pause", "resume", "cancel"):
        for number in range(20):
            last = passes.inbox / f"b{number}.{verb}"
            last.touch()
        passes.let_the_clock_tick(last)
    arrivals = passes.daemon._arriving.look(time.monotonic())
    assert arrivals
    assert [verb for _, _, verb in arrivals.controls] == ["pause"] * 20 + ["resume"] * 20 + ["cancel"] * 20


def test_control_files_wait_for_batches_that_are_claimed_and_have_no_name_yet(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However old they are: their files may have waited in the inbox for hours."""
    monkeypatch.setattr(obeying, "_PATIENCE", 0.0)
    monkeypatch.setattr(daemon, "_SLICE", 0.0)  # no batch gets as far as a name
    for number in range(5):
        (passes.inbox / f"b{number}.pause").touch()
        passes.drop(f"b{number}.jsonl", batch_of(5000))
    passes.until(lambda: len(passes.daemon._batches) == 5)
    for _ in range(5):
        passes.look()
    monkeypatch.setattr(daemon, "_SLICE", 1.0)
    passes.until(lambda: all(passes.status(f"b{number}").get("paused") for number in range(5)))


def test_a_control_file_for_a_batch_that_another_daemon_has_just_claimed_waits_for_it(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = passes.inbox / "b.cancel"
    cancel.touch()
    for _ in range(3):
        passes.look()
    assert cancel.exists()
    monkeypatch.setattr(obeying, "_PATIENCE", 0.0)
    passes.daemon._arriving._hint()
    passes.until(lambda: not cancel.exists())


def test_a_control_file_for_no_batch_is_thrown_away(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(obeying, "_PATIENCE", 0.0)
    passes.drop("nobody.cancel", b"")
    passes.until(lambda: not list(passes.inbox.iterdir()))
    assert "nobody.cancel thrown away: no batch called nobody is waiting or running" in caplog.text


def test_a_merge_that_does_not_fit_leaves_nothing_behind_and_is_done_where_it_fits(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(publish, "_CHUNK", 1)
    monkeypatch.setattr(batches, "_SUSPEND", 0.0)
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
    passes.until(lambda: passes.daemon._batches.suspended)
    assert seen and not final()
    full[0] = False
    passes.until(passes.is_now("b", "completed"))
    assert proof.verify(Published(passes.folder("b"))).problems == []


def test_what_a_killed_merge_has_left_is_gone_before_anything_else_is_written(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(publish, "_CHUNK", 1)
    monkeypatch.setattr(daemon, "_SLICE", 0.0005)
    passes.drop("b.jsonl", batch_of(2000))
    passes.until(lambda: list(passes.inbox.parent.glob("work/*/final/results.jsonl")))
    passes.let_go()
    [left] = passes.inbox.parent.glob("work/*/final/results.jsonl")
    seen = []
    note = History.note
    monkeypatch.setattr(History, "note", lambda *a, **k: seen.append(left.exists()) or note(*a, **k))
    passes.until(passes.is_now("b", "completed"))
    assert seen and seen[0] is False


def test_drain_goes_on_where_the_inbox_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = config.build({"spool": str(tmp_path), "engine": {"kind": "null"}}, "test")
    one = daemon.Daemon(read, made(read), Notifier({}), drain=True)
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
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(conditions, "_FAILED_FOR", 0.0)
    monkeypatch.setattr(arrivals, "POLL", 0.0)
    monkeypatch.setattr(batches, "_SUSPEND", 0.0)
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
    assert "its files failed 3 times in " in raised()["b"] and "Input/output" in raised()["b"]
    monkeypatch.setattr(os, "scandir", listed)
    passes.until(lambda: None in raised())
    assert raised()[None].startswith("inbox: failed 3 times") and "Permission denied" in raised()[None]
    broken[0] = False
    passes.until(lambda: not raised())
    assert passes.status("b")["status"] == "completed"


def test_control_files_for_nobody_are_looked_up_once_a_pass_however_many_there_are(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obeying, "_PATIENCE", 0.0)
    looks, count, listed = 0, 0, published.to_come

    def to_come(spool: Any) -> set[str]:
        nonlocal count
        count += 1
        return listed(spool)

    monkeypatch.setattr(published, "to_come", to_come)
    for number in range(300):
        (passes.inbox / f"nobody-{number}.cancel").touch()
    while list(passes.inbox.iterdir()):
        passes.look()
        looks += 1
    assert count <= 2 * looks < 100


def test_of_many_control_files_some_are_obeyed_in_each_pass(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obeying, "_PATIENCE", 0.0)
    monkeypatch.setattr(obeying, "_SLICE", 1e-9)
    for number in range(20):
        (passes.inbox / f"nobody-{number}.cancel").touch()
    left = [20]
    while left[-1]:
        passes.look()
        left.append(len(list(passes.inbox.iterdir())))
    assert len(left) > 20


def test_nothing_is_told_of_a_log_that_is_being_read_back(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed daemon has left of it in the page cache is durable only at the end of that."""
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(NullEngine, "room", lambda engine: 50)
    passes.drop("b.jsonl", batch_of(5000))
    passes.until(lambda: any(counted(life) > 2000 for life in passes.daemon._batches))
    passes.let_go()
    told: list[tuple[str, bool]] = []
    write = outbox.write_status

    def write_status(folder: Published, said: dict[str, Any]) -> None:
        told.append((said["status"], all(one.running is not None for one in passes.daemon._batches)))
        write(folder, said)

    monkeypatch.setattr(outbox, "write_status", write_status)
    monkeypatch.setattr(face, "_STATUS_EVERY", 0.0)
    monkeypatch.setattr(daemon, "_SLICE", 1e-5)  # a step or none a pass
    passes.until(lambda: ("in_progress", True) in told)
    assert set(told) == {("in_progress", True)}


def test_answers_are_passed_on_to_the_same_requests_where_there_is_room_for_them(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = jsonl([request(f"r{i}", "the same", temperature=0) for i in range(3000)])
    full = may_be_full(monkeypatch)
    answer = NullEngine.receive
    monkeypatch.setattr(NullEngine, "receive", lambda engine: answer(engine) if full[0] else [])
    for name in ("b", "c"):
        passes.drop(f"{name}.jsonl", same)
    passes.until(lambda: sum(life.queue.in_flight for life in passes.daemon._batches) == 2)
    full[0] = True  # from now on, and there are answers
    passes.until(lambda: all(counted(life) == 1 for life in passes.daemon._batches))
    for _ in range(20):
        passes.daemon.step(time.monotonic())
    assert [life.queue.done for life in passes.daemon._batches] == [1, 1]
    (passes.inbox / "c.cancel").touch()  # which needs less room
    passes.daemon._arriving._hint()
    passes.until(passes.is_now("c", "cancelled"))
    assert show.word(passes.status("c")) == "cancelled" and show.word(passes.status("b")) == "disk full"
    full[0] = False
    passes.until(passes.is_now("b", "completed"))
    assert passes.status("b")["request_counts"]["completed"] == 3000


def test_a_parked_batch_that_is_cancelled_is_parked_no_more(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NullEngine, "room", lambda engine: 0)
    passes.drop("b.jsonl", batch_of(3))
    passes.until(passes.is_now("b", "in_progress"))
    [life] = passes.daemon._batches
    control.park(life.work, "it died too often", time.time())
    life.face.history.note("parked", time.time(), reason="it died too often")
    life.read_control()
    passes.until(lambda: show.word(passes.status("b")) == "parked")
    (passes.inbox / "b.cancel").touch()
    passes.daemon._arriving._hint()
    passes.until(passes.is_now("b", "cancelled"))
    assert show.word(passes.status("b")) == "cancelled"
    receipt = orjson.loads((passes.folder("b") / "receipt.json").read_bytes())
    assert [one["reason"] for one in receipt["parked"]] == ["it died too often"]


def test_a_file_that_is_read_on_waits_for_room_no_more(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    full = may_be_full(monkeypatch)
    monkeypatch.setattr(daemon, "_SLICE", 1e-5)  # a step or none a pass
    passes.drop("b.jsonl", batch_of(100_000))
    passes.until(lambda: len(passes.daemon._batches))
    full[0] = True
    [life] = passes.daemon._batches
    passes.until(lambda: life.state.lacking)
    full[0] = False
    passes.until(lambda: not life.state.lacking)
    assert life.state.accepted is None


@pytest.mark.parametrize("links", [True, False])
def test_names_of_parts_that_somebody_else_has_taken_are_said_and_passed_over(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(NullEngine, "room", lambda engine: 100)
    passes.daemon.settings.now = replace(
        passes.daemon.settings.now, results=ResultSettings(seal_every=100, sync_every=10)
    )
    passes.drop("b.jsonl", batch_of(500))
    parts = passes.folder("b") / "parts"
    passes.until((parts / "part-000001.jsonl").exists)
    (parts / "part-000002.jsonl").write_bytes(b"not ours\n")
    (parts / "part-000004.jsonl").symlink_to("/nowhere")
    (parts / "part-000001.jsonl").unlink()  # taken, as users do
    passes.until(passes.is_now("b", "completed"))
    ours = [part for part in sorted(parts.iterdir()) if part.name[9:11] not in ("02", "04")]
    recorded = [id for part in ours for id in custom_ids(part)]
    assert sorted([*recorded, *(f"r{i}" for i in range(100))]) == sorted(f"r{i}" for i in range(500))
    assert (parts / "part-000002.jsonl").read_bytes() == b"not ours\n" and not (parts / "part-000001.jsonl").exists()
    for number in (2, 4):
        assert f"parts/part-00000{number}.jsonl in its outbox folder is not ours; the next number" in caplog.text
    assert proof.verify(Published(passes.folder("b"))).problems == []


def no_links(source: object, target: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted", str(source))


def test_a_batch_half_done_by_0_2_0_ends_with_its_errors_in_todays_form(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    (passes.inbox / "b.pause").touch()
    passes.drop("b.jsonl", b"broken\n" + batch_of(3))
    passes.until(lambda: passes.status("b").get("paused") and passes.status("b")["request_counts"]["failed"])
    log = passes.let_go().work.open_part
    id = orjson.loads(log.read_bytes())["id"].removesuffix("_0")
    faulty = {"code": "invalid_json", "message": "no JSON", "line": 1}
    failed = {"code": "engine_error", "message": "not now", "line": 2}
    response = {"status_code": 500, "request_id": f"{id}_1", "body": {"error": failed | {"param": None}}}
    old = [
        {"id": f"{id}_0", "custom_id": None, "response": None, "error": faulty},
        {"id": f"{id}_1", "custom_id": "r0", "response": response, "error": failed},
    ]
    log.write_bytes(jsonl(old))
    (passes.inbox / "b.resume").touch()
    passes.until(passes.is_now("b", "completed"))
    errors = [error_of(line) for line in lines(passes.folder("b") / "errors.jsonl")]
    assert errors == [(1, "invalid_json", "no JSON", None, 400), (2, "engine_error", "not now", None, 500)]
    assert custom_ids(passes.folder("b") / "results.jsonl") == ["r1", "r2"]
    assert custom_ids(passes.folder("b") / "retry.jsonl") == ["r0"]
    assert proof.verify(Published(passes.folder("b"))).problems == []


def refuse_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have the next move of a file of this name fail; its batch is adopted again at once."""
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(batches, "_SUSPEND", 0.0)
    move = files.move

    def refuse(source: Path, target: Path) -> None:
        if name in (source.name, target.name):
            monkeypatch.setattr(files, "move", move)
            raise OSError(errno.EIO, "Input/output error", str(source))
        move(source, target)

    monkeypatch.setattr(files, "move", refuse)


def test_a_published_batch_that_was_taken_away_does_not_come_back_though_its_work_could_not_be_removed(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claim.Held, "remove", lambda held: files.move(held.work.dir, Path("gone")))
    refuse_once(monkeypatch, "gone")
    passes.drop("b.jsonl", batch_of(5))
    passes.until(lambda: "suspended" in caplog.text)
    assert proof.verify(Published(passes.folder("b"))).problems == []
    shutil.rmtree(passes.folder("b"))
    monkeypatch.setattr(claim.Held, "remove", REMOVE)
    passes.until(lambda: not list(passes.inbox.parent.glob("work/*")))
    assert not passes.folder("b").exists()


@pytest.mark.parametrize("taken", [[], ["results.jsonl"], ["errors.jsonl", "results.jsonl"], ["status.json"], None])
def test_what_was_taken_away_before_the_receipt_was_there_comes_back_with_it(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, taken: list[str] | None
) -> None:
    refuse_once(monkeypatch, "receipt.json")
    passes.drop("b.jsonl", b"broken\n" + batch_of(5))
    passes.until(lambda: "suspended" in caplog.text)
    assert passes.status("b")["status"] == "completed"  # the receipt is last of all
    assert not (passes.folder("b") / "receipt.json").exists()
    if taken is None:
        (passes.folder("b") / "status.json").write_bytes(b'{"id": "another"}')  # the folder was removed, and made anew
    for name in taken or []:
        (passes.folder("b") / name).unlink()
    name = "b.2" if taken is None else "b"
    passes.until((passes.folder(name) / "receipt.json").exists)
    assert custom_ids(passes.folder(name) / "results.jsonl") == [f"r{i}" for i in range(5)]
    found = proof.verify(Published(passes.folder(name)))
    assert (found.problems, found.receipt["name"], passes.status(name)["name"]) == ([], name, name)


@pytest.mark.parametrize("step", [-86400.0, 86400.0])
def test_how_long_a_batch_took_is_right_whatever_the_clock_is_set_to_meanwhile_and_after_a_restart(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: float
) -> None:
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    (passes.inbox / "b.pause").touch()
    passes.drop("b.jsonl", batch_of(3))
    passes.until(lambda: passes.status("b").get("paused"))
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + step)
    passes.let_go()
    (passes.inbox / "b.resume").touch()
    passes.until((passes.folder("b") / "receipt.json").exists)
    times = orjson.loads((passes.folder("b") / "receipt.json").read_bytes())["times"]
    assert 0.0 <= times["seconds"] < 60.0
    assert abs(times["finished_at"] - times["created_at"]) > 80_000  # when is the clock's to say
    assert "-86" not in caplog.text


@pytest.mark.slow
def test_when_the_daemon_has_stopped_every_status_says_that_none_runs_and_when_it_is_back_that_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"running", "paused", "failing", "reading", "adopted"}
    full = may_be_full(monkeypatch)
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(NullEngine, "room", lambda engine: 10)
    first = Passes(tmp_path / "spool")
    (first.inbox / "paused.pause").touch()
    for name in sorted(names - {"reading"}):
        first.drop(f"{name}.jsonl", batch_of(8000, name))
    first.until(lambda: first.status("running").get("request_counts", {}).get("completed"))
    first.until(lambda: all(life.running for life in first.daemon._batches) and first.status("paused")["paused"])
    full[0] = True
    first.drop("reading.jsonl", batch_of(20_000, "reading"))
    first.until(lambda: first.status("reading").get("waiting_for_disk_bytes"))
    lives = {life.name: life for life in first.daemon._batches}
    assert set(lives) == names
    first.daemon._batches.safely(lives["failing"], (tmp_path / "nothing").stat)
    first.daemon._batches.let_go(lives["adopted"])
    monkeypatch.setattr(Life, "step", lambda life: False)  # taken again, and no further
    first.until(lambda: len(first.daemon._batches) == 4)
    assert {first.status(name)["daemon"] for name in names} == {daemons.me()}
    first.daemon._shut_down()
    for name in names:
        said = first.status(name)
        assert (said["daemon"], said["engines"], said["in_flight"], said["eta_seconds"]) == (None, None, 0, None), name
    assert first.status("running")["request_counts"]["completed"] > 0
    monkeypatch.undo()
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(NullEngine, "room", lambda engine: 10)
    again = Passes(tmp_path / "spool")
    again.until(lambda: {again.status(name)["daemon"] for name in names} == {daemons.me()})
    again.daemon._shut_down()


def test_a_file_that_was_to_come_back_when_the_daemon_was_killed_does_so_though_another_daemon_lives(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_once(monkeypatch, "receipt.json")
    Spool(passes.inbox.parent).daemons.joinpath("other-1.json").write_bytes(
        orjson.dumps({"hostname": "other", "pid": 1, "at": time.time(), "models": ["its/own"]})
    )
    passes.drop("b.jsonl.gz", b"this is no gzip")
    passes.until(lambda: "suspended" in caplog.text)
    passes.until((passes.folder("b") / "receipt.json").exists)
    assert (passes.folder("b") / "b.jsonl.gz").read_bytes() == b"this is no gzip"
    assert passes.status("b")["status"] == "failed"
