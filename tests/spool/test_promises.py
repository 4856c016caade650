"""What users were promised, held against whatever may happen in whatever order.

Hypothesis makes up the sequences: files dropped, control files, engines that die, disks that fill, daemons killed at
rest and in the middle of an operation. After every one of them what lies there must be as promised, and at the end,
with room on the disk and engines that live, every request must have exactly one line.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from aftermath import come_after
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from running import IN_MEMORY, error_of, jsonl, request
from stepping import POISON, REFUSED, Stepped

from inbox_daemon.batch.queue import Lane
from inbox_daemon.batch.state import State
from inbox_daemon.dispatch.suspects import Suspects
from inbox_daemon.inbox import came
from inbox_daemon.layout import Published
from inbox_daemon.records import Outcome
from inbox_daemon.spool import meant, proof
from inbox_daemon.spool.meant import Came
from inbox_daemon.spool.outcomes import Outcomes

SETTINGS = """
[engine]
kind = "null"
in_flight = 8
max_deaths = 8
[engine.null]
engines = 2
[inbox]
settle = 0
settle_unproven = 0
rescan = 0.1
watch = "poll"
[results]
sync_every = 2
seal_every = 3
"""

NAMES = ("a", "b")
VERBS = ("cancel", "pause", "pause", "pause", "resume")
KINDS = ("good", "good", "good", "good", "faulty", "poison")


@dataclass(slots=True)
class Drop:
    """What a user has dropped: custom ids by kind, and the bytes; whether a cancel came with it."""

    number: int
    name: str
    kinds: list[str]
    content: bytes = b""
    cancelled: bool = False

    def __post_init__(self) -> None:
        lines = []
        for i, kind in enumerate(self.kinds):
            text = f"{POISON.decode()} {i}" if kind == "poison" else f"say {i}"
            lines.append(b"no request\n" if kind == "faulty" else jsonl([request(f"d{self.number}-{i}", text)]))
        self.content = b"".join(lines)

    @property
    def sha256(self) -> str:
        return sha256(self.content)

    def lines(self) -> list[bytes]:
        return self.content.split(b"\n")[:-1]


@dataclass(slots=True)
class Told:
    """What users have seen of one batch, by its id."""

    counted: int = 0
    parts: set[bytes] = field(default_factory=set)
    receipt: dict[str, Any] | None = None
    cancelled: bool = False  # the daemon has said so
    gone: bool = False  # it was published, and its user has removed it
    cleared: bool = False  # its user has removed its folder, and what had been put there with it
    held: int | None = None  # requests that engines had been sent when it was last seen paused, parked or cancelled


class Promises(RuleBasedStateMachine):
    examples = steps = starts = crashes = deaths = recalled = 0

    def __init__(self) -> None:
        super().__init__()
        Promises.examples += 1
        self.folder = Path(tempfile.mkdtemp(prefix="promises-", dir=IN_MEMORY))
        self.spool = self.folder / "spool"
        self.toml = self.folder / "config.toml"
        self.toml.write_text(SETTINGS)
        self.events = self.folder / "events"
        self.events.touch()
        self.daemon: Stepped | None = None
        self.disk = ""
        self.was_low = False
        self.drops: list[Drop] = []
        self.told: dict[str, Told] = {}
        self.cancels: set[str] = set()  # the names for which a cancel was dropped while no file of the name waited
        self.removed: set[str] = set()  # the inputs of finished batches whose folder the user has removed
        self.may_go: set[str] = set()  # the inputs that had come before somebody dropped a .delete for their name
        self.must_go: set[str] = set()  # the ids of batches that had ended then, and no file of their name waited
        self.sent: Counter[str] = Counter()
        self.died: list[tuple[str, list[str]]] = []
        self.read_events = 0

    # -- what happens

    @initialize()
    def begins(self) -> None:
        self.start()

    @precondition(lambda self: self.daemon is None)
    @rule()
    def start(self) -> None:
        Promises.starts += 1
        self.daemon = Stepped(self.spool, self.toml, self.events, self.disk)
        self.mourn()

    @precondition(lambda self: self.daemon is not None)
    @rule(times=st.integers(1, 3))
    def step(self, times: int) -> None:
        self.order("step", times)

    @precondition(lambda self: self.daemon is not None)
    @rule(times=st.integers(1, 6))
    def step_on(self, times: int) -> None:
        self.order("step", times)

    @precondition(lambda self: len(self.drops) < 5)
    @rule(
        name=st.sampled_from(NAMES),
        kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=8),
        more=st.integers(0, 20),
        verb=st.sampled_from(("", "", "", "cancel", "pause")),
    )
    def drop_one(self, name: str, kinds: list[str], more: int, verb: str) -> None:
        """Perhaps with a control file, right after it."""
        self.drop(name, kinds, more)
        if verb:
            self.say(name, verb)

    def drop(self, name: str, kinds: list[str], more: int) -> None:
        path = self.spool / "inbox" / f"{name}.jsonl"
        if not path.exists():
            made = Drop(len(self.drops), name, kinds + more * ["good"])
            self.drops.append(made)
            hidden = path.with_name(".uploading")
            hidden.write_bytes(made.content)
            for before in self.spool.glob(f"inbox/{name}.*"):  # or they would have come together
                come_after(before, hidden)
            hidden.rename(path)

    def say(self, name: str, verb: str) -> None:
        """Drop a control file, which goes with the file of that name where one waits."""
        (self.spool / "inbox" / f"{name}.{verb}").touch()
        if verb == "cancel":
            try:
                content = (self.spool / "inbox" / f"{name}.jsonl").read_bytes()
            except FileNotFoundError:
                self.cancels.add(name)
            else:
                [waits] = [drop for drop in self.drops if drop.content == content]
                waits.cancelled = True

    @rule(which=st.integers(0, 9), verb=st.sampled_from(VERBS))
    def control(self, which: int, verb: str) -> None:
        """Mostly for a batch that is there and has not ended."""
        folders = sorted(self.spool.glob("outbox/[!.]*"))
        going_on = [folder.name for folder in folders if not (folder / "receipt.json").exists()]
        name = going_on[which % len(going_on)] if going_on and which < 9 else "a"
        self.say(name, verb)

    @rule(name=st.sampled_from(NAMES), content=st.sampled_from(("", "", "input.jsonl\n")))
    def delete(self, name: str, content: str) -> None:
        waits = (self.spool / "inbox" / f"{name}.jsonl").exists()
        folder = self.spool / "outbox" / name
        if not content and not waits and (folder / "receipt.json").exists():
            self.must_go.add(orjson.loads((folder / "receipt.json").read_bytes())["id"])
        self.may_go |= {drop.sha256 for drop in self.drops if drop.name == name}
        hidden = self.spool / "inbox" / ".saying"
        hidden.write_text(content)
        for before in self.spool.glob(f"inbox/{name}.*"):
            come_after(before, hidden)
        hidden.rename(self.spool / "inbox" / f"{name}.delete")

    @precondition(lambda self: self.daemon is not None and len(self.drops) < 5)
    @rule(name=st.sampled_from(NAMES))
    def cancel_at_work(self, name: str) -> None:
        """Engines are asked for what they have of each batch."""
        self.drop(name, ["good"], 60)
        self.order("step", 4)
        for at_work in list(self.at_work()):
            self.say(at_work, "cancel")
        self.order("step", 2)

    def at_work(self) -> Iterator[str]:
        """The batches of which engines have something, as their statuses say."""
        for folder in sorted(self.spool.glob("outbox/[!.]*")):
            status = self.status_of(folder)
            if status and status["status"] == "in_progress" and status["in_flight"]:
                yield folder.name

    @precondition(lambda self: self.daemon is not None)
    @rule()
    def kill_daemon(self) -> None:
        assert self.daemon
        self.daemon.kill()
        self.mourn()

    @precondition(lambda self: self.daemon is not None)
    @rule(at=st.integers(1, 40), half=st.booleans())
    def kill_daemon_within_an_operation(self, at: int, half: bool) -> None:
        self.order("kill", at, half)
        self.order("step", 3)
        if self.daemon:
            self.kill_daemon()

    @precondition(lambda self: self.daemon is not None)
    @rule()
    def stop_daemon(self) -> None:
        self.order("stop")

    @precondition(lambda self: self.daemon is not None)
    @rule(
        engine=st.integers(1, 2), how=st.sampled_from(["work", "work", "machine"]), times=st.sampled_from([1, 1, 2, 8])
    )
    def kill_engine(self, engine: int, how: str, times: int) -> None:
        for _ in range(times):
            self.order("die", engine, how)
            self.order("step", 3)  # it dies; another one loads; it has work

    @precondition(lambda self: self.daemon is not None and self.disk != "full")
    @rule(at=st.integers(1, 30), code=st.sampled_from(["EIO", "ENOSPC"]))
    def fail_one_operation(self, at: int, code: str) -> None:
        self.order("fail", at, code)
        self.order("step", 2)

    @rule(level=st.sampled_from(["low", "full", "", ""]))
    def fill_or_clear_disk(self, level: str) -> None:
        self.disk = level
        self.was_low |= level != ""
        if self.daemon:
            self.order("full", level)

    @rule()
    def user_takes_parts(self) -> None:
        for part in self.spool.glob("outbox/*/parts/*"):
            part.unlink()

    @rule(name=st.sampled_from(NAMES))
    def user_clears_folder(self, name: str) -> None:
        folder = self.spool / "outbox" / name
        status = self.status_of(folder)
        if status:
            told = self.told[status["id"]]
            told.receipt, told.held = None, None  # until it is seen again
            told.gone |= (folder / "receipt.json").exists()
            told.cleared = True
            if told.gone:
                self.removed.add(
                    status["input_sha256"] or hashlib.sha256((folder / f"{name}.jsonl").read_bytes()).hexdigest()
                )
        shutil.rmtree(folder, ignore_errors=True)

    # -- how it is done

    def order(self, *words: object) -> None:
        Promises.steps += words[0] == "step"
        if self.daemon:
            self.daemon.order(*words)
            self.mourn()

    def mourn(self) -> None:
        """Take note that the daemon has ended; by a signal, by order, or because the disk did not let it start."""
        if self.daemon and self.daemon.status is not None:
            status, self.daemon = self.daemon.status, None
            Promises.crashes += status < 0
            said = self.folder.joinpath("spool.log").read_text()
            assert status in (-9, 0) or (status == REFUSED and self.disk == "full"), f"{status}: {said}"
            assert "by a fault of ours" not in said, said

    def status_of(self, folder: Path) -> dict[str, Any] | None:
        """What is said of a batch; None where nothing is, or the folder says why a file is not taken."""
        try:
            status = dict(orjson.loads((folder / "status.json").read_bytes()))
        except FileNotFoundError:
            return None
        return None if "not_taken" in status else status

    def look_at_engines(self) -> None:
        with self.events.open("rb") as file:
            file.seek(self.read_events)
            for what, ids in map(orjson.loads, file):
                if what == "sent":
                    self.sent.update(ids)
                elif what == "recalled":
                    Promises.recalled += len(ids)
                else:
                    Promises.deaths += 1
                    self.died.append((what, ids))
            self.read_events = file.tell()

    # -- what must hold at any moment

    @invariant()
    def nothing_seen_is_taken_back(self) -> None:
        self.look_at_engines()
        for folder in self.spool.glob("outbox/[!.]*"):
            for path in [*folder.glob("parts/*"), *folder.glob("results.jsonl"), *folder.glob("errors.jsonl")]:
                whole_lines(path)
            status = self.status_of(folder)
            if status is None:  # its user has just removed it, and the daemon is not there
                continue
            told = self.told.setdefault(status["id"], Told())
            counts = status["request_counts"]
            counted = counts["completed"] + counts["failed"]
            assert counted >= told.counted, f"{folder.name}: {told.counted} outcomes were counted, now {counted}"
            told.counted = counted
            if status["input_sha256"] and (folder / "input.jsonl").exists():
                assert sha256((folder / "input.jsonl").read_bytes()) == status["input_sha256"]
            for part in folder.glob("parts/*"):
                told.parts.update(whole_lines(part))
            self.held_batches_stand_still(folder, status, told)
            self.receipts_stay(folder, status, told)

    def held_batches_stand_still(self, folder: Path, status: dict[str, Any], told: Told) -> None:
        sent = sum(self.sent[id] for drop in self.drops if drop.sha256 == status["input_sha256"] for id in ids_of(drop))
        if told.held is not None:
            assert sent == told.held, f"{folder.name} is held, and {sent - told.held} of its requests were sent"
        told.cancelled |= status["status"] == "cancelling"
        held = status["paused"] or status["parked"] or status["status"] == "cancelling"
        resumes = (self.spool / "inbox" / f"{folder.name}.resume").exists() and status["status"] != "cancelling"
        told.held = sent if held and not resumes else None

    def receipts_stay(self, folder: Path, status: dict[str, Any], told: Told) -> None:
        if not (folder / "receipt.json").exists():
            assert told.receipt is None, f"{folder.name}: its receipt is gone"
            return
        receipt = orjson.loads((folder / "receipt.json").read_bytes())
        assert not told.gone, f"{folder.name}: it was published, and removed, and has come back"
        if (receipt["id"], receipt["status"]) != (status["id"], status["status"]):
            raise AssertionError(f"{folder.name}: the receipt is another batch's, or came before the last status")
        lasting = receipt | {"written": (folder / "receipt.json").stat().st_mtime_ns}
        assert told.receipt in (None, lasting), f"{folder.name}: {told.receipt} became {lasting}"
        told.receipt = lasting
        assert proof.verify(Published(folder)).problems == []
        if told.cancelled:
            assert receipt["status"] == "cancelled"

    # -- what must hold at the end

    def teardown(self) -> None:
        try:
            if self.spool.exists():
                self.come_to_the_end()
                self.every_request_has_one_line()
        finally:
            if self.daemon:
                self.daemon.kill()
            shutil.rmtree(self.folder)

    def come_to_the_end(self) -> None:
        """The disk has room, engines die of poison alone, and whoever is held is told to go on."""
        self.disk = ""
        if self.daemon is None:
            self.start()
        self.order("full", "")
        for _ in range(60):
            for folder in self.spool.glob("outbox/[!.]*"):
                status = self.status_of(folder)
                if status and status["status"] == "in_progress" and (status["paused"] or status["parked"]):
                    (self.spool / "inbox" / f"{folder.name}.resume").touch()
            self.nothing_seen_is_taken_back()
            self.order("step", 10)
            self.nothing_seen_is_taken_back()
            if not list(self.spool.glob("work/[!.]*")) and not list(self.spool.glob("inbox/[!.]*")):
                return
        left = [str(path.relative_to(self.spool)) for path in self.spool.rglob("*")]
        raise AssertionError(f"it never ends: {left}\n{self.folder.joinpath('spool.log').read_text()[-4000:]}")

    def every_request_has_one_line(self) -> None:
        finished, came_back = {}, []
        for folder in self.spool.glob("outbox/[!.]*"):
            status = self.status_of(folder)
            assert status, folder
            assert status["id"] not in self.must_go, f"{folder.name} had ended, and is not deleted"
            if status["input_sha256"] is None:
                [why] = [one["code"] for one in status["errors"]["data"]]
                ended = {"disk_full": "failed", "batch_cancelled": "cancelled"}
                assert status["status"] == ended[why] and (self.was_low or why == "batch_cancelled")
                came_back += [path.read_bytes() for path in folder.glob(f"{folder.name[0]}.jsonl")]
                if why == "batch_cancelled":
                    self.was_cancelled_rightly(folder, came_back[-1])
            else:
                finished[status["input_sha256"]] = (folder, status)
        for drop in self.drops:
            if drop.content in came_back:
                came_back.remove(drop.content)
            elif drop.sha256 in finished:
                folder, status = finished.pop(drop.sha256)
                self.holds(drop, folder, status, self.told[status["id"]])
            else:
                assert drop.sha256 in self.removed | self.may_go, f"nothing came of drop {drop.number}: {drop.kinds}"
        assert not finished and not came_back, f"results that nobody asked for: {finished}, {came_back}"

    def holds(self, drop: Drop, folder: Path, status: dict[str, Any], told: Told) -> None:
        results, errors = whole_lines(folder / "results.jsonl"), whole_lines(folder / "errors.jsonl")
        assert told.cleared or drop.sha256 in self.may_go or (folder / "input.jsonl").read_bytes() == drop.content
        assert told.parts <= {*results, *errors}, f"{folder.name}: a line that was in a part is in no result"
        numbers = []
        for line in map(orjson.loads, results):
            number = int(line["custom_id"].split("-")[1])
            asked = drop.lines()[number]
            said = line["response"]["body"]["choices"][0]["message"]["content"]
            assert said == f"null engine: {len(asked)} bytes read"
            assert drop.kinds[number] == "good", f"{folder.name}: a {drop.kinds[number]} line has an answer"
            numbers.append(number)
        for line in map(orjson.loads, errors):
            number, code = error_of(line).line - 1, error_of(line).code
            if code == "batch_cancelled":
                assert status["status"] == "cancelled"
            elif code == "engine_crash":
                self.was_alone(line["custom_id"])
            else:
                assert (code, drop.kinds[number]) == ("invalid_json", "faulty")
            numbers.append(number)
        assert sorted(numbers) == list(range(len(drop.kinds))), f"{folder.name}: lines {sorted(numbers)}"
        if status["status"] == "cancelled":
            self.was_cancelled_rightly(folder, drop.content)
        else:
            assert not drop.cancelled, f"{folder.name}: a cancel came with its file"
        nothing_ran = set(drop.kinds) == {"faulty"}
        expected = "cancelled" if told.cancelled else "failed" if nothing_ran else "completed"
        assert status["status"] in {expected, "cancelled"}

    def was_cancelled_rightly(self, folder: Path, content: bytes) -> None:
        """A cancel came with its very file, or for its name when no file of the name waited."""
        [drop] = [drop for drop in self.drops if drop.content == content]
        asked = drop.cancelled or self.cancels & {folder.name, folder.name[0]}
        assert asked, f"{folder.name} is cancelled, and that was meant for another file of the name"

    def was_alone(self, id: str) -> None:
        """Whoever is found guilty was in flight at two deaths that a request may have caused, at one of them alone."""
        deaths = [ids for what, ids in self.died if id in ids and "machine" not in what]
        assert len(deaths) >= 2 and [id] in deaths, f"{id} is blamed for {deaths}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def ids_of(drop: Drop) -> list[str]:
    return [f"d{drop.number}-{i}" for i in range(len(drop.kinds))]


def whole_lines(path: Path) -> list[bytes]:
    *lines, rest = path.read_bytes().split(b"\n")
    assert rest == b"", f"{path}: the last line has no end"
    for line in lines:
        orjson.loads(line)
    return lines


# -- how much of it


Sabotage = Callable[[], None]


def explore(examples: int, steps: int, derandomize: bool, sabotage: Sabotage | None) -> dict[str, int]:
    """Run in a process of its own, because it forks and must have no threads."""
    if sabotage:
        sabotage()
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=derandomize,
        deadline=None,
        database=None,
        phases=[Phase.generate] if sabotage else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(Promises, settings=chosen)
    return {name: getattr(Promises, name) for name in ("examples", "steps", "starts", "crashes", "deaths", "recalled")}


def explored(
    examples: int, steps: int, *, derandomize: bool = True, sabotage: Sabotage | None = None
) -> dict[str, int]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(explore, examples, steps, derandomize, sabotage).result()


@pytest.mark.timeout(900)  # for making a sequence that breaks a promise as short as can be
def test_whatever_happens_in_whatever_order_every_promise_holds(record_property: Any) -> None:
    seen = explored(40, 25)
    record_property("explored", seen)
    assert seen["crashes"] > 10 and seen["deaths"] > 10 and seen["recalled"] > 10


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_more_sequences_hold_every_promise(record_property: Any) -> None:
    seen = explored(int(os.environ.get("PROMISES_EXAMPLES", "1500")), 40, derandomize=False)
    record_property("explored", seen)
    print(seen)
    assert seen["crashes"] > 100 and seen["deaths"] > 100 and seen["recalled"] > 100


# -- would it notice?


def runs_what_is_held() -> None:
    Lane.takeable = property(lambda self: self.left)  # type: ignore[assignment, method-assign]


def forgets_that_it_is_parked() -> None:
    State.held = property(lambda self: self.cancelled or self.paused)  # type: ignore[assignment, method-assign]


def counts_before_it_writes() -> None:
    append = Outcomes.append
    kept: list[Outcome] = []

    def late(self: Outcomes, outcomes: Sequence[Outcome]) -> None:
        self._unsynced.extend(outcomes)
        kept.extend(outcomes)
        if len(kept) > 3:
            append(self, kept)
            kept.clear()

    Outcomes.append = late  # type: ignore[method-assign]


def blames_at_once() -> None:
    Suspects.death = lambda self, in_flight: next(iter(in_flight), None)  # type: ignore[method-assign]


def has_the_batch_in_work_obey_whatever_has_its_name() -> None:
    def goes_with(control: Came, waiting: Mapping[str, Came], lives: bool) -> Collection[str]:
        return () if lives else list(waiting)

    meant.goes_with = came.goes_with = goes_with


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "sabotage",
    [
        runs_what_is_held,
        forgets_that_it_is_parked,
        counts_before_it_writes,
        blames_at_once,
        has_the_batch_in_work_obey_whatever_has_its_name,
    ],
)
def test_a_daemon_that_breaks_a_promise_is_found_out(sabotage: Sabotage) -> None:
    with pytest.raises(AssertionError):
        explored(600, 25, sabotage=sabotage)
