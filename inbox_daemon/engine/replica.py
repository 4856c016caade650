"""One replica of the model: one worker subprocess that hosts vLLM, reached over its own socket pair.

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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.config import EngineSettings
from inbox_daemon.engine import Evidence, wire
from inbox_daemon.engine.placement import VISIBLE
from inbox_daemon.engine.workers import WorkerProcess
from inbox_daemon.errors import ConfigError, EngineDied
from inbox_daemon.journal import Message, of_engine, tell
from inbox_daemon.privacy import without_input
from inbox_daemon.records import EngineInfo, EngineStats, Outcome, Request

log = logging.getLogger("inbox_daemon.engine")

_LOG_TAIL = 40  # lines kept for the error that a death raises
_READ = 1 << 20
_GONE_WITHIN = 20.0  # seconds; a process in an uninterruptible driver call may take longer, or for ever
EXIT_CONFIG = 78
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_EXCEPTION = re.compile(r"\b(?:[a-zA-Z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .+")
_POINTS_AT_ANOTHER = re.compile(r"EngineDeadError|[Ss]ee root cause above")
_WORDS_LIMIT = 400


class Replica:
    """Args:

    worker: imports vLLM, or has done so, and is told here what to load.
    settings, rules: what to load, and what requests may ask of the host, as vLLM's own arguments (`policy.for_vllm`).
    number: of the engine that it is a replica of, since the daemon's start, for the log.
    place: its own number (from 2) and its GPUs, as CUDA_VISIBLE_DEVICES names them; the first one has none, and
        finds out how many there are to be.

    Attributes:
        places: what the first one has found: the GPUs of each replica, its own first.
        bytes: of the requests in flight.
        progress_at: when it last did anything for its requests, in monotonic seconds.
    """

    def __init__(
        self,
        worker: WorkerProcess,
        settings: EngineSettings,
        rules: Mapping[str, Any],
        number: int,
        place: tuple[int, str] | None = None,
    ) -> None:
        self._worker = worker
        self._log = of_engine(log, number)
        self._name = f"vllm, replica {place[0]}" if place else "vllm"
        self.places: list[str] = []
        self.progress_at = time.monotonic()
        self.info: EngineInfo | None = None
        self.stats = EngineStats()
        self.phase = "starting"
        self.bytes = 0
        self._sizes: dict[int, int] = {}  # ticket -> bytes of its line, of what is in flight
        self._killed = 0.0
        self._told = False
        self._tail: deque[str] = deque(maxlen=_LOG_TAIL)
        self._partial_log = b""
        self._inbound = wire.Inbound()
        self._outbound: deque[memoryview] = deque()
        options = {
            "model": settings.model,
            "args": settings.arguments,
            "rules": dict(rules),
            "first": place is None,
            "environment": {} if place is None else _environment(*place),
        }
        self._outbound.append(memoryview(wire.message(wire.Kind.LOAD, options)))
        self._flush()

    @property
    def in_flight(self) -> int:
        return len(self._sizes)

    @property
    def unsent(self) -> bool:
        """Whether something waits until the worker has read what came before it."""
        return bool(self._outbound)

    def fileno(self) -> int:
        return self._worker.socket.fileno()

    def send(self, requests: Sequence[Request]) -> None:
        frames = [memoryview(frame) for frame in wire.requests(requests)]
        if not self._sizes:
            self.progress_at = time.monotonic()
        for request in requests:
            self._sizes[request.ticket] = len(request.line)
            self.bytes += len(request.line)
        self._outbound.extend(frames)
        self._flush()

    def receive(self) -> list[Outcome]:
        self._read_log()
        self._flush()
        outcomes: list[Outcome] = []
        open_ended = self._read_frames(outcomes)
        if outcomes:
            return outcomes
        if not open_ended or self._worker.process.poll() is not None:
            raise self._post_mortem()
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
            self.progress_at = time.monotonic()
            for outcome in wire.read_outcomes(payload):
                self.bytes -= self._sizes.pop(outcome.ticket, 0)
                outcomes.append(outcome)
            return
        value: dict[str, Any] = orjson.loads(payload)
        if kind is wire.Kind.PHASE:
            self.phase = value["phase"]
        elif kind is wire.Kind.PLACES:
            self.places = value["places"]
        elif kind is wire.Kind.STATS:
            before, self.stats = self.stats, EngineStats(**value)
            if (self.stats.input_tokens, self.stats.output_tokens) != (before.input_tokens, before.output_tokens):
                self.progress_at = time.monotonic()
        elif kind is wire.Kind.READY:
            value["gpus"] = tuple(value["gpus"])
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
            line = without_input(_CONTROL.sub("", raw.decode(errors="replace")).rstrip())
            if line:
                self._tail.append(line)
                self._log.info("%s: %s", self._name, line)

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
        if code is None:
            reason = "the worker closed its connection"
        elif code < 0:
            reason = f"the worker was killed by {signal.Signals(-code).name}"
        else:
            words = last_words(self._tail)
            reason = f"the worker ended with exit status {code}{f': {words}' if words else ''}"
        return EngineDied(reason, tuple(self._tail))


def _environment(number: int, gpus: str) -> dict[str, str]:
    """Return what puts a replica onto its GPUs, with a compile cache of its own as vLLM's data-parallel ranks have."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = os.environ.get("VLLM_CACHE_ROOT") or home / "vllm"
    return {"VLLM_CACHE_ROOT": f"{root}/replica-{number}"} | ({VISIBLE: gpus} if gpus else {})


def last_words(log: Sequence[str]) -> str:
    """Return the last exception in the log of a process that ended, or "". One that only points at another is none."""
    for at in range(len(log) - 1, -1, -1):
        found = _EXCEPTION.search(log[at])
        if found and not _POINTS_AT_ANOTHER.search(found[0]):
            lines = 3 if "ValidationError" in found[0] else 1  # what pydantic found wrong stands below its own line
            return " ".join([found[0], *(line.strip() for line in list(log)[at + 1 : at + lines])])[:_WORDS_LIMIT]
    return ""
