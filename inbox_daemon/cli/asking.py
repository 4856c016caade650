"""vLLM asked what it would refuse of a file's requests: a worker of it that has no engine (`engine/worker/coreless`).

Owns those workers: one for a model, or a few where there is much to ask; started where there is something, gone at the
end. They load no weights, compute nothing and fetch nothing. What they say is what a run would say: the same code reads
a request in both.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from types import TracebackType

import orjson

from inbox_daemon.cli import preflight, show
from inbox_daemon.cli.preflight import Verdict
from inbox_daemon.config import Config
from inbox_daemon.config.models import Model
from inbox_daemon.engine import Place, alone
from inbox_daemon.engine.local import LocalEngine
from inbox_daemon.engine.workers import Workers
from inbox_daemon.errors import ConfigError, EngineDied
from inbox_daemon.hub.asking import Asked, look
from inbox_daemon.machine import nvml
from inbox_daemon.records import EngineInfo, Fault, Outcome, Request
from inbox_daemon.request import policy
from inbox_daemon.request.output import failure
from inbox_daemon.text import span

Refusal = tuple[int, Fault]  # line number, fault

_STARTED_WITHIN = 300.0  # seconds for importing vLLM and reading a tokenizer, on a cold disk too
_SILENT_FOR = 120.0  # seconds; one request takes milliseconds, a schema at its worst some seconds
_SAID_AFTER, _SAID_EVERY = 2.0, 10.0  # seconds
_CLOSED = {"HF_HUB_OFFLINE": "1"}
_WITHOUT_A_GPU = {"VLLM_TARGET_DEVICE": "cpu"}  # a vLLM made for GPUs does not start without one, but for this
_AT_A_TIME = 256  # requests; what is read and not sent yet
_MANY, _MOST = 20_000, 4  # requests for which more than one worker is started, and how many at most; each has 0.8 GB


class NotAsked(Exception):
    """vLLM cannot be asked, or no more; its text says why, and what would help."""


class Asking:
    """Asks vLLM about requests, as often as there are files; a context, at whose end nothing of vLLM is left.

    Attributes:
        infos: what vLLM says of itself, for each model that it has been asked about.
    """

    def __init__(self, read: Config) -> None:
        self._read = read
        self._workers = Workers(spares=False, environment=_CLOSED if nvml.present() else _CLOSED | _WITHOUT_A_GPU)
        self._engines: dict[str, list[LocalEngine]] = {}
        self._why_not: dict[str, str] = {}  # of each model that cannot be asked about, or no more
        self.infos: dict[str, EngineInfo] = {}

    def __enter__(self) -> Asking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        alone.end(*chain.from_iterable(self._engines.values()))

    def refusals(self, model: Model, requests: Iterable[Request], total: int) -> Iterator[Refusal]:
        """Yield what vLLM would refuse of these requests, in their order.

        Args:
            requests: for this model, that have no fault in their form.
            total: how many they are at most.

        Raises:
            NotAsked: vLLM or the model is not to be had here, or vLLM has ended.
        """
        if model.engine.kind == "null":  # which answers whatever has no fault in its form
            return
        if why := self._why_not.get(model.name):
            raise NotAsked(why)
        try:
            if model.name not in self._engines:
                self._start(model, _workers_for(total))
            yield from _asked(self._engines[model.name], iter(requests), total)
        except (EngineDied, ConfigError, NotAsked, OSError) as ended:
            self._why_not[model.name] = str(ended)
            raise NotAsked(str(ended)) from ended

    def _start(self, model: Model, count: int) -> None:
        if why := _out_of_reach(model):
            raise NotAsked(why)
        rules = policy.for_vllm(replace(self._read.requests, allowed_media_domains=()))
        engines = self._engines[model.name] = []
        for number in range(1, count + 1):  # one after another, so that what is there is ended where the next fails
            place = Place(number, count, "")
            engines.append(LocalEngine(self._workers, model, rules, number, place, computes=False))
        began, said = time.monotonic(), False
        while any(engine.info is None for engine in engines):
            alone.receive(*engines)
            waited = time.monotonic() - began
            if waited > _STARTED_WITHIN:
                raise NotAsked(f"vLLM has not started within {_STARTED_WITHIN:.0f} s")
            if waited > _SAID_AFTER and not said:
                said = True
                show.say("vLLM starts, without an engine, to say what it would refuse …", show.errors)
        if info := engines[0].info:
            self.infos[model.name] = info


def _asked(engines: Sequence[LocalEngine], requests: Iterator[Request], total: int) -> Iterator[Refusal]:
    waiting: deque[int] = deque()  # tickets in their order
    outcomes: dict[int, Outcome] = {}
    progress = _Progress(total)
    heard, over = time.monotonic(), False
    while waiting or not over:
        for engine in engines:
            while not over and (room := min(engine.room(), _AT_A_TIME)):
                batch = list(islice(requests, room))
                over = not batch
                waiting.extend(request.ticket for request in batch)
                engine.send(batch)
        answered = alone.receive(*engines) if waiting else []
        now = time.monotonic()
        if answered:
            heard = now
        elif waiting and now - heard > _SILENT_FOR:
            raise NotAsked(f"vLLM has said nothing for {_SILENT_FOR:.0f} s")
        outcomes |= {outcome.ticket: outcome for outcome in answered}
        progress.made(len(answered), now)
        while waiting and (outcome := outcomes.pop(waiting[0], None)):
            waiting.popleft()
            if outcome.is_error and (why := failure(orjson.loads(outcome.line))):
                yield why.number, why.fault


def _workers_for(requests: int) -> int:
    """Return how many workers so many requests are worth: each takes a core, and is fed by another one."""
    return max(1, min(_MOST, len(os.sched_getaffinity(0)) // 2)) if requests >= _MANY else 1


def _out_of_reach(model: Model) -> str:
    """Say why vLLM or the model is not to be had here without the network; "" where nothing speaks against it."""
    if lacking := preflight.without_vllm():
        return lacking
    for finding in preflight.named(model):
        if finding.verdict is not Verdict.RIGHT:
            return finding.sentence
    [seen] = look([Asked(model.engine.model, model.engine.arguments.get("revision"))], network=False)
    return "" if seen.folder else seen.sentence(model.engine.model)


class _Progress:
    """Says how far it is, on stderr, where it takes long."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._began = self._said = time.monotonic()

    def made(self, more: int, now: float) -> None:
        self._done += more
        if now - self._said < _SAID_EVERY or not self._done:
            return
        self._said = now
        left = (now - self._began) * (self._total - self._done) / self._done
        show.say(f"vLLM asked about {self._done:,} of {self._total:,} requests, {span(left)} left", show.errors)
