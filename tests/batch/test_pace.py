"""How long a batch takes still: reckoned in tokens, right where lines would be wrong, silent where nothing is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from running import Daemon, eventually, jsonl, request

from inbox_daemon.batch.life import Life
from inbox_daemon.batch.memory import Memory
from inbox_daemon.batch.pace import Done, Pace, Speed, seconds_left
from inbox_daemon.batch.status import Tally
from inbox_daemon.config import Config, ResultSettings
from inbox_daemon.layout import Spool
from inbox_daemon.records import BatchStatus, Outcome
from inbox_daemon.request.output import answer_line
from inbox_daemon.settings import Settings
from inbox_daemon.spool import claim

Start = Callable[..., Daemon]


@dataclass(frozen=True)
class Line:
    read: int
    cached: int = 0
    written: int = 0

    @property
    def size(self) -> int:
        return 150 + 4 * self.read


READS, WRITES = 10_000.0, 2_000.0  # tokens a second of an engine that does one thing after another


def run(lines: Iterable[Line], until: int) -> tuple[Done, Pace, float]:
    """Let an engine work through lines, as far as `until`: what is done, the pace measured each second, the clock."""
    done, pace, now, marked = Done(), Pace(), 0.0, 0.0
    pace.mark(0.0, done, working=True)
    for line in list(lines)[:until]:
        now += cost(line)
        done = Done(
            done.requests + 1,
            done.answers + 1,
            done.answer_bytes + line.size,
            done.input_tokens + line.read,
            done.cached_tokens + line.cached,
            done.output_tokens + line.written,
        )
        if now - marked >= 1:
            marked = now
            pace.mark(now, done, working=True)
    return done, pace, now


def cost(line: Line) -> float:
    return (line.read - line.cached) / READS + line.written / WRITES


def by_work_and_by_lines(lines: list[Line], until: int) -> tuple[float, float, float]:
    """The seconds that the rest takes, as reckoned, as lines would have it, and as it is."""
    done, pace, _ = run(lines, until)
    rest = lines[until:]
    reckoned = seconds_left(done, len(rest), sum(line.size for line in rest), pace.speed)
    assert reckoned is not None
    return reckoned, len(rest) / pace.speed.requests, sum(map(cost, rest))


def test_equal_lines_are_the_easy_case() -> None:
    reckoned, by_lines, truth = by_work_and_by_lines([Line(500, 0, 100)] * 5000, 1000)
    assert reckoned == pytest.approx(truth, rel=0.01)
    assert by_lines == pytest.approx(truth, rel=0.01)


def test_long_prompts_at_the_end_of_the_file_are_seen_coming() -> None:
    lines = [Line(100, 0, 5)] * 4000 + [Line(2000, 0, 5)] * 4000
    reckoned, by_lines, truth = by_work_and_by_lines(lines, 2000)
    assert reckoned == pytest.approx(truth, rel=0.3)  # what is in a line beside the prompt counts as prompt
    assert by_lines < truth / 4


def test_a_stretch_of_long_answers_does_not_frighten() -> None:
    lines = ([Line(100, 0, 20)] * 300 + [Line(100, 0, 400)] * 300) * 20
    reckoned, by_lines, truth = by_work_and_by_lines(lines, 3600)  # the last minute saw long answers only
    assert reckoned == pytest.approx(truth, rel=0.1)
    assert by_lines > 1.5 * truth


def test_a_cached_prompt_costs_nothing() -> None:
    lines = [Line(1000, 0, 10)] * 1000 + [Line(1000, 900, 10)] * 9000
    reckoned, _, truth = by_work_and_by_lines(lines, 5000)
    assert reckoned == pytest.approx(truth, rel=0.05)
    assert Done(1, 1, 100, 1000, 900, 0).work == Done(1, 1, 100, 1000, 0, 0).work / 10


def test_without_output_tokens_the_prompts_are_what_counts() -> None:
    embeddings = [Line(50)] * 2000 + [Line(500)] * 2000
    reckoned, by_lines, truth = by_work_and_by_lines(embeddings, 1500)
    assert reckoned == pytest.approx(truth, rel=0.5)
    assert by_lines < truth / 4


def test_an_engine_that_counts_no_tokens_is_measured_by_lines() -> None:
    assert seconds_left(Done(100, 100, 5000), 50, 2500, Speed(requests=10)) == 5


def test_errors_are_no_measure_of_the_work_of_an_answer() -> None:
    """Half the file was faulty and settled at once; what is left will all be computed."""
    done = Done(requests=600, answers=100, answer_bytes=10_000, input_tokens=10_000, output_tokens=0)
    assert seconds_left(done, 400, 40_000, Speed(1, 0, 1000, 1)) == 40


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert seconds_left(Done(), 100, 1000, Speed()) is None
    assert seconds_left(Done(10, 10, 100, 100, 0, 100), 100, 1000, Speed()) is None
    assert seconds_left(Done(10, 10, 100, 100, 0, 100), 0, 0, Speed()) == 0


def test_speed_is_that_of_the_last_minute_and_counts_from_the_first_request_handed_out() -> None:
    pace = Pace()
    for second in range(300):  # the engine loads
        pace.mark(float(second), Done(), working=False)
    for second in range(300, 310):
        pace.mark(float(second), Done(), working=True)  # the first answers take ten seconds
    pace.mark(310.0, Done(requests=110), working=True)
    assert pace.speed.requests == pytest.approx(10, rel=0.1)
    for second in range(311, 511):
        pace.mark(float(second), Done(requests=110 + 50 * (second - 310)), working=True)
    assert pace.speed.requests == pytest.approx(50)


def test_a_pause_is_not_slowness() -> None:
    pace = Pace()
    for second in range(10):
        pace.mark(float(second), Done(requests=100 * second), working=True)
    for second in range(10, 40):
        pace.mark(float(second), Done(requests=900), working=False)
    assert pace.speed == Speed()
    pace.mark(40.0, Done(requests=900), working=True)
    pace.mark(41.0, Done(requests=1000), working=True)
    assert pace.speed.requests == pytest.approx(50, rel=0.01)


def test_what_is_left_of_a_real_file_is_reckoned_by_the_length_of_its_lines(tmp_path: Path) -> None:
    """450 of 500 long prompts are read, at ten a second; 50 of them and 500 short ones are left."""
    spool = Spool(tmp_path)
    claim.prepare(spool)
    texts = [*(f"{i} {'long ' * 800}" for i in range(500)), *(f"{i} short" for i in range(500))]
    dropped = spool.inbox / "b.jsonl"
    dropped.write_bytes(jsonl([request(f"r{i}", text) for i, text in enumerate(texts)]))
    held = claim.claim(spool, dropped)
    assert held is not None
    life = Life(spool, held, 1, Settings(Config(results=ResultSettings(sync_every=1))), Tally(), Memory())
    while life.running is None or life.state.status is not BatchStatus.IN_PROGRESS:
        life.step()
    now = time.monotonic()
    for second in range(1, 46):
        requests = life.running.take({""}, 10, 0)
        answers = [answer_line(one.id, f"r{one.number - 1}", b"{}") for one in requests]
        outcomes = [
            Outcome(one.ticket, line, input_tokens=len(one.line) // 4)
            for one, line in zip(requests, answers, strict=True)
        ]
        life.running.settle(outcomes, now + second)
        life.tick(now + second, 1, ())
    left = [len(line) for line in (held.work.input).read_bytes().splitlines()[450:]]
    assert life.eta == pytest.approx(45 * sum(left) / (450 * left[0]), rel=0.1)
    life.let_go()


def test_a_resumed_batch_knows_its_time_left_at_once_and_counts_it_down(start_daemon: Start) -> None:
    slow = {"INBOX_DAEMON_ENGINE__NULL__RATE": "300"}
    daemon = start_daemon(environment=slow)
    daemon.drop("b.jsonl", jsonl([request(f"r{i}", "x" * (i % 700)) for i in range(9000)]))
    eventually(lambda: daemon.done("b") >= 300, 60)
    daemon.kill()
    again, since = start_daemon(environment=slow), time.time()

    def told_by_the_second() -> dict[str, Any]:
        status = again.status("b")
        return status if status["updated_at"] > since and status.get("eta_seconds") else {}

    before = eventually(told_by_the_second, 20)
    eventually(lambda: again.done("b") >= 4000, 60)
    status = again.status("b")
    counts = status["request_counts"]
    done = counts["completed"] - before["request_counts"]["completed"]
    rate = done / (status["updated_at"] - before["updated_at"])  # 300 where the host has nothing else to do
    assert status["eta_seconds"] == pytest.approx((counts["total"] - counts["completed"]) / rate, rel=0.25)
