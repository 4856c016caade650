"""An engine without a model: answers at once, or at a set rate, with an answer that says so.

For everything that is about files and processes rather than models: measuring the pipeline, testing a deployment,
the project's own tests. It is no stand-in for vLLM where the claim is about vLLM.
"""

from __future__ import annotations

import heapq
import itertools
import math
import sys
import time
from collections.abc import Sequence

import orjson

from inbox_daemon import __version__
from inbox_daemon.config import EngineSettings, names
from inbox_daemon.engine import Evidence, Place
from inbox_daemon.records import EngineInfo, EngineStats, Outcome, Request
from inbox_daemon.request.output import answer_line
from inbox_daemon.text import dumps

_IN_FLIGHT = 4096


class NullEngine:
    """An engine that is loaded at once, or after a set time, and computes nothing.

    Args:
        place: where it lives; None: it is the first of `engine.null.engines`.
    """

    def __init__(self, settings: EngineSettings, place: Place | None = None) -> None:
        self._rate = settings.null.rate
        in_flight = max(1, (settings.in_flight or _IN_FLIGHT) // (place.of if place else settings.null.engines))
        self.places: Sequence[str] = () if place else ("",) * settings.null.engines
        self._model = next(iter(names.names(settings)), settings.model)
        sleeps = {"enable_sleep_mode": True} if settings.null.sleeps else {}
        self._loaded: EngineInfo | None = EngineInfo(
            "null", __version__, self._model, in_flight, in_flight, sleeps, weights_bytes=0
        )
        self.asleep = False
        self._ready_at = time.monotonic() + settings.null.load if settings.null.load else math.inf
        self.info = None if settings.null.load else self._loaded
        self.stats = EngineStats()
        self.phase = "loading" if settings.null.load else ""
        self.unsent = False
        self._adapters = frozenset(names.adapters(settings))
        self._waiting: list[tuple[int, int, Request]] = []  # a heap: by turn, then as they came
        self._recalled: list[int] = []
        self._sent = itertools.count()
        self._last = time.monotonic()

    def fileno(self) -> int | None:
        return None

    def room(self) -> int:
        return self.info.in_flight - len(self._waiting) if self.info else 0

    def room_for_bytes(self) -> int:
        return sys.maxsize

    def send(self, requests: Sequence[Request]) -> None:
        if not self._waiting:
            self._last = time.monotonic()
        for request in requests:
            heapq.heappush(self._waiting, (request.turn, next(self._sent), request))

    def receive(self) -> list[Outcome]:
        if self.info is None and time.monotonic() >= self._ready_at:
            self.info, self.phase = self._loaded, ""
        ready = len(self._waiting)
        if self._rate:
            elapsed = time.monotonic() - self._last
            ready = min(ready, int(elapsed * self._rate))
            self._last += ready / self._rate
        answers = [self._answer(heapq.heappop(self._waiting)[2]) for _ in range(ready)]
        self.stats = EngineStats(waiting=len(self._waiting), output_tokens=self.stats.output_tokens + len(answers))
        return answers

    def recall(self, tickets: Sequence[int]) -> None:
        wanted = set(tickets)
        self._recalled += [request.ticket for _, _, request in self._waiting if request.ticket in wanted]
        self._waiting = [entry for entry in self._waiting if entry[2].ticket not in wanted]
        heapq.heapify(self._waiting)

    def recalled(self) -> list[int]:
        recalled, self._recalled = self._recalled, []
        return recalled

    def sleep(self) -> None:
        self.asleep = True

    def wake(self) -> None:
        self.asleep = False

    def evidence(self) -> Evidence:
        return Evidence()

    def kill(self) -> None:
        self._waiting.clear()

    def gone(self) -> bool:
        return True

    def _answer(self, request: Request) -> Outcome:
        parsed = orjson.loads(request.line)
        body = {
            "id": request.id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request.model if request.model in self._adapters else self._model or parsed["body"].get("model"),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": f"null engine: {len(request.line)} bytes read"},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 0, "completion_tokens": 1, "total_tokens": 1},
        }
        return Outcome(request.ticket, answer_line(request.id, parsed["custom_id"], dumps(body)), output_tokens=1)
