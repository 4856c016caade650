"""What senders can say of a file beside it, and what becomes of a file that is sent twice."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Daemon, batch_of, eventually, jsonl, proven, request

from inbox_daemon.config import Config, InboxSettings
from inbox_daemon.inbox.arrivals import Arrivals, Arriving
from inbox_daemon.layout import Spool
from inbox_daemon.settings import Settings
from inbox_daemon.spool import published

Start = Callable[..., Daemon]
REQUIRED = {"INBOX_DAEMON_INBOX__REQUIRE_SIDECAR": "true"}


def waits(daemon: Daemon, name: str, words: str) -> None:
    eventually(lambda: words in published.waiting(Spool(daemon.spool)).get(name, ""), what=f"{name} waits: {words}")
    assert not daemon.outbox(name.split(".")[0]).exists()


def sha256sum(content: bytes, name: str) -> str:
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n"


def test_a_required_sidecar_is_waited_for_and_taken_along(start_daemon: Start) -> None:
    daemon = start_daemon(environment=REQUIRED)
    daemon.drop("b.jsonl", batch_of(3))
    waits(daemon, "b.jsonl", "waiting for its sidecar")
    (daemon.inbox / "b.jsonl.done").touch()
    assert daemon.finished("b")["status"] == "completed"
    assert list(daemon.inbox.iterdir()) == []


def test_a_sidecar_may_come_first(start_daemon: Start) -> None:
    daemon = start_daemon(environment=REQUIRED)
    (daemon.inbox / "b.jsonl.sha256").write_text(sha256sum(batch_of(3), "b.jsonl"))
    daemon.drop("b.jsonl", batch_of(3))
    assert daemon.finished("b")["status"] == "completed"
    assert list(daemon.inbox.iterdir()) == []


def test_a_file_cut_exactly_at_a_newline_is_caught_by_its_hash(start_daemon: Start) -> None:
    daemon = start_daemon()
    (daemon.inbox / "b.jsonl.sha256").write_text(sha256sum(batch_of(5), "b.jsonl"))
    daemon.drop("b.jsonl", batch_of(4))
    waits(daemon, "b.jsonl", "has not the hash that b.jsonl.sha256 says")
    daemon.drop("b.jsonl", batch_of(5))
    assert daemon.finished("b")["request_counts"]["total"] == 5


def look(folder: Path, now: float, **settings: bool) -> Arrivals:
    """Look at a folder as at an inbox of which nothing is known yet."""
    read = Config(inbox=InboxSettings(settle=2, settle_unproven=10, watch="poll", **settings))
    looking = Arriving(folder, Settings(read), lambda: None)
    arrivals = looking.look(now)
    while arrivals is None or "being read" in arrivals.waiting.values():  # a slice of time at a look
        now += 0.01
        arrivals = looking.look(now)
    return arrivals


def test_a_done_left_of_an_earlier_file_vouches_for_no_later_one(tmp_path: Path) -> None:
    file, done = tmp_path / "b.jsonl", tmp_path / "b.jsonl.done"
    done.touch()
    eventually(lambda: file.write_bytes(batch_of(3)) and file.lstat().st_ctime_ns > done.lstat().st_ctime_ns)
    assert look(tmp_path, 0.0).waiting == {"b.jsonl": "still settling"}
    assert "a .done no older" in look(tmp_path, 0.0, require_sidecar=True).waiting["b.jsonl"]
    done.touch()
    assert [one.path for one in look(tmp_path, 0.0).settled] == [file]


WRITTEN = ["{hash}  b.jsonl", "\\{hash}  b.jsonl", "{HASH} *b.jsonl", "SHA256 (b.jsonl) = {hash}"]


@pytest.mark.parametrize("written", WRITTEN)
def test_a_hash_counts_however_sha256sum_was_told_to_write_it(tmp_path: Path, written: str) -> None:
    (tmp_path / "b.jsonl").write_bytes(batch_of(5))
    hash = hashlib.sha256(batch_of(5)).hexdigest()
    (tmp_path / "b.jsonl.sha256").write_text(written.format(hash=hash, HASH=hash.upper()) + "\n")
    assert [one.path.name for one in look(tmp_path, 0.0).settled] == ["b.jsonl"]


def test_a_sidecar_without_a_hash_is_waited_for_and_said_to_have_none(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(batch_of(5))
    (tmp_path / "b.jsonl.sha256").write_text("hello\n")
    arrivals = look(tmp_path, 0.0)
    assert not arrivals.settled
    assert arrivals.waiting["b.jsonl"].startswith("waiting for a hash: b.jsonl.sha256 holds none; write it with ")


def test_a_hash_that_cannot_be_read_vouches_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.jsonl").write_bytes(batch_of(5)[:-9])
    (tmp_path / "b.jsonl.sha256").write_text(sha256sum(batch_of(5), "b.jsonl"))
    opened = os.open

    def refused(path: Path, *flags: int) -> int:
        if Path(path).suffix == ".sha256":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *flags)

    monkeypatch.setattr(os, "open", refused)
    arrivals = look(tmp_path, 0.0)
    assert not arrivals.settled
    [why] = arrivals.waiting.values()
    assert why.startswith(
        "waiting for a sidecar that can be read: b.jsonl.sha256: cannot be opened (Permission denied)"
    )


def test_a_sidecar_without_its_file_is_named(tmp_path: Path) -> None:
    for name in ("b.jsonl.done", "c.jsonl.gz.sha256"):
        (tmp_path / name).touch()
    assert [why.split(";")[0] for why in look(tmp_path, 0.0).orphans.values()] == ["waiting for its file"] * 2


def taken(daemon: Daemon) -> bool:
    """Whether nothing is left in the inbox or being taken out of it."""
    return not any(daemon.inbox.iterdir()) and not any((daemon.spool / "work").glob("*/dropped/*"))


def send(daemon: Daemon, name: str, content: bytes) -> None:
    daemon.drop(name, content)
    eventually(lambda: taken(daemon), what=f"{name} taken")


def test_what_is_sent_again_is_counted_once_for_each_time_and_never_runs(start_daemon: Start) -> None:
    """Under whatever name that looks the same, while the first one runs and after it, and over a restart."""
    daemon = start_daemon(environment={"INBOX_DAEMON_ENGINE__NULL__RATE": "200"})
    daemon.drop("m\u00e4rz.jsonl", batch_of(150))
    eventually(lambda: daemon.done("m\u00e4rz") > 0)
    send(daemon, "m\u00e4rz.jsonl", batch_of(150))
    send(daemon, "ma\u0308rz.jsonl", batch_of(150))
    eventually(lambda: daemon.status("m\u00e4rz")["resent"] == 2)
    assert daemon.finished("m\u00e4rz")["resent"] == 2
    daemon.stop()
    again = start_daemon()
    send(again, "m\u00e4rz.jsonl", batch_of(150))
    assert again.status("m\u00e4rz")["resent"] == 3
    assert [path.name for path in (again.spool / "outbox").iterdir()] == ["m\u00e4rz"]
    said = [line for line in (daemon.text() + again.text()).splitlines() if "was sent again" in line]
    assert len(said) == 3
    assert "m\u00e4rz: m\u00e4rz.jsonl was sent again, byte for byte, and is not run" in said[0]
    proven(again, "m\u00e4rz")


def test_who_wants_it_to_run_again_says_so_beside_it(start_daemon: Start) -> None:
    daemon = start_daemon()
    send(daemon, "b.jsonl", batch_of(5))
    daemon.finished("b")
    (daemon.inbox / "b.jsonl.again").touch()
    daemon.drop("b.jsonl", batch_of(5))
    assert daemon.finished("b.2")["status"] == "completed"
    assert daemon.status("b")["resent"] == 0
    send(daemon, "b.jsonl", batch_of(5))  # it was taken along, and means no other
    assert daemon.status("b")["resent"] + daemon.status("b.2")["resent"] == 1


def test_a_sidecar_that_asks_for_another_run_does_not_say_that_the_file_is_whole(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(batch_of(5)[:-9])
    (tmp_path / "b.jsonl.again").touch()
    assert look(tmp_path, 0.0).waiting == {"b.jsonl": "still settling"}
    assert "waiting for its sidecar" in look(tmp_path, 0.0, require_sidecar=True).waiting["b.jsonl"]


@pytest.mark.slow
def test_other_bytes_another_name_or_a_cancelled_first_one_are_run(start_daemon: Start) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_ENGINE__IN_FLIGHT": "1", "INBOX_DAEMON_ENGINE__NULL__RATE": "50"})
    daemon.drop("b.jsonl", batch_of(300))
    eventually(lambda: daemon.status("b").get("status") == "in_progress")
    (daemon.inbox / "b.cancel").touch()
    assert daemon.finished("b")["status"] == "cancelled"
    for name in ("b", "other"):
        daemon.drop(f"{name}.jsonl", batch_of(300))
    daemon.drop("c.jsonl", jsonl([request("only")]))
    for name in ("b.2", "other"):
        eventually(lambda name=name: daemon.status(name))
        (daemon.inbox / f"{name}.cancel").touch()
    assert daemon.finished("c")["status"] == "completed"
    assert {daemon.finished(name)["status"] for name in ("b.2", "other")} <= {"cancelled", "completed"}


@pytest.mark.slow
def test_resends_are_run_where_the_settings_say_so(start_daemon: Start) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_INBOX__RUN_RESENDS": "true"})
    for name in ("b", "b.2"):
        daemon.drop("b.jsonl", batch_of(5))
        assert daemon.finished(name)["status"] == "completed"
