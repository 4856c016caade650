"""What batches and requests share: the engine, by equal parts and by priority, and answers where they are the same."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from running import Daemon, batch_of, custom_ids, eventually, jsonl, lines, request

from inbox_daemon import config, daemon
from inbox_daemon.batch.books import Books
from inbox_daemon.batch.queue import Lane, Queue
from inbox_daemon.config import MOST_PRIORITY
from inbox_daemon.dispatch.share import share
from inbox_daemon.dispatch.traffic import _BEFORE_ALL
from inbox_daemon.engine import wire
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.layout import Published, Spool
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.records import Outcome, Request
from inbox_daemon.spool import proof, published

SLOW = {"INBOX_DAEMON_ENGINE__NULL__RATE": "300", "INBOX_DAEMON_ENGINE__IN_FLIGHT": "4000"}


def lane(requests: int, in_flight: int = 0, priority: int = 0) -> Lane:
    """What a batch with one model has for its engines."""
    queue = Queue(requests)
    [made] = queue.lanes
    made.take(in_flight)
    queue.priority = priority
    return made


# -- between batches


def test_a_batch_that_arrives_gets_all_the_room_until_it_has_caught_up() -> None:
    assert share(10, [(1, lane(1000, in_flight=90)), (2, lane(1000, in_flight=0))]) == [(2, 10)]
    assert dict(share(20, [(1, lane(1000, in_flight=10)), (2, lane(1000))])) == {1: 5, 2: 15}


def test_a_higher_priority_is_served_first_and_leaves_what_it_cannot_use() -> None:
    batches = [(1, lane(100)), (2, lane(100, priority=5)), (3, lane(4, priority=9))]
    assert share(50, batches) == [(3, 4), (2, 46)]
    assert dict(share(120, batches)) == {3: 4, 2: 100, 1: 16}


def computed(daemon: Daemon) -> int:
    """How many requests the null engines have answered."""
    engines = [one for said in published.daemons(Spool(daemon.spool)) for one in said["engines"]]
    return sum(int(one.get("output_tokens", 0)) for one in engines)


@pytest.mark.slow
def test_a_small_batch_comes_in_between_what_a_big_one_has_waiting_in_the_engine(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_ENGINE__NULL__RATE": "100"})
    daemon.drop("big.jsonl", batch_of(20_000))
    eventually(lambda: daemon.done("big") > 100, 60)
    before = daemon.done("big")
    daemon.drop("small.jsonl", batch_of(10))
    daemon.finished("small")
    assert daemon.done("big") - before < 3000, "not behind the 4,000 that were there"


@pytest.mark.slow
def test_priority_is_set_by_a_file_a_pattern_or_the_command_and_is_seen(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(settings='[inbox.priorities]\n"urgent-*" = 7\n', environment=SLOW)
    for name in ("urgent-a", "b"):
        daemon.drop(f"{name}.jsonl", batch_of(5000))
    eventually(lambda: daemon.status("urgent-a").get("priority") == 7 and daemon.status("b").get("priority") == 0)
    (daemon.inbox / "b.priority").write_text("12\n")
    eventually(lambda: daemon.status("b").get("priority") == 12)
    (daemon.inbox / "b.priority").write_text("very high")
    eventually(lambda: not (daemon.inbox / "b.priority").exists() and "whole number" in daemon.text())
    assert daemon.status("b")["priority"] == 12
    daemon.kill()
    again = start_daemon(settings='[inbox.priorities]\n"urgent-*" = 7\n', environment=SLOW)
    eventually(lambda: again.status("b").get("in_flight") and again.status("b")["priority"] == 12, 60)


@pytest.mark.parametrize("priority", [MOST_PRIORITY, -MOST_PRIORITY])
def test_a_turn_of_any_priority_that_can_be_set_fits_into_a_frame(priority: int) -> None:
    for before in (0, _BEFORE_ALL):
        asked = Request(1, "id", 1, b"{}", before - priority * _BEFORE_ALL)
        (frame,) = wire.requests([asked])
        assert list(wire.read_requests(frame[5:])) == [asked]


# -- within a batch

SAME: dict[str, Any] = {"temperature": 0}


def with_repeats(count: int) -> list[dict[str, Any]]:
    return [request(f"r{n:04}", f"say {n % 10}", **SAME) for n in range(count)]


@pytest.mark.parametrize("engines", [1, 2])
def test_the_same_request_is_computed_once_and_each_is_answered_in_its_place(
    start_daemon: Callable[..., Daemon], engines: int
) -> None:
    """Nor is it computed once by each engine."""
    several = {"INBOX_DAEMON_ENGINE__NULL__ENGINES": str(engines), "INBOX_DAEMON_ENGINE__NULL__RATE": "50"}
    daemon = start_daemon(environment=several)
    asked = with_repeats(200)
    daemon.drop("b.jsonl", jsonl(asked))
    assert daemon.finished("b")["request_counts"] == {"total": 200, "completed": 200, "failed": 0}
    assert custom_ids(daemon.outbox("b") / "results.jsonl") == [one["custom_id"] for one in asked]
    assert len({line["id"] for line in lines(daemon.outbox("b") / "results.jsonl")}) == 200
    eventually(lambda: computed(daemon) == 10, 30, "ten requests were computed")
    assert not proof.verify(Published(daemon.outbox("b"))).problems


@pytest.mark.parametrize(
    ("what", "setting"),
    [({}, "true"), ({"temperature": 1}, "true"), ({"seed": -1}, "true"), ({"temperature": 0}, "false")],
)
def test_requests_that_chance_has_a_part_in_are_each_computed(
    start_daemon: Callable[..., Daemon], what: dict[str, Any], setting: str
) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_INBOX__SHARE_ANSWERS": setting})
    daemon.drop("b.jsonl", jsonl([request(f"r{n}", "say it", **what) for n in range(30)]))
    daemon.finished("b")
    eventually(lambda: computed(daemon) == 30, 30, "each was computed")


@pytest.mark.slow
def test_a_daemon_killed_among_repeated_requests_answers_each_once(start_daemon: Callable[..., Daemon]) -> None:
    slow = {"INBOX_DAEMON_ENGINE__NULL__RATE": "40", "INBOX_DAEMON_RESULTS__SYNC_EVERY": "1"}
    daemon = start_daemon(environment=slow)
    asked = [request(f"r{n:04}", f"say {n % 150}", **SAME) for n in range(600)]
    daemon.drop("b.jsonl", jsonl(asked))
    eventually(lambda: daemon.done("b") > 100)
    daemon.signal(signal.SIGKILL)
    again = start_daemon(environment=slow)
    again.finished("b")
    assert custom_ids(again.outbox("b") / "results.jsonl") == [one["custom_id"] for one in asked]


def test_an_answer_that_is_that_of_thousands_is_passed_on_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended: list[int] = []
    append = Books.append

    def counted(books: Books, outcomes: Sequence[Outcome], now: float) -> bool:
        appended.append(len(outcomes))
        return append(books, outcomes, now)

    monkeypatch.setattr(Books, "append", counted)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "b.jsonl").write_bytes(jsonl([request(f"r{n:04}", "say the same", **SAME) for n in range(3000)]))
    engine = {"kind": "null", "in_flight": 4}
    read = config.build({"spool": str(tmp_path), "engine": engine, "inbox": {"settle": 0.0, "watch": "poll"}}, "test")
    made = lambda model, start, place: NullEngine(model.engine, place)  # noqa: E731
    one = daemon.Daemon(read, made, Notifier({}), drain=True)
    now = time.monotonic()
    while not (tmp_path / "outbox" / "b" / "receipt.json").exists():
        now += 1.0
        one.step(now)
    one._shut_down()
    assert sum(appended) == 3000 and max(appended) <= 1000


def test_a_cancelled_batch_closes_those_that_waited_for_anothers_answer(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_ENGINE__NULL__RATE": "1", "INBOX_DAEMON_ENGINE__IN_FLIGHT": "2"})
    daemon.drop("b.jsonl", jsonl(with_repeats(100)))
    eventually(lambda: daemon.status("b").get("in_flight"))
    (daemon.inbox / "b.cancel").touch()
    counts = daemon.finished("b")["request_counts"]
    assert counts["completed"] + counts["failed"] == 100
