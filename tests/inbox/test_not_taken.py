"""Files that stand in the inbox: who sees nothing but the outbox reads there why, as long as it is so."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import Daemon, batch_of, eventually

from inbox_daemon import cli
from inbox_daemon.batch import status
from inbox_daemon.config import InboxSettings
from inbox_daemon.inbox.complaints import Complaints
from inbox_daemon.inbox.not_taken import NotTaken, stands
from inbox_daemon.layout import Spool, Work
from inbox_daemon.spool import notices, outbox, published

Start = Callable[..., Daemon]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path)
    for folder in (made.inbox, made.outbox, made.work):
        folder.mkdir()
    (made.inbox / "a.jsonl").write_bytes(b'{"cut')
    return made


def said(spool: Spool) -> dict[str, Any]:
    """What each folder of the outbox says of why its file is not taken."""
    found = {folder.name: orjson.loads((folder / "status.json").read_bytes()) for folder in spool.outbox.iterdir()}
    return {name: status.get("not_taken") for name, status in found.items()}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def put(spool: Spool, file: str = "a.jsonl", why: str = "it is cut") -> bool:
    return notices.put(spool, file, partial(status.not_taken, file=file, why=why, now=1.0))


def tell(not_taken: NotTaken, stuck: dict[str, str]) -> None:
    not_taken.scanned(stuck)
    not_taken.tell()


def test_a_file_stands_once_it_has_not_changed_for_thirty_times_as_long_as_it_takes_to_settle() -> None:
    assert not stands(59.9, InboxSettings())
    assert stands(60, InboxSettings())
    unproven = InboxSettings(settle=0.1, settle_unproven=100)
    assert not stands(299, unproven) and stands(300, unproven), "where nobody can tell, it would settle by itself"


def test_what_is_said_of_a_file_goes_with_it_or_as_soon_as_it_changes(spool: Spool) -> None:
    not_taken = NotTaken(spool, Complaints())
    tell(not_taken, {"a.jsonl": "it is cut"})
    assert said(spool) == {"a": "it is cut"}
    tell(not_taken, {"a.jsonl": "somebody writes"})
    assert said(spool) == {"a": "somebody writes"}
    (spool.inbox / "a.jsonl").write_bytes(b'{"cut later')
    tell(not_taken, {})
    assert said(spool) == {}
    tell(not_taken, {"a.jsonl": "it is cut"})
    (spool.inbox / "a.jsonl").unlink()
    tell(NotTaken(spool, Complaints()), {})  # whoever looks next, such as a daemon that was started since
    assert said(spool) == {}
    tell(not_taken, {})
    assert not spool.standing.exists()


def test_a_notice_that_its_users_have_removed_stays_away_and_one_they_wrote_into_stays(spool: Spool) -> None:
    not_taken = NotTaken(spool, Complaints())
    tell(not_taken, {"a.jsonl": "it is cut"})
    (spool.outbox / "a" / "status.json").unlink()
    (spool.outbox / "a" / "mine").touch()
    tell(not_taken, {"a.jsonl": "it is cut"})
    assert names_in(spool.outbox / "a") == ["mine"]
    (spool.inbox / "a.jsonl").unlink()
    tell(not_taken, {})
    assert names_in(spool.outbox / "a") == ["mine"]
    assert notices.known(spool) == []


def test_a_batch_of_the_name_is_left_alone(spool: Spool) -> None:
    (spool.outbox / "a").mkdir()
    (spool.outbox / "a" / "status.json").write_bytes(b'{"id": "batch_1", "status": "completed"}')
    assert put(spool)
    assert said(spool) == {"a": None, "a.2": "it is cut"}
    notices.take_back(spool, "a.jsonl")
    assert said(spool) == {"a": None}


def test_a_notice_put_while_its_file_is_claimed_gives_its_name_to_the_batch(spool: Spool) -> None:
    assert put(spool)
    work = Work(spool.work / "batch_019a00000000abcdef0123")
    work.dropped.mkdir(parents=True)
    (spool.inbox / "a.jsonl").rename(work.dropped / "a.jsonl")
    first = lambda name: {"id": work.id, "name": name, "status": "validating"}  # noqa: E731
    folder = outbox.open_door(spool, work, outbox.origin_of(work), first)
    assert (folder.dir.name, published.is_notice(folder)) == ("a", False)
    tell(NotTaken(spool, Complaints()), {})
    assert said(spool) == {"a": None} and notices.known(spool) == []


def test_of_two_daemons_one_is_at_the_notices_at_a_time_and_nobody_waits(spool: Spool) -> None:
    assert put(spool)
    other = os.open(spool.standing, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    assert not put(spool, why="anything else")
    notices.take_back(spool, "a.jsonl")
    assert said(spool) == {"a": "it is cut"}
    os.close(other)
    notices.take_back(spool, "a.jsonl")
    assert said(spool) == {}


@pytest.mark.parametrize("name", ["x" * 249 + ".jsonl", os.fsdecode(b"caf\xe9.jsonl"), "line\nbreak.jsonl"])
def test_whatever_the_file_is_called_it_is_said_and_taken_back(spool: Spool, name: str) -> None:
    (spool.inbox / name).write_bytes(b"{")
    not_taken = NotTaken(spool, Complaints())
    tell(not_taken, {name: "it is cut"})
    assert list(said(spool).values()) == ["it is cut"]
    (spool.inbox / name).unlink()
    tell(not_taken, {})
    assert said(spool) == {}


def test_of_thousands_that_stand_the_outbox_has_a_hundred(spool: Spool) -> None:
    names = [f"f{number}.jsonl" for number in range(300)]
    for name in names:
        (spool.inbox / name).write_bytes(b"{")
    not_taken = NotTaken(spool, Complaints())
    tell(not_taken, dict.fromkeys(names, "it is cut"))
    while not_taken._to_do:
        not_taken.tell()
    assert len(said(spool)) == 100


@pytest.mark.slow
def test_a_stuck_upload_shows_in_the_outbox_and_as_an_alert_until_the_rest_has_come(start_daemon: Start) -> None:
    impatient = {"INBOX_DAEMON_INBOX__SETTLE": "0.05", "INBOX_DAEMON_INBOX__SETTLE_UNPROVEN": "0.1"}
    daemon = start_daemon(environment=impatient)
    whole = batch_of(100)
    daemon.drop("cut.jsonl", whole[:-20])
    told = eventually(lambda: daemon.status("cut"), 10, "a status of what stands")
    assert (told["status"], told["id"], told["input_file_id"]) == ("validating", "", "cut.jsonl")
    assert "waiting for the rest" in told["not_taken"]
    alerts = daemon.spool / "alerts.jsonl"
    eventually(lambda: alerts.exists() and b"UploadStuck" in alerts.read_bytes(), 10, "an alert")
    (daemon.inbox / "cut.pause").touch()  # means the file that is to come, and waits for it
    with (daemon.inbox / "cut.jsonl").open("ab") as file:
        file.write(whole[-20:])
    eventually(lambda: daemon.status("cut").get("paused"), 10, "taken under its own name")
    (daemon.inbox / "cut.resume").touch()
    assert daemon.finished("cut")["request_counts"] == {"total": 100, "completed": 100, "failed": 0}
    eventually(lambda: len(alerts.read_bytes().splitlines()) == 2, 15, "the alert is cleared")
    assert names_in(daemon.spool / "outbox") == ["cut"]


def test_the_verbs_speak_of_a_file_in_the_inbox_and_not_of_a_batch(
    spool: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert put(spool)
    where = ["--spool", str(spool.root)]
    for verb in (["status", "a"], ["results", "a"], ["delete", "a"]):
        cli.main([*verb, *where])
        said = "".join(capsys.readouterr())
        assert "in the inbox" in said or "a: not taken yet" in said, (verb, said)
    cli.main(["list", *where])
    assert "validating" not in capsys.readouterr().out
