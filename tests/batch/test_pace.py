"""How long a batch takes still: reckoned in tokens, right where lines would be wrong, silent where nothing is known."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import Daemon, eventually, jsonl, request

from inbox_daemon.batch.life import Life
from inbox_daemon.batch.memory import Memory
from inbox_daemon.batch.pace import Busy, Done, Pace, Speed, seconds_left
from inbox_daemon.batch.status import Present, Tally
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
    pace.mark(0.0, done, in_flight=1)
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
            pace.mark(now, done, in_flight=1)
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


def test_speed_is_that_of_the_last_minute_and_counts_from_the_first_answer() -> None:
    pace = Pace()
    for second in range(300):  # the engine loads
        pace.mark(float(second), Done(), in_flight=0)
    for second in range(300, 310):
        pace.mark(float(second), Done(), in_flight=100)  # it compiles: the first answers take ten seconds
    for second in range(310, 511):
        pace.mark(float(second), Done(requests=50 * (second - 309)), in_flight=100)
        assert pace.speed.requests == pytest.approx(50)


def test_a_pause_is_not_slowness() -> None:
    pace = Pace()
    for second in range(10):
        pace.mark(float(second), Done(requests=100 * second), in_flight=100)
    for second in range(10, 40):
        pace.mark(float(second), Done(requests=900), in_flight=0)
    assert pace.speed == Speed()
    pace.mark(40.0, Done(requests=900), in_flight=100)
    pace.mark(41.0, Done(requests=1000), in_flight=100)
    assert pace.speed.requests == pytest.approx(100, rel=0.01)


# -- right, or silent


@dataclass(frozen=True)
class Gpu:
    """An engine that computes so many requests at a time: seconds of a step, and of each token in it.

    `begins` is when its first step ends: graphs are compiled, caches are cold.
    """

    seats: int
    step: float = 0.012
    each: float = 0.000024
    reads: float = 75_000.0
    budget: int = 16_384
    begins: float = 2.0


TWO_CORES = Gpu(128, step=0.01, each=0.0008, reads=3000.0, budget=2048, begins=19.0)


def answered(lines: list[Line], gpu: Gpu) -> list[tuple[float, int]]:
    """When each line is answered, by continuous batching: a seat that is free is taken in the next step."""
    now, step, running, taken = gpu.begins, 0, 0, 0
    ends: dict[int, list[int]] = {}
    found: list[tuple[float, int]] = []
    while len(found) < len(lines):
        tokens = 0
        while taken < len(lines) and running < gpu.seats and tokens < gpu.budget:
            tokens += max(1, lines[taken].read - lines[taken].cached)
            ends.setdefault(step + max(1, lines[taken].written) - 1, []).append(taken)
            running, taken = running + 1, taken + 1
        now += gpu.step + gpu.each * running + tokens / gpu.reads
        over = ends.pop(step, [])
        found += [(now, line) for line in over]
        running, step = running - len(over), step + 1
    return found


def spread(mean: int, count: int, chance: random.Random) -> list[int]:
    """As tools/bench/workloads.py spreads lengths: from half the mean to half more."""
    found = [round(mean * (0.5 + (i + 0.5) / count)) for i in range(count)]
    chance.shuffle(found)
    return found


def candidates(count: int) -> list[Line]:
    chance = random.Random(1)
    both = zip(spread(241, count, chance), spread(152, count, chance), strict=True)
    return [Line(330 + read, 330 if i > 16 else 0, written) for i, (read, written) in enumerate(both)]


def short(count: int) -> list[Line]:
    return [Line(read, 0, 2) for read in spread(69, count, random.Random(1))]


def documents(count: int) -> list[Line]:
    return [Line(1275, 1260 if i % 4 else 0, 32) for i in range(count)]


def sample(count: int) -> list[Line]:
    """As tools/demo runs it."""
    chance = random.Random(1)
    return [Line(300 + chance.randrange(100), 200 if i > 16 else 0, chance.randrange(5, 120)) for i in range(count)]


@pytest.mark.parametrize(
    ("lines", "gpu", "said"),
    [
        (candidates(1500), Gpu(1024), 1),
        (candidates(5000), Gpu(256), 40),
        (short(20_000), Gpu(1024), 15),
        (documents(2000), Gpu(1024), 0),
        (candidates(50), Gpu(1024), 0),
        (sample(200), TWO_CORES, 1),
        (sample(2000), TWO_CORES, 140),
        (candidates(300), TWO_CORES, 15),
        (candidates(1000), TWO_CORES, 100),
        (short(2000), TWO_CORES, 30),
    ],
    ids=lambda value: "" if isinstance(value, int) else f"{len(value)} lines" if isinstance(value, list) else None,
)
def test_on_the_benches_files_time_left_is_right_within_a_factor_of_two_or_not_said(
    lines: list[Line], gpu: Gpu, said: int
) -> None:
    """Right to ten seconds will do. `said` is for how many seconds at least it is."""
    answers, total = answered(lines, gpu), sum(line.size for line in lines)
    pace, done, at, told = Pace(), Done(), 0, 0
    for second in range(int(answers[-1][0])):
        while answers[at][0] <= second:
            line = lines[answers[at][1]]
            sums = (done.input_tokens + line.read, done.cached_tokens + line.cached, done.output_tokens + line.written)
            done = Done(done.requests + 1, done.answers + 1, done.answer_bytes + line.size, *sums)
            at += 1
        left = len(lines) - at
        pace.mark(float(second), done, in_flight=min(left, 2 * gpu.seats))
        reckoned = seconds_left(done, left, total - done.answer_bytes, pace.speed, pace.at_once)
        if reckoned is not None:
            told += 1
            truth = answers[-1][0] - second
            assert truth / 2 <= reckoned <= truth * 2 or abs(reckoned - truth) <= 10, (second, reckoned, truth)
    assert told >= said


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
        life.tick(now + second, 1, Present())
    left = [len(line) for line in (held.work.input).read_bytes().splitlines()[450:]]
    assert life.eta == pytest.approx(45 * sum(left) / (450 * left[0]), rel=0.1)
    life.let_go()


@pytest.mark.slow
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


def test_busy_are_the_seconds_in_which_engines_had_something() -> None:
    busy = Busy(5.0)
    for now, at_work in ((0, False), (10, True), (12, True), (13, False), (100, False), (200, True), (201.5, False)):
        busy.mark(now, at_work)
    assert busy.seconds == 5 + 3 + 1.5


@pytest.mark.slow
def test_the_receipt_tells_how_long_engines_worked_on_a_batch_and_not_how_long_it_waited(start_daemon: Start) -> None:
    settings = '[model."org/a"]\n[model."org/b"]\n'
    slowly = {"INBOX_DAEMON_ENGINE__NULL__RATE": "40", "INBOX_DAEMON_ENGINE__NULL__LOAD": "1.5"}
    daemon = start_daemon(settings=settings, environment=slowly | {"INBOX_DAEMON_DAEMON__STOP_GRACE": "0"})
    asked = lambda model: jsonl([request(f"r{at}", model=model) for at in range(80)])  # noqa: E731
    daemon.drop("a.jsonl", asked("org/a"))
    daemon.drop("b.jsonl", asked("org/b"))
    eventually(lambda: daemon.done("a") >= 40 or daemon.done("b") >= 40, 30)
    assert daemon.stop() == 0
    again = start_daemon(settings=settings, environment=slowly)
    for name in ("a", "b"):
        again.finished(name, 30)
        times = orjson.loads((again.outbox(name) / "receipt.json").read_bytes())["times"]
        assert 1.9 < times["busy_seconds"] < 3, times
        assert times["seconds"] > times["busy_seconds"] + 1.4, "a load and the stop are in one of them alone"
