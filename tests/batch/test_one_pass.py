"""What one pass of the loop does, however many batches something happens to at once: a slice of it, in turn.

Steps and syncs are counted, not seconds: a slice of no time at all has a pass do the least it may.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from passes import Told
from running import batch_of

from inbox_daemon import daemon
from inbox_daemon.batch import face
from inbox_daemon.inbox import taking
from inbox_daemon.spool import history

BATCHES = 30
OF_ONE_STEP = 5  # syncs at most: of accepting a file


class Passes:
    """A daemon in this process with many batches, pass by pass; `syncs` are those of the last pass."""

    def __init__(self, spool: Path, syncs: list[str], **engine: Any) -> None:
        self.daemon = Told.daemon(spool, engine=engine, results={"sync_after": 0.0})
        self.syncs = syncs
        self.lives = self.daemon._batches
        for number in range(BATCHES):
            (spool / "inbox" / f"b{number}.jsonl").write_bytes(batch_of(2, f"{number}-"))

    def step(self) -> None:
        self.syncs.clear()
        self.daemon.step(time.monotonic())

    def until(self, holds: Callable[[], object]) -> list[int]:
        """Step until this holds; return how many syncs each pass had."""
        counts: list[int] = []
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline, "it does not come to that"
            self.step()
            counts.append(len(self.syncs))
        return counts

    def all_in_flight(self) -> bool:
        return [life.queue.in_flight for life in self.lives] == [2] * BATCHES


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every sync, by the path of what is synced; none reaches the disk."""
    seen: list[str] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: seen.append(os.readlink(f"/proc/self/fd/{fd}")))  # noqa: PTH115
    return seen


@pytest.fixture
def start(tmp_path: Path, syncs: list[str]) -> Iterator[Callable[..., Passes]]:
    started: list[Passes] = []

    def start(**engine: object) -> Passes:
        started.append(Passes(tmp_path / "spool", syncs, **engine))
        started[-1].until(started[-1].all_in_flight)
        return started[-1]

    yield start
    for one in started:
        one.daemon._shut_down()


def test_an_engines_death_waits_for_no_disk_and_is_written_down_within_a_second_or_two_of_turns(
    start: Callable[..., Passes], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = start()
    passes.until(lambda: not any(life.face.history.save_is_due(float("inf")) for life in passes.lives))
    passes.syncs.clear()
    Told.dies = True
    passes.daemon._dispatcher.collect(time.monotonic())
    assert passes.syncs == []
    assert all(life.face.history.count("engine_died") == 1 for life in passes.lives)
    monkeypatch.setattr(history, "_SAVE_AFTER", 0.0)
    monkeypatch.setattr(daemon, "_SLICE", 0.0)
    written = lambda: [b"engine_died" in life.work.history.read_bytes() for life in passes.lives]  # noqa: E731
    counts = passes.until(lambda: all(written()))
    assert max(counts) <= OF_ONE_STEP
    assert len(counts) >= BATCHES


def test_parking_hundreds_at_once_holds_all_of_them_at_once_and_writes_them_down_in_turn(
    start: Callable[..., Passes], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = start(max_deaths=1)
    Told.dies = True
    passes.syncs.clear()
    passes.daemon._dispatcher.collect(time.monotonic())
    assert passes.syncs == []
    assert all(life.state.parked for life in passes.lives)
    monkeypatch.setattr(daemon, "_SLICE", 0.0)
    counts = passes.until(lambda: all(life.work.parked.exists() for life in passes.lives))
    assert max(counts) <= OF_ONE_STEP
    assert not any(life.queue.in_flight for life in passes.lives)


def test_answers_for_all_batches_at_once_are_made_durable_in_turn(
    start: Callable[..., Passes], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = start()
    monkeypatch.setattr(daemon, "_SLICE", 0.0)
    Told.answers = True
    counts = passes.until(lambda: not len(passes.lives))
    assert max(counts) <= 2 * OF_ONE_STEP  # of one batch's step, and of what is due by the clock of another
    assert len(counts) >= BATCHES


def test_an_engine_that_becomes_ready_gets_requests_of_all_batches_without_a_sync(
    start: Callable[..., Passes],
) -> None:
    passes = start()
    for life in passes.lives:
        life.queue.give_back(range(2))
    passes.syncs.clear()
    dispatcher = passes.daemon._dispatcher
    dispatcher._traffic, dispatcher._changes = [], -1  # as if all slots were new
    dispatcher.feed()
    assert passes.all_in_flight()
    assert passes.syncs == []


def test_files_are_taken_one_a_pass_where_the_slice_is_over(
    tmp_path: Path, syncs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_SLICE", 0.0)
    monkeypatch.setattr(taking, "_SLICE", 0.0)
    passes = Passes(tmp_path / "spool", syncs)
    Told.answers = True
    counts = passes.until(lambda: (tmp_path / "spool/outbox/b7/receipt.json").exists() and not len(passes.lives))
    assert max(counts) <= 2 * OF_ONE_STEP
    passes.daemon._shut_down()


def test_of_a_batch_that_waits_for_somebodys_word_the_status_is_written_when_it_changes(
    start: Callable[..., Passes], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = start()
    monkeypatch.setattr(face, "_STATUS_EVERY", 0.0)
    monkeypatch.setattr(face, "_TOLD_A_SECOND", 1e9)
    paused = next(iter(passes.lives))
    for life in passes.lives:
        life.queue.give_back(range(2))
        life.work.pause.touch()
        life.read_control()
    while True:  # each pass has a slice for what is due
        passes.syncs.clear()
        passes.step()
        if not any("status.json" in path for path in passes.syncs):
            break
    for _ in range(5):
        passes.daemon.step(time.monotonic())
    assert not [path for path in passes.syncs if "status.json" in path]
    paused.work.pause.unlink()
    paused.read_control()
    passes.step()
    assert len([path for path in passes.syncs if "status.json" in path]) == 1
