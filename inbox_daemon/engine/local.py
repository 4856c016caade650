"""The engine on this host: one replica of the model, or one on each GPU, as one engine.

The first replica to start says how many there are to be. Requests go out in runs of neighbours, which share prefixes,
to whichever replica has least. Where one replica ends, the engine has: all that was in flight runs again.
"""

from __future__ import annotations

import dataclasses
import select
import time
from collections.abc import Mapping, Sequence
from typing import Any

from inbox_daemon.config import EngineSettings
from inbox_daemon.engine import Evidence
from inbox_daemon.engine.placement import likely, runs, visible
from inbox_daemon.engine.replica import Replica
from inbox_daemon.engine.workers import Workers
from inbox_daemon.errors import EngineDied
from inbox_daemon.records import EngineInfo, EngineStats, Outcome, Request

_LONG_RUN = 60.0  # seconds


class LocalEngine:
    """Args:

    workers: gives out worker processes, and is told how many the next engine will need.
    settings, rules: what to load, and what requests may ask of the host, as vLLM's own arguments (`policy.for_vllm`).
    number: of this engine since the daemon's start, for the log.

    Raises:
        OSError: the host has no room for a worker.
    """

    def __init__(self, workers: Workers, settings: EngineSettings, rules: Mapping[str, Any], number: int) -> None:
        self._workers, self._settings, self._rules, self._number = workers, settings, rules, number
        self._replicas: list[Replica] = []
        self._all_started = False
        self._started, self._ready_at = time.monotonic(), 0.0
        self._info: EngineInfo | None = None
        self._died: EngineDied | None = None
        self._poll = select.epoll()
        self._awaited: dict[int, int] = {}  # descriptor -> events
        self._start(None)
        workers.prepare(likely(visible(), settings.arguments) - 1)  # they import side by side

    @property
    def info(self) -> EngineInfo | None:
        return self._info

    @property
    def stats(self) -> EngineStats:
        stats = [replica.stats for replica in self._replicas]
        names = [field.name for field in dataclasses.fields(EngineStats)]
        sums = {name: sum(getattr(one, name) for one in stats) for name in names}
        return EngineStats(**sums | {"kv_cache_usage": round(sums["kv_cache_usage"] / len(stats), 4)})

    @property
    def phase(self) -> str:
        loading = [(number, one.phase) for number, one in enumerate(self._replicas, 1) if one.phase]
        if not loading or len(self._replicas) == 1:
            return loading[0][1] if loading else ""
        number, phase = loading[0]
        return f"replica {number} of {len(self._replicas)}: {phase}"

    def fileno(self) -> int | None:
        return self._poll.fileno()

    def room(self) -> int:
        if self._info is None or self._died or self.room_for_bytes() <= 0:
            return 0
        return max(0, self._info.in_flight - sum(replica.in_flight for replica in self._replicas))

    def room_for_bytes(self) -> int:
        return self._settings.in_flight_bytes - sum(replica.bytes for replica in self._replicas)

    def send(self, requests: Sequence[Request]) -> None:
        at = 0
        for number, count in runs([replica.in_flight for replica in self._replicas], len(requests)):
            self._replicas[number].send(requests[at : at + count])
            at += count
        self._await()

    def receive(self) -> list[Outcome]:
        if self._died:
            raise self._died
        outcomes: list[Outcome] = []
        for number, replica in enumerate(self._replicas, 1):
            try:
                outcomes += replica.receive()
            except EngineDied as died:
                which = f" (replica {number} of {len(self._replicas)})" if len(self._replicas) > 1 else ""
                self._died = EngineDied(died.reason + which, died.log)
        if self._died is None:
            self._grow()
            self._prepare_for_the_next()
            self._await()
        elif not outcomes:
            raise self._died
        return outcomes

    def evidence(self) -> Evidence:
        return min(self._replicas, key=self._quietness).evidence()

    def quiet_for(self) -> float:
        now = time.monotonic()
        return max((now - one.progress_at for one in self._replicas if one.in_flight), default=0.0)

    def kill(self) -> None:
        for replica in self._replicas:
            replica.kill()

    def gone(self) -> bool:
        gone = [replica.gone() for replica in self._replicas]
        if all(gone):
            self._poll.close()
        return all(gone)

    # -- inside

    def _quietness(self, one: Replica) -> tuple[bool, float]:
        """Sort the replica first that is to do something and has shown no progress for longest."""
        has_nothing_to_do = not one.in_flight if self._info else one.info is not None
        return has_nothing_to_do, one.progress_at

    def _start(self, place: tuple[int, str] | None) -> None:
        """Start a replica. Raises OSError where the host has no room for one more process."""
        worker = self._workers.take()
        self._replicas.append(Replica(worker, self._settings, self._rules, self._number, place))
        self._await()

    def _await(self) -> None:
        """Have `fileno` be readable when a replica has said something, or can take more of what waits for it."""
        for replica in self._replicas:
            descriptor = replica.fileno()
            events = select.EPOLLIN | (select.EPOLLOUT if replica.unsent else 0)
            if descriptor not in self._awaited:
                self._poll.register(descriptor, events)
            elif events != self._awaited[descriptor]:
                self._poll.modify(descriptor, events)
            self._awaited[descriptor] = events

    def _prepare_for_the_next(self) -> None:
        """Have workers at hand for the engine after this one, where it is likely to be needed: not for a short run."""
        if self._info is not None and (self._number > 1 or time.monotonic() - self._ready_at > _LONG_RUN):
            self._workers.prepare(len(self._replicas))

    def _grow(self) -> None:
        """Start the other replicas, once the first has said where; note when all are ready."""
        if not self._all_started and (places := self._replicas[0].places):
            self._all_started = True
            try:
                for place in enumerate(places[1:], 2):
                    self._start(place)
            except OSError as error:
                self._died = EngineDied(f"a worker cannot be started: {error}")
        if self._info is None and self._all_started:
            infos = [replica.info for replica in self._replicas if replica.info]
            if len(infos) == len(self._replicas):
                replicas = sum(info.replicas for info in infos)
                self._ready_at = time.monotonic()
                self._info = dataclasses.replace(
                    infos[0],
                    settings=infos[0].settings | ({"data_parallel_size": replicas} if replicas > 1 else {}),
                    in_flight=self._settings.in_flight or sum(info.in_flight for info in infos),
                    max_seqs=sum(info.max_seqs for info in infos),
                    gpus=tuple(gpu for info in infos for gpu in info.gpus),
                    load_seconds=round(self._ready_at - self._started, 1),
                    replicas=replicas,
                )
