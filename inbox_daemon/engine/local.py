"""The engine on this host: one worker subprocess that hosts vLLM, reached over its own socket pair.

Owns the worker's process group, its log and the frames still to be sent. Imports no vllm and no torch. However the
worker ends, it shows as one EngineDied at the next `receive`.
"""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson

from inbox_daemon.config.models import Model
from inbox_daemon.engine import Evidence, Place, wire
from inbox_daemon.engine.causes import last_words, lasting
from inbox_daemon.engine.placement import environment, likely, visible
from inbox_daemon.engine.workers import Workers
from inbox_daemon.errors import ConfigError, EngineDied
from inbox_daemon.journal import Message, of_engine, tell
from inbox_daemon.privacy import HIDDEN, MARK, at_work, without_input
from inbox_daemon.records import EngineInfo, EngineStats, Outcome, Request

log = logging.getLogger("inbox_daemon.engine")

_LOG_TAIL = 80  # lines kept for the error that a death raises; each process of the engine tells of it
_READ = 1 << 20
_GONE_WITHIN = 20.0  # seconds; a process in an uninterruptible driver call may take longer, or for ever
_LONG_RUN = 60.0  # seconds
EXIT_CONFIG = 78
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00\x02-\x08\x0b-\x1f\x7f-\x9f]")


class LocalEngine:
    """An engine on this host: a worker process that hosts vLLM, and our end of its socket.

    Args:
        workers: gives out worker processes, and is told how many the next engines will need.
        model, rules: what to load, and what requests may ask of the host, as vLLM's own arguments
            (`policy.for_vllm`).
        number: of this engine since the daemon's start, for the log.
        place: where it lives; None: it is the first, and finds out how many there are to be.
        computes: False: it loads no model and answers nothing. What vLLM would refuse it refuses; of all other requests
            the outcome is no error.
        sleeps: whether it is to be able to sleep, where vLLM can.

    Raises:
        OSError: the host has no room for a worker.
    """

    def __init__(
        self,
        workers: Workers,
        model: Model,
        rules: Mapping[str, Any],
        number: int,
        place: Place | None,
        *,
        computes: bool = True,
        sleeps: bool = False,
    ) -> None:
        self._model, self._settings, gpus = model, model.engine, model.gpus
        self._workers, self._number, self._place = workers, number, place
        self._worker = workers.take()
        if place is None:
            workers.prepare(likely(len(gpus) or visible(), self._settings.arguments) - 1)  # they import side by side
        self._log = of_engine(log, number)
        self._name = f"vllm, engine {place.number}" if place and place.of > 1 else "vllm"
        self._started, self._ready_at = time.monotonic(), 0.0
        self.places: Sequence[str] = ()
        self.info: EngineInfo | None = None
        self.stats = EngineStats()
        self.phase = "starting"
        self.asleep = False
        self._sizes: dict[int, int] = {}  # ticket -> bytes of its line, of what is in flight
        self._bytes = 0  # of all of them
        self._recalled: list[int] = []
        self._killed = 0.0
        self._told = False
        self._tail: deque[str] = deque(maxlen=_LOG_TAIL)
        self._partial_log = b""
        self._inbound = wire.Inbound()
        self._outbound: deque[memoryview] = deque()
        options = {
            "model": self._settings.model,
            "args": self._settings.arguments,
            "rules": dict(rules),
            "computes": computes,
            "sleeps": sleeps,
            "first": place is None,
            "environment": environment(place or Place(1, 1, ",".join(map(str, gpus))), numbered=bool(gpus)),
        }
        self._push([wire.message(wire.Kind.LOAD, options)])

    def fileno(self) -> int:
        return self._worker.socket.fileno()

    @property
    def unsent(self) -> bool:
        return bool(self._outbound)

    def room(self) -> int:
        if self.info is None or self.room_for_bytes() <= 0:
            return 0
        return max(0, self.info.in_flight - len(self._sizes))

    def room_for_bytes(self) -> int:
        return self._settings.in_flight_bytes // self._of - self._bytes

    def send(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._sizes[request.ticket] = len(request.line)
            self._bytes += len(request.line)
        self._push(wire.requests(requests))

    def recall(self, tickets: Sequence[int]) -> None:
        self._push(wire.tickets(wire.Kind.RECALL, tickets))

    def recalled(self) -> list[int]:
        recalled, self._recalled = self._recalled, []
        return recalled

    def sleep(self) -> None:
        self._push([wire.message(wire.Kind.SLEEP, {})])

    def wake(self) -> None:
        self._push([wire.message(wire.Kind.WAKE, {})])

    def receive(self) -> list[Outcome]:
        self._read_log()
        self._flush()
        outcomes: list[Outcome] = []
        open_ended = self._read_frames(outcomes)
        if not outcomes and (not open_ended or self._worker.process.poll() is not None):
            raise self._post_mortem()
        self._prepare_for_the_next()
        return outcomes

    def evidence(self) -> Evidence:
        return Evidence(self._worker.process.pid, str(self._worker.folder), tuple(self._tail))

    def kill(self) -> None:
        self._worker.kill()
        self._killed = time.monotonic()

    def gone(self) -> bool:
        self._read_log()
        if alive := self._worker.survivors():
            if not self._told and time.monotonic() - self._killed > _GONE_WITHIN:
                self._told = True
                self._log.error(
                    "engine processes %s survive SIGKILL; they may hold GPU memory until the host restarts",
                    alive,
                    extra=tell(Message.ENGINE_STUCK),
                )
            return False
        self._worker.clear()
        return True

    # -- inside

    @property
    def _of(self) -> int:
        """How many engines share what is set for all of them."""
        return self._place.of if self._place else max(1, len(self.places))

    def _prepare_for_the_next(self) -> None:
        """Have a worker at hand for the engine after this one, where it is likely to be needed: not for a short run."""
        if self.info is None:
            return
        if self._workers.at_once or self._number > self._of or time.monotonic() - self._ready_at > _LONG_RUN:
            self._workers.prepare(1)

    def _push(self, frames: Iterable[bytes]) -> None:
        self._outbound.extend(memoryview(frame) for frame in frames)
        self._flush()

    def _flush(self) -> None:
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._outbound:
                sent = self._worker.socket.send(self._outbound[0])
                if sent == len(self._outbound[0]):
                    self._outbound.popleft()
                else:
                    self._outbound[0] = self._outbound[0][sent:]

    def _read_frames(self, outcomes: list[Outcome]) -> bool:
        """Read what has arrived, at most a few MiB; False when the worker's end is closed."""
        for _ in range(8):
            try:
                data = self._worker.socket.recv(_READ)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            for kind, payload in self._inbound.feed(data):
                self._take(kind, payload, outcomes)
        return True

    def _take(self, kind: wire.Kind, payload: bytes, outcomes: list[Outcome]) -> None:
        if kind is wire.Kind.OUTCOMES:
            for outcome in wire.read_outcomes(payload):
                self._bytes -= self._sizes.pop(outcome.ticket, 0)
                outcomes.append(outcome)
            return
        if kind is wire.Kind.RECALLED:
            for ticket in wire.read_tickets(payload):
                self._bytes -= self._sizes.pop(ticket, 0)
                self._recalled.append(ticket)
            return
        value: dict[str, Any] = orjson.loads(payload)
        if kind in (wire.Kind.ASLEEP, wire.Kind.AWAKE):
            self.asleep = kind is wire.Kind.ASLEEP
        elif kind is wire.Kind.PHASE:
            self.phase = value["phase"]
        elif kind is wire.Kind.PLACES:
            self.places = tuple(value["places"])
        elif kind is wire.Kind.STATS:
            self.stats = EngineStats(**value)
        elif kind is wire.Kind.READY:
            self._ready_at = time.monotonic()
            value["gpus"] = tuple(value["gpus"])
            value["load_seconds"] = round(self._ready_at - self._started, 1)
            if self._settings.in_flight:
                value["in_flight"] = max(1, self._settings.in_flight // self._of)
            self.info = EngineInfo(**value)
            self.phase = ""

    def _read_log(self) -> None:
        data = b""
        with suppress(BlockingIOError, OSError):
            while piece := os.read(self._worker.log, _READ):
                data += piece
                if len(data) >= _READ:
                    break
        if not data:
            return
        *lines, self._partial_log = re.split(rb"[\r\n]", self._partial_log + data)
        for raw in lines:
            line = self._said(raw.decode(errors="replace"))
            if line and not (line == HIDDEN and self._tail and self._tail[-1] == HIDDEN):
                self._tail.append(line)
                self._log.info("%s: %s", self._name, line)

    def _said(self, line: str) -> str:
        """Return what of a line may be logged: while it loads it has no request to quote."""
        if self.info is not None:
            line = at_work(_CONTROL.sub("", line).rstrip()) if line.strip() else ""
        return without_input(_CONTROL.sub("", line.replace(MARK, "")).rstrip())

    def _post_mortem(self) -> EngineDied:
        # Its last words may still be on their way; the pipe closes when the last process of its group is gone.
        deadline = time.monotonic() + 0.5
        more = select.poll()
        more.register(self._worker.log, select.POLLIN)
        while time.monotonic() < deadline and more.poll(50):
            before = len(self._tail)
            self._read_log()
            if len(self._tail) == before:
                break
        with suppress(subprocess.TimeoutExpired):
            self._worker.process.wait(0.5)
        code = self._worker.process.poll()
        if code == EXIT_CONFIG:
            raise ConfigError(self._tail[-1] if self._tail else "vLLM does not accept [engine.args]")
        if code == 1 and self.info is None and (why := lasting(self._tail, self._model)):
            raise ConfigError(why)
        if code is None:
            reason = "the worker closed its connection"
        elif code < 0:
            reason = f"the worker was killed by {signal.Signals(-code).name}"
        else:
            words = last_words(self._tail)
            reason = f"the worker ended with exit status {code}{f': {words}' if words else ''}"
        return EngineDied(reason, tuple(self._tail))
