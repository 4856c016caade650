"""However an engine ends, it costs time; whichever request ends it costs itself; and a batch that only dies is parked.

The worker process is the real one with a host that dies on order (`frail_host`), or, where only the loop's decisions
count, the daemon's passes are driven one by one (`stepping`). test_vllm.py has the same with the real vLLM.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from engines import Engines
from running import Daemon, custom_ids, error_of, eventually, jsonl, lines, proven, request
from stepping import POISON, Mortal

from inbox_daemon import config, daemon
from inbox_daemon.config import Config, EngineSettings, NullSettings
from inbox_daemon.config.models import Model
from inbox_daemon.engine import Engine, Place
from inbox_daemon.engine.fleet import Fleet
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.engine.slot import Slot
from inbox_daemon.errors import ConfigError, EngineDied
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.records import EngineState
from inbox_daemon.settings import Settings

Start = Callable[..., Daemon]
pytestmark = pytest.mark.slow


# -- every way to end

WAYS = {
    "exit 0": "the worker ended with exit status 0",
    "exit 1": "the worker ended with exit status 1",
    "killed": "the worker was killed by SIGKILL",
    "core killed": "the worker ended with exit status 3",
    "core stopped": "no progress for",
    "silent": "no progress for",
}


def test_however_an_engine_ends_its_requests_run_again_and_none_is_blamed(start_frail: Callable[..., Daemon]) -> None:
    asked = [request(f"r{i}", f"say {i}") for i in range(20 * (len(WAYS) + 1))]
    for n, how in enumerate(WAYS, 1):
        asked[20 * n] = request(f"r{20 * n}", f"say {20 * n}; once: {how}")
    running = start_frail()
    running.drop("b.jsonl", jsonl(asked))
    eventually(lambda: workers(running), 60)
    engines = Engines(running)
    status = running.finished("b", 180)
    assert status["request_counts"] == {"total": len(asked), "completed": len(asked), "failed": 0}
    assert custom_ids(running.outbox("b") / "results.jsonl") == [one["custom_id"] for one in asked]
    proven(running, "b")
    engines.end_soon()
    assert status["engine_deaths"] == len(WAYS)
    reasons = re.findall(r"ERROR +engine died: (.*)", running.text())
    for reason, words in zip(reasons, WAYS.values(), strict=True):
        assert words in reason


SECRET, NUMBER = "zqzqzqzq, that nobody is to know", 19771977


def test_in_whatever_way_an_engine_says_a_requests_text_and_dies_of_it_nothing_of_it_is_said(
    start_frail: Callable[..., Daemon],
) -> None:
    """The real vLLM says some of it in some of these ways (`test_vllm_faults`); the next release may in others."""
    running = start_frail()
    running.drop("b.jsonl", jsonl([request("poison", f"{SECRET}; always: talks", seed=NUMBER), request("good")]))
    running.finished("b", 120)
    journal = running.text()
    for said in ("as an argument: …", "as a number, where any text may stand: …", "with an exception"):
        assert said in journal
    for kind in ("KeyError", "ValueError", "RuntimeError"):
        assert f"{kind}: … (what it says may quote a request)" in journal
    told = [running.spool / "alerts.jsonl", *running.spool.glob("daemons/*.json")]
    theirs = ("input.jsonl", "retry.jsonl")
    told += [path for path in running.outbox("b").rglob("*") if path.is_file() and path.name not in theirs]
    for where in [journal, *[path.read_text() for path in told if path.exists()]]:
        assert "zqzqzqzq" not in where and str(NUMBER) not in where


def test_a_model_sleeps_while_another_works_and_one_killed_asleep_or_beside_sleepers_costs_its_own_requests_a_load(
    start_frail: Callable[..., Daemon],
) -> None:
    running = start_frail(INBOX_DAEMON_MODEL='{"org/b" = {}}', INBOX_DAEMON_MODELS__SLEEP="true")
    asked = lambda model, *texts: jsonl([request(f"r{n}", text, model=model) for n, text in enumerate(texts)])  # noqa: E731

    def answered(name: str, model: str, *texts: str) -> None:
        running.drop(f"{name}.jsonl", asked(model, *texts))
        counts = running.finished(name, 60)["request_counts"]
        assert counts == {"total": len(texts), "completed": len(texts), "failed": 0}

    answered("a1", "frail", "say 1", "say 2")
    answered("b1", "org/b", "say 1")
    first = workers(running)
    answered("a2", "frail", "say 3")
    assert {one.pid for one in first} <= {one.pid for one in workers(running)}, "none has ended"
    assert running.text().count(" starting (") == 2
    answered("b2", "org/b", "say 2; once: killed", "say 3")
    assert running.text().count(" starting (") == 3 and " died: " in running.text()
    [sleeper] = [one for one in first if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    sleeper.kill()
    eventually(lambda: running.text().count(" died: ") == 2, 20, "the sleeper's death is seen")
    answered("b3", "org/b", "say 4")
    answered("a3", "frail", "say 4")
    assert running.status("a3")["engine_deaths"] == running.status("b3")["engine_deaths"] == 0
    running.stop()
    assert not workers(running), "none is left, asleep or not"


TWO_ENGINES = {"INBOX_DAEMON_ENGINE__ARGS": "{data_parallel_size = 2}"}


def workers(daemon: Daemon) -> list[psutil.Process]:
    """The workers that live, spares among them."""
    found = []
    for one in daemon.family():
        with suppress(psutil.NoSuchProcess):  # a zombie has no command line
            found += [one] if "inbox_daemon.engine.worker" in one.cmdline() else []
    return found


def test_of_two_engines_the_death_of_one_costs_what_it_had_and_nothing_of_the_other(
    start_frail: Callable[..., Daemon],
) -> None:
    asked = [request(f"r{i}", f"say {i}") for i in range(400)]
    asked[100] = request("r100", "say 100; once: exit 1")
    running = start_frail(**TWO_ENGINES)
    running.drop("b.jsonl", jsonl(asked))
    eventually(lambda: len(workers(running)) == 2, 60)
    status = running.finished("b", 120)
    assert status["request_counts"] == {"total": 400, "completed": 400, "failed": 0}
    assert (status["engine_deaths"], len(status["engines"])) == (1, 2)
    [died] = re.findall(r"ERROR +engine (\d) died: .* exit status 1", running.text())
    assert sorted(engine["deaths"] for engine in status["engines"]) == [0, 1]
    assert status["engines"][int(died) - 1]["deaths"] == 1
    assert "engine died with 2 requests in flight" in running.text()  # of four
    eventually(lambda: len(workers(running)) == 2, 30)
    proven(running, "b")


def test_while_one_of_two_engines_hangs_and_is_replaced_the_other_answers_without_a_pause(
    start_frail: Callable[..., Daemon],
) -> None:
    asked = [request(f"r{i}", f"say {i}") for i in range(3000)]
    asked[20] = request("r20", "say 20; once: core stopped")
    running = start_frail(**TWO_ENGINES)
    running.drop("b.jsonl", jsonl(asked))
    counted: list[tuple[float, int]] = []

    def is_found() -> bool:
        counted.append((time.monotonic(), running.done("b")))
        return bool(re.search(r"engine \d died: 2 requests in flight and no progress for", running.text()))

    eventually(is_found, 60)
    grew = [at for (at, done), (_, before) in zip(counted[1:], counted, strict=False) if done > before]
    longest = max(later - earlier for earlier, later in itertools.pairwise(grew))
    assert longest < 3.0  # a status each second, however busy the machine
    assert running.finished("b", 120)["request_counts"] == {"total": 3000, "completed": 3000, "failed": 0}
    assert running.text().count(" died: ") == 1


def test_after_a_death_a_worker_that_has_imported_already_is_at_hand_for_the_next(
    start_frail: Callable[..., Daemon], tmp_path: Path
) -> None:
    running = start_frail(INBOX_DAEMON_ENGINE__SPARE_WORKER="true", TMPDIR=str(tmp_path))

    def survives_a_death(name: str) -> list[psutil.Process]:
        running.drop(f"{name}.jsonl", jsonl([request(name, "say it; once: exit 1")]))
        assert running.finished(name, 60)["request_counts"]["completed"] == 1
        return eventually(lambda: found if len(found := workers(running)) == 2 else None, 30, "engine and spare")

    first = survives_a_death("first")
    (engine,) = [one for one in survives_a_death("second") if one in first]  # it was the spare
    (spare,) = [one for one in workers(running) if one != engine]
    spare.kill()
    eventually(lambda: workers(running) == [engine], 10)
    assert spare not in survives_a_death("third")  # one that has died is no loss
    left = workers(running)
    running.stop()
    assert not list(tmp_path.glob("vllm-*")) and not any(one.is_running() for one in left)


# The parent of whoever loses his own, as PID 1 of a container often is: it waits for its one child and for nobody else.
REAPS_NOBODY = """
import ctypes, subprocess, sys
prctl = ctypes.CDLL(None).prctl
prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
sys.exit(subprocess.Popen(sys.argv[1:], preexec_fn=lambda: prctl(1, 9)).wait())
"""


def test_an_engine_whose_dead_processes_nobody_reaps_is_replaced(start_frail: Callable[..., Daemon]) -> None:
    asked = [request(f"r{i}", f"say {i}") for i in range(20)]
    asked[10] = request("r10", "say 10; once: exit 1")
    running = start_frail(prefix=[sys.executable, "-c", REAPS_NOBODY])
    running.drop("b.jsonl", jsonl(asked))
    assert running.finished("b", 60)["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    assert [one for one in running.family() if one.status() == psutil.STATUS_ZOMBIE]


def test_deaths_while_loading_wait_longer_each_time_and_count_against_no_batch(
    start_frail: Callable[..., Daemon],
) -> None:
    running = start_frail("exit 1", "silent", INBOX_DAEMON_ENGINE__LOAD_TIMEOUT="10")
    running.drop("b.jsonl", jsonl([request(f"r{i}", f"say {i}") for i in range(20)]))
    words = lambda: "".join(one.get("last_death", "") for one in running.status("b").get("engines", ()))  # noqa: E731
    eventually(lambda: "as told" in words(), 60)
    status = running.finished("b", 120)
    assert (status["request_counts"]["completed"], status["engine_deaths"], status["parked"]) == (20, 0, None)
    assert "still loading after" in running.text() and "(engine.load_timeout)" in running.text()
    said = re.findall(r"engine starts again in (\d+) s; loads in a row that failed: (\d+)", running.text())
    assert said[:2] == [("1", "1"), ("2", "2")]


class Loading(NullEngine):
    """Dies while it loads, until it is told to live."""

    lives = False

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._loaded, self.info = self.info, None

    def receive(self) -> list[Any]:
        if not self.lives:
            raise EngineDied("no such model")
        self.info = self._loaded
        return super().receive()


def slot_of(make: Callable[[int], Engine]) -> tuple[Slot, Callable[[float], None]]:
    """A slot, and what starts an engine there whenever one may."""
    slot = Slot(1, "", {""}, make)
    starts = itertools.count(1)

    def ensure(now: float) -> None:
        if slot.may_start(now):
            slot.begin(next(starts))
        slot.idle(True, 0.0, now)

    return slot, ensure


def test_the_wait_between_loads_that_fail_grows_to_five_minutes_and_ends_with_one_that_succeeds() -> None:
    settings = EngineSettings(kind="null")
    slot, ensure = slot_of(lambda number: Loading(settings))
    now, waits = 1000.0, []
    for _ in range(8):
        died = now
        while slot.state is not EngineState.LOADING:
            ensure(now)
            now += 0.25
        waits.append(now - 0.25 - died)
        with pytest.raises(EngineDied):
            slot.receive(now, False)
    assert waits == [0, 1, 2, 5, 15, 60, 300, 300]
    Loading.lives = True
    try:
        ensure(now + 300)
        assert slot.receive(now + 300, False) == [] and slot.state is EngineState.READY
        assert slot.failures == 0
    finally:
        Loading.lives = False


def test_a_worker_that_cannot_be_started_is_a_load_that_failed_and_is_tried_again() -> None:
    settings, room = EngineSettings(kind="null"), [False, False, True]

    def make(number: int) -> NullEngine:
        if not room[number - 1]:
            raise OSError(errno.ENOSPC, "No space left on device", "/tmp/vllm-abc")
        return NullEngine(settings)

    slot, ensure = slot_of(make)
    now = 1000.0
    for waits in (1.0, 2.0):
        ensure(now)
        with pytest.raises(EngineDied, match=r"cannot be started: .*No space left on device: '/tmp/vllm-abc'"):
            slot.receive(now, False)
        assert (slot.state, slot.back_off) == (EngineState.BACKING_OFF, waits)
        assert slot.receive(now, False) == []  # it is said once
        slot.idle(False, 0.0, now)
        assert slot.state is EngineState.OFF  # nobody waits for the next one
        now += waits
    ensure(now)
    assert slot.receive(now, False) == [] and slot.state is EngineState.READY


class SaysWhatIsWrong(NullEngine):
    wrong = False

    def receive(self) -> list[Any]:
        if self.wrong:
            raise ConfigError("2 replicas need 2 GPUs; 1 visible")
        return []


def test_settings_that_were_right_once_end_no_daemon_when_a_gpu_is_lost() -> None:
    engine = SaysWhatIsWrong(EngineSettings(kind="null"))
    slot, ensure = slot_of(lambda number: engine)
    ensure(1.0)
    engine.wrong = True
    with pytest.raises(ConfigError):
        slot.receive(1.0, proven=False)
    with pytest.raises(EngineDied, match="1 visible"):
        slot.receive(1.0, proven=True)


def test_an_engine_starts_while_another_one_backs_off_and_all_are_one_count() -> None:
    settings = EngineSettings(kind="null", null=NullSettings(engines=3))
    made: list[tuple[int, Place | None]] = []

    def make(model: Model, number: int, place: Place | None) -> NullEngine:
        made.append((number, place))
        if place and place.number == 2 and len(made) < 4:
            raise OSError(errno.EAGAIN, "no process")
        return NullEngine(settings, place)

    fleet = Fleet(make, Settings(Config(engine=settings)))
    fleet.ensure({""}, 1.0)
    fleet.ensure({""}, 1.0)
    assert made == [(1, None), (2, Place(2, 3, "")), (3, Place(3, 3, ""))]
    with pytest.raises(EngineDied):
        fleet.slots[1].receive(1.0, True)
    fleet.ensure({""}, 1.5)
    assert [slot.occupied for slot in fleet] == [True, False, True]
    fleet.ensure({""}, 2.0)
    assert made[3:] == [(4, Place(2, 3, ""))]
    assert [slot.name for slot in fleet] == ["engine 1", "engine 2", "engine 3"]


# -- poison


def test_two_poisons_in_one_batch_one_that_kills_and_one_that_hangs_are_both_found(
    start_frail: Callable[..., Daemon],
) -> None:
    asked = [request(f"r{i}", f"say {i}") for i in range(40)]
    asked[10] = request("kills", "say 10; always: exit 1")
    asked[30] = request("hangs", "say 30; always: silent")
    running = start_frail(INBOX_DAEMON_ENGINE__IN_FLIGHT="2")
    running.drop("b.jsonl", jsonl(asked))
    status = running.finished("b", 180)
    errors = lines(running.outbox("b") / "errors.jsonl")
    assert [(e["custom_id"], error_of(e).code, error_of(e).line) for e in errors] == [
        ("kills", "engine_crash", 11),
        ("hangs", "engine_crash", 31),
    ]
    assert "Its last words: RuntimeError: … (" in error_of(errors[0]).message
    assert "no progress for" in error_of(errors[1]).message
    assert status["request_counts"] == {"total": 40, "completed": 38, "failed": 2}
    assert status["engine_deaths"] <= 2 * (1 + 2)  # log2(2 in flight) + 2 for each
    proven(running, "b")


class Passes:
    """A daemon in this process whose passes are driven one by one, with an engine that reaches its poison."""

    def __init__(self, spool: Path, events: int, **settings: object) -> None:
        engine = {"kind": "null", "in_flight": 4} | settings
        inbox = {"settle": 0.0, "settle_unproven": 0.0, "rescan": 0.1, "watch": "poll", "run_resends": True}
        read = config.build({"spool": str(spool), "engine": engine, "inbox": inbox}, "test")
        self.spool, self.orders, self.now = spool, dict[int, str](), time.monotonic()
        made = lambda model, number, place: Mortal(model.engine, self.orders, events, place)  # noqa: E731
        self.daemon = daemon.Daemon(read, made, Notifier({}), drain=False)

    def until(self, holds: Callable[[], object], passes: int = 200) -> None:
        for _ in range(passes):
            if holds():
                return
            self.now += 1.0
            self.daemon.step(self.now)
        raise AssertionError("it does not come to that")

    def drop(self, name: str, *texts: str) -> None:
        requests = jsonl([request(f"{name}{i}", text) for i, text in enumerate(texts)])
        (self.spool / "inbox" / f".{name}").write_bytes(requests)
        (self.spool / "inbox" / f".{name}").rename(self.spool / "inbox" / f"{name}.jsonl")

    def status(self, name: str) -> dict[str, Any]:
        try:
            return dict(orjson.loads((self.spool / "outbox" / name / "status.json").read_bytes()))
        except FileNotFoundError:
            return {}

    def ended(self, name: str) -> bool:
        return self.status(name).get("completed_at") is not None

    def failed(self, name: str) -> list[tuple[str, str]]:
        errors = lines(self.spool / "outbox" / name / "errors.jsonl")
        return [(error["custom_id"], error_of(error).code) for error in errors]

    def engine_dies(self, how: str) -> None:
        """Have the engine die with requests in flight."""
        going_on = lambda: any(life.queue.takeable + life.queue.in_flight for life in self.daemon._batches)  # noqa: E731
        [slot] = self.daemon._fleet
        self.until(lambda: slot.info and going_on())
        deaths = slot.deaths
        self.orders[1] = how
        self.until(lambda: slot.deaths > deaths)

    def end(self) -> None:
        self.daemon._shut_down()


@pytest.fixture
def start_passes(tmp_path: Path) -> Iterator[Callable[..., Passes]]:
    events = os.open(tmp_path / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    started: list[Passes] = []

    def start(**settings: object) -> Passes:
        started.append(Passes(tmp_path / "spool", events, **settings))
        return started[-1]

    yield start
    started[-1].end()
    os.close(events)


POISONED = ["say 0", "say 1", POISON.decode(), *(f"say {i}" for i in range(3, 12))]
GUILTY = 2


def test_a_poison_dropped_again_after_a_restart_is_found_again(start_passes: Callable[..., Passes]) -> None:
    first = start_passes()
    first.drop("a", *POISONED)
    first.until(lambda: first.ended("a"))
    assert first.failed("a") == [(f"a{GUILTY}", "engine_crash")]
    first.end()
    again = start_passes()
    again.drop("b", *POISONED)
    again.until(lambda: again.ended("b"))
    assert again.failed("b") == [(f"b{GUILTY}", "engine_crash")]
    assert again.status("b")["engine_deaths"] <= 4


def test_a_restart_while_a_poison_is_sought_begins_the_search_anew_and_ends_it(
    start_passes: Callable[..., Passes],
) -> None:
    first = start_passes()
    first.drop("a", *POISONED)
    first.until(lambda: (known := first.daemon._dispatcher._suspects.get("")) and known.narrowing)
    before = first.status("a")["engine_deaths"]
    first.end()
    again = start_passes()
    again.until(lambda: again.ended("a"))
    assert again.failed("a") == [(f"a{GUILTY}", "engine_crash")]
    assert again.status("a")["request_counts"]["completed"] == len(POISONED) - 1
    assert again.status("a")["engine_deaths"] <= before + 1 + 4


def test_a_death_that_the_machine_caused_blames_no_request_not_even_one_that_is_alone(
    start_passes: Callable[..., Passes],
) -> None:
    one = start_passes()
    one.drop("a", "say 0")
    for _ in range(5):
        one.engine_dies("machine")
    one.until(lambda: one.ended("a"))
    assert (one.failed("a"), one.status("a")["engine_deaths"]) == ([], 5)


# -- parked


def test_a_batch_on_which_engines_only_die_is_parked_with_its_reason_until_it_is_resumed(
    start_passes: Callable[..., Passes], caplog: pytest.LogCaptureFixture
) -> None:
    one = start_passes(max_deaths=2)
    one.drop("a", *(f"say {i}" for i in range(12)))
    one.engine_dies("machine")
    one.engine_dies("machine")
    one.until(lambda: one.status("a")["parked"])
    reason = "the engine died 2 times within an hour on this batch, last: machine"
    assert one.status("a")["parked"] == reason
    assert "a: parked: the engine died 2 times" in caplog.text
    done = next(iter(one.daemon._batches)).queue.done
    one.drop("b", *(f"say {i}" for i in range(12)))
    one.until(lambda: one.ended("b"))
    assert one.failed("b") == []
    one.end()

    again = start_passes(max_deaths=2)  # parked is which file exists
    again.drop("c", "say 0")
    again.until(lambda: again.ended("c"))
    assert (
        again.status("a")["parked"]
        and next(life for life in again.daemon._batches if life.name == "a").queue.done == done
    )
    (again.spool / "inbox" / "a.resume").touch()
    again.engine_dies("machine")  # the count begins anew: one more death is no reason
    again.until(lambda: again.ended("a"))
    assert again.failed("a") == []
    receipt = orjson.loads((again.spool / "outbox" / "a" / "receipt.json").read_bytes())
    assert receipt["engine_deaths"] == 3
    assert [one["reason"] for one in receipt["parked"]] == [
        "the engine died 2 times within an hour on this batch, last: machine"
    ]


def test_deaths_of_more_than_an_hour_ago_park_no_batch(start_passes: Callable[..., Passes]) -> None:
    first = start_passes(max_deaths=2)
    first.drop("a", *(f"say {i}" for i in range(12)))
    first.engine_dies("machine")
    first.end()
    [history] = first.spool.glob("work/*/history.jsonl")
    events = [orjson.loads(line) for line in history.read_bytes().split(b"\n") if line]
    history.write_bytes(b"".join(orjson.dumps(event | {"up": event["up"] - 3700}) + b"\n" for event in events))
    again = start_passes(max_deaths=2)
    again.engine_dies("machine")
    again.until(lambda: again.ended("a"))
    assert (again.status("a")["parked"], again.status("a")["engine_deaths"]) == (None, 2)
