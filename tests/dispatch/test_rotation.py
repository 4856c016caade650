"""Several models on one set of GPUs: the daemon carries out whose turn it is. Engines and the clock are ours."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import IN_MEMORY, jsonl, lines, request

from inbox_daemon import config
from inbox_daemon.config.models import Model, unlisted
from inbox_daemon.daemon import Daemon, Exit
from inbox_daemon.engine import Place
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.engine.open import engine_of
from inbox_daemon.engine.workers import Workers
from inbox_daemon.errors import ConfigError, EngineDied
from inbox_daemon.machine import host
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.records import Outcome, Request

A, B, C = "org/a", "org/b", "org/c"
STEP = 0.5  # seconds of our clock from one pass of the loop to the next


class Engine(NullEngine):
    """An engine that takes its time to load, computes a few requests at a time, each for as long as it says, and ends
    when it is told to.
    """

    def __init__(self, site: Site, model: Model, start: int, place: Place | None) -> None:
        super().__init__(model.engine, place)
        self.site, self.name, self.start = site, model.name, start
        self.whole, self.info, self.phase = self.info, None, "loading"
        self.ready_at = site.now + site.loads[model.name]
        self.has: dict[int, tuple[Request, float]] = {}
        self.ended_at: float | None = None
        self.back: list[int] = []
        site.note("start", model.name)

    def room(self) -> int:
        return self.info.in_flight - len(self.has) if self.info else 0

    def send(self, requests: Sequence[Request]) -> None:
        assert self.ended_at is None
        assert self.site.standing(self.name)["state"] != "leaving", "it gives way, and gets more"
        for one in requests:
            asked = orjson.loads(one.line)
            assert self.site.meant[asked["body"].get("model")] == self.name, "a request of another model"
            self.has[one.ticket] = (one, self.site.now + asked["body"]["max_tokens"])

    def receive(self) -> list[Outcome]:
        wrong = self.site.wrong.get(self.name)
        if any(self.site.poison and self.site.poison in one.line for one, _ in self.has.values()):
            self.site.note("died", self.name)
            raise EngineDied("poisoned")
        if wrong and (self.info is None or self.has or not isinstance(wrong, EngineDied)):
            self.site.note("died", self.name)
            raise wrong
        if self.info is None and self.site.now >= self.ready_at:
            self.info, self.phase = self.whole, ""
            self.site.note("ready", self.name)
        done = [one for one, until in self.has.values() if self.site.now >= until and self.info]
        for one in done:
            del self.has[one.ticket]
            self.site.answered[self.name] += 1
        return [self._answer(one) for one in done]

    def recall(self, tickets: Sequence[int]) -> None:
        self.site.recalled[self.name] += len(tickets)
        if not self.site.deaf:
            self.back += [ticket for ticket in tickets if self.has.pop(ticket, None)]

    def recalled(self) -> list[int]:
        back, self.back = self.back, []
        return back

    def sleep(self) -> None:
        assert not self.has, "it has requests"
        self.site.note("sleep", self.name)
        if not self.site.deaf:
            super().sleep()

    def wake(self) -> None:
        self.site.note("wake", self.name)
        if not self.site.deaf:
            super().wake()

    def kill(self) -> None:
        self.ended_at = self.site.now
        self.site.note("end", self.name)
        self.has.clear()
        self.site.there.remove(self)

    def gone(self) -> bool:
        if self.site.lingers and self.name == B and not self.site.closing:
            return False
        return self.site.closing or (self.ended_at is not None and self.site.now >= self.ended_at + 1.0)


class Site:
    """A daemon with several models, driven pass by pass.

    Attributes:
        events: (seconds since the beginning, what, of which model).
        loads: seconds that each model takes to load; wrong: why an engine of it ends, while that is so.
        deaf: engines give nothing back.
    """

    def __init__(self, spool: Path, tables: dict[str, Any], engine: dict[str, Any], models: dict[str, Any]) -> None:
        tree = {
            "spool": str(spool),
            "engine": {"kind": "null", "model": A, "in_flight": 4, **engine},
            "inbox": {"settle": 0.0, "settle_unproven": 0.0, "watch": "poll", "rescan": 0.1},
            "model": tables,
            "models": models,
        }
        self.tree = tree
        self.read = config.build(tree, "test")
        self.events: list[tuple[float, str, str]] = []
        self.loads = dict.fromkeys((A, B, C), 5.0)
        self.wrong: dict[str, Exception] = {}
        self.deaf, self.poison = False, b""  # a request with this in its line kills its engine
        self.answered: Counter[str] = Counter()
        self.recalled: Counter[str] = Counter()
        self.meant: dict[str | None, str] = {A: A, B: B, C: C, None: A}
        self.there: list[Engine] = []
        self.closing = self.lingers = False
        self.spool, self.began = spool, time.monotonic()
        self.now = self.began
        self.daemon = Daemon(self.read, self._made, Notifier({}), drain=False)

    def _made(self, model: Model, start: int, place: Place | None) -> Engine:
        one = Engine(self, model, start, place)
        self.there.append(one)
        return one

    def note(self, what: str, model: str) -> None:
        self.events.append((self.now - self.began, what, model))

    def told(self, what: str) -> list[str]:
        """Of which models this happened, in order."""
        return [model for _, happened, model in self.events if happened == what]

    def when(self, what: str, model: str) -> float:
        """When it happened last, in seconds since the beginning."""
        return next(at for at, happened, of in reversed(self.events) if (happened, of) == (what, model))

    def drop(self, name: str, *asked: tuple[str | None, int], each: int = 1) -> None:
        """Drop a file with so many requests for each of these models, of so many seconds each."""
        count = itertools.count()
        bodies = [{} if model is None else {"model": model} for model, many in asked for _ in range(many)]
        whole = jsonl([request(f"{name}{next(count)}", "say", **body, max_tokens=each) for body in bodies])
        hidden = self.spool / "inbox" / f".{name}"
        hidden.write_bytes(whole)
        hidden.rename(self.spool / "inbox" / f"{name}.jsonl")

    def control(self, name: str) -> None:
        (self.spool / "inbox" / name).touch()

    def reload(self, tables: dict[str, Any], **models: Any) -> None:
        """Have these be the settings, as SIGHUP does."""
        self.daemon._reload(lambda: config.build(self.tree | {"model": tables, "models": models}, "test"))

    def end(self) -> None:
        self.closing = True
        self.daemon._shut_down()

    def step(self) -> None:
        self.now += STEP
        self.daemon.step(self.now)
        assert not self.daemon._batches.suspended, "a fault of ours"

    def until(self, predicate: Callable[[], object], within: float = 1000.0) -> None:
        deadline = self.now + within
        while not predicate():
            assert self.now < deadline, (self.events, [self.status(name) for name in self.names()])
            self.step()

    def go_on(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step()

    def names(self) -> list[str]:
        return [path.name for path in (self.spool / "outbox").iterdir() if not path.name.startswith(".")]

    def status(self, name: str) -> dict[str, Any]:
        path = self.spool / "outbox" / name / "status.json"
        return dict(orjson.loads(path.read_bytes())) if path.exists() else {}

    def parked(self, name: str) -> dict[str, Any]:
        """What is noted of a batch in work that is parked, but for the time."""
        note = self.spool / "work" / str(self.status(name)["id"]) / "parked.json"
        return {key: value for key, value in orjson.loads(note.read_bytes()).items() if key != "at"}

    def ended(self, name: str) -> bool:
        return (self.spool / "outbox" / name / "receipt.json").exists()

    def results(self, name: str) -> list[dict[str, Any]]:
        return lines(self.spool / "outbox" / name / "results.jsonl")

    def standing(self, model: str) -> dict[str, Any]:
        said = self.daemon._rotations.said or [{"model": model, "state": "alone"}]
        return next(one for one in said if one["model"] == model)


@contextmanager
def site(tables: dict[str, Any], engine: dict[str, Any] | None = None, **models: Any) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        made = Site(Path(folder) / "spool", tables, engine or {}, models)
        try:
            yield made
        finally:
            made.end()


@pytest.fixture
def two() -> Iterator[Site]:
    with site({B: {}}) as made:
        yield made


def test_a_mixed_file_is_answered_by_each_lines_own_model_with_one_load_of_each(two: Site) -> None:
    two.drop("x", (A, 20), (B, 20), (None, 5), (A, 10))
    two.until(lambda: two.ended("x"))
    said = [line["response"]["body"]["model"] for line in two.results("x")]
    assert said == [A] * 20 + [B] * 20 + [A] * 15
    assert two.told("start") == [A, B] and two.answered == {A: 35, B: 20}
    assert two.when("start", B) >= two.when("end", A) + 1.0, "while the other one's processes held the GPU"
    receipt = orjson.loads((two.spool / "outbox" / "x" / "receipt.json").read_bytes())
    assert [one["model"] for one in receipt["engines"]] == [A, B]


def test_what_names_no_model_is_for_engine_model_though_another_one_is_loaded(two: Site) -> None:
    two.drop("b", (B, 2000))
    two.until(lambda: two.answered[B])
    two.drop("none", (None, 8))
    two.until(lambda: two.ended("none"))
    assert {line["response"]["body"]["model"] for line in two.results("none")} == {A}


@pytest.mark.slow
def test_a_small_file_comes_within_its_turn_by_though_another_model_has_hours_of_work(two: Site) -> None:
    two.drop("long", (A, 20_000))
    two.until(lambda: two.answered[A] > 100)
    two.drop("short", (B, 3))
    two.until(lambda: two.standing(B)["state"] == "waiting")
    seen = two.now
    two.go_on(5)
    told = two.standing(B)
    promised = seen + told["turn_by"] - told["since"]
    assert told["behind"] == [A] and told["since"] < told["turn_by"]
    [waiting] = two.status("short")["models"]
    assert (waiting["model"], waiting["total"], waiting["done"], waiting["state"]) == (B, 3, 0, "waiting")
    assert two.status("short")["eta_seconds"] is None
    two.until(lambda: two.standing(A)["state"] == "leaving")
    assert promised - 10 < two.now <= promised + 2 * STEP
    two.until(lambda: two.ended("short"))
    two.until(lambda: two.standing(A)["state"] == "ready")
    assert two.told("start") == [A, B, A], "what was left of the long one goes on"


@pytest.mark.slow
def test_what_has_begun_may_end_for_the_grace_and_the_rest_runs_again_and_is_not_interrupted_twice() -> None:
    with site({B: {}}, swap_grace=3.0, max_wait=1.0, longest_wait=1.0) as one:
        one.drop("long", (A, 40), each=100)
        one.until(lambda: "ready" in [what for _, what, _ in one.events])
        one.drop("short", (B, 2))
        one.until(lambda: one.told("end") == [A])
        leaving = one.when("end", A)
        assert one.recalled[A] == 4 and one.answered[A] % 4 == 0
        one.until(lambda: one.ended("short"))
        assert one.when("ready", B) > leaving
        before = one.answered[A]
        one.drop("again", (B, 2))
        one.until(lambda: one.told("end").count(A) == 2)
        assert one.answered[A] >= before + 4, "what it was interrupted in has its answers first"
        one.until(lambda: one.ended("again") and one.ended("long"), 20_000)
        assert len(one.results("long")) == 40


@pytest.mark.slow
def test_an_engine_that_gives_nothing_back_is_killed_and_its_requests_run_again() -> None:
    with site({B: {}}, swap_grace=1.0, max_wait=1.0, longest_wait=1.0) as one:
        one.drop("long", (A, 6), each=300)
        one.until(lambda: one.told("ready"))
        one.deaf = True
        one.drop("short", (B, 2))
        one.until(lambda: one.ended("short"), 2000)
        one.deaf = False
        one.until(lambda: one.ended("long"), 5000)
        assert [line["custom_id"] for line in one.results("long")] == [f"long{n}" for n in range(6)]


@pytest.mark.slow
def test_while_a_model_loads_nothing_else_begins_or_ends_on_its_gpus() -> None:
    with site({B: {}, C: {}}, max_wait=1.0, longest_wait=1.0) as one:
        one.loads = {A: 20.0, B: 20.0, C: 20.0}
        one.drop("x", (A, 400), (B, 400), (C, 400))
        one.until(lambda: one.ended("x"), 20_000)
        assert len(one.results("x")) == 1200
        loading: str | None = None
        for _, what, model in one.events:
            assert loading in (None, model), one.events
            loading = model if what == "start" else None


@pytest.mark.slow
def test_models_whose_shares_of_a_gpu_fit_stand_side_by_side_and_are_loaded_one_after_the_other() -> None:
    half, third = {"args": {"gpu_memory_utilization": 0.5}}, {"args": {"gpu_memory_utilization": 0.3}}
    with site({A: half, B: third, C: half}) as one:
        one.drop("x", (A, 200), (B, 200))
        one.until(lambda: one.answered[A] and one.answered[B])
        assert one.told("end") == [] and len(one.there) == 2
        assert one.when("start", B) >= one.when("ready", A)
        one.drop("y", (C, 4))
        one.until(lambda: one.ended("x"))
        one.until(lambda: one.ended("y"))
        assert one.told("end") == [A], "the one that has been idle for longest and makes room enough"


def test_models_on_gpus_of_their_own_are_loaded_at_once_and_never_wait_for_each_other() -> None:
    with site({A: {"gpus": [0]}, B: {"gpus": [1]}}) as one:
        one.drop("x", (A, 200), (B, 200))
        one.until(lambda: one.ended("x"))
        assert one.told("end") == [] and one.when("start", B) == one.when("start", A)


def test_a_model_that_fails_three_times_parks_what_is_for_it_and_resume_tries_again(two: Site) -> None:
    two.wrong[B] = EngineDied("no room for the model")
    two.drop("mixed", (A, 30), (B, 10))
    two.drop("b", (B, 5))
    two.until(lambda: two.status("b").get("parked") and two.status("mixed").get("parked"))
    assert two.told("start").count(B) == 3 and two.answered[A] == 30
    reason = "org/b cannot be loaded: 3 loads in a row failed, the last one: no room for the model"
    assert two.status("mixed")["parked"] == reason
    assert two.status("mixed")["request_counts"]["completed"] == 30
    assert two.parked("mixed") == {"reason": reason, "models": [B]}
    assert (two.standing(B)["state"], two.standing(B)["why"]) == ("failed", reason)
    two.drop("a", (A, 3))
    two.until(lambda: two.ended("a"))
    assert two.told("start").count(B) == 3, "it is left alone"
    two.wrong.clear()
    two.control("mixed.resume")
    two.until(lambda: two.ended("mixed"))
    assert len(two.results("mixed")) == 40 and not two.ended("b")
    two.control("b.resume")
    two.until(lambda: two.ended("b"))


def test_what_no_other_try_mends_parks_at_once_and_a_batch_that_comes_later_tries_once(two: Site) -> None:
    two.wrong[B] = ConfigError("org/b needs a licence and a token: accept it first")
    two.drop("b", (B, 5))
    two.until(lambda: two.status("b").get("parked"))
    assert two.told("start") == [B]
    assert two.status("b")["parked"].endswith("org/b needs a licence and a token: accept it first")
    two.drop("c", (B, 5))
    two.until(lambda: two.status("c").get("parked"))
    assert two.told("start") == [B, B]
    two.wrong.clear()
    two.drop("d", (B, 5))
    two.until(lambda: two.ended("d"))
    assert two.status("b")["parked"], "that one waits for somebody's word"


def test_what_is_for_an_adapter_is_parked_with_its_model_and_after_a_start_it_is_still_known_why() -> None:
    tables = {B: {"adapters": {"screening": "/srv/screening"}}}
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        first = Site(Path(folder) / "spool", tables, {}, {})
        first.wrong[B] = ConfigError("a base model")
        first.drop("x", (A, 4), ("screening", 3), (B, 2))
        first.until(lambda: first.status("x").get("parked") and first.status("x")["request_counts"]["completed"] == 4)
        reason = "org/b cannot be loaded: a base model"
        assert first.parked("x") == {"reason": reason, "models": ["screening", B]}
        first.end()
        again = Site(Path(folder) / "spool", tables, {}, {})
        again.until(lambda: again.status("x").get("models"))
        again.go_on(20)
        lanes = [(lane["model"], lane["state"], lane["why"]) for lane in again.status("x")["models"]]
        assert lanes == [(A, None, None), ("screening", "failed", reason), (B, "failed", reason)]
        again.meant["screening"] = B
        again.control("x.resume")
        again.until(lambda: again.ended("x"))
        assert len(again.results("x")) == 9
        again.end()


def test_a_parked_batch_can_be_cancelled_and_keeps_what_the_other_model_has_answered(two: Site) -> None:
    two.wrong[B] = ConfigError("there is no org/b")
    two.drop("mixed", (A, 30), (B, 10))
    two.until(lambda: two.status("mixed").get("parked"))
    two.control("mixed.cancel")
    two.until(lambda: two.ended("mixed"))
    assert len(two.results("mixed")) == 30


def test_while_processes_of_a_dead_engine_hold_the_gpu_no_other_model_is_loaded(two: Site) -> None:
    two.wrong[B], two.lingers = EngineDied("no room for the model"), True
    two.drop("b", (B, 2))
    two.until(lambda: two.told("died") == [B])
    two.drop("a", (A, 2))
    two.go_on(20)
    assert two.told("start") == [B]
    two.wrong.clear()
    two.lingers = False
    two.until(lambda: two.ended("a") and two.ended("b"))


def test_a_change_that_nobody_waits_for_any_more_is_given_up() -> None:
    with site({B: {}}, swap_grace=50.0, max_wait=1.0) as one:
        one.drop("long", (A, 12), each=40)
        one.until(lambda: one.status("long").get("in_flight"))
        one.drop("b", (B, 2))
        one.until(lambda: one.standing(A)["state"] == "leaving")
        one.control("b.cancel")
        one.until(lambda: one.ended("long"))
        assert one.told("start") == [A, A] and one.ended("b")


def test_batches_that_wait_for_models_of_which_none_can_be_loaded_are_parked_whatever_gpus_these_are_on() -> None:
    with site({A: {"gpus": [0]}, B: {"gpus": [1]}, C: {"gpus": [1]}}) as one:
        one.wrong |= {A: ConfigError("there is no org/a"), B: ConfigError("there is no org/b")}
        one.drop("x", (A, 2), (B, 2))
        one.until(lambda: one.status("x").get("parked"))
        one.drop("c", (C, 2))
        one.until(lambda: one.ended("c"))


def test_a_model_in_back_off_holds_no_gpu_and_the_other_one_works_meanwhile(two: Site) -> None:
    two.wrong[B] = EngineDied("the network is down")
    two.drop("b", (B, 5))
    two.until(lambda: two.told("died") == [B])
    two.drop("a", (A, 3))
    two.until(lambda: two.ended("a"))
    two.wrong.clear()
    two.until(lambda: two.ended("b"))
    assert two.told("died").count(B) < 3


def test_an_engines_death_at_work_costs_its_model_no_turn_and_the_others_nothing(two: Site) -> None:
    two.drop("x", (A, 60), (B, 20))
    two.until(lambda: two.answered[A])
    two.wrong[A] = EngineDied("killed")
    two.until(lambda: two.told("died"))
    two.wrong.clear()
    two.until(lambda: two.ended("x"))
    assert two.told("start") == [A, A, B] and len(two.results("x")) == 80


@pytest.mark.slow
def test_after_a_restart_what_was_bound_stays_bound_though_another_model_has_worked_first() -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        first = Site(Path(folder) / "spool", {B: {}}, {}, {})
        first.drop("x", (B, 4), (None, 400))
        first.until(lambda: first.answered[A] > 10 and first.answered[B] == 4)
        first.end()
        tables = {A: {}, B: {}}
        again = Site(Path(folder) / "spool", tables, {"model": B}, {})  # requests without a model would be for B now
        again.until(lambda: again.ended("x"))
        said = [line["response"]["body"]["model"] for line in again.results("x")]
        assert said == [B] * 4 + [A] * 400
        again.end()


def test_preload_loads_engine_model_before_anybody_asks_and_again_when_all_is_done() -> None:
    with site({B: {}}, {"preload": True, "idle_unload": 30.0}) as one:
        one.until(lambda: one.told("ready") == [A])
        one.drop("b", (B, 3))
        one.until(lambda: one.ended("b"))
        one.until(lambda: one.told("ready") == [A, B, A])


def test_a_stop_begins_no_change_and_ends_cleanly(two: Site) -> None:
    two.drop("a", (A, 4), each=50)
    two.until(lambda: two.status("a").get("in_flight"))
    two.drop("b", (B, 3))
    two.daemon._stop_by = two.now + 20
    two.go_on(15)
    assert two.told("start") == [A]
    two.go_on(10)
    assert two.daemon._done(two.now)


def test_drained_it_ends_with_a_failure_where_a_model_cannot_be_loaded() -> None:
    with site({B: {}}) as one:
        one.daemon._drain = True
        one.wrong[B] = ConfigError("there is no org/b")
        one.drop("x", (A, 3), (B, 3))
        one.until(lambda: one.status("x").get("parked"))
        one.until(lambda: one.daemon._done(one.now))
        assert Exit.FAILURE == 1 and len(one.daemon._batches) == 1


def test_a_poison_in_a_mixed_file_costs_its_own_model_deaths_and_the_others_nothing() -> None:
    half = {"args": {"gpu_memory_utilization": 0.4}}
    with site({A: half, B: half}) as one:
        one.poison = b'"custom_id":"mixed207"'
        one.drop("mixed", (A, 200), (B, 20))
        answered = []
        for deaths in (1, 2, 3):
            one.until(lambda many=deaths: one.told("died").count(B) == many)
            answered.append(one.answered[A])
        assert answered == sorted(set(answered)), "the other one answers meanwhile"
        one.until(lambda: one.ended("mixed"))
        assert set(one.told("died")) == {B} and len(one.told("died")) <= 4  # log2(4 in flight) + 2
        assert one.told("start").count(A) == 1
        [error] = lines(one.spool / "outbox" / "mixed" / "errors.jsonl")
        assert (error["custom_id"], len(one.results("mixed"))) == ("mixed207", 219)


# -- models that come and go


@pytest.mark.parametrize("tables", [{}, {B: {}}], ids=["one before", "two before"])
def test_after_a_reload_a_new_model_is_there_at_once_and_what_is_loaded_goes_on(tables: dict[str, Any]) -> None:
    with site(tables) as one:
        one.drop("long", (A, 40), each=2)
        one.until(lambda: one.answered[A])
        one.reload(tables | {C: {"aliases": ["small"]}})
        one.meant["small"] = C
        one.drop("c", ("small", 4))
        one.until(lambda: one.ended("c") and one.ended("long"))
        assert one.told("start") == [A, C] and len(one.results("c")) == 4 and len(one.results("long")) == 40
        assert C in [view["model"] for view in one.daemon._oversight.engines]


def test_a_model_that_a_reload_has_changed_is_loaded_anew_once_it_has_nothing_to_do() -> None:
    with site({B: {}}) as one:
        one.drop("b", (B, 40), each=2)
        one.until(lambda: one.answered[B])
        one.reload({B: {"adapters": {"screening": "/srv/screening"}}})
        one.meant["screening"] = B
        one.drop("s", ("screening", 4))
        one.until(lambda: one.ended("b"))
        assert one.told("start") == [B], "it goes on as it was while it has something to do"
        one.until(lambda: one.ended("s"))
        assert one.told("start") == [B, B] and one.status("s")["request_counts"]["completed"] == 4
        one.reload({B: {"args": {"seed": 1}}})
        one.go_on(5)
        assert one.told("end") == [B, B], "what has nothing to do is not kept as it was"


def test_the_only_model_is_loaded_as_a_reload_has_it_and_one_that_is_wrong_by_then_ends_no_daemon() -> None:
    with site({A: {}}) as one:
        one.drop("x", (A, 4))
        one.until(lambda: one.ended("x"))
        one.reload({A: {"args": {"seed": 1}}})
        one.until(lambda: one.told("end") == [A])
        one.drop("y", (A, 4))
        one.until(lambda: one.ended("y"))
        assert one.told("start") == [A, A] and one.daemon._rotations.said == []
        one.reload({A: {"args": {"seed": 2}}})
        one.wrong[A] = ConfigError("seed 2 is wrong")
        one.drop("z", (A, 4))
        one.until(lambda: one.told("died").count(A) == 2)
        assert "seed 2 is wrong" in str(next(iter(one.daemon._fleet)).last_death)
        one.wrong.clear()
        one.until(lambda: one.ended("z"))


def test_a_model_that_could_not_be_loaded_is_tried_again_as_a_reload_has_it() -> None:
    with site({B: {}}) as one:
        one.wrong[B] = ConfigError("max_model_len is wrong")
        one.drop("b", (B, 4))
        one.until(lambda: one.status("b").get("parked"))
        one.wrong.clear()
        one.reload({B: {"args": {"max_model_len": 9}}})
        one.drop("later", (B, 2))
        one.until(lambda: one.ended("later"))
        one.control("b.resume")
        one.until(lambda: one.ended("b"))


def test_a_model_that_a_reload_takes_away_answers_what_was_accepted_for_it_and_is_gone() -> None:
    with site({B: {}, C: {}}) as one:
        one.drop("b", (B, 12), (A, 2))
        one.until(lambda: one.answered[B])
        one.control("b.pause")
        one.until(lambda: one.status("b").get("paused") and not one.status("b")["in_flight"])
        one.reload({})
        one.go_on(10)
        said = {view["model"] for view in one.daemon._rotations.said}
        assert B in said and C not in said, "somebody may say resume"
        one.drop("late", (B, 2))
        one.until(lambda: one.ended("late"))
        assert one.results("late") == []
        one.control("b.resume")
        one.until(lambda: one.ended("b"))
        one.until(lambda: [engine.name for engine in one.there] in ([], [A]))
        one.until(lambda: [view["model"] for view in one.daemon._rotations.said] == [A])
        assert len(one.results("b")) == 14


def test_a_reload_that_does_not_fit_the_engine_as_it_is_changes_nothing() -> None:
    with site({B: {}}) as one:
        one.tree["engine"] = one.tree["engine"] | {"model": C}
        one.reload({B: {"aliases": [A]}})
        one.drop("a", (A, 2))
        one.until(lambda: one.ended("a"))
        assert one.answered[A] == 2


def test_with_allow_any_a_model_that_nobody_has_configured_is_loaded_and_gone_when_it_has_given_way() -> None:
    with site({}, allow_any=True) as one:
        one.drop("x", (A, 3), (B, 3), ("google/gemma-3-4b-it", 2))
        one.drop("wrong", ("../x", 1), ("/srv/x", 1), ("gemma", 1))
        one.loads["google/gemma-3-4b-it"] = 5.0
        one.meant |= {"google/gemma-3-4b-it": "google/gemma-3-4b-it", "gemma3": "google/gemma-3-4b-it"}
        one.until(lambda: one.ended("x") and one.ended("wrong"))
        assert one.results("wrong") == [] and len(one.results("x")) == 8
        one.drop("y", ("gemma3", 2))
        one.until(lambda: one.ended("y"))
        assert {line["response"]["body"]["model"] for line in one.results("y")} == {"google/gemma-3-4b-it"}
        one.drop("a", (A, 2))
        one.until(lambda: one.ended("a"))
        one.until(lambda: [view["model"] for view in one.daemon._rotations.said] == [A])


def test_with_allow_any_a_name_that_is_a_folder_where_the_daemon_runs_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    read = config.build({"engine": {"kind": "null", "model": A}, "models": {"allow_any": True}}, "test")
    with closing(Workers(False)) as workers, pytest.raises(OSError, match="org/x is a folder here"):
        engine_of(read, workers, unlisted(read, "org/x"), 1)


# -- asleep


SLEEPS = {"null": {"sleeps": True}}


def sleeping(*others: str, **models: Any) -> AbstractContextManager[Site]:
    return site({name: {} for name in others}, SLEEPS, sleep=True, **models)


def test_models_that_can_sleep_are_loaded_once_and_take_turns_within_a_second() -> None:
    with sleeping(B) as one:
        for number in range(3):
            one.drop(f"a{number}", (A, 4))
            one.until(lambda n=number: one.ended(f"a{n}"))
            dropped = one.now
            one.drop(f"b{number}", (B, 4))
            one.until(lambda n=number: one.ended(f"b{n}"))
        assert one.now - dropped < 5, "seconds, of which the answers take one and a load five"
        assert (one.told("start"), one.told("end")) == ([A, B], [])
        assert one.told("sleep") == [A, B, A, B, A] and one.told("wake") == [A, B, A, B]
        one.go_on(1)
        assert (one.standing(A)["state"], one.standing(B)["state"]) == ("asleep", "ready")
        assert [slot.state for slot in one.daemon._fleet] == ["asleep", "ready"]


def test_what_has_begun_may_end_before_sleep_and_the_rest_runs_after_it() -> None:
    with sleeping(B, swap_grace=10.0, max_wait=1.0) as one:
        one.drop("long", (A, 12), each=40)
        one.until(lambda: one.status("long").get("in_flight"))
        one.drop("b", (B, 2))
        one.until(lambda: one.ended("b"))
        one.until(lambda: one.ended("long"))
        assert one.recalled[A] > 0 and one.told("start") == [A, B]
        assert len(one.results("long")) == 12


def test_where_the_host_lacks_memory_a_model_ends_and_the_one_that_has_slept_longest_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gib = 1 << 30
    memory = {"taken": 20 * gib, "whole": 100 * gib}
    monkeypatch.setattr(host, "memory", lambda: (memory["taken"], memory["whole"]))
    with sleeping(B, C) as one:
        for model in (A, B, C):
            one.drop(model[-1], (model, 4))
            one.until(lambda m=model: one.ended(m[-1]))
        assert one.told("sleep") == [A, B] and one.told("end") == []
        for engine in one.there:
            engine.whole = engine.info = replace(engine.info, weights_bytes=20 * gib)
        memory["taken"] = 95 * gib
        one.until(lambda: one.told("end"), 10)
        assert one.told("end") == [A], "one at a time, until there is room"
        memory["taken"] = 70 * gib
        one.go_on(20)
        assert one.told("end") == [A]
        one.drop("a2", (A, 4))
        one.until(lambda: one.ended("a2"))
        assert one.told("end") == [A, C], "its weights would take more than half of what is free"
        assert one.told("start") == [A, B, C, A]


def test_one_that_does_not_fall_asleep_is_killed_and_the_next_model_has_its_turn() -> None:
    with sleeping(B) as one:
        one.drop("a", (A, 4))
        one.until(lambda: one.ended("a"))
        one.deaf = True
        one.drop("b", (B, 4))
        one.until(lambda: one.ended("b"), 100)
        assert one.told("end") == [A] and one.told("start") == [A, B]
        assert "did not fall asleep" in str(next(iter(one.daemon._fleet)).last_death)


def test_a_sleeper_that_dies_costs_a_load_and_nothing_else() -> None:
    with sleeping(B) as one:
        one.drop("a", (A, 4))
        one.until(lambda: one.ended("a"))
        one.drop("b", (B, 30), each=2)
        one.until(lambda: one.standing(B)["state"] == "ready")
        one.wrong[A] = EngineDied("killed", ("",))
        next(engine for engine in one.there if engine.name == A).has[1] = (None, 1e18)  # type: ignore[assignment]
        one.until(lambda: A in one.told("died"))
        one.wrong.clear()
        one.until(lambda: one.ended("b"))
        assert one.status("b")["engine_deaths"] == 0
        one.drop("a2", (A, 4))
        one.until(lambda: one.ended("a2"))
        assert one.told("start") == [A, B, A] and one.status("a2")["engine_deaths"] == 0


def test_a_model_that_could_not_be_loaded_beside_sleepers_is_tried_once_they_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with sleeping(B) as one:
        one.drop("a", (A, 4))
        one.until(lambda: one.ended("a"))
        one.wrong[B] = EngineDied("no memory", ("",))
        one.drop("b", (B, 4))
        one.until(lambda: B in one.told("died"))
        one.wrong.clear()
        one.until(lambda: one.ended("b"), 100)
        assert A in one.told("end")
