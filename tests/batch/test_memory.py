"""The memory that the requests of all batches together take, however many files are dropped at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Daemon, batch_of, eventually, jsonl, piped_through_zstd, proven, request

from inbox_daemon.batch.memory import IN_WORK, WHILE_READ, Memory
from inbox_daemon.config import Config
from inbox_daemon.layout import Work
from inbox_daemon.request.reading import rules_of
from inbox_daemon.spool import files, ingest, source

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


@pytest.mark.parametrize(
    ("name", "content", "kept"),
    [
        ("x.jsonl.zst", piped_through_zstd(batch_of(10)), 1 << 27),  # a few hundred bytes that want a window of 128 MiB
        ("x.jsonl", jsonl([request("long", "x" * 5_000_000)]), 4 << 20),  # a line whose end is still to come
    ],
    ids=["what zstd keeps", "a long line"],
)
def test_for_what_is_kept_of_a_file_while_it_is_read_there_must_be_memory_as_well(
    tmp_path: Path, name: str, content: bytes, kept: int
) -> None:
    work = Work(tmp_path / "batch_0123456789ab0123456789")
    work.dropped.mkdir(parents=True)
    (work.dropped / name).write_bytes(content)
    asked: list[int] = []
    with files.Writer(work.open_part, fresh=True) as part:
        for _ in ingest.ingest(work, rules_of(Config()), part, lambda requests, beside: not asked.append(beside)):
            pass
    assert kept <= max(asked) <= kept + 3 * source.BLOCK


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
