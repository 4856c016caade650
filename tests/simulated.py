"""The daemon on a simulated clock, in a child that is told what happens to it. No test lives here.

The files, the locks and the SIGKILLs are real, and so is `Daemon.run`: only where it would sleep, the clock jumps to
the next thing that is due. The engine is one of ours, with a fate of its own: it loads, computes some requests at a
time, dies, hangs. `simulating` decides what else happens, and holds against the files what must.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import mmap
import os
import secrets
import signal
import socket
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import orjson
from crashing import FOR_EVER, TAKES_SPACE, Strike, Tripwire
from forked import Forked

from inbox_daemon import config, daemon, journal
from inbox_daemon.batch.queue import Lane, Queue
from inbox_daemon.config import Config, EngineSettings
from inbox_daemon.config.models import Model
from inbox_daemon.dispatch.suspects import Suspects
from inbox_daemon.engine import Evidence, Place
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.errors import EngineDied, InboxDaemonError
from inbox_daemon.machine import host
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.records import EngineStats, Outcome, Request
from inbox_daemon.spool import daemons
from inbox_daemon.spool.outcomes import Outcomes
from inbox_daemon.wakeup import Wakeup
from inbox_daemon.watch.health import Pulse

# -- where the daemon's own ways are touched: how it is made, how it sleeps, what of it is not a matter of files

MakeEngine = Callable[[Model, int, Place | None], "FatedEngine"]


def make_daemon(read: Config, make_engine: MakeEngine, notifier: Notifier) -> daemon.Daemon:
    return daemon.Daemon(read, make_engine, notifier, drain=False)


def take_over(sleep: Callable[[float], None], clock: Clock, disk: Callable[[Any], os.statvfs_result]) -> None:
    """Have the loop sleep by our clock; what it would see of this machine is the same on every machine."""
    Wakeup.sleep = lambda self, seconds, *descriptors: sleep(seconds)  # type: ignore[method-assign]
    os.statvfs = disk  # type: ignore[assignment]
    host._memory = lambda: 0.3
    socket.gethostname = lambda: "host"
    say = daemons.Presence.say

    def said_by_our_clock(self: daemons.Presence, now: float, view: dict[str, Any]) -> None:
        say(self, now, view)
        with contextlib.suppress(OSError):  # its age is read from the file's time
            os.utime(self._path, (clock.wall, clock.wall))

    daemons.Presence.say = said_by_our_clock  # type: ignore[method-assign]


# -- daemons that are broken on purpose

Sabotage = Callable[[], None]


def _forgets_one() -> None:
    """What comes back from a dead engine is one request less."""
    give_back = Queue.give_back

    def give_back_all_but_one(self: Queue, asked: Iterable[int]) -> list[int]:
        places = give_back(self, asked)
        if len(places) > 1:
            self.take_these(places[-1:])
        return places[:-1] if len(places) > 1 else places

    Queue.give_back = give_back_all_but_one  # type: ignore[method-assign]


def _counts_before_it_writes() -> None:
    append = Outcomes.append
    unwritten: dict[Outcomes, list[Outcome]] = {}

    def late(self: Outcomes, outcomes: Sequence[Outcome]) -> None:
        kept = unwritten.setdefault(self, [])
        kept.extend(outcomes)
        unsynced = [*self._unsynced, *outcomes]
        if len(kept) > 3:
            append(self, kept)
            kept.clear()
        self._unsynced = unsynced

    Outcomes.append = late  # type: ignore[method-assign]


def _runs_what_is_held() -> None:
    Lane.takeable = property(lambda self: self.left - self._following - self._withheld)  # type: ignore[assignment, method-assign]


def _blames_at_once() -> None:
    Suspects.death = lambda self, engine, in_flight: next(iter(in_flight), None)  # type: ignore[method-assign]


def _kills_no_engine() -> None:
    Pulse.kill = lambda self, now: None  # type: ignore[method-assign]


BROKEN: dict[str, Sabotage] = {
    broken.__name__[1:]: broken
    for broken in (_forgets_one, _counts_before_it_writes, _runs_what_is_held, _blames_at_once, _kills_no_engine)
}

# -- the clock

BEGIN = 1_750_000_000.0  # Unix seconds
HOUR = 3600.0
_A_LOOK = 0.0001  # seconds that pass with each look at the clock, so that slices of time end


class Clock:
    """Simulated time, in memory that the driver and the daemon's process share: a SIGKILL does not stop it.

    The wall clock can be stepped; the monotonic one only goes on. Beside them stand what else outlives a process: the
    passes of the loop, the file operations and their checksum, and whether these are times of peace or of bad loads.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)
        self._cells = memoryview(self._memory).cast("d")
        self._cells[0] = 1000.0

    @property
    def now(self) -> float:
        return self._cells[0]

    @property
    def wall(self) -> float:
        return BEGIN + self._cells[0] + self._cells[1]

    def advance(self, seconds: float) -> None:
        self._cells[0] += seconds

    def step(self, seconds: float) -> None:
        self._cells[1] += seconds

    def passed(self) -> None:
        self._cells[2] += 1

    @property
    def passes(self) -> int:
        return int(self._cells[2])

    def operated(self, what: bytes) -> None:
        self._cells[3] += 1
        self._cells[4] = zlib.crc32(what, int(self._cells[4]))

    @property
    def operations(self) -> tuple[int, int]:
        return int(self._cells[3]), int(self._cells[4])

    @property
    def peace(self) -> bool:
        """Engines die of poison alone."""
        return self._cells[5] > 0

    @peace.setter
    def peace(self, value: bool) -> None:
        self._cells[5] = float(value)

    @property
    def loads_fail(self) -> bool:
        return self._cells[6] > 0

    @loads_fail.setter
    def loads_fail(self, value: bool) -> None:
        self._cells[6] = float(value)

    @property
    def hangs_after(self) -> float:
        """Seconds after which an engine hangs, on average."""
        return self._cells[7]

    @hangs_after.setter
    def hangs_after(self, value: float) -> None:
        self._cells[7] = value

    def rule(self) -> None:
        """Be the time of this process."""
        time.time, time.monotonic = self._look_at_wall, self._look
        time.time_ns = lambda: int(self._look_at_wall() * 1e9)
        time.monotonic_ns = lambda: int(self._look() * 1e9)
        time.clock_gettime = lambda which: self._look()
        time.sleep = lambda seconds: self.advance(float(seconds))

    def _look(self) -> float:
        self._cells[0] += _A_LOOK
        return self._cells[0]

    def _look_at_wall(self) -> float:
        return BEGIN + self._look() + self._cells[1]


# -- engines

POISON = "a poison"
AT_A_TIME = 8  # requests that an engine computes
OF_THE_MACHINE = "NVRM: Xid (PCI:0000:65:00): 79, GPU has fallen off the bus."
OF_THE_WORK = "RuntimeError: an illegal memory access was encountered"
STALL_AFTER, LOAD_TIMEOUT = 600.0, 1800.0  # the daemon's defaults
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one engine.

    Attributes:
        loads_in: seconds.
        load: "ready", or how it ends otherwise: "dies", "hangs".
        dies_after, hangs_after: seconds of being ready, from which on it does so as soon as it has work.
        of: what kills it: "work" or "machine".
        gone_after: seconds from the kill until its processes have ended.
    """

    loads_in: float
    load: str
    dies_after: float
    hangs_after: float
    of: str
    gone_after: float

    @staticmethod
    def drawn(random: Random, clock: Clock) -> Fate:
        loads_in, gone_after = random.uniform(40, 200), random.choice((0.0, 3.0, 20.0))
        load = random.choices(("ready", "dies", "hangs"), (94, 5, 1))[0]
        dies_after, hangs_after = random.expovariate(1 / (2.5 * HOUR)), random.expovariate(1 / clock.hangs_after)
        of = random.choice(("work", "work", "machine"))
        if clock.peace:
            return Fate(loads_in, "ready", NEVER, NEVER, of, gone_after)
        return Fate(loads_in, "dies" if clock.loads_fail else load, dies_after, hangs_after, of, gone_after)


class FatedEngine(NullEngine):
    """An engine that computes some requests at a time, each for as long as its text says, and that has a fate.

    Args:
        tell: is told what happens to it, for the driver.
    """

    out: dict[int, str] = {}  # noqa: RUF012  tickets, and the engine that has each: never two

    def __init__(
        self,
        name: str,
        settings: EngineSettings,
        place: Place | None,
        fate: Fate,
        clock: Clock,
        tell: Callable[..., None],
    ) -> None:
        super().__init__(settings, place)
        self._loaded, self.info = self.info, None
        self.phase = "loading"
        self._name, self._fate, self._clock, self._tell = name, fate, clock, tell
        self._begun = self._at = clock.now
        self._has: dict[int, Request] = {}
        self._queue: list[tuple[int, int, Request]] = []  # a heap: by turn, then as they came
        self._running: list[tuple[float, int, Request]] = []  # a heap: by the end of each
        self._count = itertools.count()
        self._tokens = 0.0
        self._died: EngineDied | None = None
        self._killed_at = 0.0
        self.state = "loads"  # "works", "hangs", "dead", "killed"
        self._tell("started", name)

    def room(self) -> int:
        return self.info.in_flight - len(self._has) if self.info else 0

    def send(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if other := self.out.get(request.ticket):
                self._tell("wrong", f"engine {self._name} was sent what engine {other} has: {request.id}")
            self.out[request.ticket] = self._name
            self._has[request.ticket] = request
            heapq.heappush(self._queue, (request.turn, next(self._count), request))
        if requests:
            self._tell("sent", self._name, _ids(requests))

    def recall(self, tickets: Sequence[int]) -> None:
        """Stop computing these, where it still can."""
        if self.state == "works":
            ours = {ticket for ticket in tickets if ticket in self._has}
            self._queue = [one for one in self._queue if one[2].ticket not in ours]
            self._running = [one for one in self._running if one[2].ticket not in ours]
            heapq.heapify(self._queue)
            heapq.heapify(self._running)
            for ticket in tickets:
                if ticket in ours:
                    self._forget(ticket)
                    self._recalled.append(ticket)

    def receive(self) -> list[Outcome]:
        now = self._clock.now
        if self._died:
            raise self._died
        if self.state == "loads":
            self._load(now)
        answers: list[Outcome] = []
        if self.state == "works":
            answers = self._compute(now)
        if self._died and not answers:
            raise self._died
        return answers

    def due(self) -> float:
        """Return when something will next have happened to it."""
        if self.state == "loads":
            return self._begun + self._fate.loads_in if self._fate.load != "hangs" else NEVER
        return self._running[0][0] if self.state == "works" and self._running else NEVER

    def evidence(self) -> Evidence:
        return Evidence()  # no process, or the autopsy would start one to look at it

    def kill(self) -> None:
        self._tell("killed", self._name, self.state, _ids(self._has.values()))
        self.state, self._killed_at = "killed", self._clock.now
        self._let_go()

    def gone(self) -> bool:
        return self._clock.now >= self._killed_at + self._fate.gone_after

    def _load(self, now: float) -> None:
        if now < self._begun + self._fate.loads_in or self._fate.load == "hangs":
            return
        if self._fate.load == "dies":
            self._die("of its load", ["ValueError: no room for the model"])
            return
        self.info, self.state = self._loaded, "works"
        self._tell("ready", self._name)
        self.phase = ""
        self._begun = self._at = now

    def _compute(self, now: float) -> list[Outcome]:
        """Everything that happens to it up to now, in order."""
        if self._has and now >= self._begun + self._fate.hangs_after:
            self.state = "hangs"
            self._tell("hung", self._name)
            return []
        answers: list[Outcome] = []
        begun = self._at
        while True:
            while self._queue and len(self._running) < AT_A_TIME:
                request = heapq.heappop(self._queue)[2]
                heapq.heappush(self._running, (self._at + _seconds(request), next(self._count), request))
            if not self._running or self._running[0][0] > now:
                break
            self._at, _, request = self._running[0]
            if POISON.encode() in request.line:
                self._die("of poison", [OF_THE_WORK])
                break
            heapq.heappop(self._running)
            self._forget(request.ticket)
            answers.append(self._answer(request))
        self._tokens += 40 * (now - begun) * len(self._running) + len(answers)
        self._at = now
        self.stats = EngineStats(len(self._running), len(self._queue), output_tokens=int(self._tokens))
        if self._has and not self._died and now >= self._begun + self._fate.dies_after:
            machine = self._fate.of == "machine"
            self._die("of the machine" if machine else "of the work", [OF_THE_MACHINE if machine else OF_THE_WORK])
        return answers

    def _die(self, how: str, log: list[str]) -> None:
        self.state, self._died = "dead", EngineDied(f"died {how}", log)
        self._tell("died", self._name, how, _ids(self._has.values()))

    def _forget(self, ticket: int) -> None:
        del self._has[ticket]
        self.out.pop(ticket, None)

    def _let_go(self) -> None:
        for ticket in list(self._has):
            self._forget(ticket)
        self._queue.clear()
        self._running.clear()


def _ids(requests: Iterable[Request]) -> list[str]:
    return [request.id for request in requests]


def _seconds(request: Request) -> float:
    """Return how long a request is computed: some seconds, now and then longer than `stall_after`; poison acts soon."""
    if POISON.encode() in request.line:
        return 1.0
    drawn = zlib.crc32(request.line) / (1 << 32)
    return 300 + 30_000 * drawn if drawn < 0.01 else 2 + 36 * drawn


# -- the daemon's process


class Wire(Tripwire):
    """Strikes as the tripwire does, but never at what the daemon says of itself, which is said every second."""

    def __init__(self, root: Path, clock: Clock) -> None:
        super().__init__(root, Path(os.devnull), None, lambda number: None, durable=False)
        self._clock = clock

    def _before(self, kind: str, path: str | bytes) -> bool:
        if f"{self._root}daemons/" in os.fsdecode(path):
            return False
        return super()._before(kind, path)

    def _say(self, what: str, operation: str) -> None:
        said = operation.replace(self._root, "").replace(self._root[:-1], "SPOOL")
        self._clock.operated(f"{what} {said}".encode())


class _Watched(Notifier):
    """Takes note of when the watchdog was fed last."""

    def __init__(self, clock: Clock) -> None:
        super().__init__({})
        self._clock = clock
        self.fed = clock.now

    def beat(self, now: float) -> None:
        self.fed = self._clock.now


@dataclass(slots=True)
class Site:
    """Where the simulation's files lie."""

    folder: Path

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def settings(self) -> Path:
        return self.folder / "config.toml"

    @property
    def events(self) -> Path:
        return self.folder / "events"

    @property
    def log(self) -> Path:
        return self.folder / "log"


REFUSED = 7  # the exit status where the daemon itself ended with an error of the project's or of the disk
_PASS_WITHIN = 120  # real seconds in which the daemon must come to its next stop
_STARVES_AFTER = 300.0  # seconds without a beat of a loop that looks at everything every minute
_LONGEST, _LONGEST_AT_WORK = 60.0, 15.0  # seconds between two passes


class _Child:
    """One daemon, from its start to its end."""

    def __init__(self, place: Site, clock: Clock, seed: int, life: int, orders: int, replies: int) -> None:
        self._place, self._clock, self._seed, self._life = place, clock, seed, life
        self._orders, self._replies = orders, replies
        self._engines: list[FatedEngine] = []
        self._until = 0.0
        self._low = False
        self._hurried = 0  # passes in a row without sleep
        self._starved = False

    def live(self, sabotage: Sabotage | None, first: Sequence[Sequence[Any]]) -> NoReturn:
        status = 99
        try:
            output = os.open(self._place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = open(output, "w", buffering=1)  # noqa: SIM115
            self._events = os.open(self._place.events, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            signal.alarm(_PASS_WITHIN)
            drawn = Random(f"tokens {self._seed} {self._life}")
            secrets.token_hex = lambda nbytes=None: drawn.randbytes(nbytes or 32).hex()
            self._clock.rule()
            take_over(self._sleep, self._clock, self._statvfs)
            if sabotage:
                sabotage()
            self._wire = Wire(self._place.spool, self._clock)
            self._wire.arm()
            for order in first:
                self._obey(order)
            self._config = self._read()
            journal.set_up(self._config.daemon.log_level)
            self._notifier = _Watched(self._clock)
            status = int(make_daemon(self._config, self._make_engine, self._notifier).run(self._read))
        except (InboxDaemonError, OSError) as error:
            print(f"ended: {error!r}", file=sys.stderr)
            status = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _read(self) -> Config:
        return config.load(self._place.settings, {}, {"spool": str(self._place.spool)})

    def _make_engine(self, model: Model, number: int, place: Place | None) -> FatedEngine:
        name = f"{self._life}.{len(self._engines) + 1}"
        fate = Fate.drawn(Random(f"fate {self._seed} {name}"), self._clock)
        made = FatedEngine(name, model.engine, place, fate, self._clock, self._tell)
        self._engines.append(made)
        return made

    def _tell(self, what: str, *details: object) -> None:
        os.write(self._events, orjson.dumps([what, self._clock.now, *details]) + b"\n")

    def _sleep(self, seconds: float) -> None:
        """What the loop does instead of sleeping: let the time pass until there is something to do."""
        self._clock.passed()
        now = self._clock.now
        if now - self._notifier.fed > _STARVES_AFTER and not self._starved:
            self._starved = True
            self._tell("wrong", f"the watchdog was not fed for {now - self._notifier.fed:.0f} s")
        self._clock.advance(max(0.0, min(self._nap(seconds, now), self._until - now)))
        while self._clock.now >= self._until:
            os.write(self._replies, b".")
            signal.alarm(0)
            for order in orjson.loads(_line(self._orders)):
                self._obey(order)
            signal.alarm(_PASS_WITHIN)

    def _nap(self, seconds: float, now: float) -> float:
        self._hurried = self._hurried + 1 if seconds == 0 else 0
        if self._hurried:
            return 0.005 if self._hurried < 50 else 0.5
        engines = [engine for engine in self._engines if engine.state in ("loads", "works", "hangs")]
        due = min((engine.due() for engine in engines), default=NEVER)
        at_work = due < NEVER or any(engine.state == "hangs" for engine in engines)
        coming = any(not name.startswith(".") for name in os.listdir(self._place.spool / "inbox"))  # noqa: PTH208
        longest = 2.0 if coming else _LONGEST_AT_WORK if at_work else _LONGEST
        return min(max(0.5, due - now), longest)

    def _obey(self, order: Sequence[Any]) -> None:
        match order:
            case ["go", until]:
                self._until = until
            case ["kill", at, half, kinds]:
                self._wire.strike(Strike(at, half=half, kinds=frozenset(kinds)))
            case ["fail", at, code]:
                self._wire.strike(Strike(at, error=code))
            case ["disk", level]:
                self._low = level != ""
                self._wire.strike(
                    Strike(1, error=errno.ENOSPC, kinds=TAKES_SPACE, times=FOR_EVER) if level == "full" else None
                )

    def _statvfs(self, path: Any) -> os.statvfs_result:
        os.stat(path)  # noqa: PTH116  which says where it is not there
        free = 0 if self._low else 20_000_000
        return os.statvfs_result((4096, 4096, 25_000_000, free, free, 1_000_000, 900_000, 900_000, 0, 255))


def _line(fd: int) -> bytes:
    """Read one order, of the only one that is on its way."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(fd, 1 << 16)
        if not piece:
            os._exit(98)  # the driver is gone
        line += piece
    return line


class Simulated(Forked):
    """The daemon in its child, as the driver sees it: each order has it go on until its next stop or its end."""

    def __init__(
        self,
        place: Site,
        clock: Clock,
        seed: int,
        life: int,
        first: Sequence[Sequence[Any]],
        sabotage: Sabotage | None,
    ) -> None:
        super().__init__(
            lambda orders, replies: _Child(place, clock, seed, life, orders, replies).live(sabotage, first)
        )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; it takes note of it while it waits for orders."""
        os.kill(self.pid, number)
