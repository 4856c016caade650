"""Is all well? Puts together what is known, has it judged, tells of alerts, and carries the verdict out.

Owns GPU sampling, alerts and the treatment of engines that hang. None of it makes the loop wait. Knows batches only as
facts and as folders that an autopsy goes into.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from inbox_daemon.batch.life import Life
from inbox_daemon.batch.status import Present
from inbox_daemon.batches import Batches
from inbox_daemon.dispatch.dispatcher import Dispatcher
from inbox_daemon.dispatch.rotations import Rotations
from inbox_daemon.dispatch.traffic import Traffic
from inbox_daemon.layout import Spool
from inbox_daemon.machine import host, nvml
from inbox_daemon.machine.gpu import Sampler
from inbox_daemon.records import Alert, AlertName, EngineInfo, EngineState, Gpus, GpuState, Host
from inbox_daemon.setbacks import Setbacks
from inbox_daemon.settings import Settings
from inbox_daemon.watch import view
from inbox_daemon.watch.alerts import Alerts
from inbox_daemon.watch.announce import Announcer
from inbox_daemon.watch.conditions import BatchFacts, EngineMoment, Moment
from inbox_daemon.watch.energy import Energy
from inbox_daemon.watch.health import Health
from inbox_daemon.watch.treatment import Treatment

log = logging.getLogger(__name__)

_HOST_EVERY = 5.0  # seconds
_ASLEEP_HOLDS = 2 << 30  # bytes of its GPU: a context, CUDA graphs
_TELLS_WITHIN = 2.0  # seconds for alert commands at the end


class Oversight:
    """The one who looks after everything. `now` is monotonic seconds throughout.

    Attributes:
        present: what engines and models are doing now, for every status.
    """

    def __init__(
        self,
        spool: Spool,
        settings: Settings,
        dispatcher: Dispatcher,
        rotations: Rotations,
        batches: Batches,
        setbacks: Setbacks,
    ) -> None:
        self.present = Present()
        self._rotations = rotations
        self._spool, self._settings, self._dispatcher, self._batches = spool, settings, dispatcher, batches
        self._setbacks = setbacks
        self._hostname = socket.gethostname()
        self._gpus, self._host = Gpus(), Host()
        self._since: dict[int, tuple[EngineState, float]] = {}  # each engine's state, and since when (Unix seconds)
        self._sampler = Sampler(settings.now.daemon.gpu_every, nvml.present)
        self._energy = Energy()
        self._health = Health(settings, time.monotonic())
        self._alerts = Alerts(self._holds())
        self._announcer = Announcer(spool, settings.now.alerts.command)
        self._treatment = Treatment(batches)
        self._host_at = float("-inf")

    @property
    def raised(self) -> tuple[Alert, ...]:
        return self._alerts.raised

    def said(self, now: float) -> dict[str, Any]:
        """Return what this daemon says of itself."""
        progress_at = time.time() - (now - self._health.progress_at)
        requests = view.requests_view(self._batches.totals, progress_at)
        return view.daemon_view(self.engines, self._rotations.said, requests, self._gpus, self._host, self.raised)

    @property
    def engines(self) -> Sequence[Mapping[str, Any]]:
        return self.present.engines

    def reloaded(self) -> None:
        """Take note that the settings are others now."""
        self._alerts.holds = self._holds()
        self._announcer.use(self._settings.now.alerts.command)

    def look(self, now: float, wanted: bool, stuck: Mapping[str, str]) -> bool:
        """Judge this moment and act on it; say whether the watchdog may be fed.

        Args:
            wanted: whether there is work for an engine.
            stuck: why files stand in the inbox about which somebody has to do something, by file name.
        """
        wall = time.time()
        engines = [self._engine_now(traffic, wall) for traffic in self._dispatcher]
        self.present = Present(engines, self._models())
        before, self._gpus = self._gpus, self._sampler.look(now, wall)
        self._say_of_gpus(before)
        self._share_energy(self._gpus.at != before.at)
        if now - self._host_at >= _HOST_EVERY:
            self._host_at = now
            with suppress(OSError):  # a disk that does not answer stops the batches, and they say so
                self._host = host.look(self._spool.root)
        verdict = self._health.judge(self._moment(wanted, stuck, now, wall), now)
        self._announcer.say(self._alerts.observe(verdict.conditions, now, wall), wall)
        self._announcer.look(now)
        for traffic, engine in zip(self._dispatcher, engines, strict=True):
            self._treatment.give(traffic, engine, verdict.kill.get(traffic.slot.number), self._gpus, now)
        return verdict.in_order

    def _models(self) -> dict[str, dict[str, Any]]:
        """Return how the model of each lane stands; {} where there is only one."""
        said = {view["model"]: view for view in self._rotations.said}
        there = [one for one in (*self._settings.models, *self._settings.beside) if one.name in said]
        return {lane: said[one.name] for one in there for lane in one.lanes}

    def _share_energy(self, sampled: bool) -> None:
        """Have each batch know what its answers have cost, where there is a new sample, or a batch to be seen first."""
        running = {life.number: life.running.books for life in self._batches if life.running}
        if not sampled and running.keys() <= self._energy.known:
            return
        done = {number: books.work for number, books in running.items()}
        at_work = any(traffic.in_flight for traffic in self._dispatcher)
        for number, joules in self._energy.look(self._gpus, done, at_work).items():
            running[number].energy = (running[number].energy or 0.0) + joules

    def _say_of_gpus(self, before: Gpus) -> None:
        """Say once what NVML cannot do where that is no alert: a driver does not fit, a GPU cannot be asked."""
        now = self._gpus
        if now.problem and now.problem != before.problem and now.state in (GpuState.NO_DRIVER, GpuState.OK):
            log.warning("GPUs: %s", now.problem)

    def stop(self) -> None:
        self._sampler.stop()
        self._treatment.end()
        self._announcer.finish(_TELLS_WITHIN)

    def _engine_now(self, traffic: Traffic, wall: float) -> dict[str, Any]:
        slot = traffic.slot
        state, since = self._since.get(slot.number, (None, wall))
        if slot.state is not state:
            state, since = self._since[slot.number] = slot.state, wall
        facts = view.EngineFacts(
            number=slot.number,
            model=slot.model,
            host=self._hostname,
            state=slot.state,
            since=since,
            phase=slot.phase,
            info=slot.last_info,
            stats=slot.stats,
            last_death=slot.last_death.reason if slot.last_death else None,
            start=slot.start,
            starts=slot.starts,
            deaths=slot.deaths,
            in_flight=traffic.in_flight,
        )
        return view.engine_view(facts)

    def _moment(self, wanted: bool, stuck: Mapping[str, str], now: float, wall: float) -> Moment:
        asleep = sum(traffic.slot.asleep for traffic in self._dispatcher)
        infos = [info for traffic in self._dispatcher if (info := traffic.slot.info) and info.gpus]
        reserved = _reserved(infos, asleep, self._gpus)
        return Moment(
            engines=tuple(_moment_of(traffic) for traffic in self._dispatcher),
            wanted=wanted,
            durable=self._batches.totals.done,
            reserved=reserved,
            gpus=self._gpus,
            host=self._host,
            batches=tuple(_facts(life) for life in self._batches),
            setbacks=self._setbacks.known(now),
            stuck=tuple(stuck.items()),
            wall=wall,
        )

    def _holds(self) -> dict[AlertName, float]:
        return {AlertName.GPU_UTILIZATION_LOW: self._settings.now.alerts.gpu_utilization_for}


def _reserved(infos: Sequence[EngineInfo], asleep: int, gpus: Gpus) -> float | None:
    """Return the share of a GPU's memory that vLLM was told to take: of models side by side, all of theirs.

    Args:
        asleep: engines that sleep, and hold a little of it as well.
    """
    shares = {info.model: info.settings.get("gpu_memory_utilization") for info in infos}
    known = [share for share in shares.values() if share is not None]
    whole = max((one.memory_total_bytes or 0 for one in gpus.devices), default=0)
    return sum(known) + (asleep * _ASLEEP_HOLDS / whole if whole else 0.0) if known else None


def _moment_of(traffic: Traffic) -> EngineMoment:
    slot = traffic.slot
    stats = slot.stats
    return EngineMoment(
        number=slot.number,
        state=slot.state,
        name=slot.name,
        in_flight=traffic.in_flight,
        settled=traffic.settled,
        tokens=stats.input_tokens + stats.output_tokens if slot.info else 0,
        deaths=slot.deaths,
        failures=slot.failures,
    )


def _facts(life: Life) -> BatchFacts:
    state = life.state
    return BatchFacts(life.name, life.face.age, life.eta, state.parked, state.lacking)
