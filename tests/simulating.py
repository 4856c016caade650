"""Days of one spool in minutes: what users, engines and hosts do to the daemon, and what must hold all the same.

No test lives here. The daemon is `simulated`'s, on a simulated clock. What is promised is held against the files all
the time, and once more at the end.

    python tests/simulating.py --seeds 10

One seed is one run: whatever happens is drawn from it, and a digest of all file operations, log lines and outcomes
shows that two runs were the same. Owns no promise that is not in INTERNALS.md. Durations in receipts are not looked at:
they come from the wall clock, which is stepped here.
"""

from __future__ import annotations

import argparse
import errno
import gzip
import hashlib
import heapq
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import orjson
from crashing import EVERYTHING, SYNCS
from running import IN_MEMORY, error_of, jsonl, request
from simulated import BROKEN, HOUR, LOAD_TIMEOUT, NEVER, POISON, REFUSED, STALL_AFTER, Clock, Sabotage, Simulated, Site

from inbox_daemon.layout import Published, batch_name
from inbox_daemon.spool import proof, source

SETTINGS = """
[engine]
kind = "null"
in_flight = 32
idle_unload = 1800
max_deaths = 12
[engine.null]
engines = 2
[inbox]
watch = "poll"
max_claimed = {max_claimed}
[inbox.priorities]
"n0*" = {priority}
[results]
sync_every = {sync_every}
seal_every = {seal_every}
[daemon]
gpu_every = 0
[alerts]
batch_deadline = 14400
"""
TWO_MODELS = SETTINGS.replace('kind = "null"', 'kind = "null"\nmodel = "org/a"') + '[model."org/b"]\n'
AS_STARTED = {"max_claimed": 8, "priority": 5, "sync_every": 8, "seal_every": 25}
RELOADS: Sequence[dict[str, int]] = (
    AS_STARTED,
    AS_STARTED | {"max_claimed": 3},
    AS_STARTED | {"priority": -3, "seal_every": 5},
    AS_STARTED | {"sync_every": 1, "max_claimed": 20},
)


# -- what is dropped, and what was seen


@dataclass(slots=True)
class Drop:
    """A file that a user has dropped, and what is due to it.

    Attributes:
        mark: by which its batch's status names it (`source.mark`).
        kinds: of its lines: "good", "faulty", "poison".
        prefix: of its custom_ids, which end with the line's place.
        low: the disk had no room at some time since.
        waited: seconds in which the daemon could have worked on it.
        over: it has what was due to it.
        counted: it was the same as one before and is not run; the first one's status counts it.
    """

    file: str
    content: bytes
    kinds: list[str]
    lines: list[bytes]
    prefix: str
    at: float = 0.0
    mark: str = ""
    low: bool = False
    waited: float = 0.0
    over: bool = False
    counted: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(slots=True)
class Told:
    """What users have seen of one batch, by its id.

    Attributes:
        held: requests that engines had been sent when it was last seen paused, parked or cancelled; None: it is not.
        stamp: of the receipt, once all of it was looked at.
        resumes: of the status, when somebody had last said that it is to go on.
    """

    drop: Drop
    name: str
    counted: int = 0
    parts: set[bytes] = field(default_factory=set)
    part_names: set[str] = field(default_factory=set)
    receipt: dict[str, Any] | None = None
    status: str = ""
    cancelled: bool = False
    held: int | None = None
    over_at: float = NEVER
    removed: bool = False
    stamp: tuple[int, int, int] | None = None
    resumes: tuple[int, int, int] | None = None


@dataclass(slots=True)
class Report:
    """How one seed went."""

    seed: int
    hours: float
    digest: str = ""
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{self.counts[what]} {what}" for what in COUNTED)
        ended = f"{len(self.violations)} violations, {self.seconds:.0f} s, {self.digest[:16]}"
        return f"seed {self.seed}: {self.hours:.0f} h, {counts}, {ended}"


COUNTED = (
    "passes", "operations", "batches", "requests", "answers", "refused", "engines", "deaths", "hangs", "kills",
    "starts", "crashes", "stops", "full disks", "failed operations", "clock steps", "re-sends", "controls", "reloads",
    "removals", "parked", "swaps",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Weather:
    """How often things happen: seconds between two, on average.

    Attributes:
        every: by the name of what happens.
        hangs_after: of an engine, from when it is ready.
        two_models: that take turns; a file's requests name one of them, or both, or none.
    """

    every: dict[str, float]
    hangs_after: float = 5 * HOUR
    two_models: bool = False


_USUAL: dict[str, float] = {
    "drop": 700,
    "resend": 1.5 * HOUR,
    "control": 0.4 * HOUR,
    "crash": 4 * HOUR,
    "crash_within": 1.5 * HOUR,
    "stop": 5 * HOUR,
    "reload": 4 * HOUR,
    "fill_disk": 4 * HOUR,
    "fail_one_operation": 4 * HOUR,
    "step_clock": 4 * HOUR,
    "take_parts": 2 * HOUR,
    "clear_folder": 1.5 * HOUR,
    "loads_fail": 20 * HOUR,
}
WEATHERS = {
    "usual": Weather(_USUAL),
    "two models": Weather(_USUAL, two_models=True),
    # Engines hang, files fail, and no crash of the daemon makes an end of that.
    "sticky": Weather(
        _USUAL
        | {"drop": 500, "fill_disk": 2 * HOUR, "fail_one_operation": 900}
        | dict.fromkeys(("crash", "crash_within", "stop", "loads_fail"), 1000 * HOUR),
        hangs_after=2400,
    ),
}
MODELS = (("org/a",), ("org/b",), ("org/a", "org/b"), ("org/a", "org/b", None))
LOOK_EVERY = 120.0  # seconds at most between two looks at the files
WAITS_AT_MOST = 6 * HOUR  # of times in which the daemon could have worked on it
_PATIENCE = 3  # times the daemon's own: whatever else becomes durable meanwhile has its patience begin anew
_COARSE = 5  # CLOCK_REALTIME_COARSE of clock_gettime(2), by which the kernel dates files
_TOLD_AT_MOST = 1500  # characters of one violation
_MANY = 5  # violations after which a run is given up


class Simulation:
    """One seed: what happens, and what must hold."""

    def __init__(
        self,
        seed: int,
        hours: float,
        folder: Path,
        sabotage: Sabotage | None = None,
        weather: str = "usual",
        verbose: bool = False,
    ) -> None:
        self.report = Report(seed, hours)
        self.place = Site(folder)
        self._seed, self._end, self._sabotage, self._verbose = seed, hours * HOUR, sabotage, verbose
        self._random = Random(f"driver {seed}")
        self._by_control = Random(f"deletes {seed}")  # of its own, so that what else a seed does is not changed by it
        self._clock = Clock()
        self._weather = WEATHERS[weather]
        self._clock.hangs_after = self._weather.hangs_after
        self._begin = self._clock.now
        self._most = 1 if sabotage else _MANY
        self._end += self._begin
        self._counts = self.report.counts
        self._plan: list[tuple[float, int, Callable[[], None]]] = []  # a heap: when, and what happens then
        self._order = itertools.count()
        self._daemon: Simulated | None = None
        self._lives = itertools.count(1)
        self._life = 0
        self._start_at = self._clock.now
        self._stopping = False
        self._struck = False  # an operation is to fail, or has
        self._first: list[Sequence[Any]] = []
        self._disk = ""
        self._drops: list[Drop] = []
        self._by_mark: dict[str, Drop] = {}
        self._told: dict[str, Told] = {}
        self._settled: dict[
            str, tuple[int, int, int]
        ] = {}  # folders looked at for the last time, and the receipt's stamp
        self._cancels: set[str] = set()
        self._removed_names: set[str] = set()
        self._to_be_deleted: set[str] = set()  # batches that had ended when a .delete was dropped for them
        self._resuming: set[str] = set()
        self._sent: Counter[str] = Counter()
        self._deaths: list[tuple[str, frozenset[str]]] = []
        self._hanging: dict[str, tuple[str, float]] = {}  # by engine: at what, and for how long it might be seen
        self._looked_at = self._clock.now
        self._read_events = self._read_log = 0
        self._events: list[str] = []
        self._trace = hashlib.sha256()

    # -- the run

    def run(self) -> Report:
        for folder in ("inbox", "outbox"):
            (self.place.spool / folder).mkdir(parents=True)
        for path in (self.place.events, self.place.log):
            path.touch()
        self._configure(AS_STARTED)
        for name in self._weather.every:
            self._next(name)
        try:
            while self._plan[0][0] < self._end and len(self.report.violations) < self._most:
                when, _, act = heapq.heappop(self._plan)
                self._go_on_until(when)
                act()
                self._look()
            if len(self.report.violations) < self._most:
                self._come_to_the_end()
        finally:
            if self._daemon:
                self._daemon.kill()
        self._counts["passes"] = self._clock.passes
        self._counts["operations"], checksum = self._clock.operations
        log = self.place.log.read_bytes().replace(os.fsencode(self.place.folder), b"")
        self._trace.update(f"{checksum} {sorted(self._counts.items())} {self.report.violations}".encode() + log)
        self.report.digest = self._trace.hexdigest()
        return self.report

    def _next(self, name: str) -> None:
        def happen() -> None:
            self._next(name)
            self._say(name)
            getattr(self, f"_{name}")()

        self._in(self._random.expovariate(1 / self._weather.every[name]), happen)

    def _in(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._plan, (self._clock.now + seconds, next(self._order), act))

    def _go_on_until(self, when: float) -> None:
        while (now := self._clock.now) < when:
            until = min(when, now + LOOK_EVERY)
            if self._daemon:
                self._daemon.order(["go", until])
                self._mourn()
            elif self._start_at <= now:
                self._start()
            else:
                self._clock.advance(min(until, self._start_at) - now)
            self._look()

    def _start(self) -> None:
        self._counts["starts"] += 1
        self._life = next(self._lives)
        self._stopping = self._struck = False
        first, self._first = self._first or [["disk", self._disk]], []
        if first[0][0] != "disk":
            self._struck = True
        self._daemon = Simulated(self.place, self._clock, self._seed, self._life, first, self._sabotage)
        self._mourn()

    def _mourn(self) -> None:
        """Take note that the daemon has ended: by a signal, by order, or because the disk did not let it start."""
        if self._daemon is None or self._daemon.status is None:
            return
        status, self._daemon = self._daemon.status, None
        self._start_at = self._clock.now + (30.0 if status == REFUSED else 5.0)
        self._counts["crashes"] += status == -signal.SIGKILL
        may = status == -signal.SIGKILL or (status == 0 and self._stopping)
        may |= status == REFUSED and (self._disk == "full" or self._struck)
        if not may:
            self._wrong(f"the daemon ended with {status}: {self.place.log.read_text()[-1500:]}")

    def _wrong(self, what: str) -> None:
        hours = (self._clock.now - self._begin) / HOUR
        what = what.replace(str(self.place.folder), "")[:_TOLD_AT_MOST]
        self.report.violations.append(f"seed {self._seed}, hour {hours:.3f}: {what}")

    def _say(self, what: str) -> None:
        self._trace.update(f"{self._clock.now:.6f} {what}\n".encode())
        if self._verbose:
            when = time.strftime("%d %H:%M:%S", time.localtime(self._clock.wall))
            print(f"{when} {self._clock.now:.3f} {what}", file=sys.stderr)

    # -- what users do

    @property
    def _inbox(self) -> Path:
        return self.place.spool / "inbox"

    @property
    def _outbox(self) -> Path:
        return self.place.spool / "outbox"

    def _drop(self) -> None:
        name = f"n{self._random.randrange(40):02}"
        drop = self._made(name)
        if (self._inbox / drop.file).exists():
            return
        if drop.file.endswith(".jsonl") and len(drop.lines) > 4 and self._random.random() < 0.1:
            self._upload(drop)
        else:
            self._put(drop)

    def _made(self, name: str) -> Drop:
        random, number = self._random, len(self._drops)
        low, high = random.choices(((1, 20), (20, 100), (100, 400)), (60, 30, 10))[0]
        count, prefix = random.randint(low, high), f"d{number:04}"
        repeats, faults = random.random() < 0.15, random.choices((0.0, 0.1, 1.0), (80, 18, 2))[0]
        kinds = ["faulty" if random.random() < faults else "good" for _ in range(count)]
        if random.random() < 0.03:
            for _ in range(random.choice((1, 1, 2))):
                kinds[random.randrange(count)] = "poison"
        padding = "long words " * random.choice((0, 0, 0, 30))
        names = random.choice(MODELS) if self._weather.two_models else ()
        lines = []
        for place, kind in enumerate(kinds):
            text = f"{padding}{POISON if kind == 'poison' else 'say'} {place:03}"
            body = {"temperature": 0} if repeats and kind == "good" else {}
            text = f"{padding}say {random.randrange(5):03}" if body else text
            body |= {"model": model} if names and (model := random.choice(names)) else {}
            line = b"no request" if kind == "faulty" else jsonl([request(f"{prefix}-{place:03}", text, **body)])[:-1]
            lines.append(line)
        content = b"\n".join(lines) + b"\n"
        if random.random() < 0.15:
            return Drop(f"{name}.jsonl.gz", gzip.compress(content, mtime=0), kinds, lines, prefix)
        return Drop(f"{name}.jsonl", content, kinds, lines, prefix)

    def _put(self, drop: Drop) -> None:
        hidden = self._inbox / ".uploading"
        hidden.write_bytes(drop.content)
        hidden.rename(self._inbox / drop.file)
        self._dropped(drop)

    def _dropped(self, drop: Drop) -> None:
        drop.at, drop.low = self._clock.now, self._disk != ""
        drop.mark = source.mark(self._inbox / drop.file)
        self._drops.append(drop)
        self._by_mark[drop.mark] = drop
        self._counts["batches"] += 1
        self._counts["requests"] += len(drop.lines)
        self._say(f"dropped {drop.file}: {len(drop.lines)} lines, {drop.kinds.count('poison')} of them poison")
        _tick()

    def _upload(self, drop: Drop) -> None:
        """The file comes slowly, and is not whole before its rest has come."""
        path = self._inbox / drop.file
        path.write_bytes(drop.content[: drop.content.index(b"\n", len(drop.content) // 2 - 1) - 5])  # within a line
        _tick()

        def rest() -> None:
            with path.open("r+b") as file:
                file.write(drop.content)
            self._dropped(drop)

        self._in(self._random.uniform(20, 600), rest)

    def _resend(self) -> None:
        candidates = [drop for drop in self._drops[-30:] if not (self._inbox / drop.file).exists()]
        if candidates:
            again = self._random.choice(candidates)
            self._counts["re-sends"] += 1
            self._put(Drop(again.file, again.content, again.kinds, again.lines, again.prefix))

    def _control(self) -> None:
        """Mostly for a batch that is there and has not ended."""
        going_on = sorted(told.name for told in self._told.values() if told.receipt is None and not told.drop.over)
        waiting = sorted(batch_name(name) for name in os.listdir(self._inbox) if ".jsonl" in name)  # noqa: PTH208
        drawn = self._random.random()
        name = self._random.choice(going_on) if going_on and drawn < 0.8 else f"n{self._random.randrange(40):02}"
        name = self._random.choice(waiting) if waiting and drawn > 0.9 else name
        verb = self._random.choices(("cancel", "pause", "resume", "priority"), (2, 4, 2, 2))[0]
        self._drop_control(name, verb, self._random.choice(("", "", "", ".jsonl")))

    def _drop_control(self, name: str, verb: str, suffix: str = "") -> None:
        self._counts["controls"] += 1
        self._say(f"{verb} for {name}")
        if verb == "cancel":
            self._cancels.add(name)
        hidden = self._inbox / ".control"
        hidden.write_bytes(str(self._random.randrange(-9, 10)).encode() if verb == "priority" else b"")
        hidden.rename(self._inbox / f"{name}{suffix}.{verb}")
        _tick()

    def _take_parts(self) -> None:
        self._counts["removals"] += 1
        for part in sorted(self._outbox.glob("*/parts/*")):
            part.unlink()
        for told in self._told.values():
            told.part_names.clear()

    def _clear_folder(self) -> None:
        folders = sorted(path.name for path in self._outbox.glob("[!.]*"))
        if not folders:
            return
        self._counts["removals"] += 1
        name = self._random.choice(folders)
        status = _status(self._outbox / name)
        self._say(f"folder {name} is removed")
        self._removed_names.add(re.sub(r"\.\d+$", "", name))
        if status:
            told = self._told[status["id"]]
            told.held, told.removed, told.stamp = None, told.receipt is not None, None
            if told.receipt is not None:
                told.drop.over = True
                told.receipt = None
            told.part_names.clear()
        self._settled.pop(name, None)
        if status and told.drop.over and self._by_control.random() < 0.5:
            self._to_be_deleted.add(name)
            self._drop_control(name, "delete")
        else:
            shutil.rmtree(self._outbox / name)

    # -- what happens to the daemon and its host

    def _crash(self) -> None:
        if self._daemon:
            self._daemon.kill()
            self._mourn()
            if self._random.random() < 0.3 and self._disk != "full":  # and once more while it recovers
                self._first = [["kill", self._random.randint(1, 60), False, sorted(EVERYTHING)]]

    def _crash_within(self) -> None:
        kinds = self._random.choice(
            (EVERYTHING, EVERYTHING, SYNCS, {"rename"}, {"link", "mkdir"}, {"write"}, {"unlink"})
        )
        at, half = self._random.randint(1, 60 if kinds is EVERYTHING else 12), self._random.random() < 0.5
        if self._daemon and self._disk != "full":
            self._struck = False
            self._daemon.order(["kill", at, half, sorted(kinds)], ["go", self._clock.now])
            self._mourn()

    def _fail_one_operation(self) -> None:
        if self._daemon and self._disk != "full":
            self._counts["failed operations"] += 1
            self._struck = True
            code = self._random.choice((errno.EIO, errno.ENOSPC))
            self._daemon.order(["fail", self._random.randint(1, 40), code], ["go", self._clock.now])
            self._mourn()

    def _stop(self) -> None:
        if self._daemon and not self._stopping:
            self._counts["stops"] += 1
            self._stopping = True
            self._daemon.signal(signal.SIGTERM)

    def _reload(self) -> None:
        if self._daemon is None:
            return
        self._counts["reloads"] += 1
        broken = self._random.random() < 0.2
        chosen = self._random.choice(RELOADS)
        if broken:
            self.place.settings.write_text("[inbox\n")
        else:
            self._configure(chosen)
        self._daemon.signal(signal.SIGHUP)
        self._daemon.order(["go", self._clock.now + 1.0])
        if broken:
            self._configure(chosen)
        self._mourn()

    def _configure(self, values: dict[str, int]) -> None:
        self.place.settings.write_text((TWO_MODELS if self._weather.two_models else SETTINGS).format(**values))

    def _fill_disk(self) -> None:
        if self._disk == "":
            self._counts["full disks"] += 1
            self._set_disk(self._random.choice(("low", "full")))
            self._in(self._random.uniform(60, 2400), lambda: self._set_disk(""))

    def _set_disk(self, level: str) -> None:
        self._say(f"disk {level or 'has room'}")
        self._disk, self._struck = level, False
        if level:
            for drop in self._drops:
                drop.low |= not drop.over
        if self._daemon:
            self._daemon.order(["disk", level], ["go", self._clock.now])
            self._mourn()

    def _loads_fail(self) -> None:
        self._clock.loads_fail = True
        self._in(self._random.uniform(300, 3600), self._loads_go_well)

    def _loads_go_well(self) -> None:
        self._clock.loads_fail = False

    def _step_clock(self) -> None:
        """By seconds to a day, forward or back; mostly somebody sets it right again."""
        self._counts["clock steps"] += 1
        seconds = self._random.choice((-1, 1)) * self._random.choice((1.0, 60.0, 900.0, 2 * HOUR, 24 * HOUR))
        self._clock.step(seconds)
        self._say(f"clock steps by {seconds:.0f} s")
        if self._random.random() < 0.8:
            self._in(self._random.expovariate(1 / HOUR), lambda: self._clock.step(-seconds))

    # -- what must hold at any moment

    def _look(self) -> None:
        passed, self._looked_at = self._clock.now - self._looked_at, self._clock.now
        fair = self._daemon is not None and not self._stopping and self._disk == "" and not self._clock.loads_fail
        killed = self._look_at_events()
        self._look_at_log(killed)
        seen: dict[str, str] = {}
        unheld = False
        for folder in sorted(self._outbox.iterdir()):
            if folder.name.startswith("."):
                continue
            if (stamp := self._settled.get(folder.name)) is not None:
                if _stamp(folder / "receipt.json") == stamp:
                    continue
                del self._settled[folder.name]
                if folder.name not in self._to_be_deleted:
                    self._wrong(f"{folder.name}: its receipt is gone, or another one")
                    continue
                self._to_be_deleted.remove(folder.name)  # and another batch has the name
            status = _status(folder)
            if status is None:  # its user has removed it, and the daemon is not there
                continue
            if other := seen.get(status["id"]):
                self._wrong(f"{other} and {folder.name} are the same batch")
            seen[status["id"]] = folder.name
            unheld |= self._look_at_batch(folder, status)
        for drop in self._drops:
            if not drop.over and self._is_counted(drop):
                drop.over = drop.counted = True
            if not drop.over and fair:
                told = next((told for told in self._told.values() if told.drop is drop), None)
                if told is None or told.held is None:
                    drop.waited += passed
                if drop.waited > WAITS_AT_MOST:
                    self._wrong(f"{drop.file} ({told.name if told else 'not claimed'}) waits for ever")
                    drop.over = True
        for engine, (what, seconds) in list(self._hanging.items()):
            if fair and unheld:
                self._hanging[engine] = (what, seconds + passed)
            if seconds > _PATIENCE * (LOAD_TIMEOUT if what == "load" else STALL_AFTER):
                self._wrong(f"engine {engine} hangs at {what} and is not killed")
                del self._hanging[engine]

    def _is_counted(self, drop: Drop) -> bool:
        """Say whether a file is nowhere any more, and there was a batch of its name and bytes."""
        if (self._inbox / drop.file).exists() or any(told.drop is drop for told in self._told.values()):
            return False
        if any(source.mark(path) == drop.mark for path in self.place.spool.glob("work/*/dropped/*")):
            return False
        return bool(drop.mark) and bool(self._alike_to(drop))

    def _alike_to(self, drop: Drop) -> list[Told]:
        """Return the batches of another file of this name and these bytes."""
        told = [told for told in self._told.values() if told.drop is not drop]
        return [one for one in told if (one.drop.file, one.drop.content) == (drop.file, drop.content)]

    def _look_at_events(self) -> list[str]:
        """Return the engines that were killed while they hung."""
        killed, hanging = [], self._hanging
        with self.place.events.open("rb") as file:
            file.seek(self._read_events)
            for line in file:
                match orjson.loads(line):
                    case ["sent", _, _, ids]:
                        self._sent.update(id.rsplit("_", 1)[0] for id in ids)
                    case ["started", _, engine]:
                        self._counts["engines"] += 1
                        hanging[engine] = ("load", 0.0)
                    case ["ready" | "died", _, engine, *rest]:
                        hanging.pop(engine, None)
                        if rest:
                            self._counts["deaths"] += 1
                            self._deaths.append((rest[0], frozenset(rest[1])))
                    case ["hung", _, engine]:
                        self._counts["hangs"] += 1
                        hanging[engine] = ("work", 0.0)
                    case ["killed", _, engine, state, ids]:
                        hanging.pop(engine, None)
                        if state == "hangs":
                            self._deaths.append(("of hanging", frozenset(ids)))
                        if state in ("hangs", "loads"):
                            killed.append(engine)
                    case ["wrong", _, what]:
                        self._wrong(what)
            self._read_events = file.tell()
        ours = f"{self._life}." if self._daemon else "none"  # the others have ended with their daemon
        self._hanging = {engine: what for engine, what in hanging.items() if engine.startswith(ours)}
        return killed

    def _look_at_log(self, killed: list[str]) -> None:
        with self.place.log.open("rb") as file:
            file.seek(self._read_log)
            said = file.read().decode(errors="replace")
            self._read_log = file.tell()
        for fault in ("by a fault of ours", "Traceback"):
            if fault in said:
                self._wrong(f"{fault}: {said[max(0, said.index(fault) - 300) :]}")
        why = r"(?:.*\(engine\.(?:stall_after|stall_after_answers|load_timeout)\)|it gave no request back)"
        named = re.findall(rf"engine(?: \d)? died: {why}", said)
        self._counts["swaps"] += said.count(" gives way to ")
        self._counts["kills"] += len(named)
        self._counts["parked"] += said.count(": parked: ")
        if len(named) > len(killed):
            self._wrong(f"an engine was killed though it worked: {named}")
        if len(named) < len(killed) and self._daemon and not re.search(r"engine( \d)? let go|stopping: ", said):
            self._wrong(f"engines {killed} were killed and nobody says why: {said[-1500:]}")

    def _look_at_batch(self, folder: Path, status: dict[str, Any]) -> bool:
        """Look at what users see of one batch; say whether it is to go on."""
        if (told := self._told.get(status["id"])) is None:
            drop = self._by_mark.get(status["input_mark"])
            if drop is None:
                self._wrong(f"{folder.name}: a batch of a file that nobody dropped")
                return False
            if other := next((told for told in self._told.values() if told.drop is drop), None):
                self._wrong(f"{folder.name} and {other.name} are made of one file")
            told = self._told[status["id"]] = Told(drop, folder.name)
        told.name, told.removed = folder.name, False
        counts = status["request_counts"]
        counted = counts["completed"] + counts["failed"]
        if counted < told.counted:
            self._wrong(f"{folder.name}: {told.counted} outcomes were counted, now {counted}")
        told.counted, told.status = counted, status["status"]
        self._look_at_lines(folder, told)
        self._held_batches_stand_still(folder, status, told)
        self._receipts_stay(folder, status, told)
        return told.held is None and not told.drop.over

    def _look_at_lines(self, folder: Path, told: Told) -> None:
        there = sorted((folder / "parts").glob("*"))
        for part in there:
            if part.name not in told.part_names:
                told.part_names.add(part.name)
                told.parts.update(self._whole_lines(part))
        if told.receipt is None:
            for path in (folder / "results.jsonl", folder / "errors.jsonl"):
                if path.exists():
                    self._whole_lines(path)

    def _held_batches_stand_still(self, folder: Path, status: dict[str, Any], told: Told) -> None:
        sent = self._sent[status["id"].replace("batch_", "batch_req_", 1)]
        if told.held is not None and sent != told.held:
            self._wrong(f"{folder.name} is held, and {sent - told.held} of its requests were sent")
        told.cancelled |= status["status"] == "cancelling"
        waits = status["paused"] or status["parked"]
        held = waits or status["status"] == "cancelling"
        if any((self._inbox / f"{folder.name}{s}.resume").exists() for s in ("", ".jsonl")):
            told.resumes = _stamp(folder / "status.json")  # what it says is of before that, until it is written anew
        goes_on = waits and told.resumes is not None and told.resumes == _stamp(folder / "status.json")
        told.held = sent if held and not goes_on else None
        if waits and status["status"] == "in_progress" and folder.name not in self._resuming:
            self._resuming.add(folder.name)
            self._in(self._random.uniform(300, 2 * HOUR), lambda: self._resume(folder.name))

    def _resume(self, name: str) -> None:
        self._resuming.discard(name)
        self._drop_control(name, "resume")

    def _receipts_stay(self, folder: Path, status: dict[str, Any], told: Told) -> None:
        stamp = _stamp(folder / "receipt.json")
        if stamp is None:
            if told.receipt is not None:
                self._wrong(f"{folder.name}: its receipt is gone")
                told.receipt = None
            return
        if stamp != told.stamp:
            receipt = orjson.loads((folder / "receipt.json").read_bytes())
            if receipt["id"] != status["id"]:
                self._wrong(f"{folder.name}: the receipt is another batch's")
            lasting = {key: receipt[key] for key in ("id", "status", "answers", "errors", "files", "input")}
            if told.receipt not in (None, lasting):
                self._wrong(f"{folder.name}: {told.receipt} became {lasting}")
            told.receipt, told.stamp = lasting, stamp
            if problems := proof.verify(Published(folder)).problems:
                self._wrong(f"{folder.name}: {problems}")
        work = self.place.spool / "work" / status["id"]
        if not work.exists() and status["status"] in ("completed", "failed", "cancelled"):
            self._settled[folder.name] = stamp
            self._is_as_promised(folder, status, told)
            told.drop.over, told.over_at = True, self._clock.now
            told.parts.clear()

    def _whole_lines(self, path: Path) -> list[bytes]:
        *lines, rest = path.read_bytes().split(b"\n")
        try:
            for line in lines:
                orjson.loads(line)
        except ValueError:
            self._wrong(f"{path}: a line is not JSON")
        if rest:
            self._wrong(f"{path}: the last line has no end")
        return lines

    # -- what must hold of a batch that has ended

    def _is_as_promised(self, folder: Path, status: dict[str, Any], told: Told) -> None:
        drop = told.drop
        if told.cancelled and status["status"] != "cancelled":
            self._wrong(f"{folder.name} was being cancelled and ended {status['status']}")
        if status["status"] == "cancelled" and not {folder.name, batch_name(drop.file)} & self._cancels:
            self._wrong(f"{folder.name} is cancelled, and nobody has asked for that")
        self._trace.update(f"{folder.name} {drop.file} {status['status']} {status['request_counts']}\n".encode())
        if status["input_sha256"] is None:
            self._is_rightly_refused(folder, status, told)
            return
        self._ought_to_run(folder, status, told)
        if status["input_sha256"] != drop.sha256:
            self._wrong(f"{folder.name}: not of the bytes that were dropped")
        lines = {name: self._whole_lines(folder / f"{name}.jsonl") for name in ("results", "errors")}
        if not told.parts <= {line for found in lines.values() for line in found}:
            self._wrong(f"{folder.name}: a line that was in a part is in no result")
        numbers = [self._answer(folder, drop, line) for line in map(orjson.loads, lines["results"])]
        numbers += [self._error(folder, drop, status, line) for line in map(orjson.loads, lines["errors"])]
        self._counts["answers"] += len(lines["results"])
        if sorted(numbers) != list(range(len(drop.lines))):
            self._wrong(
                f"{folder.name}: {len(drop.lines)} lines were dropped, these have an outcome: {sorted(numbers)}"
            )
        expected = "failed" if set(drop.kinds) == {"faulty"} else "completed"
        if status["status"] not in (expected, "cancelled"):
            self._wrong(f"{folder.name} ended {status['status']}")

    def _answer(self, folder: Path, drop: Drop, line: dict[str, Any]) -> int:
        prefix, _, digits = line["custom_id"].partition("-")
        number = int(digits)
        content = line["response"]["body"]["choices"][0]["message"]["content"]
        if prefix != drop.prefix or content != f"null engine: {len(drop.lines[number])} bytes read":
            self._wrong(f"{folder.name}: line {number + 1} has another's answer")
        asked = orjson.loads(drop.lines[number])["body"].get("model", "org/a")
        if self._weather.two_models and line["response"]["body"]["model"] != asked:
            self._wrong(f"{folder.name}: line {number + 1} has another model's answer")
        if drop.kinds[number] != "good":
            self._wrong(f"{folder.name}: a {drop.kinds[number]} line has an answer")
        return number

    def _error(self, folder: Path, drop: Drop, status: dict[str, Any], line: dict[str, Any]) -> int:
        number, code = error_of(line).line - 1, error_of(line).code
        if code == "batch_cancelled":
            right = status["status"] == "cancelled"
        elif code == "engine_crash":
            right = any(self._was_alone(id) for id in self._alike(drop, line["id"], number))
        else:
            right = (code, drop.kinds[number]) == ("invalid_json", "faulty")
        if not right:
            self._wrong(
                f"{folder.name}: line {number + 1}, which is {drop.kinds[number]}, has an error: {error_of(line)}"
            )
        return number

    def _alike(self, drop: Drop, id: str, number: int) -> list[str]:
        """Return the ids of the requests whose outcome this one's may be: its own, and those of the same request."""
        lines = [line.replace(f"{drop.prefix}-{at:03}".encode(), b"") for at, line in enumerate(drop.lines)]
        batch = id.rpartition("_")[0]
        alike = [at for at, line in enumerate(lines) if line == lines[number] and b"temperature" in line]
        return [f"{batch}_{at}" for at in {number, *alike}]

    def _was_alone(self, id: str) -> bool:
        """Whoever is found guilty was in flight at two deaths that a request may have caused, at one of them alone."""
        deaths = [ids for how, ids in self._deaths if id in ids and "machine" not in how]
        return len(deaths) >= 2 and frozenset([id]) in deaths

    def _is_rightly_refused(self, folder: Path, status: dict[str, Any], told: Told) -> None:
        self._counts["refused"] += 1
        drop = told.drop
        code = status["errors"]["data"][0]["code"]
        if code == "disk_full":
            right = status["status"] == "failed" and drop.low and drop.file.endswith(".gz")
        else:
            right = (code, status["status"]) == ("batch_cancelled", "cancelled")
        if not right:
            self._wrong(f"{folder.name}: refused, {code}, {status['status']}")
        back = folder / drop.file
        if not back.exists() or back.read_bytes() != drop.content:
            self._wrong(f"{back}: not there as it was dropped")

    def _ought_to_run(self, folder: Path, status: dict[str, Any], told: Told) -> None:
        """A re-send is no batch; where users removed folders nobody can tell."""
        drop = told.drop
        if batch_name(drop.file) in self._removed_names or status["status"] == "cancelled":
            return
        for other in self._alike_to(drop):
            before = other.over_at < drop.at and other.status == "completed"
            if before and other.drop.lines and not other.removed:
                self._wrong(f"{folder.name}: a re-send of {other.name} was run")

    # -- the end

    def _come_to_the_end(self) -> None:
        """The disk has room, engines die of poison alone, whoever is held is told to go on, and nothing happens."""
        self._say("peace")
        plan, self._plan = self._plan, []
        self._clock.peace, self._clock.loads_fail = True, False
        self._set_disk("")
        self._first = []
        for _, _, act in sorted(plan, key=lambda one: one[:2]):
            if act.__name__ == "rest":
                act()
        self._resuming.clear()
        for _ in range(12 * 60):
            for told in list(self._told.values()):
                if told.held is not None and not told.drop.over and not told.cancelled:
                    self._drop_control(told.name, "resume")
            self._look()
            self._plan.clear()
            self._resuming.clear()
            self._go_on_until(self._clock.now + 60)
            if not self._left():
                break
        if left := self._left():
            self._wrong(f"it does not come to an end: {left}; {self.place.log.read_text()[-1500:]}")
            return
        self._go_on_until(self._clock.now + 0.5 * HOUR)
        self._plan.clear()
        self._alerts_are_cleared()
        self._stop()
        self._go_on_until(self._clock.now + 60)
        self._every_drop_has_ended()

    def _left(self) -> list[str]:
        spool = self.place.spool
        left = [str(p.relative_to(spool)) for p in (*spool.glob("work/*"), *spool.glob("inbox/[!.]*"))]
        return left + [drop.file for drop in self._drops if not drop.over]

    def _alerts_are_cleared(self) -> None:
        assert self._daemon
        [own] = (self.place.spool / "daemons").glob(f"host-{self._daemon.pid}-*.json")
        said = orjson.loads(own.read_bytes())
        if said["alerts"]:
            self._wrong(f"alerts are still raised: {said['alerts']}")

    def _every_drop_has_ended(self) -> None:
        for folder in self._outbox.glob("[!.]*"):
            if folder.name not in self._settled:
                self._wrong(f"{folder.name}: never ended: {_status(folder)}")
            elif problems := proof.verify(Published(folder)).problems:
                self._wrong(f"{folder.name}: {problems}")
        claimed = {id(told.drop) for told in self._told.values()}
        for drop in self._drops:
            if id(drop) not in claimed and not drop.counted:
                self._wrong(f"nothing came of {drop.file}")
            if drop.counted and batch_name(drop.file) not in self._removed_names:
                statuses = [_status(self._outbox / told.name) or {} for told in self._alike_to(drop)]
                if not any(status.get("resent") for status in statuses):
                    self._wrong(f"{drop.file} was sent again, and no status counts it")


def _status(folder: Path) -> dict[str, Any] | None:
    """What is said of a batch; None where nothing is, or the folder says why a file is not taken."""
    try:
        status = dict(orjson.loads((folder / "status.json").read_bytes()))
    except FileNotFoundError:
        return None
    return None if "not_taken" in status else status


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _created(id: str) -> int:
    return int(id.removeprefix("batch_")[:12], 16) // 1000


def _tick() -> None:
    """Wait until the clock by which the kernel dates files has gone on: files are dropped one after another."""
    before = time.clock_gettime_ns(_COARSE)
    while time.clock_gettime_ns(_COARSE) == before:
        pass


# -- running it


_REPEATABLE = {"PYTHONHASHSEED": "0", "TZ": "UTC"}  # the order of sets, and the times in the log


def simulate(seed: int, hours: float, broken: str, weather: str, verbose: bool, keep: str) -> Report:
    """Run one seed in this process, which must have no threads and `PYTHONHASHSEED` 0."""
    folder = Path(tempfile.mkdtemp(prefix="simulated-", dir=IN_MEMORY))
    began = time.monotonic()
    try:
        report = Simulation(seed, hours, folder, BROKEN.get(broken), weather, verbose).run()
        report.seconds = time.monotonic() - began
        if keep:
            shutil.copytree(folder, keep, dirs_exist_ok=True)
        return report
    finally:
        shutil.rmtree(folder)


def simulated(
    seed: int, hours: float = 72.0, broken: str = "", weather: str = "usual", within: float = 1800.0
) -> Report:
    """Run one seed in a process of its own and return its report."""
    command = [sys.executable, __file__, "--seed", str(seed), "--hours", str(hours), "--weather", weather, "--json"]
    done = subprocess.run(
        [*command, *(["--broken", broken] if broken else [])],
        stdout=subprocess.PIPE,
        env=os.environ | _REPEATABLE,
        timeout=within,
        check=False,
    )
    if not done.stdout:
        return Report(seed, hours, violations=[f"the simulation itself ended with {done.returncode}"])
    said = orjson.loads(done.stdout)
    return Report(**said | {"counts": Counter(said["counts"])})


def several(seeds: Iterable[int], hours: float = 72.0, broken: str = "", weather: str = "usual") -> Iterable[Report]:
    """Run seeds, as many at a time as there are processors, and yield their reports in order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(lambda seed: simulated(seed, hours, broken, weather), seeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="run the seeds 0 to N-1")
    parser.add_argument("--seed", type=int, default=0, help="run this one alone, in this process")
    parser.add_argument("--hours", type=float, default=72.0, help="simulated hours")
    parser.add_argument("--broken", choices=BROKEN, default="", help="with a daemon that is broken on purpose")
    parser.add_argument("--weather", choices=WEATHERS, default="usual", help="how often things happen")
    parser.add_argument("--json", action="store_true", help="say it for programs")
    parser.add_argument("--verbose", action="store_true", help="say what happens")
    parser.add_argument("--keep", default="", metavar="FOLDER", help="copy spool, log and events there at the end")
    chosen = parser.parse_args()
    if chosen.seeds:
        reports = []
        for report in several(range(chosen.seeds), chosen.hours, chosen.broken, chosen.weather):
            print("\n".join([str(report), *report.violations]), flush=True)
            reports.append(report)
        print(f"{len(reports)} seeds, {sum(len(report.violations) for report in reports)} violations")
        return int(any(report.violations for report in reports))
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | _REPEATABLE)
    report = simulate(chosen.seed, chosen.hours, chosen.broken, chosen.weather, chosen.verbose, chosen.keep)
    if chosen.json:
        names = ("seed", "hours", "digest", "seconds", "counts", "violations")
        print(orjson.dumps({name: getattr(report, name) for name in names}).decode())
    else:
        print("\n".join([str(report), *report.violations]))
    return int(bool(report.violations))


if __name__ == "__main__":
    sys.exit(main())
