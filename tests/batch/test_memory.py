"""The memory that the requests of all batches together take, however many files are dropped at once."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from running import Daemon, batch_of, eventually, proven

from inbox_daemon.batch.memory import IN_WORK, WHILE_READ, Memory

MOST = 2 << 30
LINES = 10_000_000  # as many as a file may have


@pytest.mark.parametrize("lines", [LINES, 1_000_000, 1000])
def test_all_batches_together_take_no_more_than_the_bound_and_one_file(lines: int) -> None:
    """256 files at once, read block by block in any order; a batch that runs ends at some time, and only then."""
    memory, chance = Memory(), random.Random(lines)
    read, running, most = dict.fromkeys(range(256), 0), [], 0
    for _ in range(200_000):
        if running and chance.random() < 0.05:
            memory.release(running.pop(0))
        if not read:
            break
        number = chance.choice(list(read))
        if memory.may_take(number, WHILE_READ * min(lines, read[number] + lines // 4), MOST):
            read[number] += lines // 4
        if read[number] >= lines and memory.may_take(number, IN_WORK * lines, MOST):
            memory.has_grown(number)
            running.append(number)
            del read[number]
        most = max(most, len(memory))
    assert not read, "some were never read"
    assert most <= MOST + WHILE_READ * lines
    assert lines < LINES or most > MOST // 2  # there was something to bound


def test_what_is_let_go_gives_back_what_it_had() -> None:
    memory = Memory()
    assert memory.may_take(1, 900, 1000)
    memory.has_grown(1)
    assert not memory.may_take(2, 200, 1000)
    memory.release(1)
    assert memory.may_take(2, 200, 1000)
    assert len(memory) == 200


@pytest.mark.slow
def test_a_file_that_does_not_fit_beside_others_waits_says_so_and_is_answered(
    start_daemon: Callable[..., Daemon],
) -> None:
    limited = {"INBOX_DAEMON_INBOX__MAX_MEMORY_BYTES": str(1 << 20), "INBOX_DAEMON_ENGINE__NULL__RATE": "2000"}
    daemon = start_daemon(environment=limited)
    daemon.drop("big.jsonl", batch_of(12_000))
    eventually(lambda: daemon.done("big"))
    daemon.drop("more.jsonl", batch_of(9_000))
    daemon.drop("small.jsonl", batch_of(10))
    eventually(lambda: daemon.status("more").get("waiting_for_memory"))
    assert "more: waits for memory" in daemon.text()
    daemon.finished("small")
    assert daemon.status("big")["status"] == "in_progress"
    daemon.kill()
    again = start_daemon(environment=limited)
    for name in ("big", "more"):
        again.finished(name)
        proven(again, name)
