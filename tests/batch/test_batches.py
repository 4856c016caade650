"""A batch from drop to receipt, with the engine that has no model: what users were promised about files."""

from __future__ import annotations

import fcntl
import gzip
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import (
    FAULTS_OF_MIXED,
    ROOT,
    Daemon,
    batch_of,
    custom_ids,
    error_of,
    eventually,
    jsonl,
    lines,
    mixed,
    proven,
)

from inbox_daemon.layout import Published, Work
from inbox_daemon.records import Outcome, ticket
from inbox_daemon.request.output import answer_line, request_id
from inbox_daemon.spool import files
from inbox_daemon.spool.outcomes import Outcomes

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Start = Callable[..., Daemon]
SLOW = {"INBOX_DAEMON_ENGINE__NULL__RATE": "400"}
# The engine makes up for a pause of the daemon; with this, for no more than so many requests.
STEADY = SLOW | {"INBOX_DAEMON_ENGINE__IN_FLIGHT": "50"}
OFTEN = {"INBOX_DAEMON_RESULTS__SYNC_EVERY": "25", "INBOX_DAEMON_RESULTS__SEAL_EVERY": "50"}


def done_when_resumed(daemon: Daemon, name: str) -> int:
    """How many requests the daemon found done, by its own words, when it read the batch back."""
    [line] = [line for line in daemon.text().splitlines() if f"{name}: resumed: " in line]
    return int(line.split("requests, ")[1].split(" done")[0])


class Killed(BaseException):
    pass


def killed_at(operation: str, action: Callable[[Path, Path], None], *, done: bool) -> Callable[[Path, Path], None]:
    """Return an action that ends the process before, or right after, it is done with this file."""

    def act(source: Path, target: Path) -> None:
        if operation != f"{action.__name__} {source.name}":
            action(source, target)
            return
        if done:
            action(source, target)
        raise Killed

    return act


def test_answers_come_back_in_the_order_of_the_input(start_daemon: Start) -> None:
    daemon = start_daemon()
    daemon.drop("b.jsonl", batch_of(500))
    assert daemon.finished("b")["request_counts"] == {"total": 500, "completed": 500, "failed": 0}
    assert custom_ids(daemon.outbox("b") / "results.jsonl") == [f"r{i}" for i in range(500)]
    assert lines(daemon.outbox("b") / "errors.jsonl") == []
    proven(daemon, "b")


@pytest.mark.parametrize(("suffix", "pack"), [(".jsonl.gz", gzip.compress), (".jsonl.zst", zstd.compress)])
def test_a_compressed_file_is_a_batch_like_any_other(
    start_daemon: Start, tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    daemon = start_daemon()
    original = tmp_path / f"kept{suffix}"
    original.write_bytes(pack(batch_of(50)))
    daemon.drop(f"b{suffix}", original.read_bytes())
    assert daemon.finished("b")["request_counts"]["completed"] == 50
    proven(daemon, "b", original)


def test_a_file_dropped_while_the_daemon_was_away_is_run(start_daemon: Start, tmp_path: Path) -> None:
    inbox = tmp_path / "spool" / "inbox"
    inbox.mkdir(parents=True)
    (inbox / "early.jsonl").write_bytes(batch_of(3))
    assert start_daemon().finished("early")["status"] == "completed"


def test_parts_are_in_the_outbox_before_the_end_and_together_hold_everything(start_daemon: Start) -> None:
    daemon = start_daemon(environment=STEADY | OFTEN)
    daemon.drop("b.jsonl", batch_of(600))
    daemon.finished("b")
    log = daemon.text()
    assert log.index("b: sealed part-000002") < log.index("b: finalizing")
    parts = daemon.outbox("b") / "parts"
    everything = [line for part in sorted(parts.iterdir()) for line in custom_ids(part)]
    assert sorted(everything) == sorted(f"r{i}" for i in range(600))


def test_a_consumer_may_take_parts_away_while_the_batch_runs(start_daemon: Start) -> None:
    daemon = start_daemon(environment=STEADY | OFTEN)
    daemon.drop("b.jsonl", batch_of(600))
    first = daemon.outbox("b") / "parts" / "part-000001.jsonl"
    eventually(first.exists)
    first.unlink()
    daemon.finished("b")
    assert not first.exists()
    assert len(lines(daemon.outbox("b") / "results.jsonl")) == 600
    proven(daemon, "b")


FIRST, SECOND, BOTH = {"part-000001.jsonl": ["r0"]}, {"part-000002.jsonl": ["r1"]}, {"part-000001.jsonl": ["r0", "r1"]}


@pytest.mark.parametrize(
    ("operation", "done", "expected"),
    [
        ("duplicate open.jsonl", False, BOTH),  # it was not sealed yet, and nobody saw it
        ("duplicate open.jsonl", True, BOTH),
        ("move open.jsonl", False, BOTH),
        ("move open.jsonl", True, FIRST | SECOND),
        ("move showing.jsonl", False, FIRST | SECOND),
        ("move showing.jsonl", True, SECOND),  # somebody saw it, and has taken it away
    ],
)
def test_a_part_that_was_taken_away_before_a_crash_is_not_seen_again_nor_another_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, done: bool, expected: dict[str, list[str]]
) -> None:
    work, folder = Work(tmp_path / "batch_0123456789ab0123456789"), Published(tmp_path / "b")
    for made in (work.parts, folder.parts):
        made.mkdir(parents=True)

    def open_log() -> Outcomes:
        log = Outcomes(work, 9)
        for _ in log.recover(1, lambda outcome: None, folder):
            pass
        return log

    def record(log: Outcomes, place: int) -> None:
        line = answer_line(request_id(work.id, place), f"r{place}", b"{}")
        log.append([Outcome(ticket(1, place), line, is_error=False)])
        log.sync()

    log = open_log()
    record(log, 0)
    with monkeypatch.context() as crash:
        for name in ("duplicate", "move"):
            crash.setattr(files, name, killed_at(operation, getattr(files, name), done=done))
        with pytest.raises(Killed):
            log.seal(folder)
    log.close()
    for part in folder.parts.iterdir():
        part.unlink()
    log = open_log()
    record(log, 1)
    log.seal(folder)
    log.close()
    assert {part.name: custom_ids(part) for part in folder.parts.iterdir()} == expected


def test_a_name_in_use_gets_the_next_free_one_and_nothing_is_overwritten(start_daemon: Start) -> None:
    daemon = start_daemon()
    for expected, size in (("b", 3), ("b.2", 4), ("b.3", 5)):
        daemon.drop("b.jsonl", batch_of(size))
        assert daemon.finished(expected)["request_counts"]["total"] == size
    assert len(lines(daemon.outbox("b") / "results.jsonl")) == 3


MIXED_RULES = {"INBOX_DAEMON_INBOX__MAX_LINE_BYTES": "4096", "INBOX_DAEMON_ENGINE__MODEL": "served/model"}


def test_a_bad_line_costs_one_line(start_daemon: Start) -> None:
    daemon = start_daemon(environment=MIXED_RULES)
    daemon.drop("mixed.jsonl", mixed())
    status = daemon.finished("mixed")
    assert status["status"] == "completed"
    assert custom_ids(daemon.outbox("mixed") / "results.jsonl") == ["good-1", "good-2", "good-3"]
    errors = lines(daemon.outbox("mixed") / "errors.jsonl")
    assert [error_of(e)[:2] for e in errors] == FAULTS_OF_MIXED
    both = errors + lines(daemon.outbox("mixed") / "results.jsonl")
    assert [line["response"]["status_code"] for line in both] == [400] * len(errors) + [200] * 3
    assert [(e["line"], e["code"]) for e in status["errors"]["data"]] == FAULTS_OF_MIXED
    assert custom_ids(daemon.outbox("mixed") / "retry.jsonl") == ["model"], "another daemon may serve it"
    proven(daemon, "mixed")


def test_strict_refuses_the_whole_file_and_gives_the_good_lines_back(start_daemon: Start) -> None:
    daemon = start_daemon(environment=MIXED_RULES | {"INBOX_DAEMON_INBOX__STRICT": "true"})
    daemon.drop("mixed.jsonl", mixed())
    assert daemon.finished("mixed")["status"] == "failed"
    assert lines(daemon.outbox("mixed") / "results.jsonl") == []
    assert custom_ids(daemon.outbox("mixed") / "retry.jsonl") == ["good-1", "good-2", "model", "good-3"]
    assert len(lines(daemon.outbox("mixed") / "errors.jsonl")) == 13
    proven(daemon, "mixed")


def test_a_file_with_nothing_valid_fails_with_its_faults_listed(start_daemon: Start) -> None:
    daemon = start_daemon()
    daemon.drop("bad.jsonl", b"one\ntwo\n")
    status = daemon.finished("bad")
    assert status["status"] == "failed"
    assert [(e["line"], e["code"]) for e in status["errors"]["data"]] == [(1, "invalid_json"), (2, "invalid_json")]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("empty.jsonl", b"", "empty_file"),
        ("blank.jsonl", b"\n \n", "empty_file"),
        ("damaged.jsonl.gz", b"not gzip at all", "corrupt_compression"),
        ("damaged.jsonl.zst", b"not zstd at all", "corrupt_compression"),
    ],
)
def test_a_file_that_is_no_batch_fails_and_comes_back_as_it_was(
    start_daemon: Start, name: str, content: bytes, code: str
) -> None:
    daemon = start_daemon()
    daemon.drop(name, content)
    batch = name.split(".")[0]
    status = daemon.finished(batch)
    assert status["status"] == "failed"
    assert status["errors"]["data"][0]["code"] == code
    eventually((daemon.outbox(batch) / name).exists)
    assert (daemon.outbox(batch) / name).read_bytes() == content
    assert (daemon.outbox(batch) / "receipt.json").exists()
    daemon.drop("next.jsonl", batch_of(2))
    assert daemon.finished("next")["status"] == "completed"


def test_a_file_that_was_rejected_before_a_restart_stays_rejected(start_daemon: Start, tmp_path: Path) -> None:
    """One for which the disk had no room, say, and then has: its receipt may have been read by then."""
    work = tmp_path / "spool" / "work" / "batch_01a210cc2d074b8826313c"
    (work / "dropped").mkdir(parents=True)
    (work / "dropped" / "b.jsonl").write_bytes(batch_of(3))
    event = {"event": "rejected", "at": 1.0, "code": "disk_full", "reason": "b.jsonl: no room"}
    (work / "history.jsonl").write_bytes(jsonl([event]))
    daemon = start_daemon()
    status = daemon.finished("b")
    assert (status["status"], status["errors"]["data"][0]["code"]) == ("failed", "disk_full")
    eventually((daemon.outbox("b") / "b.jsonl").exists)
    assert (daemon.outbox("b") / "b.jsonl").read_bytes() == batch_of(3)


def test_blank_lines_crlf_a_byte_order_mark_and_a_missing_last_newline_cost_nothing(start_daemon: Start) -> None:
    daemon = start_daemon()
    rows = batch_of(3).split(b"\n")
    daemon.drop("b.jsonl", b"\xef\xbb\xbf" + b"\r\n\r\n".join(rows[:3]))
    daemon.finished("b")
    assert custom_ids(daemon.outbox("b") / "results.jsonl") == ["r0", "r1", "r2"]


def test_a_small_batch_does_not_wait_for_a_big_one(start_daemon: Start) -> None:
    daemon = start_daemon(environment=SLOW | {"INBOX_DAEMON_ENGINE__IN_FLIGHT": "100"})
    daemon.drop("big.jsonl", batch_of(20_000))
    eventually(lambda: daemon.done("big") > 100)
    daemon.drop("small.jsonl", batch_of(10))
    assert daemon.finished("small")["status"] == "completed"
    assert daemon.status("big")["status"] == "in_progress"


def test_cancel_keeps_what_has_an_answer_and_gives_the_rest_back(start_daemon: Start) -> None:
    daemon = start_daemon(environment=STEADY)
    daemon.drop("b.jsonl", batch_of(10_000))
    eventually(lambda: daemon.done("b") > 100)
    (daemon.inbox / "b.cancel").touch()
    counts = daemon.finished("b")["request_counts"]
    assert daemon.status("b")["status"] == "cancelled"
    assert counts["completed"] >= 100
    assert counts["completed"] + counts["failed"] == 10_000
    errors = lines(daemon.outbox("b") / "errors.jsonl")
    assert {error_of(error).code for error in errors} == {"batch_cancelled"}
    assert custom_ids(daemon.outbox("b") / "retry.jsonl") == [error["custom_id"] for error in errors]
    proven(daemon, "b")


@pytest.mark.slow
def test_a_paused_batch_stands_still_until_it_is_resumed_even_over_a_restart(start_daemon: Start) -> None:
    daemon = start_daemon(environment=SLOW | {"INBOX_DAEMON_ENGINE__IN_FLIGHT": "20"})
    daemon.drop("b.jsonl", batch_of(10_000))
    eventually(lambda: daemon.done("b") > 20)
    (daemon.inbox / "b.pause").touch()
    eventually(lambda: daemon.status("b")["paused"] and daemon.status("b")["in_flight"] == 0)
    daemon.kill()
    again = start_daemon()
    eventually(lambda: again.status("b")["paused"] and "b: resumed: " in again.text())
    done = done_when_resumed(again, "b")
    again.drop("other.jsonl", batch_of(50))
    again.finished("other")
    assert again.done("b") == done
    (again.inbox / "b.resume").touch()
    assert again.finished("b")["request_counts"]["completed"] == 10_000


def test_killed_in_mid_batch_it_resumes_with_every_counted_answer(start_daemon: Start) -> None:
    daemon = start_daemon(environment=STEADY)
    daemon.drop("b.jsonl", batch_of(5000))
    eventually(lambda: daemon.done("b") >= 300)
    counted = daemon.done("b")
    daemon.kill()
    again = start_daemon()
    assert again.finished("b")["request_counts"] == {"total": 5000, "completed": 5000, "failed": 0}
    assert custom_ids(again.outbox("b") / "results.jsonl") == [f"r{i}" for i in range(5000)]
    assert done_when_resumed(again, "b") >= counted
    proven(again, "b")


def test_stopped_in_mid_batch_it_leaves_everything_that_arrived_visible(start_daemon: Start) -> None:
    daemon = start_daemon(environment=STEADY)
    daemon.drop("b.jsonl", batch_of(5000))
    eventually(lambda: daemon.done("b") >= 200)
    assert daemon.stop() == 0
    parts = daemon.outbox("b") / "parts"
    assert sum(len(lines(part)) for part in parts.iterdir()) == daemon.done("b") >= 200
    said = daemon.status("b")
    assert (said["status"], said["daemon"], said["engines"], said["in_flight"]) == ("in_progress", None, None, 0)
    assert start_daemon().finished("b")["request_counts"]["completed"] == 5000


@pytest.mark.slow
def test_an_outbox_folder_removed_in_mid_batch_comes_back_with_the_results(start_daemon: Start) -> None:
    daemon = start_daemon(environment=STEADY)
    daemon.drop("b.jsonl", batch_of(3000))
    eventually(lambda: daemon.done("b") >= 100)
    shutil.rmtree(daemon.outbox("b"), ignore_errors=True)
    assert daemon.finished("b")["request_counts"]["completed"] == 3000
    assert len(lines(daemon.outbox("b") / "results.jsonl")) == 3000


@pytest.mark.slow
def test_a_name_taken_after_its_folder_was_removed_does_not_get_two_owners(start_daemon: Start) -> None:
    daemon = start_daemon(environment=STEADY)
    daemon.drop("b.jsonl", batch_of(5000, "old"))
    eventually(lambda: daemon.done("b") >= 100)
    daemon.kill()
    shutil.rmtree(daemon.outbox("b"))
    [old] = (daemon.spool / "work").iterdir()
    lease = os.open(old, os.O_RDONLY)
    fcntl.flock(lease, fcntl.LOCK_EX)  # as a daemon has it that knows nothing yet of what happened
    again = start_daemon()
    again.drop("b.jsonl", batch_of(300, "new"))
    eventually(lambda: again.done("b") > 0)
    os.close(lease)
    for name, prefix, size in (("b", "new", 300), ("b.2", "old", 5000)):
        assert again.finished(name)["request_counts"]["completed"] == size
        assert custom_ids(again.outbox(name) / "results.jsonl") == [f"{prefix}{i}" for i in range(size)]
        proven(again, name)


@pytest.mark.slow
def test_two_daemons_on_one_spool_run_each_file_once_and_adopt_each_others_orphans(
    start_daemon: Start, tmp_path: Path
) -> None:
    # Neither can take all of the files, and neither ends before the other has some.
    share = {"INBOX_DAEMON_INBOX__MAX_CLAIMED": "20", "INBOX_DAEMON_ENGINE__NULL__RATE": "100"}
    first, second = start_daemon(environment=share), start_daemon(environment=share)
    for i in range(40):
        first.drop(f"f{i}.jsonl", batch_of(20, f"f{i}-"))
    eventually(lambda: first.text().count(": claimed") and second.text().count(": claimed"))
    first.signal(signal.SIGKILL)
    for i in range(40):
        second.finished(f"f{i}")
        assert custom_ids(second.outbox(f"f{i}") / "results.jsonl") == [f"f{i}-{j}" for j in range(20)]
    assert len(list((tmp_path / "spool" / "outbox").iterdir())) == 40


def test_batches_that_another_daemon_has_left_come_before_new_files_however_few_may_be_in_work(
    start_daemon: Start,
) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_ENGINE__NULL__RATE": "1"})
    for n in range(4):
        daemon.drop(f"old-{n}.jsonl", batch_of(20))
    eventually(lambda: daemon.text().count(": accepted") == 4)
    daemon.kill()
    for n in range(6):
        daemon.drop(f"new-{n}.jsonl", batch_of(20))
    again = start_daemon(arguments=["--drain"], ready=False, environment={"INBOX_DAEMON_INBOX__MAX_CLAIMED": "2"})
    assert again.ended() == 0
    entered = re.findall(r" (old|new)-\d: (?:resumed|claimed)", again.text())
    assert entered == ["old"] * 4 + ["new"] * 6
    assert list((again.spool / "work").iterdir()) == []


def test_a_reload_reaches_batches_in_work_and_says_what_waits_for_the_next_start(
    start_daemon: Start, tmp_path: Path
) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_ENGINE__NULL__RATE": "1"})
    daemon.drop("urgent.jsonl", batch_of(20))
    eventually(lambda: daemon.status("urgent").get("status") == "in_progress")
    config = tmp_path / "daemon-0.toml"
    settings = config.read_text().replace("[inbox]", '[inbox]\nwatch = "poll"')
    config.write_text(f'{settings}[inbox.priorities]\n"urgent*" = 7\n[daemon]\nlog_level = "warning"\n')
    daemon.signal(signal.SIGHUP)
    eventually(lambda: daemon.status("urgent").get("priority") == 7)
    assert "a change of inbox.watch takes effect at the next start" in daemon.text()
    said = daemon.text()
    (daemon.inbox / "urgent.pause").touch()
    eventually(lambda: daemon.status("urgent").get("paused"))
    assert daemon.text() == said  # that it is paused would be an information


def test_drain_ends_when_nothing_is_left_and_says_whether_requests_failed(start_daemon: Start, tmp_path: Path) -> None:
    inbox = tmp_path / "spool" / "inbox"
    inbox.mkdir(parents=True)
    (inbox / "good.jsonl").write_bytes(batch_of(5))
    assert start_daemon(arguments=["--drain"], ready=False).ended() == 0
    (inbox / "bad.jsonl").write_bytes(batch_of(5) + b"oops\n")
    assert start_daemon(arguments=["--drain"], ready=False).ended() == 3


def test_the_daemon_imports_neither_vllm_nor_torch(start_daemon: Start) -> None:
    daemon = start_daemon()
    daemon.drop("b.jsonl", batch_of(3))
    daemon.finished("b")
    mapped = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert "torch" not in mapped
    assert "vllm" not in mapped.replace(str(ROOT), "")
