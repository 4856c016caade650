"""The daemon in a forked child that does what it is told, pass by pass of its loop. No test lives here.

Real files, real locks, a real SIGKILL; only the clock is the driver's: each pass is a second later than the last. The
engine is one of ours, because engine/null neither loads nor dies: it answers two requests at a look, ends when it
reaches a poisoned one, and when it is told to. It says in a file beside the spool what it was sent and what it had
when it died.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import orjson
from crashing import FOR_EVER, TAKES_SPACE, Strike, Tripwire
from forked import Forked

from inbox_daemon import batches, config, daemon, journal
from inbox_daemon.batch import needs, running, twins
from inbox_daemon.config import EngineSettings
from inbox_daemon.engine import Place
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.errors import EngineDied, InboxDaemonError
from inbox_daemon.inbox import obeying, taking
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.records import Outcome, Request

POISON = b"a poison"
AT_A_LOOK = 2  # requests that the engine answers
OF_THE_MACHINE = "NVRM: Xid (PCI:0000:65:00): 79, GPU has fallen off the bus."
REFUSED = 7  # the exit status where the daemon itself ended with an error of the project's or of the disk


class Mortal(NullEngine):
    """An engine that loads, answers slowly, and dies: of poison, and of `orders`, by the number of its place."""

    def __init__(
        self, settings: EngineSettings, orders: dict[int, str], events: int, place: Place | None = None
    ) -> None:
        super().__init__(settings, place)
        self._number = place.number if place else 1
        self._loaded, self.info = self.info, None
        self.phase = "loading"
        self._orders, self._events = orders, events
        self._died: EngineDied | None = None
        self._has: deque[Request] = deque()

    def room(self) -> int:
        return self.info.in_flight - len(self._has) if self.info else 0

    def send(self, requests: Sequence[Request]) -> None:
        self._has.extend(requests)
        self._say("sent", requests)

    def receive(self) -> list[Outcome]:
        if self._died is None and (how := self._orders.pop(self._number, "")):
            self._die(how, [OF_THE_MACHINE] if how == "machine" else ["RuntimeError: killed by the test"])
        if self._died:
            raise self._died
        if self.info is None:
            self.info = self._loaded
            return []
        answers: list[Outcome] = []
        while self._has and len(answers) < AT_A_LOOK:
            if POISON in self._has[0].line:
                self._die("poison", ["RuntimeError: the poison was reached"])
                break
            answers.append(self._answer(self._has.popleft()))
        if not answers and self._died:
            raise self._died
        return answers

    def recall(self, tickets: Sequence[int]) -> None:
        back = [request for request in self._has if request.ticket in tickets]
        self._has = deque(request for request in self._has if request.ticket not in tickets)
        self._recalled += [request.ticket for request in back]
        self._say("recalled", back)

    def kill(self) -> None:
        self._has.clear()

    def _die(self, how: str, log: list[str]) -> None:
        self._died = EngineDied(how, log)
        self._say(f"died of {how}", self._has)

    def _say(self, what: str, requests: Iterable[Request]) -> None:
        ids = [orjson.loads(request.line)["custom_id"] for request in requests]
        os.write(self._events, orjson.dumps([what, ids]) + b"\n")


class Stepped(Forked):
    """One daemon in a child.

    Args:
        disk: how full the disk is, see `order`'s "full".
        events: the file in which its engines say what they were sent and what they had when they died.
    """

    def __init__(self, spool: Path, settings: Path, events: Path, disk: str = "") -> None:
        super().__init__(lambda orders, replies: _Child(spool, settings, events).live(orders, replies, disk))


class _Child:
    def __init__(self, spool: Path, settings: Path, events: Path) -> None:
        self._spool, self._settings = spool, settings
        self._log, self._trace = (spool.with_name(f"{spool.name}.{suffix}") for suffix in ("log", "trace"))
        self._events = events
        self._dying: dict[int, str] = {}
        self._free = os.statvfs

    def live(self, orders: int, replies: int, disk: str) -> NoReturn:
        status = 99
        try:
            output = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = open(output, "w", buffering=1)  # noqa: SIM115
            signal.alarm(120)
            waits = ((batches, "_SUSPEND"), (taking, "_ADOPT_EVERY"), (needs, "_LOOK_EVERY"), (obeying, "_PATIENCE"))
            for module, name in waits:
                assert hasattr(module, name), name
                setattr(module, name, 0.0)
            # What a pass does is not a matter of time.
            daemon._SLICE = taking._SLICE = obeying._SLICE = twins._SLICE = running._CLOSE_SLICE = math.inf
            self._wire = Tripwire(self._spool, self._trace, None, lambda number: None, durable=False)
            events = os.open(self._events, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            self._wire.arm()
            self._fill(disk)
            status = self._obey(orders, replies, events)
        except (InboxDaemonError, OSError) as error:
            print(f"ended: {error!r}", file=sys.stderr)
            status = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _obey(self, orders: int, replies: int, events: int) -> int:
        read = config.load(self._settings, {}, {"spool": str(self._spool)})
        journal.set_up("info")
        made = lambda model, number, place: Mortal(model.engine, self._dying, events, place)  # noqa: E731
        one = daemon.Daemon(read, made, Notifier({}), drain=False)
        now = time.monotonic()
        os.write(replies, b".")
        with open(orders, "rb", buffering=0) as lines:
            while line := lines.readline():
                print(f"-- {line.decode().strip()}")
                match orjson.loads(line):
                    case ["step", times]:
                        for _ in range(times):
                            now += 1.0
                            one.step(now)
                    case ["die", number, how]:
                        self._dying[number] = how
                    case ["kill", at, half]:
                        self._wire.strike(Strike(at, half=half))
                    case ["fail", at, code]:
                        self._wire.strike(Strike(at, error=getattr(errno, code)))
                    case ["full", level]:
                        self._fill(level)
                    case ["stop"]:
                        one._wakeup.signals.append(signal.SIGTERM)
                        one._obey(lambda: read)
                        while not one._done(now):
                            now += 1.0
                            one.step(now)
                        one._shut_down()
                        return 0
                os.write(replies, b".")
        return 0

    def _fill(self, level: str) -> None:
        """ "": the disk has room; "low": it says that it has none left; "full": and it has none."""
        self._wire.strike(Strike(1, error=errno.ENOSPC, kinds=TAKES_SPACE, times=FOR_EVER) if level == "full" else None)
        free = self._free

        def none_left(path: Any) -> os.statvfs_result:
            return os.statvfs_result([0 if n in (3, 4) else value for n, value in enumerate(tuple(free(path)))])

        os.statvfs = none_left if level else free  # type: ignore[assignment]
